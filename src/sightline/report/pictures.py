"""Small pictures for the page: an image with its mask's outline, and a map laid over it, as data URIs."""

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline import colours
from sightline.colours import Bytes, Floats, Map

SIDE = 288
"""Longest side of a picture in pixels."""

MANY, SMALL = 360, 208
"""More pictures than that are of this longest side: a page is to stay below 10 MB."""

BLUE = (38, 132, 196)
"""Seen on white as on black."""


def side(count: int) -> int:
    """The longest side of each of so many pictures on one page."""
    return SIDE if count <= MANY else SMALL


def plain(image: Bytes, mask: Bytes | None = None, side: int = SIDE) -> str:
    """The image (H, W, 3), with the outline of its mask (H, W) of 0 and 1 if there is one."""
    return _uri(_outlined(colours.fitted(image, side), mask))


def overlay(image: Bytes, map: Map, mask: Bytes | None = None, top: float | None = None, side: int = SIDE) -> str:
    """The map (h, w), not negative, over the greyed image (H, W, 3); brightest at `top`, or at its own maximum."""
    return _uri(_outlined(colours.overlay(image, map, side, None if top is None else (0.0, top)), mask))


def shares(table: npt.NDArray[np.floating[Any]]) -> str:
    """A table of shares (rows, columns), a pixel for each: the more opaque, by its square root, the larger."""
    pixels = np.empty((*table.shape, 4), np.uint8)
    pixels[...] = (*BLUE, 0)
    pixels[..., 3] = np.rint(255 * np.sqrt(table.clip(0, 1)))
    return _encoded(Image.fromarray(pixels), "PNG", optimize=True)


def scale_bar() -> str:
    """The colours of a map over middle grey, from 0 to its maximum."""
    return _uri(colours.bar())


def _outlined(pixels: Floats, mask: Bytes | None) -> Floats:
    """A white line just inside the mask and a dark one just outside: visible on any ground."""
    if mask is None or not mask.any():
        return pixels
    height, width = pixels.shape[:2]
    inside = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)) > 0
    dark, light = _grown(inside) & ~inside, inside & _grown(~inside)
    drawn = pixels.copy()
    drawn[dark], drawn[light] = 0, 255
    return drawn


def _grown(region: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The region and every pixel beside it, diagonals included."""
    padded = np.pad(region, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def _uri(pixels: Floats) -> str:
    return _encoded(Image.fromarray(np.rint(pixels).astype(np.uint8)), "WEBP", quality=82, method=4)


def _encoded(picture: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(file.getvalue()).decode("ascii")
