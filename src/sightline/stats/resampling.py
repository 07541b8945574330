"""Intervals of one model's numbers, and of paired differences, by resampling images."""

from collections.abc import Callable
from math import isfinite
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from sightline.errors import SightlineError, did_you_mean
from sightline.stats.statistics import Rows, Statistic, means, pooled_means
from sightline.stats.values import Array, Difference, Interval, known, share

Method = Literal["percentile", "bca"]

RESAMPLES = 2000
_CHUNK = 200_000  # row numbers at a time: few enough to stay in the cache
_GROUPS = 1000  # left out one after the other by the jackknife, where single images would be too many


def mean_interval(scores: npt.ArrayLike, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean of (n,) scores with its BCa bootstrap interval (Efron 1987), NaN left out.

    Scores that are all equal have the interval [value, value].

    Raises:
        SightlineError: scores that are not one-dimensional, or a level outside (0, 1).
    """
    return bootstrap(known(scores, "scores"), means, level, resamples, seed, "bca")


def proportion_interval(hits: int, n: int, level: float = 0.95) -> Interval:
    """hits / n with the Wilson score interval (Wilson 1927); defined from one observation on.

    Raises:
        SightlineError: not 0 <= hits <= n, or a level outside (0, 1).
    """
    if not 0 <= hits <= n:
        raise SightlineError(f"hits={hits} of n={n}: expected 0 <= hits <= n.")
    if n == 0:
        return Interval(None, None, None, 0, share("level", level))
    found = stats.binomtest(hits, n).proportion_ci(share("level", level), "wilson")
    return Interval(hits / n, float(found.low), float(found.high), n, level)


def bootstrap(
    data: npt.ArrayLike,
    statistic: Statistic = means,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    method: Method = "percentile",
) -> Interval:
    """Any statistic of (n, ...) data, one row per image, with its bootstrap interval.

    Resamples in which the statistic is not defined are left out.

    Args:
        data: (n, ...).
        statistic: see `Statistic`.
        level: of the interval.
        resamples: how many.
        seed: of the draws, which depend on nothing else but n.
        method: "percentile", or "bca": percentiles corrected for bias and skewness (Efron 1987), the skewness by a
            jackknife that leaves out single images, or a thousandth of them where there are more.

    Raises:
        SightlineError: a level outside (0, 1), or an unknown method.
    """
    values = np.asarray(data)
    n, value, level = len(values), _whole(values, statistic), share("level", level)
    _refuse_unknown(method)
    if n < 2 or value is None:
        return Interval(value, None, None, n, level)
    drawn = _resampled(n, resamples, seed, lambda rows: statistic(values, rows))
    return Interval(value, *_ends(drawn, value, level, method, lambda: _jackknife(values, statistic)), n, level)


def paired_bootstrap(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    statistic: Statistic = means,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    method: Method = "percentile",
) -> Difference:
    """``statistic(b) - statistic(a)`` with a bootstrap interval and a two-sided p.

    Each resample draws the same rows of both. ``p = min(1, 2 (1 + min(#{d* <= 0}, #{d* >= 0})) / (1 + resamples))`` is
    small where the percentile interval stays clear of 0 (Efron and Tibshirani 1993, chapters 13 and 15). Rows with a
    NaN on either side are left out.

    Args:
        a: (n, ...) one row per image.
        b: the same images in the same order.
        statistic: see `Statistic`.
        level: of the interval.
        resamples: how many; no p is smaller than 2 / (1 + resamples).
        seed: of the draws, which depend on nothing else but n.
        method: of the interval, see `bootstrap`.

    Raises:
        SightlineError: a and b differ in shape, a level outside (0, 1), or an unknown method.
    """
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape or first.ndim == 0:
        raise SightlineError(
            f"a has shape {first.shape}, b has {second.shape}: expected one row per image, the same in both."
        )
    _refuse_unknown(method)
    defined = ~(np.isnan(first) | np.isnan(second)).any(tuple(range(1, first.ndim)))
    first, second, n, level = first[defined], second[defined], int(defined.sum()), share("level", level)
    of_a, of_b = _whole(first, statistic), _whole(second, statistic)
    if of_a is None or of_b is None:
        return Difference(None, None, None, None, n, level)
    value = of_b - of_a
    if n < 2:
        return Difference(value, None, None, None, n, level)
    drawn = _resampled(n, resamples, seed, lambda rows: statistic(second, rows) - statistic(first, rows))
    ends = _ends(drawn, value, level, method, lambda: _jackknife(second, statistic) - _jackknife(first, statistic))
    return Difference(value, *ends, two_sided(drawn), n, level)


def _refuse_unknown(method: str) -> None:
    if method not in ("percentile", "bca"):
        raise SightlineError(f"method={method!r}. {did_you_mean(method, ['percentile', 'bca'])}")


def _whole(data: Array, statistic: Statistic) -> float | None:
    """The statistic of all rows; None where it is not defined."""
    value = float(statistic(data, np.arange(len(data))[None])[0]) if len(data) else np.nan
    return value if isfinite(value) else None


def _resampled(n: int, resamples: int, seed: int, of_rows: Callable[[Rows], Array]) -> Array:
    """(resamples,) values of bootstrap samples, computed in chunks, which do not change the draws."""
    generator, most = np.random.default_rng(seed), max(1, _CHUNK // n)
    sizes = [min(most, resamples - start) for start in range(0, resamples, most)]
    return np.concatenate([of_rows(generator.integers(0, n, (size, n))) for size in sizes])


def _jackknife(data: Array, statistic: Statistic) -> Array:
    """(groups,) the statistic without one image, or one group of images, after the other."""
    n = len(data)
    if statistic is means:
        return np.asarray((data.sum() - data) / (n - 1))
    if statistic is pooled_means:
        (total, count), (own, number) = data.sum(0), data.T
        return np.asarray((total - own) / (count - number))
    rows, groups = np.arange(n), min(n, _GROUPS)
    return np.array([statistic(data, rows[rows % groups != left_out][None])[0] for left_out in range(groups)])


def _ends(
    drawn: Array, value: float, level: float, method: Method, jackknife: Callable[[], Array]
) -> tuple[float, float]:
    """The interval's bounds from the values of bootstrap samples."""
    drawn = drawn[~np.isnan(drawn)]
    if method == "percentile" or np.ptp(drawn) == 0:
        return percentiles(drawn, level)
    least = 1 / len(drawn)
    below = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    bias = stats.norm.ppf(np.clip(below, least, 1 - least))
    z = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(drawn, stats.norm.cdf(bias + z / (1 - _acceleration(jackknife()) * z)))
    return float(low), float(high)


def _acceleration(jackknife: Array) -> float:
    """``sum d^3 / (6 (sum d^2)^1.5)`` of what leaving out an image takes away; 0 where nothing does."""
    apart = np.nanmean(jackknife) - jackknife[~np.isnan(jackknife)]
    largest = np.abs(apart).max()
    if largest == 0:
        return 0.0
    apart = apart / largest  # whose powers neither overflow nor vanish
    return float((apart**3).sum() / (6 * (apart**2).sum() ** 1.5))


def percentiles(drawn: Array, level: float) -> tuple[float, float]:
    """The bounds between which a share `level` of the values lies, NaN left out."""
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def two_sided(drawn: Array) -> float:
    """p of the values of bootstrap samples of a difference, see `paired_bootstrap`."""
    drawn = drawn[~np.isnan(drawn)]
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return min(1.0, float(2 * (1 + tail) / (1 + len(drawn))))
