"""Small pictures for the page: an image with its mask's outline, and a map laid over it, as data URIs."""

import base64
import io
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SIDE = 288
"""Longest side of a picture in pixels."""

OPACITY = 0.62
"""Of the map over the grey image."""


def plain(image: Bytes, mask: Bytes | None = None) -> str:
    """The image (H, W, 3), with the outline of its mask (H, W) of 0 and 1 if there is one."""
    return _uri(_outlined(_pixels(image), mask))


def overlay(image: Bytes, map: npt.NDArray[np.floating[Any]], mask: Bytes | None = None) -> str:
    """The map (h, w), not negative, resized linearly, divided by its maximum, over the greyed image (H, W, 3)."""
    pixels = _pixels(image)
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    colour = _inferno()[np.rint(255 * _smooth(map, grey.shape)).astype(np.uint8)]
    blended = (1 - OPACITY) * grey[..., None] + OPACITY * colour
    return _uri(_outlined(blended, mask))


def scale_bar() -> str:
    """The colours of a map over middle grey, from 0 to its maximum."""
    return _uri((1 - OPACITY) * 128 + OPACITY * np.broadcast_to(_inferno(), (8, 256, 3)))


def _pixels(image: Bytes) -> Floats:
    """(H', W', 3) in 0..255: small images enlarged by a whole factor, each pixel a crisp square; large ones reduced."""
    factor = SIDE // max(image.shape[:2])
    if factor:
        return np.repeat(np.repeat(image, factor, 0), factor, 1).astype(np.float32)
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.float32)


def _smooth(map: npt.NDArray[np.floating[Any]], shape: tuple[int, ...]) -> Floats:
    height, width = shape
    resized = Image.fromarray(map.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    values: Floats = np.array(resized, dtype=np.float32)
    values /= values.max() or 1
    return values


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


@cache
def _inferno() -> Floats:
    return (255 * colormaps["inferno"](np.arange(256))[:, :3]).astype(np.float32)


def _uri(pixels: Floats) -> str:
    file = io.BytesIO()
    Image.fromarray(np.rint(pixels).astype(np.uint8)).save(file, "WEBP", quality=82, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
