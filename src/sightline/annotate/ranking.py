"""Which image to annotate next: what one learns from where a model looks, and from how sure it is."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]

RANKINGS = ("order", "random", "mass", "disagreement", "uncertainty")
"""The folder's order, any order, and the scores below, the largest first."""


def mass(map: Array, known: Array) -> float:
    """The share of a map (h, w) outside of the evidence: 1 − Σ m⁺·k / Σ m⁺; NaN of a map without positive values.

    Args:
        map: raw; its negative values count as 0.
        known: (h, w) in [0, 1], the mask of the image; where it has none, the mean of those of other images.
    """
    positive = map.clip(min=0)
    total = float(positive.sum())
    return 1 - float((positive * known).sum()) / total if total else np.nan


def disagreement(maps: Sequence[Array]) -> float:
    """How far maps of one shape lie apart: Σ |p − q| / 2, in [0, 1], averaged over all pairs; NaN of fewer than two.

    p and q are the magnitudes of two maps, divided by their sums; a map of zeros agrees with nothing.
    """
    shares = [share(np.abs(map)) for map in maps]
    apart = [1 - float(np.minimum(p, q).sum()) for p, q in combinations(shares, 2)]
    return float(np.mean(apart)) if apart else np.nan


def uncertainty(probabilities: Sequence[Array]) -> float:
    """The entropy of what models say of an image, each (classes,), in [0, 1] of the largest there is, averaged."""
    return float(np.mean([entropy(p) / np.log(len(p)) for p in probabilities])) if probabilities else np.nan


def entropy(p: Array) -> float:
    """−Σ p log p."""
    return -float((p * np.log(p, where=p > 0, out=np.zeros_like(p))).sum())


def share(map: Array) -> Array:
    """A map that is not negative, divided by its sum if it has one."""
    total = map.sum()
    return map / total if total else map


def ranked(scores: Sequence[float]) -> list[int]:
    """Places from the largest score to the smallest; equal ones as they came, NaN last."""
    return [int(place) for place in np.argsort(-np.asarray(scores, np.float64), kind="stable")]
