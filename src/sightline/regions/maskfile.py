"""Masks in image files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.errors import SightlineError
from sightline.pictures import DEEP, Flags, open_image
from sightline.regions.base import Size

SINGLE = ("1", "L", "P", *DEEP)
"""Pillow's modes of one value per pixel; of a palette image it is the index, not the colour."""


@dataclass(frozen=True)
class MaskFile:
    """What is not 0 in an image file as large as its image, or what has one of `values` there.

    Grey of any depth counts as it is, a palette image by its indices, colours by the colour shown (black is 0).
    Where some pixel is transparent, transparency decides alone: what is not wholly transparent is marked.

    Args:
        path: the file, in any format `Folder` reads images in.
        values: grey values or palette indices that are evidence; None for all but 0.
        ignore: values nobody decided about, such as VOC's 255 along outlines.
        ignored: what these count as, for a mask knows two values only.
    """

    path: Path
    values: tuple[int, ...] | None = None
    ignore: tuple[int, ...] = ()
    ignored: Literal["evidence", "background"] = "background"

    def draw(self, size: Size) -> Flags:
        marked = self.marked(size)
        if not marked.any():
            raise SightlineError(
                f"{self.path} is empty: no pixel {self._wanted()}. If nobody annotated the image, delete the mask."
            )
        return marked

    def marked(self, size: Size) -> Flags:
        """(H, W) bool, all False where no pixel is evidence.

        Raises:
            SightlineError: the file cannot be read or is of another size.
        """
        mask = open_image(self.path)
        if mask.size != size[::-1]:
            raise SightlineError(
                f"{self.path} is {mask.width} x {mask.height} pixels, its image {size[1]} x {size[0]}. "
                "A mask must be as large as its image."
            )
        return self._mark(shown(mask))

    def content(self) -> bytes:
        chosen = (self.values, self.ignore, self.ignored) if self.values or self.ignore else ""
        return self.path.read_bytes() + str(chosen).encode()

    def _mark(self, values: npt.NDArray[Any]) -> Flags:
        if values.ndim == 3:
            if self.values or self.ignore:
                raise SightlineError(f"{self.path} is in colour: values are of grey or palette masks only.")
            return np.asarray(values.any(-1))
        marked = values != 0 if self.values is None else np.isin(values, self.values)
        return np.where(np.isin(values, self.ignore), self.ignored == "evidence", marked) if self.ignore else marked

    def _wanted(self) -> str:
        return "differs from 0" if self.values is None else f"has one of the values {self.values}"


def shown(mask: Image.Image) -> npt.NDArray[Any]:
    """(H, W) values, or (H, W, 3) colours where a pixel has several channels."""
    if "A" in mask.getbands():
        opacity = np.asarray(mask.getchannel("A"))
        if not opacity.all():
            return opacity
        mask = mask.convert("L" if mask.mode == "LA" else "RGB")
    return np.asarray(mask if mask.mode in SINGLE else mask.convert("RGB"))
