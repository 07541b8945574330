"""One image or volume, and one map of it, as flat pixels: what a person is shown."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sightline import colours
from sightline.colours import Bytes, Floats, Map
from sightline.maps import resize

Array = npt.NDArray[Any]
Point = tuple[int, ...]

SIDE = 256
"""Plates are at least so long: smaller images are enlarged by a whole factor."""

WHITE = 255


def plain(image: Array, at: Point) -> Floats:
    """The image (C, H, W), or three slices of a volume (C, D, H, W) through `at`, as (H', W', 3) in 0..255."""
    flat = _flat(image, at)
    return _on_white(colours.fitted(flat, _side(flat)), image.shape[1:])


def overlay(image: Array, map: Map, at: Point, ends: tuple[float, float]) -> Floats:
    """The map (*spatial), at any resolution, over what `plain` shows; `ends` as in `colours.overlay`."""
    flat = _flat(image, at)
    shown = _slices(_to_size(map, image.shape[1:]), at, 0) if len(at) == 3 else map
    return _on_white(colours.overlay(flat, shown, _side(flat), ends), image.shape[1:])


def peak(map: Map, size: Sequence[int]) -> Point:
    """Where the magnitude of the map, brought to `size`, is largest; the centre if it is empty."""
    if not map.any():
        return tuple(side // 2 for side in size)
    where = np.unravel_index(np.abs(_to_size(map, size)).argmax(), tuple(size))
    return tuple(int(axis) for axis in where)


def _to_size(map: Map, size: Sequence[int]) -> Map:
    return resize(torch.tensor(map)[None], size)[0].numpy()


def _flat(image: Array, at: Point) -> Bytes:
    """(H, W, 3) of 0..255."""
    pixels = image if image.dtype == np.uint8 else np.rint(255 * image).astype(np.uint8)
    colour = pixels if len(pixels) == 3 else np.broadcast_to(pixels[:1], (3, *pixels.shape[1:]))
    planes = [_slices(channel, at, WHITE) if len(at) == 3 else channel for channel in colour]
    return np.ascontiguousarray(np.stack(planes, -1))


def _slices(volume: Array, at: Point, ground: int) -> Array:
    """(D, H, W) as three slices through `at` whose axes line up: H x W, to its right H x D, below it D x W."""
    depth, height, width = volume.shape
    d, h, w = at
    flat = np.full((height + depth + 1, width + depth + 1), ground, volume.dtype)
    flat[:height, :width] = volume[d]
    flat[:height, width + 1 :] = volume[:, :, w].T
    flat[height + 1 :, :width] = volume[:, h]
    return flat


def _on_white(pixels: Floats, size: Sequence[int]) -> Floats:
    """White where there is no slice."""
    if len(size) == 3:
        blank = _slices(np.zeros(tuple(size), np.uint8), (0, 0, 0), 1)
        factor = pixels.shape[0] // blank.shape[0]
        pixels[np.kron(blank, np.ones((factor, factor), np.uint8)) > 0] = WHITE
    return pixels


def _side(flat: Bytes) -> int:
    side: int = max(flat.shape[:2])
    return side * -(-SIDE // side)
