"""CH and PG against reference values, a slower second implementation and cases by hand; what such metrics must do."""

import inspect
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from batches import part, scored
from sightline import metrics
from sightline.catalogue import CATALOGUE
from sightline.errors import SightlineError
from sightline.metrics import (
    ContentHeatmap,
    Dice,
    IoU,
    PerImage,
    PointingGame,
    StochasticPointingGame,
    content_heatmap,
    iou,
    pointing_game,
)
from sightline.metrics.names import GROUPS, named
from sightline.metrics.per_image import first_of_each
from sightline.types import Evidence

EVERY = [kind for name in metrics.__all__ if inspect.isclass(kind := getattr(metrics, name)) and hasattr(kind, "key")]
OF_MAP_AND_MASK = [ContentHeatmap, Dice, IoU, PointingGame, StochasticPointingGame]
SIZES = [(17,), (9, 12), (5, 6, 7)]


def evidence(count: int = 9, size: Sequence[int] = (12, 10), low: Sequence[int] = (4, 5), seed: int = 0) -> Evidence:
    """Random maps and masks; image 2 has no mask, image 4 an all-zero map."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(count, *low, generator=generator, dtype=torch.float64) ** 4
    mask = (torch.rand(count, *size, generator=generator, dtype=torch.float64) < 0.03).double()
    maps[4:5] = 0
    has_mask = torch.arange(count) != 2
    label = torch.randint(3, (count,), generator=generator)
    return Evidence(maps, mask, has_mask, torch.zeros(count, 3), label, torch.arange(count))


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-12, equal_nan=True)


# The pure functions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "b"])
def test_reference_values(oracle: Any, name: str) -> None:
    ref = oracle(f"metrics_loc_{name}")
    maps, mask, zero = torch.from_numpy(ref["maps"]), torch.from_numpy(ref["masks"]).double(), ref["zero_map"]
    margin = ref["meta"]["margin"]
    np.testing.assert_allclose(content_heatmap(maps, mask, "uniform"), ref["ch"], atol=1e-9)
    assert abs(content_heatmap(maps, mask).nanmean() - float(ref["ch_mean_skip"])) < 1e-9
    assert abs(content_heatmap(maps, mask, "zero").mean() - float(ref["ch_mean_zero"])) < 1e-9
    np.testing.assert_array_equal(pointing_game(maps, mask, margin), np.where(zero, np.nan, ref["hit"]))

    label = torch.from_numpy(ref["classes"])
    whole = Evidence(maps, mask, torch.ones(len(maps)) > 0, torch.zeros(len(maps), 1), label, torch.arange(len(maps)))
    official = PointingGame(margin, "official", classes=len(ref["pg_class_accuracies"]))
    assert abs(scored(PointingGame(margin), whole).compute() - float(ref["pg_overall"])) < 1e-9
    assert abs(scored(PointingGame(margin, "per_class"), whole).compute() - float(ref["pg_per_class_seen"])) < 1e-9
    assert abs(scored(official, whole).compute() - float(ref["pg_per_class_official"])) < 1e-9
    assert abs(scored(ContentHeatmap("uniform"), whole).compute() - float(ref["ch_mean_uniform"])) < 1e-9


def test_content_heatmap_by_hand() -> None:
    maps = torch.tensor([[[1.0, 1.0], [2.0, 0.0]], [[0.0, 3.0], [-5.0, 1.0]]])
    mask = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.5], [1.0, 0.0]]])
    assert content_heatmap(maps, mask).tolist() == [0.75, 0.375]


def test_content_heatmap_of_a_resized_map() -> None:
    # (4 - 2i) at i = 0, 1 becomes 4, 3.5, 2.5, 2 on half-pixel centres with clamped edges.
    heat, mask = torch.tensor([[4.0, 2.0]]), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert content_heatmap(heat, mask).item() == pytest.approx(7.5 / 12)


@pytest.mark.parametrize(("zero", "expected"), [("skip", torch.nan), ("uniform", 0.25), ("zero", 0.0)])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_content_heatmap_of_a_map_without_a_positive_value(zero: Any, expected: float, value: float) -> None:
    mask = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert same(content_heatmap(torch.full((1, 2, 2), value), mask, zero), torch.tensor([expected]))


@pytest.mark.parametrize("zero", ["skip", "uniform", "zero"])
def test_a_map_that_is_nan_stays_nan(zero: Any) -> None:
    maps, mask = torch.full((1, 2, 2), torch.nan), torch.ones(1, 2, 2)
    assert content_heatmap(maps, mask, zero).isnan()
    assert pointing_game(maps, mask).isnan()


def test_half_precision_maps_do_not_overflow() -> None:
    maps, mask = torch.full((1, 64, 64), 1000.0, dtype=torch.float16), torch.ones(1, 64, 64)
    assert content_heatmap(maps, mask).item() == 1
    assert content_heatmap(maps, mask).dtype == torch.float32


@pytest.mark.parametrize(
    ("point", "margin", "hit"),
    [
        ((3, 4), 5, 0),
        ((3, 4), 5.001, 1),
        ((0, 5), 5, 0),
        ((0, 4), 5, 1),
        ((0, 0), 0, 1),
        ((0, 1), 0, 0),
        ((0, 1), 1, 0),
    ],
)
def test_pointing_game_by_hand(point: tuple[int, int], margin: float, hit: int) -> None:
    """The edge of the disc does not count; without a margin the mask itself does."""
    maps, mask = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    maps[0][point] = mask[0, 0, 0] = 1
    assert pointing_game(maps, mask, margin).tolist() == [hit]


def test_pointing_game_takes_the_first_of_equal_points() -> None:
    mask = torch.tensor([[[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]])
    assert pointing_game(torch.tensor([[[0.0, 2.0, 2.0]]] * 2), mask, 0).tolist() == [1, 0]


def test_pointing_game_with_an_empty_mask_misses() -> None:
    assert pointing_game(torch.ones(1, 4, 4), torch.zeros(1, 4, 4)).tolist() == [0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("margin", [0, 1, 1.5, 2, 5**0.5, 3])
def test_pointing_game_is_the_dilation_of_the_mask(size: tuple[int, ...], margin: float) -> None:
    whole = evidence(100, size, size)
    pairs = zip(whole.map.numpy(), whole.mask.numpy(), strict=True)
    expected = [dilated_hit(heat, mask, margin) for heat, mask in pairs]
    assert same(pointing_game(whole.map, whole.mask, margin), torch.tensor(expected, dtype=torch.float64))
    assert set(np.nan_to_num(expected)) == {0.0, 1.0}


def dilated_hit(heat: np.ndarray, mask: np.ndarray, margin: float) -> float:
    """Paint the open disc around every pixel of the mask, then look up the brightest point."""
    if not heat.any():
        return np.nan
    dilated, place = mask > 0, np.moveaxis(np.indices(mask.shape), 0, -1)
    for centre in np.argwhere(mask):
        dilated |= ((place - centre) ** 2).sum(-1) < margin**2
    return float(dilated[np.unravel_index(heat.argmax(), heat.shape)])


@pytest.mark.parametrize("score", [content_heatmap, pointing_game])
def test_maps_that_do_not_fit_the_masks_are_refused(score: Any) -> None:
    with pytest.raises(SightlineError, match=r"maps of shape \(2, 3, 4, 4\).*Reduce the maps' channels"):
        score(torch.ones(2, 3, 4, 4), torch.ones(2, 8, 8))


# What metrics of a map and a mask must do ---------------------------------------------------------------------------


def test_every_metric_is_exported() -> None:
    home = [kind for kind in descendants(PerImage) if kind.__module__.startswith("sightline.")]
    assert {kind for kind in home if hasattr(kind, "key")} == set(EVERY)


def descendants(kind: type[PerImage]) -> list[type[PerImage]]:
    return [each for child in kind.__subclasses__() for each in (child, *descendants(child))]


@pytest.mark.parametrize("key", [key for keys in GROUPS.values() for key in keys])
def test_every_metric_of_a_group_is_explained(key: str) -> None:
    """By its own key, with the direction in which it is better, and with what it cannot show."""
    [metric] = named(key)
    assert metric.key == key
    assert CATALOGUE[key].higher == metric.higher_is_better
    assert CATALOGUE[key].shows.endswith(".")
    assert CATALOGUE[key].cannot.endswith(".")


@pytest.mark.parametrize("kind", OF_MAP_AND_MASK)
@pytest.mark.parametrize("size", SIZES)
def test_range_and_scale(kind: type[PerImage], size: tuple[int, ...]) -> None:
    whole = evidence(20, [2 * side for side in size], size)
    index, score = scored(kind(), whole).scores()
    known = score[~score.isnan()]
    assert index.tolist() == list(range(20))
    assert len(known) == 18
    assert ((known >= 0) & (known <= 1)).all()
    scaled = [scored(kind(), whole._replace(map=factor * whole.map)).scores()[1] for factor in (1e-6, 1e6)]
    assert all(torch.allclose(score, other, rtol=1e-9, atol=0, equal_nan=True) for other in scaled)


@pytest.mark.parametrize("kind", OF_MAP_AND_MASK)
@pytest.mark.parametrize("size", SIZES)
def test_never_falls_when_mass_moves_inside(kind: type[PerImage], size: tuple[int, ...]) -> None:
    whole = evidence(6, size, size)
    mask = torch.zeros(6, *size, dtype=torch.float64)
    mask[(slice(None), *[slice(0, 2)] * len(size))] = 1
    outside = torch.rand(6, *size, dtype=torch.float64) * (1 - mask)
    options = {PointingGame: {"margin": 1.0}, StochasticPointingGame: {"margin": 1.0, "points": None}}.get(kind, {})
    path = [
        scored(kind(**options), whole._replace(map=(1 - t) * outside + t * mask, mask=mask)).compute()
        for t in torch.linspace(0, 1, 11)
    ]
    assert all(a <= b for a, b in pairwise(path))
    assert path[0] == 0
    assert path[-1] == 1


@pytest.mark.parametrize("kind", OF_MAP_AND_MASK)
def test_neither_batches_nor_order_nor_padding_matter(kind: type[PerImage]) -> None:
    whole = evidence()
    once = scored(kind(), whole)
    parts = scored(kind(), *(part(whole, rows) for rows in ([7], [3, 1, 0, 8], [2, 4, 5, 6], [7, 0])))
    assert same(once.compute(), parts.compute())
    assert all(same(a.double(), b.double()) for a, b in zip(once.scores(), parts.scores(), strict=True))
    assert parts.undefined() == 2


def test_places_in_a_batch_for_places_in_the_dataset_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    whole = evidence()
    scored(ContentHeatmap(), whole, whole).compute()
    assert not caplog.text
    halves = [part(whole, rows)._replace(index=torch.arange(4)) for rows in (slice(0, 4), slice(4, 8))]
    scored(ContentHeatmap(), *halves).compute()
    assert "ContentHeatmap: images with the index of an earlier one have other scores" in caplog.text


@pytest.mark.parametrize(
    ("maps", "mask", "message"),
    [
        (torch.rand(2, 4, 4), torch.full((2, 4, 4), 255.0), r"masks lie between 255 and 255: expected \[0, 1\]"),
        (torch.rand(1, 4, 4), torch.ones(2, 4, 4), r"maps of shape \(1, 4, 4\) do not fit masks of shape \(2, 4, 4\)"),
    ],
)
def test_masks_that_do_not_fit_the_maps_are_refused(maps, mask, message, monkeypatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    for score in (content_heatmap, pointing_game, iou):
        with pytest.raises(SightlineError, match=message):
            score(maps, mask)


def test_masks_may_be_bools(monkeypatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    maps, mask = torch.rand(2, 4, 4), torch.rand(2, 4, 4) > 0.5
    for score in (content_heatmap, pointing_game, iou):
        assert same(score(maps, mask), score(maps, mask.float()))


@pytest.mark.parametrize("kind", OF_MAP_AND_MASK)
def test_undefined_images_are_left_out_and_counted(kind: type[PerImage]) -> None:
    whole = evidence()
    metric = scored(kind(), whole)
    assert metric.scores()[1].isnan().nonzero().flatten().tolist() == [2, 4]
    assert same(metric.compute(), scored(kind(), part(whole, [0, 1, 3, 5, 6, 7, 8])).compute())
    assert metric.undefined() == 2
    unmasked = scored(kind(), whole._replace(has_mask=whole.has_mask & False))
    assert unmasked.compute().isnan()
    assert unmasked.undefined() == 9


@pytest.mark.parametrize("kind", OF_MAP_AND_MASK)
def test_a_metric_can_be_called_and_reset(kind: type[PerImage]) -> None:
    whole, metric = evidence(), kind()
    batch = metric(part(whole, slice(0, 4)))
    assert same(batch, scored(kind(), part(whole, slice(0, 4))).compute())
    metric(part(whole, slice(4, 9)))
    assert same(metric.compute(), scored(kind(), whole).compute())
    metric.reset()
    assert [len(state) for state in metric.scores()] == [0, 0]
    assert metric.undefined() == 0


@pytest.mark.parametrize("kind", OF_MAP_AND_MASK)
def test_no_graph_is_kept(kind: type[PerImage]) -> None:
    whole = evidence()
    assert not scored(kind(), whole._replace(map=whole.map.requires_grad_())).scores()[1].requires_grad


def test_metrics_that_agree_on_the_first_batch_stay_apart_in_a_collection() -> None:
    from torchmetrics import MetricCollection

    both = MetricCollection({"near": PointingGame(1), "far": PointingGame(15), "ch": ContentHeatmap()})
    inside, outside = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    inside[0, 0, 0] = outside[0, 0, 6] = 1
    for index, heat in enumerate([inside, outside]):
        has_mask, label = torch.tensor([True]), torch.tensor([0])
        both.update(Evidence(heat, inside, has_mask, torch.zeros(1, 1), label, torch.tensor([index])))
    assert {name: value.item() for name, value in both.compute().items()} == {"near": 0.5, "far": 1.0, "ch": 0.5}


@pytest.mark.parametrize("index", [[], [3], [2, 2, 2], [5, 1, 5, 0, 1, 9, -1]])
def test_first_of_each(index: list[int]) -> None:
    first = {value: position for position, value in reversed(list(enumerate(index)))}
    assert first_of_each(torch.tensor(index, dtype=torch.int64)).tolist() == [first[value] for value in sorted(first)]


# Two processes ------------------------------------------------------------------------------------------------------


def test_two_processes_equal_one(tmp_path: Path) -> None:
    whole = evidence(11)
    mp.start_processes(one_of_two, (tmp_path, whole), nprocs=2, start_method="fork")
    for make in COLLECTIVE:
        alone = scored(COLLECTIVE[make](), whole)
        for rank in range(2):
            value, index, score, undefined = torch.load(tmp_path / f"{make}-{rank}.pt")
            assert same(value, alone.compute())
            assert index.tolist() == list(range(11))
            assert same(score, alone.scores()[1])
            assert undefined == 2


COLLECTIVE = {
    "ch": ContentHeatmap,
    "pg": PointingGame,
    "official": lambda: PointingGame(2, "official", classes=4),
    "spg": lambda: StochasticPointingGame(2, runs=3),
    "iou": IoU,
}


def one_of_two(rank: int, folder: Path, whole: Evidence) -> None:
    """What a distributed sampler does: every other image, padded with the first, in batches of two."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    rows = [*range(11), 0][rank::2]
    for name, make in COLLECTIVE.items():
        metric = scored(make(), *(part(whole, rows[start : start + 2]) for start in range(0, 6, 2)))
        torch.save((metric.compute(), *metric.scores(), metric.undefined()), folder / f"{name}-{rank}.pt")
    dist.destroy_process_group()


# Arguments ----------------------------------------------------------------------------------------------------------


def test_class_averages_by_hand() -> None:
    heat = torch.zeros(4, 1, 4)
    heat[..., 0] = 1
    mask = torch.tensor([[[1.0, 0, 0, 0]], [[0, 0, 0, 1.0]], [[1.0, 0, 0, 0]], [[1.0, 0, 0, 0]]])
    shown = torch.tensor([True, True, True, False])
    whole = Evidence(heat, mask, shown, torch.zeros(4, 5), torch.tensor([0, 0, 2, 3]), torch.arange(4))
    assert scored(PointingGame(1), whole).compute().item() == pytest.approx(2 / 3)
    assert scored(PointingGame(1, "per_class"), whole).compute().item() == pytest.approx((0.5 + 1) / 2)
    assert scored(PointingGame(1, "official", classes=5), whole).compute().item() == pytest.approx((0.5 + 1) / 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContentHeatmap("unifrom"), r"zero='unifrom'\). Did you mean 'uniform'\?"),
        (lambda: PointingGame(-1), "margin=-1 must be a number of pixels"),
        (lambda: PointingGame(float("nan")), "margin=nan"),
        (lambda: PointingGame(average="official"), "classes=None"),
        (lambda: PointingGame(average="per_class", classes=3), "classes=3"),
    ],
)
def test_unusable_arguments_are_refused(make: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(SightlineError, match=message):
        make()


def test_nothing_seen_is_nothing_found_and_what_was_refused_leaves_no_trace() -> None:
    assert PointingGame(average="per_class").compute().isnan()
    maps, ones = torch.rand(4, 5, 5), torch.ones(4)
    whole = Evidence(maps, maps.round(), ones.bool(), torch.zeros(4, 3), torch.tensor([0, 1, 1, 2]), torch.arange(4))
    metric = PointingGame(1, "per_class")
    with pytest.raises(SightlineError, match="do not fit masks"):
        metric.update(whole._replace(map=whole.map.unsqueeze(1)))
    assert scored(metric, whole).compute().equal(scored(PointingGame(1, "per_class"), whole).compute())


@pytest.mark.parametrize("label", [torch.tensor([0, -1]), torch.tensor([0, 4]), torch.eye(2)])
def test_class_averages_need_one_known_class_per_image(label: Tensor) -> None:
    whole = part(evidence(), [0, 1])._replace(label=label)
    scored(PointingGame(), whole)
    with pytest.raises(SightlineError, match="needs one class per image, 0 to 3"):
        scored(PointingGame(average="official", classes=4), whole)
