"""What must hold for any maps, masks, scores and p-values: properties, over inputs that nobody picked."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from torch import Tensor

from batches import part, scored
from sightline import stats
from sightline.metrics import (
    ContentHeatmap,
    Deletion,
    Dice,
    Insertion,
    IoU,
    PerImage,
    PointingGame,
    RegionMass,
    StochasticPointingGame,
    TopKDrop,
    content_heatmap,
    deletion,
    dice,
    insertion,
    iou,
    pointing_game,
    stochastic_pointing_game,
)
from sightline.types import Evidence

SIZE = (6, 7)
OF_MAPS = {
    "ch": ContentHeatmap,
    "ch of the box": lambda: ContentHeatmap(region="box"),
    "pg": lambda: PointingGame(margin=1.5),
    "pg per class": lambda: PointingGame(margin=1.5, average="per_class"),
    "spg": lambda: StochasticPointingGame(margin=1.5),
    "spg by points": lambda: StochasticPointingGame(margin=1.5, points=20),
    "iou": IoU,
    "dice": Dice,
    "wrong": lambda: RegionMass(torch.arange(42.0).view(SIZE) > 30),
    "insertion": lambda: Insertion(step=9),
    "deletion": lambda: Deletion(step=9),
    "topk": lambda: TopKDrop((3, 9)),
}
"""Every metric of a map alone, and those of a map and a model."""

few = settings(max_examples=25, deadline=None)


def predict(images: Tensor) -> Tensor:
    """A model without weights to train: three classes by where an image is bright."""
    weights = torch.sin(torch.arange(3 * 42.0, dtype=images.dtype)).view(3, 42)
    return images.flatten(2).sum(1) @ weights.T


@st.composite
def evidences(draw: st.DrawFn, least: int = 1) -> Evidence:
    """A batch whose maps have zeros, ties and now and then nothing at all; some images without a mask."""
    count, seed = draw(st.integers(least, 7)), draw(st.integers(0, 2**32))
    generator = torch.Generator().manual_seed(seed)
    maps = (torch.rand(count, *SIZE, generator=generator, dtype=torch.float64) - 0.3).clamp(min=0)
    maps[torch.rand(count, generator=generator) < 0.15] = 0
    mask = (torch.rand(count, *SIZE, generator=generator) < draw(st.floats(0.05, 0.95))).float()
    mask[:, 2, 3] = 1
    has_mask = torch.rand(count, generator=generator) > 0.2
    image = torch.rand(count, 2, *SIZE, generator=generator, dtype=torch.float64)
    return Evidence(
        maps,
        torch.where(has_mask[:, None, None], mask, 1),
        has_mask,
        predict(image),
        torch.arange(count) % 3,
        torch.arange(count),
        image=image,
        target=predict(image).argmax(1),
        predict=predict,
    )


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=1e-6, atol=1e-7, equal_nan=True)


def same(a: PerImage, b: PerImage) -> None:
    close(a.compute(), b.compute())
    for one, other in zip(a.scores(), b.scores(), strict=True):
        close(one, other)


@pytest.mark.parametrize("kind", OF_MAPS)
@given(evidences(), st.sampled_from([1e-12, 1e-3, 0.5, 7.0, 1e9]))
@few
def test_the_scale_of_a_map_does_not_matter(kind: str, whole: Evidence, scale: float) -> None:
    same(scored(OF_MAPS[kind](), whole), scored(OF_MAPS[kind](), whole._replace(map=whole.map * scale)))


@pytest.mark.parametrize("kind", OF_MAPS)
@given(evidences(least=2), st.data())
@few
def test_how_images_are_batched_or_shared_out_does_not_matter(kind: str, whole: Evidence, data: st.DataObject) -> None:
    """In any order and any batches, some images twice, as a distributed sampler pads them."""
    count = len(whole.map)
    order = data.draw(st.permutations(range(count)))
    padded = order + data.draw(st.lists(st.sampled_from(range(count)), max_size=3))
    cut = data.draw(st.integers(1, len(padded) - 1))
    same(
        scored(OF_MAPS[kind](), whole),
        scored(OF_MAPS[kind](), part(whole, padded[:cut]), part(whole, padded[cut:])),
    )


@pytest.mark.parametrize("kind", OF_MAPS)
@given(evidences())
@few
def test_scores_stay_in_range_and_undefined_ones_are_counted(kind: str, whole: Evidence) -> None:
    metric = scored(OF_MAPS[kind](), whole)
    _, values = metric.scores()
    known = values[~values.isnan()]
    assert ((known >= (-1 if kind == "topk" else -1e-9)) & (known <= 1 + 1e-9)).all()
    assert metric.undefined() == int(values.isnan().sum())
    empty = whole.map.flatten(1).amax(1) == 0
    assert values[empty].isnan().all()


@pytest.mark.parametrize("score", [content_heatmap, iou, dice, lambda m, a: stochastic_pointing_game(m, a, 0.0, None)])
@given(evidences())
@few
def test_a_map_that_is_the_mask_scores_one_and_one_beside_it_nothing(score: Any, whole: Evidence) -> None:
    mask = whole.mask.double()
    close(score(mask, whole.mask), torch.ones(len(mask)))
    beside = 1 - mask
    elsewhere = beside.flatten(1).any(1)
    close(score(beside[elsewhere], whole.mask[elsewhere]), torch.zeros(int(elsewhere.sum())))


@given(evidences(), st.floats(0.01, 0.99), st.floats(0, 3))
@few
def test_mass_that_moves_onto_the_evidence_never_costs(whole: Evidence, share: float, margin: float) -> None:
    mask = whole.mask.double()
    outside = whole.map * (1 - mask)
    moved = whole.map - share * outside + mask * share * outside.sum((1, 2), keepdim=True) / mask.sum((1, 2), True)
    for score in (
        lambda maps: content_heatmap(maps, whole.mask),
        lambda maps: stochastic_pointing_game(maps, whole.mask, margin, None),
    ):
        before, after = score(whole.map), score(moved)
        known = ~before.isnan()
        assert (after[known] >= before[known] - 1e-9).all()


@given(evidences(), st.floats(0, 4), st.floats(0, 4))
@few
def test_a_wider_margin_never_costs(whole: Evidence, a: float, b: float) -> None:
    narrow, wide = sorted((a, b))
    for game in (pointing_game, lambda *args: stochastic_pointing_game(*args, None)):
        near, far = game(whole.map, whole.mask, narrow), game(whole.map, whole.mask, wide)
        known = ~near.isnan()
        assert (far[known] >= near[known] - 1e-9).all()


@given(evidences())
@few
def test_dice_orders_maps_as_iou_does(whole: Evidence) -> None:
    overlap, coefficient = iou(whole.map, whole.mask), dice(whole.map, whole.mask)
    known = ~overlap.isnan()
    assert (coefficient[known] >= overlap[known]).all()
    assert overlap[known].argsort(stable=True).equal(coefficient[known].argsort(stable=True))


@given(evidences(), st.integers(1, 50))
@few
def test_curves_begin_and_end_with_the_whole_image(whole: Evidence, step: int) -> None:
    assert whole.image is not None
    shown = ~(whole.map.flatten(1).amax(1) == 0)
    intact = predict(whole.image).softmax(1).amax(1)
    close(deletion(predict, whole.image, whole.map, step=step)[shown, 0], intact[shown])
    close(insertion(predict, whole.image, whole.map, step=step)[shown, -1], intact[shown])


# Statistics ----------------------------------------------------------------------------------------------------------

scores = nps.arrays(np.float64, st.integers(3, 30), elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]))
ps = nps.arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1))


@given(ps)
@few
def test_corrections_only_raise_p_and_keep_its_order(p: Any) -> None:
    strict, mild = stats.holm(p), stats.benjamini_hochberg(p)
    assert (strict >= mild - 1e-12).all()
    assert (mild >= p - 1e-12).all()
    assert (strict <= 1).all()
    for adjusted in (strict, mild):
        assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= -1e-12).all()


@given(scores, st.integers(0, 2**32 - 1))
@few
def test_delong_is_free_of_monotone_changes_and_antisymmetric(a: Any, seed: int) -> None:
    drawn = np.random.default_rng(seed)
    labels, b = drawn.integers(0, 2, len(a)), drawn.random(len(a)).round(1)
    assume(1 < labels.sum() < len(labels) - 1)  # two of a class, or there is no covariance
    one, two, bent = stats.delong(labels, a, b), stats.delong(labels, b, a), stats.delong(labels, np.exp(3 * a), b)
    np.testing.assert_allclose(np.array(one.auc)[::-1], two.auc, atol=1e-12)
    np.testing.assert_allclose(one.auc, bent.auc, atol=1e-12)
    np.testing.assert_allclose(one.cov, bent.cov, atol=1e-12)
    assert one.p == pytest.approx(two.p, abs=1e-12, nan_ok=True)
    np.testing.assert_allclose(stats.delong(1 - labels, a).auc, 1 - np.array(stats.delong(labels, a).auc), atol=1e-12)


@given(scores, st.integers(0, 99))
@few
def test_intervals_hold_what_they_are_about(values: Any, seed: int) -> None:
    found = stats.mean_interval(values, resamples=300, seed=seed)
    assert values.min() - 1e-12 <= found.low <= found.high <= values.max() + 1e-12
    hits = int((values > 0.3).sum())
    share = stats.proportion_interval(hits, len(values))
    assert 0 <= share.low <= share.value <= share.high <= 1
    wider = stats.proportion_interval(hits, len(values), 0.99)
    assert wider.low <= share.low
    assert wider.high >= share.high


@given(scores, st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_tests_of_pairs_are_symmetric_and_see_nothing_in_equal_scores(a: Any, seed: int) -> None:
    b = np.random.default_rng(seed).permutation(a)
    right, other = (a > 0.3).astype(int), (b > 0.3).astype(int)
    for test, first, second in (
        (stats.mcnemar, right, other),
        (stats.wilcoxon, a, b),
        (lambda x, y: stats.permutation(x, y, 100), a, b),
    ):
        assert 0 < test(first, second).p <= 1
        assert test(first, first).p == 1
        assert test(first, second).p == pytest.approx(test(second, first).p, abs=0.2)
    assert stats.mcnemar(right, other).b == stats.mcnemar(other, right).c


@given(scores, st.integers(0, 2**32 - 1), st.integers(0, 99))
@few
def test_paired_differences_turn_round(a: Any, seed: int, draws: int) -> None:
    b = np.random.default_rng(seed).permutation(a)
    one = stats.paired_bootstrap(a, b, resamples=300, seed=draws)
    two = stats.paired_bootstrap(b, a, resamples=300, seed=draws)
    assert one.value == pytest.approx(-two.value, abs=1e-12)
    assert one.low == pytest.approx(-two.high, abs=1e-9)
    assert one.p == pytest.approx(two.p, abs=1e-9)
