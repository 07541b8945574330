"""Maps as colours over a greyed image: one scale for maps that are not negative, another for signed ones."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Map = npt.NDArray[np.floating[Any]]

OPACITY = 0.62
"""Of a map that is not negative."""

SIGNED: Floats = np.array([[230, 97, 0], [26, 90, 205]], np.float32)
"""Of positive and of negative values: orange and blue stay apart in every kind of colour blindness, and from grey."""

FAINT = 120
"""Darkest grey under a signed map, whose zero shows the image: half its contrast leaves the other half to the map."""

SATURATED = 0.005
"""Share of a map that may lie beyond its full colour: one pixel must not pale all others."""

NEGLIGIBLE = 1e-3
"""A map whose lowest value is a smaller share of its largest magnitude is not signed: it was rounded."""

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def fitted(image: Bytes, side: int) -> Floats:
    """(H', W', 3) in 0..255, at most `side` long; small images are enlarged by a whole factor, to crisp squares."""
    factor = side // max(image.shape[:2])
    if factor:
        return np.repeat(np.repeat(image, factor, 0), factor, 1).astype(np.float32)
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.float32)


def overlay(image: Bytes, map: Map, side: int, ends: tuple[float, float] | None = None) -> Floats:
    """The map (h, w) over the greyed image (H, W, 3), fitted to `side`.

    A map of the image's own resolution keeps its pixels crisp; any other is resized linearly.

    Args:
        image: in 0..255.
        map: any; values beyond the ends are drawn as the ends.
        side: see `fitted`.
        ends: what is drawn darkest and lightest; of opposite signs, as -m and m, for the colours of signed maps. None
            for 0 and the maximum.
    """
    grey = fitted(image, side) @ LUMINANCE
    values = _resized(map, grey.shape, crisp=map.shape == image.shape[:2])
    low, high = ends or (0, float(values.max()))
    if low < 0:
        return _signed(grey, values / high)
    return _unsigned(grey, (values - low) / ((high - low) or 1))


def ends(map: Map, signed: bool) -> tuple[float, float]:
    """The values a map's colours begin and end with.

    The end is the magnitude that all but `SATURATED` of the map do not exceed. The beginning is its opposite if the
    map is `signed`; else 0, or the least value of a map that varies by less than half.
    """
    magnitudes = np.abs(map)
    high = float(np.quantile(magnitudes, 1 - SATURATED) or magnitudes.max() or 1)
    low = float(map.min())
    return -high if signed else low if high / 2 < low < high else 0.0, high


def signed(map: Map) -> bool:
    """Whether the map has values below zero that count."""
    return bool(map.min() < -NEGLIGIBLE * np.abs(map).max())


def veil(map: Map, size: tuple[int, int]) -> Bytes:
    """(H, W, 4): the map (h, w) at `size` in its colours, the more opaque the larger its magnitude is."""
    values = _resized(map, size, crisp=False)
    low, high = ends(map, signed(map))
    strength = ((np.abs(values) if low < 0 else values - low) / ((high - max(low, 0)) or 1)).clip(0, 1)
    colour = SIGNED[(values < 0).astype(np.intp)] if low < 0 else _sequence()[np.rint(255 * strength).astype(np.uint8)]
    return np.dstack([colour, 255 * strength]).round().astype(np.uint8)


def bar(signed: bool = False) -> Floats:
    """(8, 256, 3): the colours of a map over middle grey, from one end to the other."""
    values = np.broadcast_to(np.linspace(-1 if signed else 0, 1, 256, dtype=np.float32), (8, 256))
    return (_signed if signed else _unsigned)(np.full((8, 256), 128, np.float32), values)


def _unsigned(grey: Floats, values: Floats) -> Floats:
    colour = _sequence()[np.rint(255 * values.clip(0, 1)).astype(np.uint8)]
    return _blend(grey, colour, np.full_like(values, OPACITY))


def _signed(grey: Floats, values: Floats) -> Floats:
    return _blend(
        np.float32(FAINT) + grey / np.float32(2), SIGNED[(values < 0).astype(np.intp)], np.abs(values).clip(0, 1)
    )


def _blend(grey: Floats, colour: Floats, opacity: Floats) -> Floats:
    return grey[..., None] + opacity[..., None] * (colour - grey[..., None])


def _resized(map: Map, shape: tuple[int, ...], crisp: bool) -> Floats:
    height, width = shape
    # A picture smaller than its map needs the average over the pixels it leaves out.
    nearest = crisp and height >= map.shape[0]
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(map.astype(np.float32)).resize((width, height), how), dtype=np.float32)


@cache
def _sequence() -> Floats:
    return (255 * colormaps["inferno"](np.arange(256))[:, :3]).astype(np.float32)
