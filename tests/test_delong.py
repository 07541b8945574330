"""DeLong's AUROC covariance and test against the published fast algorithm's values and counted pairs."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from sightline.errors import SightlineError
from sightline.stats import delong

Array = np.ndarray[Any, Any]


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(11)


def slow(labels: Array, scores: Array) -> tuple[Array, Array]:
    """AUROC and covariance by comparing every positive with every negative."""
    positive, negative = scores[:, labels == 1], scores[:, labels == 0]
    gap = positive[:, :, None] - negative[:, None, :]
    wins = (gap > 0) + (gap == 0) / 2
    v10, v01 = wins.mean(2), wins.mean(1)
    cov = np.cov(v10, ddof=1) / v10.shape[1] + np.cov(v01, ddof=1) / v01.shape[1]
    return wins.mean((1, 2)), np.atleast_2d(cov)


@pytest.mark.parametrize("case", ["plain", "ties", "small", "imbalanced"])
def test_reference_values(oracle: Any, case: str) -> None:
    ref = {key.removeprefix(f"{case}__"): value for key, value in oracle("stats_delong").items()}
    found = delong(ref["labels"], ref["scores"])
    np.testing.assert_allclose(found.auc, ref["auc"], rtol=1e-12)
    np.testing.assert_allclose(found.cov, ref["cov"], rtol=1e-9, atol=1e-16)
    pairs = ([0, 0, 1], [1, 2, 2])
    for name in ("z", "p", "log10p"):
        ours = getattr(found, {"log10p": "log10_p"}.get(name, name))[pairs]
        np.testing.assert_allclose(ours, ref[f"{name}_01_02_12"], rtol=1e-9)
    for (first, second), z in zip(zip(*pairs, strict=True), ref["z_01_02_12"], strict=True):
        assert delong(ref["labels"], ref["scores"][first], ref["scores"][second]).z == pytest.approx(z, rel=1e-9)


@pytest.mark.parametrize("case", ["zero_same", "zero_monotone", "zero_perfect", "zero_perfect_vs_reversed", "tail"])
def test_reference_values_at_the_edges(oracle: Any, case: str) -> None:
    ref = {key.removeprefix(f"{case}__"): value for key, value in oracle("stats_delong").items()}
    found = delong(ref["labels"], *ref["scores"])
    np.testing.assert_allclose(found.cov, ref["cov"], rtol=1e-9, atol=1e-16)
    assert found.z == pytest.approx(float(ref["z"]), rel=1e-9)
    if "p" in ref:
        assert found.p == ref["p"]
    else:
        assert found.log10_p == pytest.approx(float(ref["log10p"]), rel=1e-9)


@pytest.mark.parametrize("levels", [2, 7, 10**6])
def test_it_is_the_comparison_of_all_pairs(generator: np.random.Generator, levels: int) -> None:
    labels = generator.integers(0, 2, 60)
    scores = generator.integers(0, levels, (3, 60)) / levels
    auc, cov = slow(labels, scores)
    found = delong(labels, scores)
    np.testing.assert_allclose(found.auc, auc, rtol=1e-12)
    np.testing.assert_allclose(found.cov, cov, rtol=1e-9, atol=1e-16)
    np.testing.assert_allclose(found.auc, [roc_auc_score(labels, score) for score in scores], rtol=1e-12)
    for score, value, variance in zip(scores, auc, np.diag(cov), strict=True):
        alone = delong(labels, score)
        assert (alone.z, alone.p) == (None, None)
        assert (alone.auc[0], alone.cov[0, 0]) == pytest.approx((value, variance), rel=1e-9)


def test_by_hand() -> None:
    """Positives 3 and 1 against negatives 2 and 0: three of four pairs, V10 = (1, 1/2), V01 = (1/2, 1)."""
    found = delong([1, 1, 0, 0], [3, 1, 2, 0])
    assert found.auc.tolist() == [0.75]
    assert found.cov.tolist() == [[0.125]]
    assert found.n == (2, 2)
    low, high = found.intervals()[0].low, found.intervals()[0].high
    assert (low, high) == pytest.approx((0.75 - 1.959964 * 0.125**0.5, 1.0), abs=1e-6)


def test_under_the_null_p_is_small_as_often_as_it_says(generator: np.random.Generator) -> None:
    labels = np.arange(80) % 2
    draws = labels + generator.normal(size=(1000, 2, 80))
    p = np.array([delong(labels, a, b).p for a, b in draws])
    assert 0.03 <= (p < 0.05).mean() <= 0.075
    assert 0.45 <= (p < 0.5).mean() <= 0.56


def test_the_sign_says_which_is_better(generator: np.random.Generator) -> None:
    labels = np.arange(200) % 2
    good, bad = labels + generator.normal(size=(2, 200)) * np.array([[0.5], [3.0]])
    assert delong(labels, good, bad).z > 0 > delong(labels, bad, good).z
    assert delong(labels, np.stack([good, bad, bad])).z[0, 1] > 0


def test_labels_may_be_bools_and_nothing_depends_on_the_order(generator: np.random.Generator) -> None:
    labels, scores = generator.random(50) < 0.4, generator.random((2, 50))
    order = generator.permutation(50)
    one, other = delong(labels, *scores), delong(labels[order].astype(int), *scores[:, order])
    np.testing.assert_allclose(one.cov, other.cov, rtol=1e-9)
    assert one.z == pytest.approx(other.z, rel=1e-9)


def test_one_positive_has_an_auroc_but_no_covariance() -> None:
    found = delong([1, 0, 0], [0.9, 0.1, 0.95], [0.9, 0.1, 0.2])
    assert found.auc.tolist() == [0.5, 1.0]
    assert (found.cov, found.z, found.p, found.log10_p) == (None, None, None, None)
    assert [(one.value, one.low) for one in found.intervals()] == [(0.5, None), (1.0, None)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 1, 1], [1, 2, 3]), "at least one of each"),
        (([], []), "at least one of each"),
        (([0, 1, 2], [1, 2, 3]), r"labels hold \[0.0, 1.0, 2.0\]"),
        (([0, 1], [1, np.nan]), "1 NaN or infinite"),
        (([0, 1], [1, 2, 3]), "2 labels, 3 scores"),
        (([0, 1], [1, 2], [1, 2, 3]), r"scores_a has shape \(2,\), scores_b \(3,\)"),
        (([0, 1], np.zeros((1, 2, 2))), r"scores have shape \(1, 2, 2\)"),
    ],
)
def test_mistakes_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        delong(*arguments)
