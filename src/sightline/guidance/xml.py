"""Elements of XML files, and where they stand."""

from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from sightline.errors import SightlineError
from sightline.guidance.base import Node, shown
from sightline.guidance.content import Document


@dataclass(frozen=True)
class Tag:
    """An element and where it stands."""

    element: Element
    place: str

    def all(self, name: str) -> list["Tag"]:
        """The elements of this name right below."""
        return [Tag(element, f"{self.place}, {name}[{at}]") for at, element in enumerate(self.element.findall(name))]

    def each(self) -> list["Tag"]:
        """All elements right below."""
        return [Tag(element, f"{self.place}, {element.tag}[{at}]") for at, element in enumerate(self.element)]

    def child(self, name: str) -> "Tag":
        """The element of this name right below.

        Raises:
            SightlineError: there is none.
        """
        if (element := self.element.find(name)) is None:
            raise SightlineError(f"{self.place} has no <{name}>.")
        return Tag(element, f"{self.place}, {name}")

    def text(self) -> str:
        """What the element says.

        Raises:
            SightlineError: nothing.
        """
        if not (text := (self.element.text or "").strip()):
            raise SightlineError(f"{self.place} is empty.")
        return text

    def texts(self) -> dict[str, str]:
        """What each element right below says."""
        return {element.tag: (element.text or "").strip() for element in self.element}

    def node(self) -> Node:
        """Its attributes."""
        return Node(self.element.attrib, self.place)


def root(document: Document) -> Tag:
    """The root of an XML file.

    Raises:
        SightlineError: the file holds something else.
    """
    if not isinstance(document.value, Element):
        raise SightlineError(f"{document.path} is {shown(document.value)}, expected XML.")
    return Tag(document.value, str(document.path))


def is_tag(value: Any, name: str) -> bool:
    """Whether it is an element of this name."""
    return isinstance(value, Element) and value.tag == name
