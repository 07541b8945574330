"""Where maps lie: SPG, CH in boxes, NQH, IoU and Dice, and a known confounder."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from batches import part, scored
from sightline.errors import SightlineError
from sightline.maps import bounding_box
from sightline.metrics import (
    NQH,
    CompositeAccuracy,
    ContentHeatmap,
    Dice,
    IoU,
    RegionMass,
    StochasticPointingGame,
    above_absent,
    content_heatmap,
    dice,
    iou,
    nqh,
    pointing_game,
    stochastic_pointing_game,
)
from sightline.metrics.distance import near
from sightline.metrics.names import named
from sightline.metrics.quadrants import composites
from sightline.types import Evidence

SIZES = [(17,), (9, 12), (5, 6, 7)]
NAN = pytest.approx(torch.nan, nan_ok=True)


def evidence(count: int = 6, size: tuple[int, ...] = (12, 10), low: tuple[int, ...] = (4, 5)) -> Evidence:
    """Random maps, masks and images; image 2 has no mask, image 4 an all-zero map."""
    maps = torch.rand(count, *low, dtype=torch.float64) ** 4
    mask = (torch.rand(count, *size, dtype=torch.float64) < 0.03).double()
    maps[4:5] = 0
    return Evidence(
        maps,
        mask,
        torch.arange(count) != 2,
        torch.zeros(count, 3),
        torch.zeros(count, dtype=torch.int64),
        torch.arange(count),
        image=torch.rand(count, 3, *size),
        others=torch.rand(count, 3, 3, *size),
    )


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=1e-9, atol=0, equal_nan=True)


# How far the mask is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*SIZES, (1, 30), (40, 3)])
@pytest.mark.parametrize("margin", [0, 0.5, 1, 2**0.5, 1.5, 2, 5**0.5, 3, 4.9, 5, 200, 1e6])
def test_near_is_every_pixel_within_the_margin(size: tuple[int, ...], margin: float) -> None:
    mask = (torch.rand(8, *size) < 0.03).double()
    mask[0] = 0
    place = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij"), -1).view(-1, len(size))
    squared = (place.unsqueeze(0) - place.unsqueeze(1)).square().sum(-1).double()
    reached = (squared < max(margin**2, 1e-9)).double()
    expected = mask.flatten(1) @ reached > 0
    assert near(mask, margin).flatten(1).equal(expected)


@pytest.mark.parametrize("margin", [7.5, 15, 127, 128])
def test_near_agrees_with_the_distance_transform_of_scipy(margin: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    mask = (torch.rand(2, 130, 150) < 4e-4).double()
    assert mask.flatten(1).any(1).all()
    expected = [ndimage.distance_transform_edt(one == 0) < margin for one in mask.numpy()]
    np.testing.assert_array_equal(near(mask, margin), expected)


def test_near_counts_pixels_above_one_half_and_leaves_the_mask_alone() -> None:
    mask = torch.tensor([[0.5, 0.0, 0.0, 0.0, 0.51, 0.0]])
    before = mask.clone()
    assert near(mask, 2).tolist() == [[False, False, False, True, True, True]]
    assert mask.equal(before)


# SPG ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "b"])
def test_spg_reference_values(oracle: Any, name: str) -> None:
    ref = oracle(f"metrics_loc_{name}")
    maps, mask = torch.from_numpy(ref["maps"]), torch.from_numpy(ref["masks"]).double()
    margin, zero = ref["meta"]["margin"], ref["zero_map"]
    uniform = stochastic_pointing_game(maps, mask, margin, None, zero="uniform")
    skipped = stochastic_pointing_game(maps, mask, margin, None)
    np.testing.assert_allclose(uniform, ref["spg_exact"], rtol=1e-12)
    np.testing.assert_allclose(skipped, np.where(zero, np.nan, ref["spg_exact"]), rtol=1e-12)
    assert skipped.nanmean().item() == pytest.approx(float(ref["spg_mean_skip"]), rel=1e-12)
    assert uniform.mean().item() == pytest.approx(float(ref["spg_mean_uniform"]), rel=1e-12)
    # The deviation of a mean of n draws is at most 1 / (2 sqrt(n)): five of them at 40,000 draws.
    drawn = stochastic_pointing_game(maps, mask, margin, 40_000, zero="uniform")
    np.testing.assert_allclose(drawn, ref["spg_exact"], atol=0.0125)
    assert not same(drawn[~torch.from_numpy(zero)], uniform[~torch.from_numpy(zero)])


def test_spg_by_hand() -> None:
    maps = torch.tensor([[1.0, 0.0, 0.0, 3.0, 0.0, 6.0]])
    mask = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0, 0.0]])
    assert [stochastic_pointing_game(maps, mask, m, None).item() for m in (0, 1, 2, 2.1, 3, 4)] == pytest.approx(
        [0, 0, 0.3, 0.4, 0.4, 1]
    )


def test_points_fall_as_often_as_the_map_says_and_never_where_it_is_zero() -> None:
    maps = torch.tensor([[0.0, 1.0, 0.0, 3.0, 0.0]])
    rates = [stochastic_pointing_game(maps, torch.eye(5)[[i]], 0, 20_000).item() for i in range(5)]
    assert rates[0] == rates[2] == rates[4] == 0
    assert rates[1] == pytest.approx(0.25, abs=0.0177)
    assert rates[1] + rates[3] == pytest.approx(1)


def test_spg_of_a_point_is_the_pointing_game() -> None:
    whole = evidence(40, (12, 10), (12, 10))
    maps = (whole.map == whole.map.flatten(1).amax(1).view(-1, 1, 1)) * whole.map
    assert same(stochastic_pointing_game(maps, whole.mask, 3, 7), pointing_game(maps, whole.mask, 3))


@pytest.mark.parametrize("points", [None, 50])
@pytest.mark.parametrize(("zero", "expected"), [("skip", torch.nan), ("uniform", 0.5), ("zero", 0.0)])
def test_spg_of_an_empty_map(points: int | None, zero: Any, expected: float) -> None:
    maps, mask = torch.stack([torch.zeros(2, 2), torch.full((2, 2), torch.nan)]), torch.zeros(2, 2, 2)
    mask[:, 0] = 1
    score = stochastic_pointing_game(maps, mask, 0, points, zero=zero)
    assert score.tolist() == [pytest.approx(expected, nan_ok=True), NAN]


def test_draws_depend_on_index_and_seed_alone() -> None:
    whole = evidence(8)
    play = lambda e, seed=0: stochastic_pointing_game(e.map, e.mask, 3, 60, e.index, seed)  # noqa: E731
    once = play(whole)
    torch.manual_seed(1)
    rows = [7, 3, 0]
    assert same(play(part(whole, rows)), once[rows])
    assert same(stochastic_pointing_game(whole.map, whole.mask, 3, 60), once)
    assert not same(play(whole, 1), once)
    assert not same(play(whole._replace(index=whole.index + 1)), once)


def test_runs_of_the_stochastic_game() -> None:
    whole = evidence(40)
    metric = scored(
        StochasticPointingGame(3, points=20, runs=5), part(whole, [*range(30)]), part(whole, [*range(20, 40)])
    )
    runs = metric.run_means()
    assert runs.shape == (5,)
    assert runs.mean().item() == pytest.approx(metric.compute().item())
    assert runs.unique().numel() == 5
    assert metric.undefined() == 2
    exact = scored(StochasticPointingGame(3, points=None), whole)
    # 38 images, 100 draws each: five deviations are at most 5 / (2 sqrt(3800)).
    assert metric.compute().item() == pytest.approx(exact.compute().item(), abs=0.041)
    assert same(exact.run_means(), exact.compute().view(1))


def test_one_run_more_does_not_change_the_first() -> None:
    whole = evidence(20)
    one, three = (scored(StochasticPointingGame(3, runs=runs), whole) for runs in (1, 3))
    assert one.run_means()[0] == three.run_means()[0]


# CH in boxes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_box_is_the_smallest_that_holds_the_mask(size: tuple[int, ...]) -> None:
    mask = (torch.rand(12, *size) < 0.02).double()
    mask[0] = 0
    expected = torch.zeros_like(mask, dtype=torch.bool)
    for one, within in zip(mask, expected, strict=True):
        if len(points := one.nonzero()):
            within[tuple(slice(a, b + 1) for a, b in zip(points.amin(0), points.amax(0), strict=True))] = True
    assert bounding_box(mask > 0.5, mask.ndim - 1).equal(expected)
    assert mask.flatten(1).any(1).unique().tolist() == [False, True]


def test_content_heatmap_in_a_box_by_hand() -> None:
    maps, mask = torch.arange(9.0).view(1, 3, 3), torch.zeros(1, 3, 3)
    mask[0, 0, 1] = mask[0, 1, 0] = 1
    whole = Evidence(maps, mask, torch.ones(1) > 0, torch.zeros(1, 1), torch.zeros(1).long(), torch.arange(1))
    assert scored(ContentHeatmap(), whole).compute().item() == pytest.approx(4 / 36)
    assert scored(ContentHeatmap(region="box"), whole).compute().item() == pytest.approx(8 / 36)
    empty = whole._replace(map=torch.zeros(1, 3, 3))
    assert scored(ContentHeatmap("uniform", region="box"), empty).compute().item() == pytest.approx(4 / 9)
    assert scored(ContentHeatmap(region="box"), empty).undefined() == 1


# NQH ----------------------------------------------------------------------------------------------------------------


def test_nqh_reference_values(oracle: Any) -> None:
    ref = oracle("metrics_nqh")
    score = nqh(torch.from_numpy(ref["maps"]), torch.from_numpy(ref["quadrant"]))
    np.testing.assert_allclose(100 * score[ref["kept"]], ref["nqh_percent"], rtol=1e-12)
    assert 100 * score.nanmean().item() == pytest.approx(float(ref["nqh_mean"]), rel=1e-12)
    assert score.isnan().sum() == len(score) - len(ref["kept"])
    odd = nqh(torch.from_numpy(ref["odd_maps"]), torch.from_numpy(ref["odd_quadrant"]), (64, 64))
    np.testing.assert_allclose(100 * odd, ref["odd_nqh_percent_at_64"], rtol=1e-12)


def test_nqh_by_hand() -> None:
    maps = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(4, 2, 2)
    assert nqh(maps, torch.arange(4)).tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert nqh(torch.ones(1, 3, 4, 6), torch.tensor([2])).item() == pytest.approx(0.75)
    assert nqh(torch.zeros(1, 2, 2), torch.tensor([0])).isnan().all()


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 7, 7), None), ((1, 6, 7), None), ((1, 7, 7), (14, 15)), ((1, 8), None)]
)
def test_maps_without_quadrants_are_refused(shape: tuple[int, ...], size: Any) -> None:
    with pytest.raises(SightlineError, match=r"maps of shape \(1, .*have no quadrants.*even"):
        nqh(torch.ones(shape), torch.tensor([0]), size)


def test_composites_hold_each_image_in_its_cell() -> None:
    image, others = torch.rand(24, 2, 3, 4), torch.rand(24, 3, 2, 3, 4)
    order = torch.tensor(list(permutations(range(4))))
    for one, own, rest, cells in zip(composites(image, others, order), image, others, order, strict=True):
        tiles = [one[:, 3 * r : 3 * r + 3, 4 * c : 4 * c + 4] for r in range(2) for c in range(2)]
        expected = [own if k == 0 else rest[k - 1] for k in cells.tolist()]
        assert all(map(torch.equal, tiles, expected))


def looking_at(own: Tensor, attention: float, low: int = 1) -> Callable[[Tensor], Tensor]:
    """An explainer that gives the cells that show `own` so much of its map, and the other three the rest."""

    def explain(images: Tensor) -> Tensor:
        cells = images.unfold(2, images.shape[2] // 2, images.shape[2] // 2)
        cells = cells.unfold(3, images.shape[3] // 2, images.shape[3] // 2).mean((1, 4, 5))
        seen = (cells - own.mean((1, 2, 3)).view(-1, 1, 1)).abs() < 1e-5
        assert seen.flatten(1).sum(1).eq(1).all()
        return torch.where(seen, attention, (1 - attention) / 3).repeat_interleave(low, 1).repeat_interleave(low, 2)

    return explain


@pytest.mark.parametrize("size", ["double", "same"])
@pytest.mark.parametrize("low", [1, 3])
@pytest.mark.parametrize("shape", [(12, 10), (8, 6)])
def test_nqh_finds_the_image_wherever_it_is(size: Any, low: int, shape: tuple[int, int]) -> None:
    whole = evidence(30, shape)
    metric = scored(NQH(size), whole._replace(explain=looking_at(whole.image, 0.7, low)))
    assert metric.scores()[1].tolist() == pytest.approx([0.3] * 30, abs=1e-6)
    assert not metric.higher_is_better


def test_nqh_shows_the_composite_or_its_halving() -> None:
    whole, shown = evidence(5, (7, 9)), []

    def explain(images: Tensor) -> Tensor:
        shown.append(images)
        return torch.ones(images.shape[0], *images.shape[2:])

    for size in ("double", "same"):
        metric = scored(NQH(size), whole._replace(explain=explain))
        assert metric.compute().item() == pytest.approx(0.75, abs=0.02)
    assert [tuple(images.shape) for images in shown] == [(5, 3, 14, 18), (5, 3, 7, 9)]
    assert torch.allclose(shown[1], torch.nn.functional.avg_pool2d(shown[0], 2), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 4, 6), (4, 6)])
def test_nqh_of_volumes_and_views(shape: tuple[int, ...]) -> None:
    """Along the last two axes, and resized along them alone."""
    whole, shown = evidence(3, shape, shape), []
    whole = whole._replace(image=torch.rand(3, 2, 1, *shape), others=torch.rand(3, 3, 2, 1, *shape))

    def explain(images: Tensor) -> Tensor:
        shown.append(images)
        return torch.ones(3, 2, *images.shape[3:])

    assert scored(NQH(), whole._replace(explain=explain)).compute().item() == pytest.approx(0.75)
    assert scored(NQH("same"), whole._replace(explain=explain)).compute().item() == pytest.approx(0.75)
    assert [images.shape[-3:] for images in shown] == [
        (shape[0] if len(shape) > 2 else 1, 8, 12),
        (*whole.image.shape[-3:],),
    ]


def test_layouts_depend_on_index_and_seed_alone() -> None:
    whole = evidence(200)
    layouts = NQH()._layouts(whole.index)
    assert NQH()._layouts(whole.index[[9, 3]]).equal(layouts[[9, 3]])
    assert len({tuple(row) for row in layouts.tolist()}) == 24
    assert layouts.argmin(1).bincount(minlength=4).min() > 30
    assert not NQH(seed=1)._layouts(whole.index).equal(layouts)


def test_above_absent_by_hand() -> None:
    logits = torch.tensor([[1.0, 3, 2, 0], [1, 3, 2, 2], [1, 3, 2, 0], [5, 1, 1, 1]])
    present = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 0, 1], [1, 1, 1, 1]]).bool()
    assert above_absent(logits, torch.tensor([0, 2, 1, 0]), present).tolist() == [0, 0, 1, NAN]


@pytest.mark.parametrize("size", ["double", "same"])
def test_composite_accuracy_is_that_of_nqhs_composites(size: Any) -> None:
    whole, shown = evidence(8), []
    logits = torch.rand(8, 5)
    present = torch.rand(8, 5) < 0.4

    def keep(images: Tensor) -> Tensor:
        shown.append(images)
        return torch.ones(len(images), *images.shape[2:])

    def predict(images: Tensor) -> Tensor:
        shown.append(images)
        return logits

    label = present.int().argmax(1)  # the first class that is there; 0 where none is
    metric = scored(CompositeAccuracy(size), whole._replace(predict=predict, present=present, label=label))
    scored(NQH(size), whole._replace(explain=keep))
    assert shown[0].equal(shown[1])
    expected = [
        float(row[own] > max(value for value, there in zip(row, beside, strict=True) if not there))
        for row, own, beside in zip(logits.tolist(), label.tolist(), present.tolist(), strict=True)
    ]
    assert metric.scores()[1].tolist() == expected
    assert 0 < sum(expected) < 8
    with pytest.raises(SightlineError, match=r"CompositeAccuracy needs Evidence.present and Evidence.predict"):
        scored(CompositeAccuracy(size), whole)


def test_nqh_counts_empty_maps_and_needs_no_mask() -> None:
    whole = evidence(4)
    whole = whole._replace(has_mask=torch.zeros(4) > 0)
    heat = torch.ones(4, 2, 2)
    heat[1] = 0
    metric = scored(NQH(), whole._replace(explain=lambda images: heat))
    assert (metric.undefined(), metric.compute().item()) == (1, pytest.approx(0.75))
    with pytest.raises(SightlineError, match=r"NQH needs Evidence.others and Evidence.explain"):
        scored(NQH(), whole._replace(others=None))


def test_a_model_of_one_size_asks_for_the_other_option() -> None:
    def explain(images: Tensor) -> Tensor:
        if images.shape[2:] != (12, 10):
            raise AssertionError("Input height (24) does not match the model.")
        return torch.ones(6, 4, 4)

    whole = evidence()._replace(explain=explain)
    with pytest.raises(SightlineError, match=r"NQH: the model does not take composites of 24x20.*use size='same'"):
        scored(NQH(), whole)
    assert scored(NQH("same"), whole).compute().item() == pytest.approx(0.75)


def test_a_models_own_words_are_not_taken_for_another_size() -> None:
    def explain(images: Tensor) -> Tensor:
        raise SightlineError("the layer is gone")

    with pytest.raises(SightlineError, match=r"^the layer is gone"):
        scored(NQH(), evidence()._replace(explain=explain))


# IoU and Dice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threshold", "expected_iou", "expected_dice"), [(0.2, 2 / 3, 4 / 5), (0.5, 1 / 3, 1 / 2), (0.51, 1 / 2, 2 / 3)]
)
def test_overlap_by_hand(threshold: float, expected_iou: float, expected_dice: float) -> None:
    """A pixel that is exactly as bright as asked is seen."""
    maps, mask = torch.tensor([[[8.0, 4.0], [2.0, 1.0]]]), torch.tensor([[[1.0, 0.0], [0.6, 0.5]]])
    assert iou(maps, mask, threshold).item() == pytest.approx(expected_iou)
    assert dice(maps, mask, threshold).item() == pytest.approx(expected_dice)


@pytest.mark.parametrize("size", SIZES)
def test_overlap_is_that_of_sets(size: tuple[int, ...]) -> None:
    maps, mask = torch.rand(20, *size).double(), (torch.rand(20, *size) < 0.4).double()
    for one, (a, b) in enumerate(zip(iou(maps, mask, 0.6), dice(maps, mask, 0.6), strict=True)):
        seen = {tuple(p) for p in (maps[one] >= 0.6 * maps[one].max()).nonzero().tolist()}
        there = {tuple(p) for p in mask[one].nonzero().tolist()}
        assert a.item() == pytest.approx(len(seen & there) / len(seen | there))
        assert b.item() == pytest.approx(2 * len(seen & there) / (len(seen) + len(there)))


@pytest.mark.parametrize("score", [iou, dice])
def test_overlap_with_nothing(score: Any) -> None:
    maps = torch.stack([torch.ones(2, 2), torch.zeros(2, 2), torch.zeros(2, 2), torch.full((2, 2), torch.nan)])
    mask = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(4, 1, 1).expand(4, 2, 2)
    assert score(maps, mask).tolist() == [0, NAN, NAN, NAN]


# A known confounder -------------------------------------------------------------------------------------------------


def picture(path: Path, levels: Any) -> str:
    Image.fromarray(np.array(levels, np.uint8)).save(path)
    return str(path)


def test_region_mass_by_hand(tmp_path: Path) -> None:
    path = picture(tmp_path / "tag.png", [[255, 127], [0, 128]])
    whole = evidence(1, (2, 2))._replace(map=torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), has_mask=torch.zeros(1) > 0)
    for region in (path, Path(path), torch.tensor([[1.0, 0.5], [0.0, 0.6]])):
        assert scored(RegionMass(region), whole).compute().item() == pytest.approx(0.5)
    assert not RegionMass(path).higher_is_better


def test_a_region_is_resized_to_the_nearest_pixel(tmp_path: Path) -> None:
    path = picture(tmp_path / "tag.png", [[255, 0, 0], [0, 0, 0]])
    whole = evidence(20, (8, 6))
    region = torch.zeros(20, 8, 6, dtype=torch.float64)
    region[:, :4, :2] = 1
    for zero in ("skip", "uniform", "zero"):
        score = scored(RegionMass(path, zero), whole).scores()[1]
        assert same(score, content_heatmap(whole.map, region, zero))
    parts = scored(RegionMass(path), part(whole, [3, 1]), part(whole, [4, 0, 3]))
    assert same(parts.scores()[1], content_heatmap(whole.map, region)[[0, 1, 3, 4]])


def test_the_region_of_a_volume() -> None:
    region = torch.zeros(2, 3, 4)
    region[0] = 1
    whole = evidence(3, (4, 3, 4), (4, 3, 4))
    expected = whole.map[:, :2].flatten(1).sum(1) / whole.map.flatten(1).sum(1)
    assert same(scored(RegionMass(region), whole).scores()[1], expected)


def test_unusable_regions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(SightlineError, match=r"cannot read .*text.png.*Expected a grey picture"):
        RegionMass(tmp_path / "text.png")
    with pytest.raises(SightlineError, match=r"cannot read .*missing.png"):
        RegionMass("missing.png")
    with pytest.raises(SightlineError, match=r"faint.png marks no region. Expected grey levels above 127"):
        RegionMass(picture(tmp_path / "faint.png", [[0, 1]]))
    with pytest.raises(SightlineError, match=r"the tensor marks no region.*above 0.5"):
        RegionMass(torch.zeros(2, 2))
    with pytest.raises(SightlineError, match=r"region of shape \(2,\) does not fit masks of shape \(12, 10\)"):
        scored(RegionMass(torch.ones(2)), evidence())


# Arguments ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StochasticPointingGame(-1), "StochasticPointingGame: margin=-1"),
        (lambda: StochasticPointingGame(points=0), "points=0"),
        (lambda: StochasticPointingGame(runs=0), "runs=0"),
        (lambda: StochasticPointingGame(seed=-1), "seed=-1"),
        (lambda: StochasticPointingGame(points=None, runs=5), "points=None, which is exact, in 1 run"),
        (lambda: StochasticPointingGame(zero="skp"), r"zero='skp'\). Did you mean 'skip'\?"),
        (lambda: ContentHeatmap(region="boxes"), r"region='boxes'\). Did you mean 'box'\?"),
        (lambda: NQH("twice"), r"NQH\(size='twice'\). Known: 'double', 'same'"),
        (lambda: NQH(seed=-1), "NQH: seed=-1 must be 0 or more"),
        (lambda: IoU(0), "IoU: threshold=0 must be a share"),
        (lambda: Dice(1.0), "Dice: threshold=1.0 must be a share"),
        (lambda: IoU(float("nan")), "threshold=nan"),
        (lambda: RegionMass(torch.ones(2, 2), "none"), r"RegionMass\(zero='none'\). Known"),
    ],
)
def test_unusable_arguments_are_refused(make: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(SightlineError, match=message):
        make()


def test_they_can_be_typed(tmp_path: Path) -> None:
    path = picture(tmp_path / "tag.png", [[255]])
    for spec, metric in {
        "spg:points=null,margin=3": StochasticPointingGame(3.0, None),
        "ch:region=box": ContentHeatmap(region="box"),
        "nqh:size=same": NQH("same"),
        "dice:threshold=0.2": Dice(0.2),
        f"wrong:region={path},zero=uniform": RegionMass(path, "uniform"),
    }.items():
        assert [repr(one) for one in named(spec)] == [repr(metric)]
    assert named("localisation", margin=2.5)[2].margin == 2.5
