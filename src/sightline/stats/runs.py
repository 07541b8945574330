"""Statistics over seeds and folds: what of a difference belongs to the method, and what to one training."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy import stats

from sightline.errors import SightlineError
from sightline.stats.resampling import RESAMPLES, percentiles, two_sided
from sightline.stats.values import Difference, Interval, known, share


@dataclass(frozen=True)
class Seeds:
    """Mean and sample standard deviation of `n` runs; `mean` is None for none, `sd` for fewer than two."""

    mean: float | None
    sd: float | None
    n: int

    def interval(self, level: float = 0.95) -> Interval:
        """The mean with Student's interval: where the mean of many more seeds would lie.

        Raises:
            SightlineError: a level outside (0, 1).
        """
        if self.mean is None or self.sd is None:
            return Interval(self.mean, None, None, self.n, share("level", level))
        half = float(stats.t.ppf((1 + share("level", level)) / 2, self.n - 1)) * self.sd / sqrt(self.n)
        return Interval(self.mean, self.mean - half, self.mean + half, self.n, level)


def seeds(values: npt.ArrayLike) -> Seeds:
    """Mean and sample standard deviation (divisor n - 1) of one number per seed, NaN left out.

    Raises:
        SightlineError: values that are not one-dimensional.
    """
    found = known(values, "values")
    mean, sd = (float(found.mean()) if len(found) else None), (float(found.std(ddof=1)) if len(found) > 1 else None)
    return Seeds(mean, sd, len(found))


def corrected_t(differences: npt.ArrayLike, test_share: float, level: float = 0.95) -> Difference:
    """Mean of one difference per fold or random split, with Nadeau and Bengio's interval and test (2003).

    Folds share their training images, so their differences vary less than independent ones would:
    ``var = (1/k + test / train) s^2`` in Student's t with k - 1 degrees of freedom.

    Args:
        differences: (k,) b minus a, one per fold; NaN left out.
        test_share: share of the images that a fold tests on, such as 0.1 for ten folds.
        level: of the interval.

    Raises:
        SightlineError: differences that are not one-dimensional, or a share or level outside (0, 1).
    """
    found, test_share, level = known(differences, "differences"), share("test_share", test_share), share("level", level)
    k = len(found)
    if k < 2:
        return Difference(float(found[0]) if k else None, None, None, None, k, level)
    mean, error = float(found.mean()), sqrt(1 / k + test_share / (1 - test_share)) * float(found.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, k - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, k - 1)) if error else float(mean == 0)
    return Difference(mean, mean - half, mean + half, p, k, level)


def paired_runs(
    a: npt.ArrayLike, b: npt.ArrayLike, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Mean of b - a over runs and images, with a percentile interval and p of a bootstrap over both.

    Each resample draws runs of a, runs of b, and images, which all runs share: the interval then holds for another
    training and other images, where one over images alone holds for these very weights.

    Args:
        a: (runs, n) scores; NaN, where a score is not defined, is left out of the means.
        b: (runs, n) of the same images; its runs need not be as many.
        level: of the interval.
        resamples: how many.
        seed: of the draws.

    Raises:
        SightlineError: shapes that do not fit, or a level outside (0, 1).
    """
    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise SightlineError(f"a has shape {first.shape}, b {second.shape}: expected (runs, n) of the same n images.")
    level, n = share("level", level), first.shape[1]
    of_a, of_b = _mean(first), _mean(second)
    if np.isnan(of_a) or np.isnan(of_b):
        return Difference(None, None, None, None, n, level)
    if n < 2 or min(len(first), len(second)) < 2:
        return Difference(of_b - of_a, None, None, None, n, level)
    generator = np.random.default_rng(seed)
    drawn = np.array([_redrawn(first, second, generator) for _ in range(resamples)])
    return Difference(of_b - of_a, *percentiles(drawn, level), two_sided(drawn), n, level)


def _redrawn(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], generator: np.random.Generator) -> float:
    columns = generator.integers(0, a.shape[1], a.shape[1])
    runs_a, runs_b = (generator.integers(0, len(each), len(each)) for each in (a, b))
    return _mean(b[np.ix_(runs_b, columns)]) - _mean(a[np.ix_(runs_a, columns)])


def _mean(values: npt.NDArray[np.float64]) -> float:
    defined = ~np.isnan(values)
    return float(np.where(defined, values, 0).sum() / defined.sum()) if defined.any() else np.nan
