"""Small pictures for the page: an image with its mask's outline, and a map laid over it, as data URIs."""

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline import colours
from sightline.colours import Bytes, Floats, Map

SIDE = 288
"""Longest side of a picture in pixels."""


def plain(image: Bytes, mask: Bytes | None = None) -> str:
    """The image (H, W, 3), with the outline of its mask (H, W) of 0 and 1 if there is one."""
    return _uri(_outlined(colours.fitted(image, SIDE), mask))


def overlay(image: Bytes, map: Map, mask: Bytes | None = None) -> str:
    """The map (h, w), not negative, divided by its maximum, over the greyed image (H, W, 3)."""
    return _uri(_outlined(colours.overlay(image, map, SIDE), mask))


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
    file = io.BytesIO()
    Image.fromarray(np.rint(pixels).astype(np.uint8)).save(file, "WEBP", quality=82, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
