"""AUROC with its covariance, and tests between correlated ones."""

from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from sightline.errors import SightlineError
from sightline.stats.values import Array, Interval, share, vector


@dataclass(frozen=True)
class DeLong:
    """AUROC of k scores on the same images, and what can be said of their differences."""

    auc: Array
    """(k,)."""
    cov: Array | None
    """(k, k); None with fewer than two positives or two negatives."""
    z: float | Array | None
    """Of a minus b; (k, k), of row minus column, where k > 2; None without a covariance, or for one score alone."""
    p: float | Array | None
    """Two-sided, shaped as `z`."""
    n: tuple[int, int]
    """Positives and negatives."""

    @property
    def log10_p(self) -> float | Array | None:
        """Of the p, where it is too small for a number of its own."""
        return None if self.z is None else _like(self.z, (log(2) + stats.norm.logsf(np.abs(self.z))) / log(10))

    def intervals(self, level: float = 0.95) -> tuple[Interval, ...]:
        """Each AUROC with its normal interval, cut at 0 and 1.

        Raises:
            SightlineError: a level outside (0, 1).
        """
        wide = stats.norm.ppf((1 + share("level", level)) / 2)
        if self.cov is None:
            return tuple(Interval(float(auc), None, None, sum(self.n), level) for auc in self.auc)
        half = wide * np.sqrt(np.diag(self.cov))
        ends = zip(self.auc, np.clip(self.auc - half, 0, 1), np.clip(self.auc + half, 0, 1), strict=True)
        return tuple(Interval(float(auc), float(low), float(high), sum(self.n), level) for auc, low, high in ends)


def delong(labels: npt.ArrayLike, scores_a: npt.ArrayLike, scores_b: npt.ArrayLike | None = None) -> DeLong:
    """AUROC, covariance and test of DeLong, DeLong and Clarke-Pearson (1988), in the time of a sort per score.

    With m positives and n negatives, and R the midranks among all, the positives or the negatives (Sun and Xu 2014)::

        V10_i = (R_i^all - R_i^pos) / n,  V01_j = 1 - (R_j^all - R_j^neg) / m,  AUC = mean V10
        S = cov(V10) / m + cov(V01) / n,  z = (AUC_a - AUC_b) / sqrt(S_aa + S_bb - 2 S_ab),  p = 2 (1 - Phi(|z|))

    Equal AUROCs have z = 0 and p = 1; different ones without any variance, z infinite and p = 0.

    Args:
        labels: (n,) 1 or True for a positive, else 0.
        scores_a: (n,), or (k, n) for several scores at once; larger speaks for a positive.
        scores_b: (n,) to compare with `scores_a`.

    Raises:
        SightlineError: labels other than 0 and 1 or all alike, scores that are not finite, or lengths that differ.
    """
    positive, scores = _labels(labels), _scores(scores_a, scores_b)
    if scores.shape[1] != len(positive):
        raise SightlineError(f"{len(positive)} labels, {scores.shape[1]} scores: expected one score per label.")
    at, apart = np.flatnonzero(positive), np.flatnonzero(~positive)
    placed = (_placements(score[at], score[apart], len(scores) > 1) for score in scores)
    of_positives, of_negatives = map(np.stack, zip(*placed, strict=True))
    m, n = len(at), len(apart)
    auc = of_positives.mean(1)
    if min(m, n) < 2:
        return DeLong(auc, None, None, None, (m, n))
    cov = np.atleast_2d(np.cov(of_positives)) / m + np.atleast_2d(np.cov(of_negatives)) / n
    if len(auc) == 1:
        return DeLong(auc, cov, None, None, (m, n))
    each = _z(auc, cov)
    z = float(each[0, 1]) if len(auc) == 2 else each
    return DeLong(auc, cov, z, _like(z, 2 * stats.norm.sf(np.abs(z))), (m, n))


def _placements(positive: Array, negative: Array, aligned: bool) -> tuple[Array, Array]:
    """(m,) V10 of the positives and (n,) V01 of the negatives; in their order if `aligned`, else in any."""
    of_positives, ordered = _sorted(positive, aligned)
    of_negatives, others = _sorted(negative, aligned)
    m, n = len(positive), len(negative)
    below = np.searchsorted(others, ordered)
    tied = bool((others[np.minimum(below, n - 1)] == ordered).any())
    upto = np.searchsorted(others, ordered, "right") if tied else below
    # How many positives lie at or below a negative, and how many below it, is what the same places say read backwards.
    at_most = np.cumsum(np.bincount(below, minlength=n + 1))[:n]
    less = np.cumsum(np.bincount(upto, minlength=n + 1))[:n] if tied else at_most
    return _restored((below + upto) / (2 * n), of_positives), _restored(1 - (at_most + less) / (2 * m), of_negatives)


def _sorted(score: Array, aligned: bool) -> tuple[Array | None, Array]:
    """The places of the scores in ascending order, where they matter, and the scores in that order."""
    if not aligned:
        return None, np.sort(score)
    order = np.argsort(score)
    return order, score[order]


def _restored(values: Array, order: Array | None) -> Array:
    if order is None:
        return values
    restored = np.empty(len(values))
    restored[order] = values
    return restored


def _z(auc: Array, cov: Array) -> Array:
    """(k, k) standardised differences, row minus column."""
    apart, own = auc[:, None] - auc, np.diag(cov)
    variance = own[:, None] + own - 2 * cov
    # What rounding leaves of a variance that is zero.
    variance[variance <= 1e-14 * (own[:, None] + own)] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(apart == 0, 0.0, apart / np.sqrt(variance)))


def _like(z: float | Array, values: Any) -> float | Array:
    """A float for a float."""
    return np.asarray(values) if isinstance(z, np.ndarray) else float(values)


def _labels(labels: npt.ArrayLike) -> Array:
    found = vector(labels, "labels")
    positive = np.equal(found, 1)
    if not (positive | (found == 0)).all() or not 0 < positive.sum() < len(found):
        raise SightlineError(
            f"labels hold {np.unique(found)[:5].tolist()}: expected 0 and 1, and at least one of each. "
            "An AUROC is of one class against another."
        )
    return positive


def _scores(a: npt.ArrayLike, b: npt.ArrayLike | None) -> Array:
    first = np.atleast_2d(np.asarray(a, dtype=float))
    if b is not None:
        second = np.atleast_2d(np.asarray(b, dtype=float))
        if first.shape != second.shape or len(first) > 1:
            raise SightlineError(f"scores_a has shape {np.shape(a)}, scores_b {np.shape(b)}: expected (n,) for both.")
        first = np.concatenate([first, second])
    if first.ndim != 2:
        raise SightlineError(f"scores have shape {first.shape}: expected (n,), or (k, n) for k scores at once.")
    if not np.isfinite(first).all():
        raise SightlineError(f"scores hold {int((~np.isfinite(first)).sum())} NaN or infinite values: leave them out.")
    return first
