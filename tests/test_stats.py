"""Intervals and tests against reference values, other libraries and simulation; what they do with little to go on."""

from collections.abc import Callable
from math import comb, sqrt
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import f1_score, roc_auc_score

from sightline import stats
from sightline.errors import SightlineError
from sightline.stats import Difference, Interval, McNemar, Seeds

Array = np.ndarray[Any, Any]


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)


# McNemar ------------------------------------------------------------------------------------------------------------


def answers(b: int, c: int, both: int = 3, neither: int = 2) -> tuple[list[bool], list[bool]]:
    """Right and wrong answers of two models with b and c discordant pairs."""
    a_alone, b_alone = [(True, False)] * b, [(False, True)] * c
    pairs = [*a_alone, *b_alone, *[(True, True)] * both, *[(False, False)] * neither]
    return [first for first, _ in pairs], [second for _, second in pairs]


def test_mcnemar_reference_values(oracle: Any) -> None:
    ref = oracle("stats_mcnemar")
    for (b, c), p in zip(ref["b_c"].tolist(), ref["p_exact"], strict=True):
        found = stats.mcnemar(*answers(b, c))
        assert (found.b, found.c) == (b, c)
        assert found.p == pytest.approx(p, rel=1e-9)
    found = stats.mcnemar(ref["pred_a"] == ref["labels"], ref["pred_b"] == ref["labels"])
    assert [found.b, found.c] == ref["pred_b_c"].tolist()
    assert found.p == pytest.approx(float(ref["pred_p_exact"]), rel=1e-9)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (0, 6), (1, 7), (7, 1), (4, 4), (30, 12)])
def test_mcnemar_by_counting(b: int, c: int) -> None:
    tail = sum(comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    found = stats.mcnemar(*answers(b, c))
    assert (found.b, found.c) == (b, c)
    assert found.p == pytest.approx(min(1, 2 * tail))


def test_mcnemar_of_nothing() -> None:
    assert stats.mcnemar([], []) == McNemar(0, 0, 1.0)


# Proportions and means ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 30), (17, 40), (999, 1000)])
def test_wilson_interval_by_its_formula(hits: int, n: int) -> None:
    z = scipy_stats.norm.ppf(0.95)
    centre, half = (hits + z**2 / 2) / (n + z**2), z * sqrt(hits * (n - hits) / n + z**2 / 4) / (n + z**2)
    found = stats.proportion_interval(hits, n, level=0.9)
    assert (found.value, found.n, found.level) == (hits / n, n, 0.9)
    assert [found.low, found.high] == pytest.approx([max(centre - half, 0), min(centre + half, 1)], abs=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 10, 300])
def test_mean_interval_is_scipys(generator: np.random.Generator, n: int, level: float) -> None:
    scores = generator.exponential(size=n)
    with np.errstate(all="ignore"):
        theirs = scipy_stats.bootstrap(
            (scores,), np.mean, n_resamples=2000, confidence_level=level, method="BCa", rng=np.random.default_rng(5)
        ).confidence_interval
    ours = stats.mean_interval(scores, level, seed=5)
    assert ours.value == pytest.approx(scores.mean())
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], rel=1e-12)


def test_nan_scores_are_left_out(generator: np.random.Generator) -> None:
    scores = generator.random(20)
    assert stats.mean_interval([*scores, np.nan, np.nan]) == stats.mean_interval(scores)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], (None, None, None, 0)),
        ([np.nan, np.nan], (None, None, None, 0)),
        ([0.3], (0.3, None, None, 1)),
        ([0.25] * 4, (0.25, 0.25, 0.25, 4)),
        ([0.0, 1.0], (0.5, 0.0, 1.0, 2)),
    ],
)
def test_mean_intervals_with_little_to_go_on(scores: list[float], expected: tuple[float | None, ...]) -> None:
    assert stats.mean_interval(scores) == Interval(*expected, level=0.95)


def test_a_proportion_of_nothing() -> None:
    assert stats.proportion_interval(0, 0) == Interval(None, None, None, 0, 0.95)


@pytest.mark.parametrize("scores", [[0.1, 0.1 + 1e-17], [1e-200, 3e-200, 2e-200], [1e200, 0, 0], [0] * 50 + [1]])
def test_mean_intervals_of_odd_scores_are_finite_and_hold_the_mean(scores: list[float]) -> None:
    found = stats.mean_interval(scores)
    assert np.isfinite([found.value, found.low, found.high]).all()
    assert found.low <= found.value <= found.high


def test_mean_interval_covers_the_truth(generator: np.random.Generator) -> None:
    """90 % intervals of 40 skewed scores hold the true mean about nine times in ten."""
    found = [stats.mean_interval(generator.beta(0.5, 2, 40), 0.9, 400, seed) for seed in range(400)]
    assert 0.85 <= np.mean([one.low <= 0.2 <= one.high for one in found]) <= 0.94


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], (None, None, 0)), ([0.4], (0.4, None, 1)), ([1, 2, 3, np.nan], (2, 1, 3)), ([2, 2], (2, 0, 2))],
)
def test_seeds(values: list[float], expected: tuple[float | None, float | None, int]) -> None:
    assert stats.seeds(values) == Seeds(*expected)


# Statistics of resampled rows, against one call of another library per resample -------------------------------------


def each(one: Callable[[Array], float], data: Array, rows: Array) -> list[float]:
    return [one(data[of]) for of in rows]


def test_macro_f1_is_scikit_learns(generator: np.random.Generator) -> None:
    data = generator.integers(0, 5, (40, 2)) % [4, 5]  # class 4 is predicted, but never right
    rows = generator.integers(0, 40, (60, 12))
    expected = each(lambda d: f1_score(d[:, 0], d[:, 1], average="macro", zero_division=0), data, rows)
    np.testing.assert_allclose(stats.macro_f1(data, rows), expected, rtol=1e-12)


def test_macro_auroc_is_scikit_learns(generator: np.random.Generator) -> None:
    label = generator.integers(0, 4, 40)  # of 5 classes, one of them absent
    data = np.column_stack([label, generator.integers(0, 6, (40, 5)) / 5])  # few values: many ties
    rows = generator.integers(0, 40, (40, 9))
    np.testing.assert_allclose(stats.macro_auroc(data, rows), each(slow_auroc, data, rows), rtol=1e-12)


def slow_auroc(data: Array) -> float:
    label, score = data[:, 0], data[:, 1:].T
    defined = [k for k in range(len(score)) if 0 < (label == k).sum() < len(label)]
    return float(np.mean([roc_auc_score(label == k, score[k]) for k in defined])) if defined else np.nan


def test_macro_auroc_needs_two_classes() -> None:
    data, rows = np.array([[1, 0.2, 0.8], [1, 0.6, 0.4]]), np.array([[0, 1]])
    assert np.isnan(stats.macro_auroc(data, rows))
    assert stats.bootstrap(data, stats.macro_auroc) == Interval(None, None, None, 2, 0.95)


def test_worst_group_by_hand(generator: np.random.Generator) -> None:
    data = np.array([[1, 0], [0, 0], [1, 1], [1, 1], [0, 2]])
    rows = np.array([[0, 1, 2, 3, 4], [0, 1, 2, 3, 3], [0, 0, 2, 2, 3], [4, 4, 4, 4, 4]])
    assert stats.worst_group(data, rows).tolist() == [0, 0.5, 1, 0]


# The bootstrap ------------------------------------------------------------------------------------------------------


def test_bootstrap_of_a_mean_is_scipys_percentile_interval(generator: np.random.Generator) -> None:
    scores = generator.random(50)
    theirs = scipy_stats.bootstrap(
        (scores,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    ours = stats.bootstrap(scores, seed=3)
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], rel=1e-12)


def test_the_difference_is_paired_and_signed(generator: np.random.Generator) -> None:
    """A constant shift has no spread, however much the scores themselves vary."""
    scores = generator.random(30)
    found = stats.paired_bootstrap(scores, scores + 0.25)
    assert [found.value, found.low, found.high] == pytest.approx([0.25] * 3)
    assert found.p == pytest.approx(2 / 2001)
    back = stats.paired_bootstrap(scores + 0.25, scores)
    assert [back.value, back.p] == pytest.approx([-0.25, 2 / 2001])


def test_the_paired_mean_is_the_mean_of_the_differences(generator: np.random.Generator) -> None:
    a, b = generator.random((2, 60))
    found, alone = stats.paired_bootstrap(a, b, seed=4), stats.bootstrap(b - a, seed=4)
    assert [found.value, found.low, found.high] == pytest.approx([alone.value, alone.low, alone.high], rel=1e-12)


@pytest.mark.parametrize("statistic", [stats.macro_f1, stats.worst_group])
def test_any_statistic_of_rows_can_be_compared(generator: np.random.Generator, statistic: stats.Statistic) -> None:
    group = generator.integers(0, 3, 200)
    a, b = np.column_stack([generator.random(200) < 0.6, group]), np.column_stack([generator.random(200) < 0.9, group])
    found, whole = stats.paired_bootstrap(a, b, statistic), np.arange(200)[None]
    assert found.value == pytest.approx(float(statistic(b, whole)[0] - statistic(a, whole)[0]))
    assert found.low <= found.value <= found.high


def test_nothing_depends_on_the_chunks_or_changes_between_calls(
    generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = generator.random((2, 31))
    once = stats.paired_bootstrap(a, b), stats.mean_interval(a)
    assert once == (stats.paired_bootstrap(a, b), stats.mean_interval(a))
    monkeypatch.setattr(stats.resampling, "_CHUNK", 100)
    assert once == (stats.paired_bootstrap(a, b), stats.mean_interval(a))
    assert once[0] != stats.paired_bootstrap(a, b, seed=1)


def test_under_the_null_p_is_small_as_often_as_it_says(generator: np.random.Generator) -> None:
    pairs = generator.normal(size=(500, 2, 50))
    found = [stats.paired_bootstrap(a, b, resamples=400, seed=k) for k, (a, b) in enumerate(pairs)]
    p = np.array([one.p for one in found])
    assert 0.07 <= (p < 0.1).mean() <= 0.15
    assert 0.45 <= (p < 0.5).mean() <= 0.56
    excluded = np.array([not one.low <= 0 <= one.high for one in found])
    assert (excluded == (p < 0.05)).mean() > 0.98


def test_rows_undefined_on_either_side_are_left_out() -> None:
    a, b = np.array([0.0, 0.5, np.nan, 1.0]), np.array([0.5, np.nan, 0.0, 1.0])
    found = stats.paired_bootstrap(a, b)
    assert (found.value, found.n) == (0.25, 2)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([], [], (None, None, None, None, 0)),
        ([np.nan], [1.0], (None, None, None, None, 0)),
        ([0.25], [1.0], (0.75, None, None, None, 1)),
        ([0.5] * 3, [0.5] * 3, (0.0, 0.0, 0.0, 1.0, 3)),
    ],
)
def test_differences_with_little_to_go_on(a: list[float], b: list[float], expected: tuple[float | None, ...]) -> None:
    assert stats.paired_bootstrap(np.array(a), np.array(b)) == Difference(*expected, level=0.95)


# Mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.mean_interval([[0.1, 0.2]]), r"scores has shape \(1, 2\): expected one value per image"),
        (lambda: stats.mean_interval([0.1, 0.2], level=95), "level=95: expected a share between 0 and 1"),
        (lambda: stats.proportion_interval(3, 2), "hits=3 of n=2"),
        (lambda: stats.proportion_interval(1, 2, level=1), "level=1"),
        (lambda: stats.proportion_interval(0, 0, level=1), "level=1"),
        (lambda: stats.mcnemar([1, 0], [1]), "2 values of a, 1 of b"),
        (lambda: stats.paired_bootstrap(np.zeros(2), np.zeros(3)), r"a has shape \(2,\), b has \(3,\)"),
        (lambda: stats.bootstrap(np.zeros(2), level=0), "level=0"),
        (lambda: stats.seeds(0.5), "values has shape"),
    ],
)
def test_mistakes_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        call()
