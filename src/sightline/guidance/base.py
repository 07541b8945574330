"""What the readers share: annotations as they come, gathered by image and class."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple

from sightline.errors import SightlineError
from sightline.regions import Region, Size, Sized, Union

Annotations = dict[str, dict[str, Region]]
"""The region of each class, by the name the file gives the image; an image without annotations has none."""


class Image(NamedTuple):
    """An image a file speaks of."""

    name: str
    size: Size | None = None
    """(H, W) the file says it has."""


class Mark(NamedTuple):
    """One annotation."""

    image: Image
    label: str
    region: Region


def gather(source: object, images: Iterable[Image], marks: Iterable[Mark]) -> Annotations:
    """Annotations by image and class, several of one class joined, each held to the size its image is said to have.

    Raises:
        SightlineError: two images have one name.
    """
    names = Counter(image.name for image in images)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise SightlineError(f"{source} lists the image {twice[0]!r} more than once. Annotations are joined by name.")
    parts: dict[Image, dict[str, list[Region]]] = {}
    for mark in marks:
        parts.setdefault(mark.image, {}).setdefault(mark.label, []).append(mark.region)
    found = {
        image.name: {label: held(source, image, regions) for label, regions in by_class.items()}
        for image, by_class in parts.items()
    }
    return {name: {} for name in names} | found


def held(source: object, image: Image, regions: Sequence[Region]) -> Region:
    """Their union, of an image of its size only."""
    region = regions[0] if len(regions) == 1 else Union(tuple(regions))
    return Sized(region, image.size, source=f"{source}: image {image.name}") if image.size else region


@dataclass(frozen=True)
class Node:
    """An object in a JSON file, a row of a table or the attributes of an XML element, and where it stands."""

    value: Any
    place: str

    def __post_init__(self) -> None:
        if not isinstance(self.value, dict):
            raise SightlineError(f"{self.place} is {shown(self.value)}, expected an object.")

    def get(self, key: str) -> Any:
        """What stands under `key`.

        Raises:
            SightlineError: nothing does.
        """
        if key not in self.value:
            raise SightlineError(f"{self.place} has no {key!r}, only {', '.join(map(repr, self.value)) or 'nothing'}.")
        return self.value[key]

    def has(self, key: str) -> bool:
        """Whether something stands under `key`, not null, false, 0 or empty."""
        return bool(self.value.get(key))

    def text(self, key: str) -> str:
        """A word or a number as a word."""
        value = self.get(key)
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise SightlineError(f"{self.place}, {key}: expected text, not {shown(value)}.")
        return str(value)

    def strings(self) -> list[str]:
        """Every text in it."""
        return [value for value in self.value.values() if isinstance(value, str)]

    def items(self, key: str) -> list[Any]:
        """A list."""
        value = self.get(key)
        if not isinstance(value, list):
            raise SightlineError(f"{self.place}, {key}: expected a list, not {shown(value)}.")
        return value

    def nodes(self, key: str) -> list["Node"]:
        """A list of objects."""
        return [Node(value, f"{self.place}, {key}[{place}]") for place, value in enumerate(self.items(key))]

    def node(self, key: str) -> "Node":
        """An object."""
        return Node(self.get(key), f"{self.place}, {key}")

    def number(self, key: str) -> float:
        """A number, also one that is written as text, as XML does."""
        return number(self.get(key), f"{self.place}, {key}")

    def whole(self, key: str) -> int:
        """A whole number of at least 0."""
        return whole(self.get(key), f"{self.place}, {key}")

    def numbers(self, key: str, count: int | None = None) -> tuple[float, ...]:
        """A list of numbers, `count` of them."""
        return numbers(self.items(key), f"{self.place}, {key}", count)

    def size(self, height: str, width: str) -> Size:
        """(H, W)."""
        return self.whole(height), self.whole(width)


def number(value: Any, place: str) -> float:
    """A finite number.

    Raises:
        SightlineError: it is none.
    """
    try:
        if not isinstance(value, bool) and isfinite(found := float(value)):
            return found
    except (TypeError, ValueError, OverflowError):
        pass
    raise SightlineError(f"{place}: expected a number, not {shown(value)}.")


def whole(value: Any, place: str) -> int:
    """A whole number of at least 0.

    Raises:
        SightlineError: it is none.
    """
    found = number(value, place)
    if found < 0 or found != int(found):
        raise SightlineError(f"{place}: expected a whole number of at least 0, not {shown(value)}.")
    return int(found)


def numbers(values: Sequence[Any], place: str, count: int | None = None) -> tuple[float, ...]:
    """Finite numbers, `count` of them.

    Raises:
        SightlineError: they are not.
    """
    if count is not None and len(values) != count:
        raise SightlineError(f"{place}: expected {count} numbers, not {len(values)}.")
    try:
        finite = all(map(isfinite, values))
    except (TypeError, OverflowError):
        finite = False
    # Large files hold millions of numbers: each is looked at by itself only where one of them is none.
    return tuple(map(float, values)) if finite else tuple(number(value, place) for value in values)


def ring(values: Sequence[Any], place: str, least: int = 1) -> tuple[float, ...]:
    """x and y in turn, of at least so many points.

    Raises:
        SightlineError: they are not.
    """
    if len(values) % 2 or len(values) < 2 * least:
        raise SightlineError(f"{place}: expected x and y of at least {least} point(s), not {len(values)} numbers.")
    return numbers(values, place)


def shown(value: Any) -> str:
    """A value in a few letters."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
