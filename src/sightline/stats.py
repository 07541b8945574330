"""Intervals and tests: arrays in, small values out. What is not defined is None, never NaN and never an exception."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from sightline.errors import SightlineError

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
Statistic = Callable[[Array, Rows], Array]
"""(n, ...) data, (m, n) row numbers -> (m,) the statistic of each selection of rows; NaN where it is not defined."""

RESAMPLES = 2000
_CHUNK = 200_000  # row numbers at a time: few enough to stay in the cache


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


@dataclass(frozen=True)
class McNemar:
    """Discordant pairs, and the exact two-sided p."""

    b: int
    """Only a is right."""
    c: int
    """Only b is right."""
    p: float


@dataclass(frozen=True)
class Seeds:
    """Mean and sample standard deviation of `n` runs; `mean` is None for none, `sd` for fewer than two."""

    mean: float | None
    sd: float | None
    n: int


def means(data: Array, rows: Rows) -> Array:
    """(m,) means of (n,) data over each selection of rows; the default statistic."""
    return np.asarray(data[rows].mean(-1))


def macro_f1(data: Array, rows: Rows) -> Array:
    """(m,) macro-F1 over each selection of rows.

    The mean over classes of ``F1 = 2 TP / (labels + predictions)``, 0 without a true positive; classes that occur
    neither as a label nor as a prediction are left out.

    Args:
        data: (n, 2) int class numbers: label, prediction.
        rows: (m, k).
    """
    label, prediction = np.moveaxis(data[rows], -1, 0)
    classes = int(data.max()) + 1
    hits = _counts(np.where(label == prediction, label, classes), classes + 1)[:, :classes]
    return _mean_defined(_ratio(2 * hits, _counts(label, classes) + _counts(prediction, classes)))


def macro_auroc(data: Array, rows: Rows) -> Array:
    """(m,) macro one-versus-rest AUROC over each selection of rows.

    The mean over classes of ``P(score of a positive > score of a negative) + P(equal) / 2``; classes without a positive
    or without a negative are left out.

    Args:
        data: (n, 1 + classes): label as a class number, then one score per class.
        rows: (m, k).
    """
    # Images lie along the first axis: it is sorted and summed over, in long contiguous rows.
    weight, label = np.ascontiguousarray(_counts(rows, len(data)).T, np.int32), data[:, 0]
    return _mean_defined(np.stack([_auroc(weight, label == k, score) for k, score in enumerate(data[:, 1:].T)], 1))


def worst_group(data: Array, rows: Rows) -> Array:
    """(m,) accuracy of the group answered worst, over each selection of rows; groups without a row are left out.

    Args:
        data: (n, 2) int: right (1) or wrong (0), group number.
        rows: (m, k).
    """
    correct, group = np.moveaxis(data[rows], -1, 0)
    groups = int(data[:, 1].max()) + 1
    hits = _counts(np.where(correct == 1, group, groups), groups + 1)[:, :groups]
    return np.asarray(np.nanmin(_ratio(hits, _counts(group, groups)), 1))


def mean_interval(scores: npt.ArrayLike, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean of (n,) scores with its BCa bootstrap interval (Efron 1987), NaN left out.

    Scores that are all equal have the interval [value, value].

    Raises:
        SightlineError: scores that are not one-dimensional, or a level outside (0, 1).
    """
    known = _known(scores, "scores")
    if len(known) < 2 or np.ptp(known) == 0:
        return bootstrap(known, means, level, resamples, seed)
    drawn = _resampled(len(known), resamples, seed, lambda rows: means(known, rows))
    return Interval(float(known.mean()), *_bca(known, drawn, _level(level)), len(known), level)


def proportion_interval(hits: int, n: int, level: float = 0.95) -> Interval:
    """hits / n with the Wilson score interval (Wilson 1927); defined from one observation on.

    Raises:
        SightlineError: not 0 <= hits <= n, or a level outside (0, 1).
    """
    if not 0 <= hits <= n:
        raise SightlineError(f"hits={hits} of n={n}: expected 0 <= hits <= n.")
    if n == 0:
        return Interval(None, None, None, 0, _level(level))
    found = stats.binomtest(hits, n).proportion_ci(_level(level), "wilson")
    return Interval(hits / n, float(found.low), float(found.high), n, level)


def bootstrap(
    data: Array, statistic: Statistic = means, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Any statistic of (n, ...) data, one row per image, with its percentile bootstrap interval.

    Resamples in which the statistic is not defined are left out.

    Raises:
        SightlineError: a level outside (0, 1).
    """
    n, value, level = len(data), _whole(data, statistic), _level(level)
    if n < 2 or value is None:
        return Interval(value, None, None, n, level)
    drawn = _resampled(n, resamples, seed, lambda rows: statistic(data, rows))
    return Interval(value, *_percentiles(drawn, level), n, level)


def paired_bootstrap(
    a: Array,
    b: Array,
    statistic: Statistic = means,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """``statistic(b) - statistic(a)`` with a percentile interval and a two-sided p.

    Each resample draws the same rows of both. ``p = min(1, 2 (1 + min(#{d* <= 0}, #{d* >= 0})) / (1 + resamples))`` is
    small where the interval stays clear of 0 (Efron and Tibshirani 1993, chapters 13 and 15). Rows with a NaN on either
    side are left out.

    Args:
        a: (n, ...) one row per image.
        b: the same images in the same order.
        statistic: see `Statistic`.
        level: of the interval.
        resamples: how many; no p is smaller than 2 / (1 + resamples).
        seed: of the draws, which depend on nothing else but n.

    Raises:
        SightlineError: a and b differ in shape, or a level outside (0, 1).
    """
    if a.shape != b.shape or a.ndim == 0:
        raise SightlineError(f"a has shape {a.shape}, b has {b.shape}: expected one row per image, the same in both.")
    known = ~(np.isnan(a) | np.isnan(b)).any(tuple(range(1, a.ndim)))
    a, b, n, level = a[known], b[known], int(known.sum()), _level(level)
    of_a, of_b = _whole(a, statistic), _whole(b, statistic)
    if of_a is None or of_b is None:
        return Difference(None, None, None, None, n, level)
    if n < 2:
        return Difference(of_b - of_a, None, None, None, n, level)
    drawn = _resampled(n, resamples, seed, lambda rows: statistic(b, rows) - statistic(a, rows))
    return Difference(of_b - of_a, *_percentiles(drawn, level), _two_sided(drawn), n, level)


def mcnemar(a_correct: npt.ArrayLike, b_correct: npt.ArrayLike) -> McNemar:
    """McNemar's test (1947) on (n,) right or wrong answers of two models to the same questions, in its exact form.

    ``p = min(1, 2 P[Bin(b + c, 1/2) <= min(b, c)])``, and 1 where no pair is discordant.

    Raises:
        SightlineError: the two differ in length, or are not one-dimensional.
    """
    first, second = _vector(a_correct, "a_correct"), _vector(b_correct, "b_correct")
    if len(first) != len(second):
        raise SightlineError(f"{len(first)} answers of a, {len(second)} of b: expected the same images in both.")
    b, c = int(np.sum((first == 1) & (second == 0))), int(np.sum((first == 0) & (second == 1)))
    return McNemar(b, c, float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0)


def seeds(values: npt.ArrayLike) -> Seeds:
    """Mean and sample standard deviation (divisor n - 1) of one number per seed, NaN left out.

    Raises:
        SightlineError: values that are not one-dimensional.
    """
    known = _known(values, "values")
    mean, sd = (float(known.mean()) if len(known) else None), (float(known.std(ddof=1)) if len(known) > 1 else None)
    return Seeds(mean, sd, len(known))


def _counts(numbers: Array, most: int) -> Array:
    """(m, most): how often each number below `most` occurs in each row of (m, k)."""
    m = len(numbers)
    return np.bincount((numbers + most * np.arange(m)[:, None]).ravel(), minlength=m * most).reshape(m, most)


def _auroc(weight: Array, positive: Array, score: Array) -> Array:
    """(m,) AUROC where image i occurs weight[i] times, (n, m)."""
    negative = np.flatnonzero(~positive)[np.argsort(score[~positive])]
    below = np.zeros((len(negative) + 1, weight.shape[1]), np.int32)
    np.cumsum(weight[negative], 0, out=below[1:])
    first, last = (np.searchsorted(score[negative], score[positive], side) for side in ("left", "right"))
    pairs = (weight[positive] * (below[first] + below[last])).sum(0) / 2
    return _ratio(pairs, weight[positive].sum(0) * below[-1].astype(np.int64))


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole, NaN where whole is 0."""
    out = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=out, where=whole != 0)
    return out


def _mean_defined(values: Array) -> Array:
    """(m,) mean over the second axis, NaN left out."""
    return _ratio(np.nansum(values, 1), (~np.isnan(values)).sum(1))


def _whole(data: Array, statistic: Statistic) -> float | None:
    """The statistic of all rows; None where it is not defined."""
    value = float(statistic(data, np.arange(len(data))[None])[0]) if len(data) else np.nan
    return value if isfinite(value) else None


def _resampled(n: int, resamples: int, seed: int, of_rows: Callable[[Rows], Array]) -> Array:
    """(resamples,) values of bootstrap samples, computed in chunks, which do not change the draws."""
    generator, most = np.random.default_rng(seed), max(1, _CHUNK // n)
    sizes = [min(most, resamples - start) for start in range(0, resamples, most)]
    return np.concatenate([of_rows(generator.integers(0, n, (size, n))) for size in sizes])


def _percentiles(drawn: Array, level: float) -> tuple[float, float]:
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _bca(known: Array, drawn: Array, level: float) -> tuple[float, float]:
    """Percentiles corrected for bias and skewness; for a mean the jackknife's acceleration is the scores' skewness."""
    apart, least = known - known.mean(), 1 / len(drawn)
    apart = apart / np.abs(apart).max()
    below = ((drawn < known.mean()).mean() + (drawn <= known.mean()).mean()) / 2
    bias = stats.norm.ppf(np.clip(below, least, 1 - least))
    acceleration = (apart**3).sum() / (6 * (apart**2).sum() ** 1.5)
    z = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(drawn, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


def _two_sided(drawn: Array) -> float:
    drawn = drawn[~np.isnan(drawn)]
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return min(1.0, float(2 * (1 + tail) / (1 + len(drawn))))


def _known(values: npt.ArrayLike, name: str) -> Array:
    vector = _vector(values, name)
    return vector[~np.isnan(vector)]


def _vector(values: npt.ArrayLike, name: str) -> Array:
    vector = np.asarray(values, dtype=float)
    if vector.ndim != 1:
        raise SightlineError(f"{name} has shape {vector.shape}: expected one value per image, (n,).")
    return vector


def _level(level: float) -> float:
    if not 0 < level < 1:
        raise SightlineError(f"level={level}: expected a share between 0 and 1, such as 0.95.")
    return level
