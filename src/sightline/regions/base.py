"""What a region is."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from sightline.pictures import Flags

Size = tuple[int, int]
"""(H, W)."""


@runtime_checkable
class Region(Protocol):
    """Part of an image. Regions are frozen dataclasses: equal ones mark the same pixels."""

    def draw(self, size: Size) -> Flags:
        """Where it lies in an image of `size` (H, W): (H, W) bool.

        Raises:
            SightlineError: it cannot be read, does not fit an image of this size, or holds no pixel of it.
        """
        ...

    def content(self) -> bytes:
        """The bytes a dataset's hash identifies it by."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sourced:
    """A region that is known by its numbers; where they came from is no part of what it is."""

    source: str = field(default="a region", compare=False, repr=False)
    """What error messages call it: the file and the annotation."""

    def content(self) -> bytes:
        """The bytes a dataset's hash identifies it by."""
        return repr(self).encode()
