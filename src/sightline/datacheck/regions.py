"""Parts of an image that should not tell its class, and what a linear probe is told of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation

from sightline.datacheck.facts import VIEW
from sightline.pictures import Flags, Pixels

Floats = npt.NDArray[np.float64]

LEVELS, DIRECTIONS = 16, 8
"""Bins of the histograms of each channel, and of the directions of edges."""

STRIP, CORNER = VIEW // 16, VIEW // 8
"""Pixels of a border strip's short side and of a corner's sides, in the view."""

CHUNK = 256
"""Pictures described at a time: few enough to stay in the cache."""

GRID = 8
"""Cells along each side of the heat map."""

HALO = 2
"""Pixels by which masks are widened, so that what lies outside knows nothing of the edge."""

LEAST = 0.1
"""Share of a region that has to be left outside the mask for the region to be described."""

EVERYWHERE = np.ones((VIEW, VIEW), np.bool_)


@dataclass(frozen=True)
class Views:
    """The pictures that probes read, with the edges in them."""

    pixels: Pixels
    """(N, 64, 64, C); one channel where no picture has a colour."""
    edges: npt.NDArray[np.float32]
    """(N, 64, 64) length of the grey value's gradient, per pixel."""
    directions: Pixels
    """(N, 64, 64) its direction, 0..7."""
    evidence: Flags
    """(N, 64, 64) masks, widened; all False where there is none."""
    masked: Flags
    """(N,) whether there is one."""


def views(pictures: Sequence[Pixels], masks: Sequence[Flags | None]) -> Views:
    """From (64, 64, 3) pictures and (64, 64) masks."""
    pixels = np.stack(pictures)
    if np.ptp(pixels, axis=-1).max() <= 2:
        pixels = pixels[..., :1]
    grey = pixels.astype(np.float32).mean(-1) / 255
    down, right = np.gradient(grey, axis=(1, 2))
    angle = np.arctan2(down, right) % np.pi
    directions = np.minimum(angle * (DIRECTIONS / np.pi), DIRECTIONS - 1).astype(np.uint8)
    nowhere = np.zeros(grey.shape[1:], np.bool_)
    evidence = np.stack([nowhere if mask is None else binary_dilation(mask, iterations=HALO) for mask in masks])
    return Views(pixels, np.hypot(down, right), directions, evidence, np.array([mask is not None for mask in masks]))


def margins() -> dict[str, Flags]:
    """(64, 64) bool: the four border strips, the four corners, and all strips and all corners together."""
    y, x = np.mgrid[:VIEW, :VIEW]
    last = VIEW - 1
    edges = {"top": y, "bottom": last - y, "left": x, "right": last - x}
    found = {f"{name} strip": distance < STRIP for name, distance in edges.items()}
    near = {name: distance < CORNER for name, distance in edges.items()}
    corners = {f"{a} {b} corner": near[a] & near[b] for a in ("top", "bottom") for b in ("left", "right")}
    return {
        **found,
        **corners,
        "corners": np.any(list(corners.values()), axis=0),
        "border": np.minimum.reduce(list(edges.values())) < STRIP,
    }


def centre() -> Flags:
    """(64, 64) the middle half of both sides."""
    inside = np.zeros((VIEW, VIEW), np.bool_)
    inside[VIEW // 4 : -VIEW // 4, VIEW // 4 : -VIEW // 4] = True
    return inside


def cells() -> list[Flags]:
    """The cells of the heat map, row by row, each as (64, 64) bool."""
    step = VIEW // GRID
    number = np.arange(VIEW) // step
    return [(number[:, None] == i) & (number == j) for i in range(GRID) for j in range(GRID)]


def describe(of: Views, region: Flags, outside: bool = True) -> Floats:
    """(N, F) square roots of histograms of grey values or colours and of the directions of edges in a region.

    They say nothing of where in the region something lies, nor how much of the region is left: what is missing
    because the mask covers it gets the mean of the others. Square roots let small differences count (Hellinger).

    Args:
        of: the pictures.
        region: (64, 64) bool.
        outside: leave out what the masks cover; False leaves out all else, of images with a mask.
    """
    described = [_described(of, slice(at, at + CHUNK), region, outside) for at in range(0, len(of.pixels), CHUNK)]
    found, share = (np.concatenate(part) for part in zip(*described, strict=True))
    known = share >= LEAST
    found[~known] = found[known].mean(0) if known.any() else 0
    return found


def _described(of: Views, some: slice, region: Flags, outside: bool) -> tuple[Floats, Floats]:
    """(n, F) of some pictures, and (n,) the share of the region that was described."""
    weight = of.evidence[some, region] != outside
    if not outside:
        weight &= of.masked[some, None]
    pixels = of.pixels[some, region] // (256 // LEVELS)
    histograms = [_histogram(channel, weight, LEVELS) for channel in np.moveaxis(pixels, -1, 0)]
    histograms.append(_histogram(of.directions[some, region], weight * of.edges[some, region], DIRECTIONS))
    return np.sqrt(np.concatenate(histograms, 1) / np.maximum(weight.sum(1), 1)[:, None]), weight.mean(1)


def whole(of: Views) -> Floats:
    """(N, F) what a linear probe is told of the whole image: histograms, and the image in 8 x 8 pixels."""
    step, count = VIEW // 8, len(of.pixels)
    small = of.pixels.reshape(count, 8, step, 8, step, -1).mean((2, 4)).reshape(count, -1) / 255
    return np.concatenate([describe(unmasked(of), EVERYWHERE), small], 1)


def unmasked(of: Views) -> Views:
    """The same pictures as if nobody had drawn a mask."""
    return replace(of, evidence=np.zeros_like(of.evidence), masked=np.zeros_like(of.masked))


def mean_colour(of: Views) -> Floats:
    """(N, C) mean over the whole image, in [0, 1]."""
    return np.asarray(of.pixels.mean((1, 2)) / 255, np.float64)


def part(of: Views, some: Flags) -> Views:
    """Those of `some`, (N,)."""
    return Views(*(values[some] for values in vars(of).values()))


def judged(of: Views) -> dict[str, Floats]:
    """The features of regions that should not tell the class, wherever the masks are."""
    return {name: describe(of, region) for name, region in margins().items()}


def references(of: Views) -> dict[str, Floats]:
    """The features of what may tell it: the whole image, and its centre."""
    return {"whole image": whole(of), "centre": describe(unmasked(of), centre())}


def _histogram(values: Pixels, weight: npt.NDArray[np.generic], bins: int) -> Floats:
    """(N, bins) sums of (N, P) weights by value."""
    rows = np.arange(len(values))[:, None] * bins
    counts = np.bincount((rows + values).ravel(), weight.astype(np.float64).ravel(), len(values) * bins)
    return np.asarray(counts.reshape(len(values), bins), np.float64)
