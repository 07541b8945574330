"""Corrections for many tests: what the smallest of many p-values is worth."""

import numpy as np
import numpy.typing as npt
from scipy import stats

from sightline.errors import SightlineError
from sightline.stats.values import Array, vector


def holm(p: npt.ArrayLike) -> Array:
    """(n,) p-values adjusted by Holm's step-down procedure (1979), in the order given.

    ``p'_(i) = max_{j <= i} min(1, (n - j + 1) p_(j))`` over the sorted p: below alpha, it may be believed with a chance
    of at most alpha that any such belief is wrong, whatever the tests have to do with each other.

    Raises:
        SightlineError: a p outside [0, 1].
    """
    given = _checked(p)
    order = np.argsort(given, kind="stable")
    steps = np.minimum(1, given[order] * np.arange(len(given), 0, -1))
    adjusted = np.empty_like(given)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted


def benjamini_hochberg(p: npt.ArrayLike) -> Array:
    """(n,) p-values adjusted by the procedure of Benjamini and Hochberg (1995), in the order given.

    ``p'_(i) = min_{j >= i} min(1, n p_(j) / j)`` over the sorted p: of those below alpha, a share of at most alpha is
    expected to be false, for independent tests.

    Raises:
        SightlineError: a p outside [0, 1].
    """
    given = _checked(p)
    return np.asarray(stats.false_discovery_control(given)) if len(given) else given


def _checked(p: npt.ArrayLike) -> Array:
    given = vector(p, "p")
    if not ((given >= 0) & (given <= 1)).all():
        raise SightlineError(f"p={given.tolist()}: expected numbers from 0 to 1. Leave out tests that are not defined.")
    return given
