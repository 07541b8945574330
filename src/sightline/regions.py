"""Where the evidence of an image lies, as it was annotated: known before a pixel is read, drawn when it is needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from sightline.errors import SightlineError
from sightline.pictures import DEEP, Flags, open_image

Size = tuple[int, int]


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


@dataclass(frozen=True)
class MaskFile:
    """What is not 0 in an image file as large as its image."""

    path: Path

    def draw(self, size: Size) -> Flags:
        mask = open_image(self.path)
        if mask.size != size[::-1]:
            raise SightlineError(
                f"{self.path} is {mask.width} x {mask.height} pixels, its image {size[1]} x {size[0]}. "
                "A mask must be as large as its image."
            )
        values = np.asarray(mask if mask.mode in ("1", "L", "P", *DEEP) else mask.convert("RGB"))
        marked = values.reshape(*values.shape[:2], -1).any(-1)
        if not marked.any():
            raise SightlineError(
                f"{self.path} is empty: no pixel differs from 0. If nobody annotated the image, delete the mask."
            )
        return np.asarray(marked)

    def content(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True)
class Boxes:
    """The union of boxes (left, top, right, bottom) in pixels, the last two exclusive; cut off at the image's edge."""

    boxes: tuple[tuple[float, float, float, float], ...]
    source: str = "a box"
    """What error messages call them."""

    def draw(self, size: Size) -> Flags:
        marked = np.zeros(size, np.bool_)
        for left, top, right, bottom in self.boxes:
            rows = slice(max(0, round(top)), max(0, round(bottom)))
            marked[rows, max(0, round(left)) : max(0, round(right))] = True
        if not marked.any():
            raise SightlineError(
                f"{self.source} {self.boxes} lies outside its image of {size[1]} x {size[0]} pixels. "
                "Expected (left, top, right, bottom) in pixels of the image."
            )
        return marked

    def content(self) -> bytes:
        return repr(self.boxes).encode()
