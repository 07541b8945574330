"""Pictures that occur twice, and groups that cross from one split into another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from sightline.pictures import Flags, Pixels

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

ALIKE = 0.995
"""Correlation of two grey thumbnails (32 x 32) from which one picture is taken for a copy of the other. Saving again as
JPEG, resizing and changing brightness or contrast leave it above; other photographs of one thing lie below."""

KEPT = 8
"""Lowest frequencies per axis that the search looks at, as the perceptual hash pHash does; pairs found are measured
in full."""


@dataclass(frozen=True)
class Copies:
    """Pairs of pictures that are one."""

    pairs: Integers
    """(n, 2) row numbers, the first below the second."""
    exact: Flags
    """(n,) whether every pixel is the same."""


def copies(digests: Sequence[bytes], thumbs: Pixels) -> Copies:
    """The copies among (N, 32, 32) grey thumbnails; blank ones are copies only if every pixel is the same.

    Of a picture that occurs many times, each is paired with the one before it only: N copies make N - 1 pairs.
    """
    same = _same(digests)
    first = np.setdiff1d(np.arange(len(digests)), same[:, 1])
    near = _alike(thumbs[first], first)
    pairs = np.concatenate([same, near]).reshape(-1, 2)
    return Copies(pairs, np.arange(len(pairs)) < len(same))


def clusters(count: int, *links: Integers) -> Integers:
    """(count,) number of the cluster of each row, from (n, 2) pairs of rows that belong together."""
    every = np.concatenate([np.empty((0, 2), np.int64), *links])
    graph = coo_array((np.ones(len(every)), (every[:, 0], every[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def chained(keys: Sequence[object]) -> Integers:
    """(n, 2) pairs that link each row with the row before it that has the same key; a key of "" links nothing."""
    last: dict[object, int] = {}
    pairs = []
    for row, key in enumerate(keys):
        if key and key in last:
            pairs.append((last[key], row))
        last[key] = row
    return np.array(pairs, np.int64).reshape(-1, 2)


def _same(digests: Sequence[bytes]) -> Integers:
    return chained(digests)


def _alike(thumbs: Pixels, rows: Integers) -> Integers:
    """(n, 2) pairs of `rows` whose thumbnails correlate with at least `ALIKE`.

    Each thumbnail has mean 0 and length 1, so that their distance is ``sqrt(2 (1 - correlation))``. The discrete
    cosine transform keeps distances, and its low frequencies alone never make one larger: no pair is missed.
    """
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1)
    textured = np.flatnonzero(length > 2 * thumbs.shape[-1])
    if len(textured) < 2:
        return np.empty((0, 2), np.int64)
    unit = flat[textured] / length[textured, None]
    low = _lowest(unit.reshape(-1, *thumbs.shape[1:]))
    found = cKDTree(low).query_pairs(np.sqrt(2 * (1 - ALIKE)), output_type="ndarray")
    close = np.einsum("nd,nd->n", unit[found[:, 0]], unit[found[:, 1]]) >= ALIKE
    return np.sort(rows[textured[found[close]]], axis=1)


def _lowest(unit: Floats) -> Floats:
    """(N, d) the first principal axes of the low frequencies: few enough for a tree, with most of the distance."""
    low = dctn(unit, axes=(1, 2), norm="ortho")[:, :KEPT, :KEPT].reshape(len(unit), -1)
    centred = low - low.mean(0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    return np.ascontiguousarray(centred @ axes[:, :16])
