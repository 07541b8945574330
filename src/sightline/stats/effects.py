"""How large a difference is beside its spread, and how many images it takes to see it."""

from math import asin, ceil, sqrt

import numpy as np
import numpy.typing as npt
from scipy import stats

from sightline.errors import SightlineError
from sightline.stats.values import pairs, share


def cohens_d(a: npt.ArrayLike, b: npt.ArrayLike, corrected: bool = False) -> float | None:
    """Mean over standard deviation of the (n,) paired differences b - a (Cohen 1988, d_z).

    None for fewer than two pairs or differences that are all alike; pairs with a NaN are left out.

    Args:
        a: (n,).
        b: (n,) of the same images.
        corrected: for the bias of small samples, ``d (1 - 3 / (4 (n - 1) - 1))`` (Hedges 1981).

    Raises:
        SightlineError: the two differ in length, or are not one-dimensional.
    """
    first, second = pairs(a, b)
    apart = second - first
    if len(apart) < 2 or np.ptp(apart) == 0:
        return None
    d = float(apart.mean() / apart.std(ddof=1))
    return d * (1 - 3 / (4 * (len(apart) - 1) - 1)) if corrected else d


def rank_biserial(a: npt.ArrayLike, b: npt.ArrayLike) -> float | None:
    """``(W+ - W-) / (W+ + W-)`` of the signed ranks of b - a (Kerby 2014), in [-1, 1]; what `wilcoxon` tests.

    None where no pair differs; pairs with a NaN are left out.

    Raises:
        SightlineError: the two differ in length, or are not one-dimensional.
    """
    first, second = pairs(a, b)
    apart = (second - first)[first != second]
    ranks = stats.rankdata(np.abs(apart))
    return float((np.sign(apart) * ranks).sum() / ranks.sum()) if len(apart) else None


def cohens_h(a: float, b: float) -> float:
    """``2 asin(sqrt(b)) - 2 asin(sqrt(a))``, how far two proportions lie apart (Cohen 1988).

    Raises:
        SightlineError: a proportion outside [0, 1].
    """
    for name, value in (("a", a), ("b", b)):
        if not 0 <= value <= 1:
            raise SightlineError(f"{name}={value}: expected a proportion from 0 to 1.")
    return 2 * asin(sqrt(b)) - 2 * asin(sqrt(a))


def images_needed(difference: float, sd: float, power: float = 0.8, level: float = 0.95) -> int:
    """How many images it takes to see a mean paired difference of this size.

    ``n = ((z_level + z_power) sd / difference)^2``, the normal approximation.

    Args:
        difference: the mean of b - a that must not go unseen.
        sd: standard deviation of b - a over images, from a pilot.
        power: the chance of seeing it.
        level: of the interval that has to exclude zero.

    Raises:
        SightlineError: a difference of 0, a negative sd, or a power or level outside (0, 1).
    """
    _refuse_nothing(difference)
    if not sd >= 0:
        raise SightlineError(f"sd={sd}: expected a standard deviation, 0 or more.")
    return max(2, ceil((sum(_quantiles(power, level)) * sd / difference) ** 2))


def mcnemar_images_needed(b: float, c: float, power: float = 0.8, level: float = 0.95) -> int:
    """How many images McNemar's test needs to see a difference of accuracy of c - b (Connor 1987).

    ``n = (z_level sqrt(b + c) + z_power sqrt(b + c - (c - b)^2))^2 / (c - b)^2``.

    Args:
        b: share of the images that only a answers correctly, from a pilot.
        c: share that only b answers correctly.
        power: the chance of seeing it.
        level: 1 - the p at which the test counts.

    Raises:
        SightlineError: shares that are equal or no shares, or a power or level outside (0, 1).
    """
    if not (b >= 0 and c >= 0 and b + c <= 1):
        raise SightlineError(f"b={b} and c={c}: expected two shares of the images, together 1 at most.")
    _refuse_nothing(c - b)
    z_level, z_power = _quantiles(power, level)
    wide = z_level * sqrt(b + c) + z_power * sqrt(max(b + c - (c - b) ** 2, 0))
    return max(2, ceil((wide / (c - b)) ** 2))


def _quantiles(power: float, level: float) -> tuple[float, float]:
    return (
        float(stats.norm.ppf((1 + share("level", level)) / 2)),
        float(stats.norm.ppf(share("power", power))),
    )


def _refuse_nothing(difference: float) -> None:
    if not abs(difference) > 0:
        raise SightlineError(f"a difference of {difference} cannot be seen with any number of images.")
