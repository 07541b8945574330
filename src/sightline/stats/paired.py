"""Tests of two models on the same images."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from sightline.errors import SightlineError
from sightline.stats.values import pairs


@dataclass(frozen=True)
class McNemar:
    """Discordant pairs, and the exact two-sided p."""

    b: int
    """Only a is right."""
    c: int
    """Only b is right."""
    p: float


@dataclass(frozen=True)
class Test:
    """A statistic of `n` pairs and its two-sided p; both None without a pair."""

    __test__ = False  # for pytest, which collects what is called so

    statistic: float | None
    p: float | None
    n: int


def mcnemar(a_correct: npt.ArrayLike, b_correct: npt.ArrayLike) -> McNemar:
    """McNemar's test (1947) on (n,) right or wrong answers of two models to the same questions, in its exact form.

    ``p = min(1, 2 P[Bin(b + c, 1/2) <= min(b, c)])``, and 1 where no pair is discordant. Pairs with a NaN are left out.

    Raises:
        SightlineError: the two differ in length, are not one-dimensional, or hold anything but 0 and 1.
    """
    first, second = pairs(a_correct, b_correct)
    for name, answers in (("a_correct", first), ("b_correct", second)):
        if not np.isin(answers, (0, 1)).all():
            raise SightlineError(
                f"{name} holds {answers[~np.isin(answers, (0, 1))][0]:g}: expected 1 for right, 0 for wrong."
            )
    b, c = int(np.sum((first == 1) & (second == 0))), int(np.sum((first == 0) & (second == 1)))
    return McNemar(b, c, float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0)


def permutation(a: npt.ArrayLike, b: npt.ArrayLike, resamples: int = 9999, seed: int = 0) -> Test:
    """Mean of b - a over (n,) pairs, tested by giving each difference a random sign (Fisher 1935).

    p is twice the share of the sign patterns whose mean lies at least as far on its side of 0: of all of them where
    there are no more than `resamples`, else ``2 (1 + hits) / (1 + resamples)`` of drawn ones; 1 at most. Pairs with a
    NaN are left out. It rests on no distribution, only on the differences being symmetric about 0 if the models are
    alike.

    Raises:
        SightlineError: the two differ in length, or are not one-dimensional.
    """
    first, second = pairs(a, b)
    if not len(first):
        return Test(None, None, 0)
    apart = second - first
    found = stats.permutation_test(
        (apart,),
        lambda x, axis: x.mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // len(apart)),
        rng=np.random.default_rng(seed),
    ) if len(apart) > 1 else None  # fmt: skip
    return Test(float(apart.mean()), 1.0 if found is None else float(found.pvalue), len(apart))


def wilcoxon(a: npt.ArrayLike, b: npt.ArrayLike) -> Test:
    """Wilcoxon's signed-rank test (1945) of b - a over (n,) pairs, for scores whose distribution has long tails.

    ``W = sum of the ranks of |b - a| where b > a``. Pairs that are equal, or hold a NaN, are left out, as Wilcoxon did;
    p is exact for up to 50 pairs, or 13 with ties, and normal with a correction for ties else; 1 where all are equal.

    Raises:
        SightlineError: the two differ in length, or are not one-dimensional.
    """
    first, second = pairs(a, b)
    apart = (second - first)[first != second]
    if not len(apart):
        return Test(0.0 if len(first) else None, 1.0 if len(first) else None, len(first))
    ranks = stats.rankdata(np.abs(apart))
    return Test(float(ranks[apart > 0].sum()), float(stats.wilcoxon(apart).pvalue), len(first))
