"""The small values that all of `stats` returns, and the checks of what it is given."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import SightlineError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Interval:
    """An estimate from `n` observations. `value` is None where it is not defined, the bounds then and where n < 2."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    level: float


@dataclass(frozen=True)
class Difference:
    """A paired difference, b minus a, from `n` pairs. All is None where not defined, all but `value` where n < 2."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    level: float


def vector(values: npt.ArrayLike, name: str) -> Array:
    """(n,) float64.

    Raises:
        SightlineError: values that are not one-dimensional.
    """
    found = np.asarray(values, dtype=float)
    if found.ndim != 1:
        raise SightlineError(f"{name} has shape {found.shape}: expected one value per image, (n,).")
    return found


def known(values: npt.ArrayLike, name: str) -> Array:
    """(n,) float64 without the NaN.

    Raises:
        SightlineError: values that are not one-dimensional.
    """
    found = vector(values, name)
    return found[~np.isnan(found)]


def pairs(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Array, Array]:
    """(n,) and (n,) float64: the pairs of which neither side is NaN.

    Raises:
        SightlineError: values that are not one-dimensional, or of different lengths.
    """
    first, second = vector(a, "a"), vector(b, "b")
    if len(first) != len(second):
        raise SightlineError(f"{len(first)} values of a, {len(second)} of b: expected the same images in both.")
    both = ~(np.isnan(first) | np.isnan(second))
    return first[both], second[both]


def share(name: str, value: float) -> float:
    """A number between 0 and 1, such as the level of an interval.

    Raises:
        SightlineError: it is not.
    """
    if not 0 < value < 1:
        raise SightlineError(f"{name}={value}: expected a share between 0 and 1, such as 0.95.")
    return value
