"""Faithfulness: reference values, slower second implementations image by image, cases by hand, and what all must do."""

import copy
import inspect
import math
import pickle
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import images, rebuild_net
from nets import Deep, Residual, Views, Volume, double
from sightline.contrast import cgc_loss
from sightline.errors import SightlineError
from sightline.explainers import InputXGradient
from sightline.explainers.base import mapped
from sightline.metrics import (
    CGCLoss,
    Deletion,
    Infidelity,
    Insertion,
    MaxSensitivity,
    PerImage,
    Randomisation,
    TopKDrop,
    consistency,
    deletion,
    infidelity,
    insertion,
    max_sensitivity,
    spearman,
    topk_drop,
)
from sightline.metrics.consistency import crops
from sightline.metrics.insertion import KERNEL, blurred
from sightline.metrics.names import GROUPS, named
from sightline.metrics.randomisation import randomised
from sightline.metrics.steps import area, pixels_in, ranked
from sightline.passes import logits_of
from sightline.types import Evidence
from sightline.views import Crop

EVERY = {
    "insertion": partial(Insertion, 20),
    "deletion": partial(Deletion, 20),
    "topk": partial(TopKDrop, (5, 40, 10**6)),
    "cgc_loss": partial(CGCLoss, 4),
    "sensitivity": partial(MaxSensitivity, samples=2),
    "infidelity": partial(Infidelity, 4),
    "sanity": partial(Randomisation, 3),
}
KINDS = {
    "image": (Deep, (3, 12, 10)),
    "volume": (Volume, (1, 6, 8, 10)),
    "views": (Views, (3, 1, 10, 12)),
}


def evidence(kind: str = "image", count: int = 9) -> Evidence:
    """Random images, maps of what a network says of them, and an all-zero map for image 4."""
    made, shape = KINDS[kind]
    model = double(made()).eval()
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (count,), generator=generator)
    return of(model, image, target, torch.arange(count))


def of(model: nn.Module, image: Tensor, target: Tensor, index: Tensor) -> Evidence:
    """The whole evidence of these images, with maps of half their size."""
    pool = F.avg_pool3d if isinstance(model, Volume) else F.avg_pool2d

    def explain(images: Tensor, model: nn.Module = model) -> Tensor:
        with torch.enable_grad():
            return pool(mapped(InputXGradient(reduce="abs_sum"), model, images, target), 2)

    maps = explain(image)
    maps[index == 4] = 0
    channel = 2 if isinstance(model, Views) else 1
    mask = torch.ones_like(image.select(channel, 0))
    zero = torch.full((image.shape[channel], *[1] * (image.ndim - channel - 1)), 0.4, dtype=torch.float64)
    logits, shown = model(image).detach(), index >= 0
    return Evidence(maps, mask, shown, logits, target, index, image, target, model, explain, zero, None, model)


def part(whole: Evidence, rows: Sequence[int]) -> Evidence:
    at = torch.tensor(rows)
    return of(whole.model, whole.image[at], whole.target[at], whole.index[at])


def scored(metric: PerImage, *batches: Evidence) -> PerImage:
    for batch in batches:
        metric.update(batch)
    return metric


def same(a: Tensor, b: Tensor, atol: float = 1e-10) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=0, atol=atol, equal_nan=True)


# Reference values -----------------------------------------------------------------------------------------------------


def test_curves_against_public_implementation(oracle: Any) -> None:
    ref = oracle("metrics_faith")
    net, x, maps = rebuild_net(ref["meta"]), images(ref["meta"]), torch.from_numpy(ref["maps"])
    kernel = KERNEL.unsqueeze(0) * KERNEL.unsqueeze(1)
    np.testing.assert_allclose(kernel, ref["blur_kernel"], rtol=1e-12)
    np.testing.assert_allclose(blurred(x[:2]), ref["blurred"], rtol=1e-9, atol=1e-12)
    for step in ref["meta"]["steps"]:
        for name, draw in {"ins": insertion, "del": deletion}.items():
            curves = draw(net, x, maps, step=step)
            np.testing.assert_allclose(curves.T, ref[f"{name}_{step}_curves"], rtol=1e-8, atol=1e-12)
            np.testing.assert_allclose(area(curves), ref[f"{name}_{step}_auc"], rtol=1e-8)
            assert area(curves.mean(0, keepdim=True)).item() == pytest.approx(
                float(ref[f"{name}_{step}_auc_of_mean_curve"]), rel=1e-8
            )


def test_topk_against_reference_values(oracle: Any) -> None:
    ref = oracle("metrics_faith")
    meta = ref["meta"]
    net, x, maps, k = rebuild_net(meta), images(meta), torch.from_numpy(ref["maps"]), meta["k_drop"]
    generator = torch.Generator().manual_seed(meta["mseed"] + 1)
    entries = 2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1
    others = torch.from_numpy(ref["other_labels"])
    close = partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-12)
    close(topk_drop(net, x, entries, k).T, ref["topk_drop_entries"])
    close(topk_drop(net, x, maps, k).T, ref["topk_drop_pixels_2d"])
    close(topk_drop(net, x, entries, k, of="logit").T, ref["topk_logit_drop_entries"])
    close(topk_drop(net, x, entries, k, others).T, ref["topk_drop_entries_other_labels"])
    close(1 - topk_drop(net, x, entries, k, of="accuracy").mean(0), ref["topk_agreement"])
    close(topk_drop(net, x, entries, k).mean(0), ref["topk_drop_mean"])


def test_cgc_loss_against_reference_values(oracle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = oracle("cgc_resnet18_64")
    x, rows, maps = images(ref["meta"]), torch.tensor(ref["crop"]).long(), torch.from_numpy(ref["eval_cam_orig"])
    given = Crop(tuple(x.shape[2:]), rows[:, :2], rows[:, 2:4], rows[:, 4].bool())
    monkeypatch.setattr(consistency, "crops", lambda index, size, seed: given)
    views = torch.from_numpy(ref["eval_cam_aug"])
    count = torch.arange(len(x))
    whole = Evidence(maps, x[:, 0], count > -1, torch.zeros(len(x), 2), count, count, x, explain=lambda images: views)
    metric = scored(CGCLoss(len(x), ref["meta"]["tau"]), whole)
    np.testing.assert_allclose(metric.scores()[1], ref["eval_paper_per_image"], rtol=1e-9)
    assert metric.compute().item() == pytest.approx(float(ref["eval_paper_con_mean"]), rel=1e-9)


# Slower second implementations ----------------------------------------------------------------------------------------


def one_by_one(whole: Evidence, i: int, step: int, insert: bool) -> list[float]:
    """RISE as it is told: put the next pixels into one image, ask the model, and so on."""
    image, heat, zero = whole.image[i], on_image(whole, i).numpy(), whole.zero.flatten()
    channel = int(isinstance(whole.model, Views))
    shown = image.movedim(channel, 0).clone().numpy()
    zeros = np.broadcast_to(zero.numpy().reshape(-1, *[1] * heat.ndim), shown.shape)
    full = shown.copy()
    if insert:
        shown = np.stack([smooth(one - z.item(), channel) + z.item() for one, z in zip(shown, zero, strict=True)])
    order = sorted(np.ndindex(*heat.shape), key=lambda place: -heat[place])
    target = whole.logits[i].argmax()

    def ask() -> float:
        given = torch.from_numpy(shown).movedim(0, channel).unsqueeze(0)
        return whole.model(given).softmax(1)[0, target].item()

    scores = [ask()]
    for start in range(0, len(order), step):
        for place in order[start : start + step]:
            shown[:, *place] = full[:, *place] if insert else zeros[:, *place]
        scores.append(ask())
    return scores


def on_image(whole: Evidence, i: int) -> Tensor:
    size = whole.mask.shape[1:]
    modes = {2: "bilinear", 3: "trilinear"}
    return F.interpolate(whole.map[i][None, None], size, mode=modes[len(size)], align_corners=False)[0, 0]


def smooth(values: np.ndarray, views: int) -> np.ndarray:
    """One channel, its spatial axes behind those of the views, under the whole kernel at once."""
    impulse = np.zeros([11] * (values.ndim - views))
    impulse[(5,) * impulse.ndim] = 1
    kernel = scipy.ndimage.gaussian_filter(impulse, 5)
    return scipy.ndimage.convolve(values, kernel[(None,) * views], mode="constant")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [Insertion, Deletion])
def test_curves_are_those_of_one_image_after_the_other(kind: str, make: Any) -> None:
    whole = evidence(kind, 3)
    metric = scored(make(25), whole)
    expected = torch.from_numpy(np.array([one_by_one(whole, i, 25, make is Insertion) for i in range(3)]))
    assert same(metric.curves()[1], expected)
    assert expected.std(1).min() > 1e-4
    assert metric.axis == pytest.approx([min(25 * i / whole.mask[0].numel(), 1) for i in range(expected.shape[1])])
    assert same(metric.scores()[1], torch.trapezoid(expected, dx=1 / (expected.shape[1] - 1)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", ["probability", "logit", "accuracy"])
def test_topk_is_that_of_one_image_after_the_other(kind: str, of: Any) -> None:
    whole, k = evidence(kind, 3), (1, 3, 30, 200)
    metric = scored(TopKDrop(k, of, "label"), whole)
    for i, curve in enumerate(metric.curves()[1]):
        channel = 1 if kind == "views" else 0
        channels = whole.image[i].shape[channel]
        for count, drop in zip(k, curve, strict=True):
            left, heat = whole.image[i].clone().movedim(channel, 0), on_image(whole, i)
            for place in sorted(np.ndindex(*heat.shape), key=lambda place: -heat[place].item())[: count // channels]:
                left[:, *place] = 0.4
            both = whole.model(torch.stack([whole.image[i], left.movedim(0, channel)]))
            y = whole.label[i]
            values = {
                "probability": both.softmax(1)[:, y],
                "logit": both[:, y],
                "accuracy": (both.argmax(1) == y).double(),
            }
            assert drop.item() == pytest.approx((values[of][0] - values[of][1]).item(), abs=1e-12)
    assert metric.axis == (1, 3, 30, 200)
    assert same(metric.scores()[1], metric.curves()[1].mean(1))


@pytest.mark.parametrize("kind", KINDS)
def test_cgc_loss_is_that_of_the_pairs_one_by_one(kind: str) -> None:
    whole = evidence(kind, 8)
    whole = of(whole.model, whole.image, whole.target, whole.index + 100)
    value = scored(CGCLoss(4, 0.3), whole).scores()[1]
    size = whole.image.shape[3 if kind == "views" else 2 :]
    crop = crops(whole.index, size, 0)
    views = whole.explain(crop.apply(whole.image))
    for i in range(8):
        group = slice(4 * (i // 4), 4 * (i // 4) + 4)
        members = Crop(size, crop.start[group], crop.extent[group], crop.flip[group])
        expected = cgc_loss(whole.map[group], views[group], members, 0.3)[i % 4]
        assert value[i].item() == pytest.approx(expected.item(), rel=1e-9)


def test_a_crop_depends_on_its_image_alone() -> None:
    alone, together = crops(torch.tensor([7]), (20, 30), 1), crops(torch.tensor([3, 7]), (20, 30), 1)
    assert torch.equal(alone.start[0], together.start[1])
    assert torch.equal(alone.extent[0], together.extent[1])
    assert not torch.equal(together.extent[0], together.extent[1])
    assert not torch.equal(alone.extent, crops(torch.tensor([7]), (20, 30), 2).extent)


@pytest.mark.parametrize("kind", KINDS)
def test_infidelity_is_the_best_fit_of_the_drops(kind: str) -> None:
    whole = evidence(kind, 3)
    metric = scored(Infidelity(12, 0.4), whole)
    channel = 2 if kind == "views" else 1
    size = whole.image.shape[channel + 1 :]
    side = max(1, round(0.4 * min(size)))
    for i, score in enumerate(metric.scores()[1]):
        drawn = torch.rand(12, len(size), generator=consistency.seeded(0, i))
        masses, drops = [], []
        for corner in drawn:
            box = tuple(slice(c := int(u * (n - side + 1)), c + side) for u, n in zip(corner, size, strict=True))
            left = whole.image[i].clone()
            left[(..., *box)] = 0.4
            drops.append((whole.logits[i] - whole.model(left[None])[0])[whole.target[i]].item())
            masses.append(on_image(whole, i)[(..., *box)].sum().item())
        (beta,), (rest,), *_ = np.linalg.lstsq(np.array(masses)[:, None], np.array(drops), rcond=None)
        expected = rest / np.square(drops).sum() if beta > 0 else 1.0
        assert score.item() == pytest.approx(expected, abs=1e-9)


def test_sensitivity_is_the_worst_of_the_draws() -> None:
    whole = evidence("image", 2)
    score = scored(MaxSensitivity(0.1, samples=3), whole).scores()[1]
    for i in range(2):
        generator, own = consistency.seeded(0, i), part(whole, [i])
        moves = []
        for _ in range(3):
            noise = 0.2 * torch.rand(own.image.shape[1:], generator=generator) - 0.1
            moves.append((own.explain((own.image + noise).clamp(0, 1)) - own.map).norm() / own.map.norm())
        assert score[i].item() == pytest.approx(max(moves).item(), rel=1e-6)
    assert score.min() > 1e-3


@pytest.mark.parametrize("ties", [1, 5, 50])
def test_spearman_is_scipys(ties: int) -> None:
    maps = torch.rand(6, 7, 7, dtype=torch.float64).mul(50 // ties).floor()
    others = (maps + torch.rand(6, 7, 7, dtype=torch.float64).mul(50 // ties)).floor()
    if ties == 50:
        maps[:, 0, :3], others[:, 1, 0] = 1, 2
    expected = [scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(maps, others, strict=True)]
    assert same(spearman(maps, others), torch.tensor(expected))


# By hand --------------------------------------------------------------------------------------------------------------


class Total(nn.Module):
    """Logits: a weighted sum of the pixels, and 0."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weights = torch.tensor(weights).double()

    def forward(self, image: Tensor) -> Tensor:
        total = image.flatten(1) @ self.weights
        return torch.stack([total, torch.zeros_like(total)], 1)


IMAGE = torch.ones(1, 1, 2, 2, dtype=torch.float64)
TARGET = torch.tensor([0])


def chances(*logits: float) -> list[float]:
    return pytest.approx([1 / (1 + math.exp(-logit)) for logit in logits])


def test_deletion_by_hand() -> None:
    predict, maps = Total(4, 3, 2, 1), torch.tensor([[[1.0, 4.0], [2.0, 2.0]]])
    assert deletion(predict, IMAGE, maps, step=1)[0].tolist() == chances(10, 7, 5, 4, 0)
    assert deletion(predict, IMAGE, maps, step=3)[0].tolist() == chances(10, 4, 0)
    assert deletion(predict, IMAGE, maps, step=9)[0].tolist() == chances(10, 0)
    zero = torch.tensor([[[0.5]]])
    assert deletion(predict, IMAGE, maps, step=3, zero=zero)[0].tolist() == chances(10, 7, 5)
    assert area(torch.tensor([[1.0, 0.5, 0.0, 0.0]])).item() == pytest.approx(1 / 3)


def test_insertion_by_hand() -> None:
    """All blurred pixels of a 2 x 2 image are alike: the sum of four of the kernel's weights."""
    predict, maps = Total(4, 3, 2, 1), torch.tensor([[[1.0, 4.0], [2.0, 2.0]]])
    dim = float((KERNEL[5] + KERNEL[4]) ** 2)
    curve = insertion(predict, IMAGE, maps, step=1)[0].tolist()
    assert curve == chances(10 * dim, 3 + 7 * dim, 5 + 5 * dim, 6 + 4 * dim, 10)
    grey = blurred(IMAGE, torch.tensor([[[1.0]]]).double())
    assert same(grey, IMAGE)


def test_topk_by_hand() -> None:
    predict, maps = Total(4, 3, 2, 1), torch.tensor([[[1.0, 4.0], [2.0, 2.0]]])
    drops = topk_drop(predict, IMAGE, maps, (1, 2, 99), of="logit")
    assert drops.tolist() == [[3, 5, 10]]
    assert topk_drop(predict, IMAGE, maps, (1, 2, 99), TARGET + 1, of="accuracy").tolist() == [[0, 0, 0]]
    signed = torch.tensor([[[[-1.0, -2.0], [-3.0, 1.0]]]])
    assert topk_drop(predict, IMAGE, signed, (1, 2), of="logit").tolist() == [[1, 5]]
    two = torch.ones(1, 3, 1, 2, dtype=torch.float64)
    few = topk_drop(Total(1, 2, 1, 2, 1, 2), two, torch.tensor([[[0.0, 1.0]]]), (2, 3, 5, 6), of="logit")
    assert few.tolist() == [[0, 6, 6, 9]]


def test_infidelity_by_hand() -> None:
    pairs = [([1, 2], [3, 6]), ([1, 2], [-1, -2]), ([1, 0], [1, 1]), ([0, 0], [1, 1]), ([1, 1], [0, 0])]
    mass, drop = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    assert same(infidelity(mass, drop), torch.tensor([0, 1, 0.5, 1, torch.nan]))


def test_what_a_linear_model_adds_up_is_perfectly_faithful() -> None:
    weights = torch.rand(64, dtype=torch.float64)
    image, count = torch.rand(5, 1, 8, 8, dtype=torch.float64), torch.arange(5)
    model = Total(*weights.tolist())
    maps = image[:, 0] * weights.view(8, 8)
    whole = Evidence(maps, maps, count > -1, model(image), count, count, image, count * 0, model, model=model)
    assert scored(Infidelity(), whole).scores()[1].max() < 1e-12
    assert scored(Infidelity(), whole._replace(map=torch.ones_like(maps))).compute() > 1e-3
    assert scored(Infidelity(), whole._replace(target=count * 0 + 1)).undefined() == 5


def test_sensitivity_by_hand() -> None:
    image, index = torch.full((2, 1, 3, 3), 0.5, dtype=torch.float64), torch.arange(2)
    assert max_sensitivity(lambda x: x[:, 0] * 0 + 1, image, image[:, 0] * 0 + 1, index).tolist() == [0, 0]
    moved = max_sensitivity(lambda x: x[:, 0], image, image[:, 0], index, radius=0.2, samples=200)
    assert ((moved > 0.2 / 0.5 / math.sqrt(3)) & (moved < 0.2 / 0.5)).all()
    # Where the image is at the end of its range, half of the noise is cut off.
    assert max_sensitivity(lambda x: x[:, 0], image * 2, image[:, 0] * 2, index, radius=1.0).max() < 1


def test_maps_that_are_all_alike_are_told_apart_by_chance() -> None:
    index, image = torch.arange(64), torch.rand(64, 1, 8, 8, dtype=torch.float64)
    flat = torch.ones(64, 2, 2, dtype=torch.float64)
    whole = Evidence(flat, image[:, 0], index > -1, torch.zeros(64, 2), index, index, image, explain=lambda x: flat)
    assert scored(CGCLoss(), whole).compute().item() == pytest.approx(math.log(32))


@pytest.mark.parametrize(
    ("size", "step"), [((224, 224), 1792), ((32, 48), 384), ((16, 32, 20), 2560), ((100,), 8), ((4, 4), 32)]
)
def test_eight_rows(size: tuple[int, ...], step: int) -> None:
    assert pixels_in(None, size) == step
    assert pixels_in(7, size) == 7


def test_equal_values_go_by_position() -> None:
    assert ranked(torch.tensor([[2.0, 3.0, 2.0, 3.0], [0, 0, 0, 0]])).tolist() == [[2, 0, 3, 1], [0, 1, 2, 3]]


# Random weights -------------------------------------------------------------------------------------------------------


def changed(model: nn.Module, other: nn.Module) -> list[str]:
    pairs = zip(model.named_parameters(), other.parameters(), strict=True)
    return [name.rpartition(".")[0] for (name, a), b in pairs if name.endswith("weight") and not torch.equal(a, b)]


def test_layers_become_random_from_the_logits_down() -> None:
    model = double(Deep()).eval()
    image = torch.rand(1, 3, 12, 12, dtype=torch.float64)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    models = randomised(model, image, 4)
    assert [changed(model, one) for one in models] == [
        ["classifier.4"],
        ["classifier.2", "classifier.4"],
        ["features.3", "classifier.2", "classifier.4"],
        ["features.0", "features.3", "classifier.2", "classifier.4"],
    ]
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert models[0].classifier[4].weight is models[3].classifier[4].weight
    assert models[2].features[0].weight is model.features[0].weight
    again = randomised(model, image, 4)[3]
    assert torch.equal(again.features[0].weight, models[3].features[0].weight)
    assert changed(again, randomised(model, image, 4, seed=1)[3])


def test_random_weights_are_not_those_that_a_seed_began_with() -> None:
    torch.manual_seed(0)
    model = Deep()
    for one in randomised(model, torch.rand(1, 3, 12, 12), 2):
        assert "classifier.4" in changed(model, one)


def test_layers_run_in_another_order_than_they_are_registered() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body, self.shift = nn.Linear(4, 3), nn.Conv2d(3, 4, 3), nn.Parameter(torch.rand(4, 1, 1))

        def forward(self, image: Tensor) -> Tensor:
            return self.head((self.body(image) + self.shift).mean((2, 3)))

    model = Backwards()
    first, second, third = randomised(model, torch.rand(1, 3, 5, 5), 3)
    assert [changed(model, one) for one in (first, second, third)] == [["head"], ["head", "body"], ["head", "body"]]
    assert torch.equal(second.shift, model.shift)
    # Without `reset_parameters` of its own it is shuffled.
    assert sorted(third.shift.flatten().tolist()) == sorted(model.shift.flatten().tolist())
    assert not torch.equal(third.shift, model.shift)


def test_random_models_in_training_mode_learn_no_statistics_of_the_users() -> None:
    model = Residual().train()
    image = torch.rand(4, 3, 8, 8)
    before = copy.deepcopy(model.state_dict())
    for other in randomised(model, image[:1], 3):
        assert other.training
        other(image)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert model.training


def test_a_map_that_heeds_no_weights_fails_the_sanity_check() -> None:
    whole = evidence()._replace(map=torch.rand(9, 5, 5))
    stubborn = whole._replace(explain=lambda images, model=None: whole.map)
    assert scored(Randomisation(), stubborn).compute().item() == pytest.approx(1)
    flat = whole._replace(explain=lambda images, model=None: torch.zeros(9, 5, 5))
    assert scored(Randomisation(), flat).compute().item() == 0
    assert scored(Randomisation(), evidence()).compute() < 0.9
    broken = whole._replace(explain=lambda images, model=None: whole.map * torch.nan)
    assert scored(Randomisation(), broken).undefined() == 9


def test_random_models_are_made_once_and_travel_with_nothing() -> None:
    whole, metric = evidence(), Randomisation(2)
    made = scored(metric, whole)._made[1]
    assert scored(metric, whole)._made[1] is made
    assert metric.clone()._made is None
    assert pickle.loads(pickle.dumps(metric))._made is None
    assert not list(metric.parameters())
    assert scored(metric, whole._replace(model=copy.deepcopy(whole.model)))._made[1] is not made
    metric.reset()
    assert metric._made is None
    with pytest.raises(SightlineError, match="Total has no weights"):
        metric.update(whole._replace(model=Total(*[1.0] * 360)))


# What all of them must do ---------------------------------------------------------------------------------------------


def test_all_of_them_have_a_name() -> None:
    assert set(GROUPS["faithfulness"]) == set(EVERY)
    assert {metric.key for metric in named("faithfulness")} == set(EVERY)
    assert repr(named("topk:k=[10,20],of=logit")[0]) == "TopKDrop(k=(10, 20), of='logit', target='prediction')"
    assert repr(named("insertion:step=50")[0]) == "Insertion(step=50, of='prediction')"
    lower = {name for name, make in EVERY.items() if not make().higher_is_better}
    assert lower == {"deletion", "cgc_loss", "sensitivity", "infidelity", "sanity"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EVERY)
def test_neither_batches_nor_order_nor_padding_matter(name: str, kind: str) -> None:
    whole = evidence(kind)
    once = scored(EVERY[name](), whole)
    rows = ([7], [3, 1, 0, 8], [2, 4, 5, 6], [7, 0])
    parts = scored(EVERY[name](), *(part(whole, each) for each in rows))
    assert same(once.compute(), parts.compute())
    assert all(same(a, b) for a, b in zip(once.scores(), parts.scores(), strict=True))
    # Image 4 has an all-zero map, and of the third group of four there is only image 8.
    undefined = [4, 8] if name == "cgc_loss" else [4]
    assert once.scores()[1].isnan().nonzero().flatten().tolist() == undefined
    assert parts.undefined() == len(undefined)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])
def test_the_scale_of_the_maps_does_not_matter(name: str, factor: float) -> None:
    whole = evidence()
    explain = lambda images, **options: factor * whole.explain(images, **options)  # noqa: E731
    scaled = whole._replace(map=factor * whole.map, explain=explain)
    assert same(scored(EVERY[name](), whole).scores()[1], scored(EVERY[name](), scaled).scores()[1], 1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_a_map_that_is_nan_is_not_scored(name: str) -> None:
    whole = evidence()
    whole.map[1] = torch.nan
    known = ~scored(EVERY[name](), whole).scores()[1].isnan()
    assert known.nonzero().flatten().tolist() == [0, 2, 3, 5, 6, 7] + [8] * (name != "cgc_loss")


@pytest.mark.parametrize("name", EVERY)
def test_a_metric_can_be_called_copied_and_reset(name: str) -> None:
    whole, metric = evidence(), EVERY[name]()
    batch = metric(part(whole, [0, 1, 2, 3]))
    assert same(batch, scored(EVERY[name](), part(whole, [0, 1, 2, 3])).compute())
    metric = pickle.loads(pickle.dumps(metric)).clone()
    metric(part(whole, [4, 5, 6, 7, 8]))
    assert same(metric.compute(), scored(EVERY[name](), whole).compute())
    metric.reset()
    assert [len(state) for state in metric.scores()] == [0, 0]
    assert metric.undefined() == 0
    scored(metric, part(evidence("volume"), [0, 1]))


@pytest.mark.parametrize("name", EVERY)
def test_no_graph_is_kept_and_no_mode_is_changed(name: str) -> None:
    whole = evidence()
    metric = scored(EVERY[name](), whole._replace(map=whole.map.requires_grad_()))
    assert not metric.scores()[1].requires_grad
    kept = [state for state in metric.metric_state.values() if isinstance(state, list)]
    assert not any(value.requires_grad for values in kept for value in values)
    assert torch.is_grad_enabled()
    assert all(weight.grad is None for weight in whole.model.parameters())


@pytest.mark.parametrize(("name", "forwards"), [("insertion", 6), ("deletion", 6), ("topk", 3), ("infidelity", 4)])
def test_forwards_of_a_batch(name: str, forwards: int) -> None:
    whole, seen = evidence(), []
    predict = lambda images: seen.append(len(images)) or logits_of(whole.model(images))  # noqa: E731
    scored(EVERY[name](), whole._replace(predict=predict))
    assert seen == [9] * forwards


@pytest.mark.parametrize(("name", "maps"), [("cgc_loss", 1), ("sensitivity", 2), ("sanity", 3)])
def test_maps_of_a_batch(name: str, maps: int) -> None:
    whole, seen = evidence(), []
    explain = lambda images, **options: seen.append(len(images)) or whole.explain(images, **options)  # noqa: E731
    scored(EVERY[name](), whole._replace(explain=explain))
    assert seen == [9] * maps


def test_groups_are_let_go_as_soon_as_they_are_complete() -> None:
    whole, metric = evidence(), CGCLoss(4)
    held = [len(scored(metric, part(whole, rows)).open_index[0]) for rows in ([0, 1, 5], [2, 3, 4], [6, 7, 8])]
    assert held == [3, 2, 1]
    assert len(scored(metric, part(whole, [8, 0])).open_map[0]) == 2
    assert same(metric.compute(), scored(CGCLoss(4), whole).compute())
    batch = CGCLoss(4).score(part(whole, [7, 6, 5, 2, 4, 5]))
    assert batch.isnan().tolist() == [False, False, False, True, True, False]
    assert same(batch[:3].flip(0), metric.scores()[1][5:8])


def test_scores_of_two_processes(tmp_path: Path) -> None:
    """What a distributed sampler does: every other image, padded with the first."""
    mp.start_processes(one_of_two, (tmp_path,), nprocs=2, start_method="fork")
    for name in ("cgc_loss", "insertion"):
        alone = scored(EVERY[name](), evidence())
        for rank in range(2):
            value, index, score, undefined = torch.load(tmp_path / f"{name}-{rank}.pt")
            assert same(value, alone.compute())
            assert index.tolist() == list(range(9))
            assert same(score, alone.scores()[1])
            assert undefined == alone.undefined()


def one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    whole, rows = evidence(), [*range(9), 0][rank::2]
    for name in ("cgc_loss", "insertion"):
        metric = scored(EVERY[name](), part(whole, rows[:2]), part(whole, rows[2:]))
        torch.save((metric.compute(), *metric.scores(), metric.undefined()), folder / f"{name}-{rank}.pt")
    dist.destroy_process_group()


# Arguments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Insertion(0), "step=0: expected the pixels of a step"),
        (lambda: Deletion(of="label"), r"Deletion\(of='label'"),
        (lambda: TopKDrop(()), r"k=\[\]: expected ascending"),
        (lambda: TopKDrop((5, 2)), r"k=\[5, 2\]"),
        (lambda: TopKDrop(of="logits"), r"of='logits'\). Did you mean 'logit'\?"),
        (lambda: TopKDrop(target="target"), r"TopKDrop\(target='target'"),
        (lambda: CGCLoss(1), "group=1"),
        (lambda: CGCLoss(tau=0), "tau=0"),
        (lambda: CGCLoss(anchor="augm"), r"anchor='augm'\). Did you mean 'aug'\?"),
        (lambda: MaxSensitivity(0), "radius=0"),
        (lambda: MaxSensitivity(samples=0), "samples=0"),
        (lambda: Infidelity(1), "samples=1"),
        (lambda: Infidelity(side=1.5), "side=1.5"),
        (lambda: Randomisation(0), "depths=0"),
    ],
)
def test_unusable_arguments_are_refused(make: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(SightlineError, match=message):
        make()


@pytest.mark.parametrize("name", EVERY)
def test_what_is_missing_is_named(name: str) -> None:
    metric = EVERY[name]()
    with pytest.raises(SightlineError, match=rf"{type(metric).__name__} needs Evidence.{metric.needs[-1]}"):
        metric.update(evidence()._replace(**{metric.needs[-1]: None}))


def test_the_target_is_needed_where_it_is_asked_for() -> None:
    whole = evidence()
    with pytest.raises(SightlineError, match=r"Insertion needs Evidence\.target"):
        Insertion(20, "target").update(whole._replace(target=None))
    scored(Insertion(20), whole._replace(target=None))
    start = scored(Deletion(20, "target"), whole).curves()[1][:, 0]
    expected = whole.logits.softmax(1).gather(1, whole.target.unsqueeze(1)).squeeze(1)
    assert same(start[:4], expected[:4])


@pytest.mark.parametrize("label", [torch.tensor([0, -1]), torch.tensor([0, 4]), torch.eye(2)])
def test_a_drop_of_labels_needs_one_known_class_per_image(label: Tensor) -> None:
    whole = part(evidence(), [0, 1])._replace(label=label)
    with pytest.raises(SightlineError, match="needs one class per image, 0 to 3"):
        TopKDrop(target="label").update(whole)


@pytest.mark.parametrize("make", [Insertion, Deletion, CGCLoss])
def test_images_of_several_sizes_are_refused(make: Any) -> None:
    whole = evidence()
    small = whole._replace(image=whole.image[..., 1:], mask=whole.mask[..., 1:])
    with pytest.raises(SightlineError, match=r"images of size \(12, 9\) after some of size \(12, 10\)"):
        scored(make(), whole, small)


@pytest.mark.parametrize("draw", [insertion, deletion, partial(topk_drop, k=(2,))])
def test_maps_that_do_not_fit_the_images_are_refused(draw: Any) -> None:
    with pytest.raises(SightlineError, match=r"maps of shape \(1, 2, 2, 2, 2\) do not fit"):
        draw(Total(1, 1, 1, 1), IMAGE, torch.ones(1, 2, 2, 2, 2))


def test_pure_functions_say_what_they_take() -> None:
    for function in (insertion, deletion, topk_drop, max_sensitivity, infidelity, spearman, cgc_loss):
        said = inspect.getdoc(function) or ""
        assert "Args:" in said
        assert "Returns:" in said
        assert all(name in said for name in inspect.signature(function).parameters)
