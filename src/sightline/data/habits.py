"""Habits: what goes with a class in most images and does not make it one, drawn to the same bits everywhere."""

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Draws = npt.NDArray[np.uint64]

SPLITS = ("train", "val", "test", "shifted", "swapped")
"""The first three obey the habit, in "shifted" it says nothing, in "swapped" it always belongs to another class."""


def drawn_as(split: str) -> str:
    """The split whose images and other draws `split` shows."""
    return split if split in SPLITS[:3] else "test"


def choose_habit(split: str, own: Integers, kinds: int, correlation: float, obey: Draws, other: Draws) -> Integers:
    """The kind each image shows, 0..kinds - 1, where `own` is its class's.

    At a higher correlation the images that obey at a lower one still do.

    Args:
        split: one of `SPLITS`.
        own: (N,) the kind that goes with the image's class.
        kinds: how many there are.
        correlation: probability of the own kind; otherwise the kind is uniform over all.
        obey, other: (N,) raw 64-bit draws each.
    """
    if split == "swapped":
        return (own + 1 + below(kinds - 1, other)) % kinds
    threshold = 0.0 if split == "shifted" else correlation
    return np.where(uniform(obey) < threshold, own, below(kinds, other))


def uniform(draws: Draws) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) from raw 64-bit draws."""
    return np.asarray((draws >> np.uint64(11)) * 2.0**-53)


def below(limit: int | Integers, draws: Draws) -> Integers:
    """Whole numbers in [0, limit) from raw 64-bit draws."""
    return ((draws >> np.uint64(32)) * np.asarray(limit, np.uint64) >> np.uint64(32)).astype(np.int64)
