"""What is in a file or folder of annotations, before it is known in which format."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from sightline.errors import SightlineError
from sightline.files import read_json
from sightline.listing import below, read_table


class Document(NamedTuple):
    """A file: what JSON holds, the root of an XML tree, or the rows of a table."""

    path: Path
    value: Any


@dataclass(frozen=True)
class Content:
    """A file, or the XML or JSON files of a folder and those below; of any other folder none."""

    path: Path
    documents: tuple[Document, ...]

    def first(self) -> Any:
        """What the first file holds, by which a format is recognised."""
        return self.documents[0].value if self.documents else None

    def only(self) -> Document:
        """The one file.

        Raises:
            SightlineError: there are several, or none.
        """
        if len(self.documents) != 1:
            raise SightlineError(f"{self.path} holds {len(self.documents)} JSON or XML files, expected a file.")
        return self.documents[0]


def load(path: Path) -> Content:
    """Everything in `path`, parsed.

    Raises:
        SightlineError: it is missing, or a file in it is damaged.
    """
    if not path.exists():
        raise SightlineError(f"{path} does not exist. Give a file or folder of annotations.")
    return Content(path, tuple(Document(file, parse(file)) for file in ([path] if path.is_file() else inner(path))))


def inner(folder: Path) -> list[Path]:
    """The XML files in a folder, or the JSON files if there are none."""
    return below(folder, (".xml",)) or below(folder, (".json",))


def parse(path: Path) -> Any:
    """A file by what it begins with: XML, JSON, or else a table.

    Raises:
        SightlineError: it is damaged or empty, or may not be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    except OSError as error:
        raise SightlineError(f"cannot read {path}: {error.strerror or error}.") from error
    if not start:
        raise SightlineError(f"{path} is empty.")
    if start == b"<":
        return parse_xml(path)
    return read_json(path) if start in (b"{", b"[") else read_table(path)


def parse_xml(path: Path) -> Element:
    """The root of an XML file. Document types are refused: with entities, some hundred bytes fill any memory.

    Raises:
        SightlineError: it is damaged, or declares a document type.
    """

    def refuse(*_: object) -> NoReturn:
        raise SightlineError(f"{path} declares a document type or entities. Annotations need none: remove them.")

    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise SightlineError(f"cannot read {path} as XML: {error}.") from error
    return builder.close()
