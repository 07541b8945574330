"""Tests of pairs, corrections, effects, sample sizes and statistics over runs."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from sightline import stats
from sightline.errors import SightlineError
from sightline.stats import Difference, Seeds, Test

Array = np.ndarray[Any, Any]


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(3)


# Pairs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_permutation_counts_every_sign_pattern(generator: np.random.Generator, n: int) -> None:
    a, b = generator.integers(0, 9, (2, n)) / 8
    apart = b - a
    means = np.array([np.mean(apart * signs) for signs in product((1, -1), repeat=n)])
    expected = (np.abs(means) >= abs(apart.mean()) - 1e-12).mean()
    found = stats.permutation(a, b)
    assert (found.statistic, found.n) == (pytest.approx(apart.mean()), n)
    assert found.p == pytest.approx(expected)


def test_permutation_draws_patterns_where_there_are_too_many(generator: np.random.Generator) -> None:
    a = generator.random(400)
    b = a + generator.normal(0.02, 0.1, 400)
    found, student = stats.permutation(a, b), scipy_stats.ttest_rel(b, a).pvalue
    assert found.p == pytest.approx(student, abs=0.02)
    assert found == stats.permutation(a, b)
    assert stats.permutation(a, a + 0.5).p == pytest.approx(2 / 10_000, abs=1e-4)


def test_wilcoxon_is_scipys(generator: np.random.Generator) -> None:
    a, b = generator.normal(size=(2, 30))
    theirs = scipy_stats.wilcoxon(b - a)
    found = stats.wilcoxon(a, b)
    assert found.p == pytest.approx(theirs.pvalue)
    assert min(found.statistic, 30 * 31 / 2 - found.statistic) == pytest.approx(theirs.statistic)
    assert stats.wilcoxon(b, a).p == pytest.approx(found.p)


@pytest.mark.parametrize("of", [stats.permutation, stats.wilcoxon])
def test_pairs_with_little_to_go_on(of: Callable[..., Test]) -> None:
    assert of([], []) == of([np.nan], [1.0]) == Test(None, None, 0)
    assert of([0.5, 0.5], [0.5, 0.5]) == Test(0.0, 1.0, 2)
    assert of([0.0, np.nan, 0.25], [0.5, 1.0, 0.75]).n == 2


@pytest.mark.parametrize("of", [stats.permutation, stats.wilcoxon])
def test_under_the_null_p_is_small_as_often_as_it_says(generator: np.random.Generator, of: Callable[..., Test]) -> None:
    p = np.array([of(*generator.normal(size=(2, 9))).p for _ in range(400)])
    assert 0.02 <= (p <= 0.05).mean() <= 0.08


# Many tests ---------------------------------------------------------------------------------------------------------


def test_corrections_by_hand() -> None:
    p = [0.04, 0.01, 0.03, 0.5]
    assert stats.holm(p) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert stats.benjamini_hochberg(p) == pytest.approx([0.16 / 3, 0.04, 0.16 / 3, 0.5])
    assert stats.holm([]).tolist() == stats.benjamini_hochberg([]).tolist() == []
    assert stats.holm([0.6, 0.9]).tolist() == [1.0, 1.0]


def test_corrections_keep_the_order_and_holm_is_the_stricter(generator: np.random.Generator) -> None:
    p = generator.random(50) ** 3
    holm, hochberg = stats.holm(p), stats.benjamini_hochberg(p)
    assert (np.diff(holm[np.argsort(p)]) >= 0).all()
    assert (np.diff(hochberg[np.argsort(p)]) >= -1e-15).all()
    assert (p <= hochberg).all()
    assert (hochberg <= holm + 1e-12).all()


# Effects and sample sizes -------------------------------------------------------------------------------------------


def test_effects_by_hand() -> None:
    a, b = [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, -2.0]
    assert stats.cohens_d(a, b) == pytest.approx(1 / np.std([1, 2, 3, -2], ddof=1))
    assert stats.cohens_d(a, b, corrected=True) == pytest.approx(stats.cohens_d(a, b) * (1 - 3 / 11))
    assert stats.rank_biserial(a, b) == pytest.approx((1 + 2.5 + 4 - 2.5) / 10)
    assert stats.rank_biserial(a, np.add(a, 1)) == 1
    assert stats.cohens_h(0.5, 1.0) == pytest.approx(np.pi / 2)
    assert stats.cohens_d(a, a) is stats.cohens_d([1], [2]) is stats.rank_biserial(a, a) is None


def test_the_images_needed_are_the_images_that_show_it(generator: np.random.Generator) -> None:
    """With as many images, a z-test sees the difference in four of five draws."""
    n = stats.images_needed(0.02, 0.1)
    draws = generator.normal(0.02, 0.1, (4000, n))
    seen = np.abs(draws.mean(1)) / (0.1 / np.sqrt(n)) > 1.96
    assert 0.78 <= seen.mean() <= 0.83


def test_mcnemar_refuses_predictions() -> None:
    with pytest.raises(SightlineError, match="b_correct holds 3: expected 1 for right, 0 for wrong"):
        stats.mcnemar([0, 1, 1], [0, 3, 1])


def test_lists_are_as_good_as_arrays() -> None:
    assert stats.bootstrap([0.1, 0.2, 0.4]) == stats.bootstrap(np.array([0.1, 0.2, 0.4]))
    a, b = [0.1, 0.2, 0.4], [0.2, 0.2, 0.3]
    assert stats.paired_bootstrap(a, b) == stats.paired_bootstrap(np.array(a), np.array(b))


def test_the_images_mcnemar_needs_are_the_images_that_show_it(generator: np.random.Generator) -> None:
    b, c = 0.05, 0.12
    n = stats.mcnemar_images_needed(b, c)
    draws = generator.multinomial(n, [b, c, 1 - b - c], 4000)
    z = np.abs(draws[:, 0] - draws[:, 1]) / np.sqrt(draws[:, :2].sum(1))
    assert 0.77 <= (z > 1.96).mean() <= 0.83
    assert stats.mcnemar_images_needed(b, c, power=0.95) > n > stats.mcnemar_images_needed(b, c, level=0.8)


# Seeds and folds ----------------------------------------------------------------------------------------------------


def test_seeds_have_students_interval() -> None:
    found = stats.seeds([0.8, 0.9, 0.85]).interval(0.9)
    theirs = scipy_stats.t.interval(0.9, 2, 0.85, np.std([0.8, 0.9, 0.85], ddof=1) / np.sqrt(3))
    assert (found.low, found.high) == pytest.approx(theirs)
    assert Seeds(0.4, None, 1).interval().low is None


def test_the_corrected_test_is_wider_by_what_folds_share() -> None:
    differences = [0.01, 0.03, 0.02, 0.04, 0.0]
    plain = scipy_stats.ttest_1samp(differences, 0)
    found = stats.corrected_t(differences, 0.2)
    half = (plain.confidence_interval().high - plain.confidence_interval().low) / 2
    assert (found.high - found.low) / 2 == pytest.approx(half * np.sqrt(1 + 5 * 0.25))
    assert found.p > plain.pvalue
    assert stats.corrected_t([0.1], 0.1) == Difference(0.1, None, None, None, 1, 0.95)
    assert stats.corrected_t([0.0, 0.0], 0.1).p == 1.0
    assert stats.corrected_t([0.1, 0.1], 0.1).p == 0.0


def test_runs_widen_the_interval(generator: np.random.Generator) -> None:
    """Seeds that differ much make another training uncertain, however many images there are."""
    images = generator.random(300)
    a = images + generator.normal(0, 0.2, (4, 1))
    b = images + 0.1 + generator.normal(0, 0.2, (4, 1))
    over_both, over_images = stats.paired_runs(a, b), stats.paired_bootstrap(a.mean(0), b.mean(0))
    assert over_both.value == pytest.approx(over_images.value)
    assert over_both.high - over_both.low > 10 * (over_images.high - over_images.low)


def test_runs_that_agree_leave_the_images_alone(generator: np.random.Generator) -> None:
    a, b = generator.random((2, 200))
    over_both = stats.paired_runs(np.tile(a, (3, 1)), np.tile(b, (3, 1)))
    over_images = stats.paired_bootstrap(a, b)
    assert [over_both.value, over_both.low, over_both.high] == pytest.approx(
        [over_images.value, over_images.low, over_images.high], abs=0.02
    )


def test_runs_with_little_to_go_on() -> None:
    nothing = np.full((2, 3), np.nan)
    assert stats.paired_runs(nothing, nothing) == Difference(None, None, None, None, 3, 0.95)
    assert stats.paired_runs([[0.0, 1.0]], [[1.0, 1.0]]) == Difference(0.5, None, None, None, 2, 0.95)


# The BCa bootstrap of any statistic ---------------------------------------------------------------------------------


def test_bca_of_any_statistic_is_scipys(generator: np.random.Generator) -> None:
    data = generator.exponential(size=40)

    def spread(values: Array, rows: Array) -> Array:
        return np.asarray(values[rows].std(-1))

    theirs = scipy_stats.bootstrap(
        (data,), np.std, n_resamples=2000, method="BCa", rng=np.random.default_rng(5), vectorized=True
    ).confidence_interval
    ours = stats.bootstrap(data, spread, seed=5, method="bca")
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], rel=1e-9)


def test_bca_of_a_paired_mean_is_that_of_the_differences(generator: np.random.Generator) -> None:
    a, b = generator.exponential(size=(2, 30))
    found, alone = stats.paired_bootstrap(a, b, method="bca"), stats.mean_interval(b - a)
    assert [found.low, found.high] == pytest.approx([alone.low, alone.high], rel=1e-9)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_a_nominal_95_percent_interval_covers_95_percent(generator: np.random.Generator, method: Any) -> None:
    """In 2,000 trials, for the mean paired difference of 100 images."""
    trials = generator.beta(0.7, 1.5, (2000, 2, 100))
    found = [stats.paired_bootstrap(a, b, resamples=1000, seed=k, method=method) for k, (a, b) in enumerate(trials)]
    assert 0.93 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.97


# Mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.permutation([1, 0], [1]), "2 values of a, 1 of b"),
        (lambda: stats.wilcoxon([[1, 0]], [1]), r"a has shape \(1, 2\)"),
        (lambda: stats.holm([0.5, np.nan]), "expected numbers from 0 to 1"),
        (lambda: stats.benjamini_hochberg([1.5]), "expected numbers from 0 to 1"),
        (lambda: stats.cohens_h(0.2, 1.2), "b=1.2: expected a proportion"),
        (lambda: stats.images_needed(0, 0.1), "a difference of 0 cannot be seen"),
        (lambda: stats.images_needed(0.1, -1), "sd=-1"),
        (lambda: stats.images_needed(0.1, 1, power=80), "power=80: expected a share"),
        (lambda: stats.mcnemar_images_needed(0.1, 0.1), "cannot be seen"),
        (lambda: stats.mcnemar_images_needed(0.7, 0.6), "b=0.7 and c=0.6"),
        (lambda: stats.corrected_t([0.1, 0.2], 10), "test_share=10"),
        (lambda: stats.paired_runs([0.1], [0.2]), r"expected \(runs, n\)"),
    ],
)
def test_mistakes_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        call()
