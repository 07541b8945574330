"""Regions made from regions."""

from dataclasses import dataclass
from math import ceil

import numpy as np
from scipy import ndimage

from sightline.errors import SightlineError
from sightline.pictures import Flags
from sightline.regions.base import Region, Size, Sourced
from sightline.regions.maskfile import MaskFile
from sightline.regions.shapes import Shape


@dataclass(frozen=True)
class Union:
    """What lies in at least one of some regions."""

    regions: tuple[Region, ...]

    def draw(self, size: Size) -> Flags:
        marked = np.zeros(size, np.bool_)
        for region in self.regions:
            marked |= region.draw(size)
        return marked

    def content(self) -> bytes:
        return b"Union" + b"\0".join(region.content() for region in self.regions)


@dataclass(frozen=True)
class Traced:
    """What a mask marks, or another region where it marks nothing: label maps leave small objects out."""

    mask: MaskFile
    otherwise: Region

    def draw(self, size: Size) -> Flags:
        marked = self.mask.marked(size)
        return marked if marked.any() else self.otherwise.draw(size)

    def content(self) -> bytes:
        return b"Traced" + self.mask.content() + b"\0" + self.otherwise.content()


def grown(marked: Flags, pixels: float) -> Flags:
    """What is marked and every pixel whose centre is at most `pixels` away from one of its, marked in place."""
    window = marked[around(marked, ceil(pixels))]
    window |= ndimage.distance_transform_edt(~window) <= pixels
    return marked


@dataclass(frozen=True)
class Dilated:
    """A region and every pixel whose centre is at most `pixels` away from one of its."""

    region: Region
    pixels: float

    def draw(self, size: Size) -> Flags:
        return grown(self.region.draw(size), self.pixels)

    def content(self) -> bytes:
        return f"Dilated {self.pixels} ".encode() + self.region.content()


@dataclass(frozen=True)
class AsBox:
    """The smallest box around a region: what cheaper guidance would have said."""

    region: Region

    def draw(self, size: Size) -> Flags:
        marked = self.region.draw(size)
        marked[around(marked)] = True
        return marked

    def content(self) -> bytes:
        return b"AsBox " + self.region.content()


@dataclass(frozen=True)
class Relative:
    """A shape whose coordinates are shares of its image's sides, of which the `whole` is 1, or 100 for percent."""

    shape: Shape
    whole: float = 1.0

    def draw(self, size: Size) -> Flags:
        return self.shape.scaled(size[1] / self.whole, size[0] / self.whole).draw(size)

    def content(self) -> bytes:
        return f"Relative {self.whole} ".encode() + self.shape.content()


@dataclass(frozen=True)
class Sized(Sourced):
    """A region that was drawn on an image of `size` (H, W) and fits no other."""

    region: Region
    size: Size

    def draw(self, size: Size) -> Flags:
        if size != self.size:
            raise SightlineError(
                f"{self.source} is annotated as {self.size[1]} x {self.size[0]} pixels, its image has "
                f"{size[1]} x {size[0]}. Give the images that were annotated, or annotations of these."
            )
        return self.region.draw(size)

    def content(self) -> bytes:
        return f"Sized {self.size} ".encode() + self.region.content()


def around(marked: Flags, margin: int = 0) -> tuple[slice, slice]:
    """The rows and columns of the smallest box around what is marked, and so much around it."""
    rows, columns = (np.flatnonzero(marked.any(axis)) for axis in (1, 0))
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + 1 + margin),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + 1 + margin),
    )
