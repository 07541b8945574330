"""FGSM, PGD, flips, stability and the metrics of decisions: reference values, slower versions and cases by hand."""

from collections.abc import Callable
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor, nn

from batches import part, scored
from conftest import images, rebuild_net
from sightline import catalogue, stats
from sightline.errors import SightlineError
from sightline.metrics import FGSM, PGD, FlipRate, MapStability, classification, fgsm, pgd
from sightline.metrics.names import GROUPS, named
from sightline.metrics.per_image import channel_of
from sightline.metrics.variation import brightened, cosine
from sightline.types import Evidence
from sightline.views import surrounded

EPSILONS = (1, 2, 4, 8, 16, 32, 64)


def small_net(seed: int = 0, classes: int = 3) -> nn.Module:
    """Float64, gradients everywhere, and sure enough of itself to err at a few 255ths."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.SiLU(), nn.Flatten(), nn.Linear(6 * 8 * 6, classes)).double()
    net[-1].weight.data *= 5
    return net.eval()


def evidence(net: Callable[[Tensor], Tensor], count: int = 9, seed: int = 0) -> Evidence:
    """Random images; image 2 has no mask, image 4 an all-zero map, image 5 no label."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    image, others = rand(count, 3, 10, 8), rand(count, 3, 3, 10, 8)
    with torch.no_grad():
        logits = net(image)
    label = logits.argmax(1)
    label[5:6], label[6:7] = -1, (label[6:7] + 1) % 3
    mask, has_mask = (rand(count, 10, 8) < 0.4).double(), torch.arange(count) != 2
    maps = explained(image)
    maps[4:5] = 0
    return Evidence(
        maps, mask, has_mask, logits, label, torch.arange(count),
        image=image, target=label, predict=net, explain=explained, others=others,
    )  # fmt: skip


def explained(image: Tensor) -> Tensor:
    """A map at half the resolution that depends on the image."""
    return F.avg_pool2d(image[:, 0] * image[:, 1] + 0.1 * image[:, 2], 2)


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=0, atol=1e-6, equal_nan=True)


METRICS = {
    "fgsm": lambda: FGSM((1, 4, 16)),
    "pgd": lambda: PGD((1, 4), steps=3),
    "flips_background": FlipRate,
    "flips_brightness": lambda: FlipRate("brightness"),
    "stability_background": MapStability,
    "stability_brightness": lambda: MapStability("brightness"),
}
UNDEFINED = {
    "fgsm": [5], "pgd": [5], "flips_background": [2], "flips_brightness": [], "stability_background": [2, 4],
    "stability_brightness": [4],
}  # fmt: skip


# What all of them must do -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
def test_neither_batches_nor_order_nor_padding_matter(name: str) -> None:
    whole = evidence(small_net())
    once = scored(METRICS[name](), whole)
    parts = scored(METRICS[name](), *(part(whole, rows) for rows in ([7], [3, 1, 0, 8], [2, 4, 5, 6], [7, 0])))
    assert same(once.compute(), parts.compute())
    for of in ("scores", "curves"):
        (index, values), (_, others) = getattr(once, of)(), getattr(parts, of)()
        assert index.tolist() == list(range(9))
        assert same(values, others)
    score = once.scores()[1]
    assert score.isnan().nonzero().flatten().tolist() == UNDEFINED[name]
    assert once.curves()[1].shape == (9, len(once.axis))
    assert same(score, once.curves()[1].mean(1))
    assert len(score[~score.isnan()].unique()) > 1 or name.startswith("flips")
    assert not score.requires_grad


@pytest.mark.parametrize("name", METRICS)
def test_keys_fit_the_catalogue_and_what_is_typed(name: str) -> None:
    [metric] = named(name)
    assert metric.key == name == METRICS[name]().key
    assert metric.higher_is_better is catalogue.CATALOGUE[name].higher
    assert metric.clone().key == name


def test_groups_and_classes_by_name() -> None:
    assert [metric.key for metric in named("robustness")] == list(GROUPS["robustness"])
    assert {"fgsm", "flips_background", "flips_brightness"} < set(GROUPS["robustness"])
    assert [repr(metric) for spec in ("flips", "stability:under=brightness") for metric in named(spec)] == [
        "FlipRate(under='background')",
        "MapStability(under='brightness')",
    ]
    assert repr(named("fgsm:epsilons=[1,4]")[0]) == "FGSM(epsilons=(1.0, 4.0))"


def test_only_backgrounds_need_other_images() -> None:
    assert {name for name in METRICS if "others" in METRICS[name]().needs} == {
        "flips_background", "stability_background",
    }  # fmt: skip
    whole = evidence(small_net())._replace(others=None)
    scored(FlipRate("brightness"), whole)
    with pytest.raises(SightlineError, match=r"FlipRate needs Evidence\.others"):
        scored(FlipRate(), whole)


def test_one_audit_gives_all(tmp_path: Path) -> None:
    from sightline.audit import Subject, audit
    from sightline.models import load
    from test_audit import Blocks

    subject = Subject(load("sightline:cnn", num_classes=3, filters=[6, 8]), "run", "cnn")
    data = Blocks(np.arange(11) % 3)
    summary = audit(subject, data, tmp_path, metrics=named("robustness"), batch_size=4)
    assert set(GROUPS["robustness"]) <= set(summary["metrics"])
    assert summary["metrics"]["flips_background"]["n"] == data.has_mask.sum()
    assert summary["curves"]["fgsm"]["axis"] == list(EPSILONS)
    assert all(0 <= summary["metrics"][key]["value"] <= 1 for key in GROUPS["robustness"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FGSM(()), r"FGSM: epsilons=\(\): expected numbers above 0"),
        (lambda: FGSM((0, 1)), "that ascend"),
        (lambda: PGD((2, 1)), r"PGD: epsilons=\(2, 1\)"),
        (lambda: FGSM((1, nan)), "nan"),
        (lambda: PGD(steps=0), "steps=0"),
        (lambda: PGD(seed=-1), "seed=-1"),
        (lambda: FlipRate("brightnes"), r"FlipRate\(under='brightnes'\). Did you mean 'brightness'\?"),
        (lambda: classification(1), "classes=1"),
    ],
)
def test_unusable_arguments_are_refused(make: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(SightlineError, match=message):
        make()


# Attacks ------------------------------------------------------------------------------------------------------------


def test_fgsm_reference_values(oracle: Any) -> None:
    ref = oracle("metrics_fgsm")
    net, x, label = rebuild_net(ref["meta"]), images(ref["meta"]), torch.from_numpy(ref["labels"])
    with torch.no_grad():
        logits = net(x)
    np.testing.assert_allclose(logits, ref["logits"], rtol=1e-9)
    for epsilon in (4, 32):
        moved = fgsm(net, x, label, epsilon)
        np.testing.assert_allclose(moved[:2], ref[f"adv_{epsilon}_first2"], rtol=1e-12)
        np.testing.assert_allclose(net(moved).detach(), ref[f"adv_{epsilon}_logits"], rtol=1e-9)
    nothing = torch.zeros(64, 1, dtype=torch.float64)
    seen = Evidence(nothing, nothing, nothing[:, 0] == 0, logits, label, torch.arange(64), image=x, predict=net)
    assert list(ref["eps"]) == [0, *EPSILONS]
    metric = scored(FGSM(), *(part(seen, rows) for rows in (slice(0, 40), slice(40, 64))))
    np.testing.assert_allclose(100 * metric.curves()[1].mean(0), ref["top1_percent"][1:], rtol=1e-6)
    first = torch.from_numpy(ref["first_eps_misclassified"])
    found = metric.minimal()
    assert torch.equal(found.epsilon.double(), torch.where(first < 0, inf, first))
    assert found.never == int((first < 0).sum())
    # PGD's random start and small steps find all that one large step finds, here.
    many = scored(PGD((1, 2)), seen).curves()[1].mean(0)
    assert (many <= metric.curves()[1][:, :2].mean(0)).all()


def test_fgsm_by_hand() -> None:
    """The logits are (2a - b, 0) and c plays no part: the label's falls with a, rises with b; clipped at both ends."""
    image = torch.tensor([[[[0.5, 0.5, 0.5]]], [[[0.0, 1.0, 0.2]]]])

    def predict(x: Tensor) -> Tensor:
        a, b, _ = x.flatten(1).T
        return torch.stack([2 * a - b, 0 * a], 1)

    moved = fgsm(predict, image, torch.tensor([0, 1]), 51).flatten(1)
    assert torch.allclose(moved, torch.tensor([[0.3, 0.7, 0.5], [0.2, 0.8, 0.2]]))
    clipped = fgsm(predict, image, torch.tensor([0, 0]), 51).flatten(1)
    assert torch.allclose(clipped[1], torch.tensor([0.0, 1.0, 0.2]))


def test_a_model_that_is_sure_is_attacked_all_the_same() -> None:
    """Where the label's probability rounds to 1 the cross-entropy's own derivative is 0, or that of others alone."""
    net = small_net(classes=2)
    x, label = evidence(net).image, evidence(net).logits.argmax(1)
    expected = fgsm(net, x, label, 8)
    sure = nn.Sequential(small_net(classes=2).float(), nn.Linear(2, 2, bias=False))
    sure[1].weight.data = 1e4 * torch.eye(2)
    found = fgsm(sure, x.float(), label, 8)
    assert (found.double() - expected).abs().gt(1e-6).double().mean() < 1e-3
    leaf = x.float().requires_grad_()
    F.cross_entropy(sure(leaf), label, reduction="sum").backward()
    assert (leaf.grad.flatten(1) == 0).all(1).sum() > 4


@given(st.floats(0, 300), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_attacks_stay_in_the_ball_and_in_range(epsilon: float, steps: int, seed: int) -> None:
    net = small_net()
    whole = part(evidence(net, 3, seed), slice(0, 3))
    label, start = whole.logits.argmax(1), 2 * torch.rand_like(whole.image) - 1
    for moved in (fgsm(net, whole.image, label, epsilon), pgd(net, whole.image, label, epsilon, steps, start)):
        assert moved.min() >= 0
        assert moved.max() <= 1
        assert (moved - whole.image).abs().max() <= epsilon / 255 + 1e-12
        assert not moved.requires_grad
    # One step that is longer than the radius ends on the sphere.
    assert torch.allclose(pgd(net, whole.image, label, epsilon, 1), fgsm(net, whole.image, label, epsilon))


def test_pgd_image_by_image() -> None:
    net = small_net()
    whole = part(evidence(net), [8, 0, 3])
    for epsilon, curve in zip((2, 8), scored(PGD((2, 8), steps=4, seed=5), whole).curves()[1].T, strict=True):
        for row, right in zip((1, 2, 0), curve, strict=True):
            x, label, index = whole.image[row : row + 1], whole.label[row : row + 1], int(whole.index[row])
            start = np.random.default_rng([5, index]).uniform(-1, 1, (3, 10, 8))
            moved = slow_pgd(net, x, label, epsilon / 255, 4, torch.from_numpy(start))
            assert right == (net(moved).argmax(1) == label).float()
            again = pgd(net, x, label, epsilon, 4, torch.from_numpy(start)[None])
            assert torch.allclose(moved, again, atol=1e-12)


def slow_pgd(net: nn.Module, x: Tensor, label: Tensor, radius: float, steps: int, start: Tensor) -> Tensor:
    moved = torch.minimum(torch.maximum(x + radius * start, torch.zeros(())), torch.ones(()))
    for _ in range(steps):
        leaf = moved.clone().requires_grad_()
        (slope,) = torch.autograd.grad(-F.log_softmax(net(leaf), 1)[0, label[0]], leaf)
        moved = moved + 2.5 * radius / steps * torch.sign(slope)
        moved = x + torch.clamp(moved - x, -radius, radius)
        moved = torch.clamp(moved, 0, 1)
    return moved


@pytest.mark.parametrize("ambient", [torch.no_grad, torch.inference_mode])
def test_gradients_are_enabled_where_they_are_needed_and_nothing_is_left(ambient: Any) -> None:
    net = small_net()
    whole = evidence(net)
    expected = scored(PGD((2, 8), 2), whole).scores()[1]
    moved = fgsm(net, whole.image, whole.label.abs(), 4)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    with ambient():
        assert same(scored(PGD((2, 8), 2), whole).scores()[1], expected)
        assert same(fgsm(net, whole.image + 0, whole.label.abs(), 4), moved)
    assert (net[0].weight.grad == 1).all()
    assert all(p.grad is None for p in list(net.parameters())[1:])
    assert whole.image.grad is None


def test_no_images_have_no_minimal_epsilon() -> None:
    found = FGSM().minimal()
    assert len(found.index) == len(found.epsilon) == found.never == 0
    assert isnan(found.mean)


def test_minimal_epsilons_by_hand() -> None:
    """Logits (x - t, 0), label 0, x = 0.5: an attack lowers x until it is at t or below it."""
    bound = torch.tensor([0.5 - 3 / 255, 0.6, 0.0, 0.1, 0.5 - 0.5 / 255])

    def predict(x: Tensor) -> Tensor:
        return torch.stack([x.flatten(), bound], 1)

    image, label = torch.full((5, 1, 1, 1), 0.5), torch.tensor([0, 0, 0, -1, 0])
    seen = Evidence(
        image[:, 0], image[:, 0], label == 0, predict(image), label, torch.tensor([4, 3, 2, 1, 0]),
        image=image, predict=predict,
    )  # fmt: skip
    found = scored(FGSM((1, 2, 4, 8)), seen).minimal()
    assert found.index.tolist() == [0, 1, 2, 3, 4]
    assert same(found.epsilon, torch.tensor([1.0, nan, inf, 0.0, 4.0]))
    assert (found.mean, found.median, found.never) == (pytest.approx(5 / 3), 2.5, 1)
    for epsilon, mean, median, never in [
        ([inf, inf, 2.0], 2.0, inf, 2), ([inf, 1.0, 2.0], 1.5, 2.0, 1), ([inf, 1.0], 1.0, inf, 1),
    ]:  # fmt: skip
        one = found._replace(epsilon=torch.tensor(epsilon))
        assert (one.mean, one.median, one.never) == (mean, median, never)
    nobody = found._replace(epsilon=torch.tensor([nan]))
    assert isnan(nobody.mean)
    assert isnan(nobody.median)


@pytest.mark.parametrize("label", [torch.tensor([0, 3]), torch.tensor([-1, 0]), torch.eye(2, 3)])
def test_attacks_need_one_known_class_per_image(label: Tensor) -> None:
    net = small_net()
    with pytest.raises(SightlineError, match="an attack needs one class per image, 0 to 2"):
        fgsm(net, evidence(net).image[:2], label, 1)


def test_attacks_need_a_gradient() -> None:
    net = small_net()
    whole = evidence(net)
    with pytest.raises(SightlineError, match="an attack needs the gradient of the logits"):
        fgsm(lambda x: net(x).detach(), whole.image, whole.label.abs(), 1)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.start_processes(one_of_two, (tmp_path,), nprocs=2, start_method="fork")
    alone = scored(FGSM((1, 4, 16)), evidence(small_net(), 11)).minimal()
    for rank in range(2):
        index, epsilon = torch.load(tmp_path / f"{rank}.pt")
        assert index.tolist() == list(range(11))
        assert same(epsilon, alone.epsilon)


def one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    whole, rows = evidence(small_net(), 11), [*range(11), 0][rank::2]
    metric = scored(FGSM((1, 4, 16)), *(part(whole, rows[start : start + 2]) for start in range(0, 6, 2)))
    torch.save(tuple(metric.minimal()), folder / f"{rank}.pt")
    dist.destroy_process_group()


# Variation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "channel"),
    [((3, 5, 4), 1), ((1, 3, 5, 4), 1), ((3, 2, 5, 4), 1), ((1, 3, 5, 4), 2), ((3, 2, 5, 4), 2), ((3, 3, 5, 4), 2)],
)
def test_backgrounds_of_images_volumes_and_views(shape: tuple[int, ...], channel: int) -> None:
    image, others = torch.rand(2, *shape), torch.rand(2, 3, *shape)
    mask = (torch.rand_like(image.select(channel, 0)) < 0.5).float()
    assert channel_of(image, mask) == channel
    has_mask, seen = torch.tensor([True, False]), []
    metric = FlipRate()
    metric.update(
        Evidence(
            mask, mask, has_mask, torch.zeros(2, 2), torch.zeros(2).long(), torch.arange(2),
            image=image, others=others, predict=lambda x: seen.append(x) or torch.zeros(2, 2),
        )
    )  # fmt: skip
    keep = mask.unsqueeze(channel)
    assert torch.allclose(seen[0][0], (keep * image + (1 - keep) * others[:, 0])[0])
    assert torch.equal(seen[0][1], image[1])
    assert same(metric.scores()[1], torch.tensor([0, nan]))
    assert torch.equal(seen[0], surrounded(image, others[:, 0], mask, has_mask, channel))


def test_flips_by_hand() -> None:
    """The model says 1 where the image is brighter than 0.4 on average; labels play no part."""
    image = torch.tensor([0.5, 0.3, 0.9, 0.1]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    others = torch.tensor([0.0, 0.8, 1.0, 0.9]).view(4, 1, 1, 1, 1).expand(4, 3, 1, 2, 2)

    def predict(x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([torch.full_like(mean, 0.4), mean], 1)

    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).expand(4, 2, 2)
    seen = Evidence(
        mask, mask, torch.tensor([True, True, True, False]), predict(image), torch.tensor([0, 1, -1, 0]),
        torch.arange(4), image=image, others=others, predict=predict,
    )  # fmt: skip
    # 0.125 from 0.5; 0.675 from 0.3; 0.975 from 0.9; no mask.
    assert same(scored(FlipRate(), seen).scores()[1], torch.tensor([1, 1, 0, nan]))
    curves = [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]  # 0.25 .375 .625 .75; .15 .225 .375 .45
    metric = scored(FlipRate("brightness"), seen)
    assert metric.curves()[1].tolist() == curves
    assert metric.axis == (0.5, 0.75, 1.25, 1.5)
    assert metric.compute().item() == pytest.approx(3 / 16)


def test_brightness_is_clipped() -> None:
    assert brightened(torch.tensor([[[0.2, 0.8]]]), 1.5).tolist() == [[[pytest.approx(0.3), 1.0]]]


def test_stability_by_hand() -> None:
    whole = evidence(small_net(), 4)
    metric = scored(MapStability(), whole)
    for row, score in enumerate(metric.scores()[1].tolist()):
        keep = whole.mask[row]
        altered = keep * whole.image[row] + (1 - keep) * whole.others[row, 0]
        a, b = whole.map[row].flatten().numpy(), explained(altered[None]).flatten().numpy()
        expected = nan if row == 2 else a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        assert score == pytest.approx(expected, rel=1e-9, nan_ok=True)
    # A map that goes with the light keeps its direction as long as nothing is clipped.
    linear = whole._replace(image=whole.image / 2, map=whole.image[:, 0], explain=lambda x: x[:, 0])
    assert same(scored(MapStability("brightness"), linear).curves()[1], torch.ones(4, 4))
    dark = linear._replace(explain=lambda x: (x[:, 0] - 0.4).relu())
    assert scored(MapStability("brightness"), dark).undefined() == 4  # nothing is above 0.4 at half the light


@given(st.integers(0, 10**6), st.sampled_from([1e-30, 1e-8, 1.0, 1e12, 1e30]))
@settings(max_examples=40, deadline=None)
def test_cosine_of_maps(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, 5, 4, 3, generator=generator)
    a[0], b[1] = 0, 0
    found = cosine(a, b)
    assert found.isnan().tolist() == [True, True, False, False, False]
    known = found[2:]
    assert ((known >= 0) & (known <= 1)).all()
    assert torch.allclose(cosine(scale * a, b)[2:], known, atol=1e-6)
    assert torch.equal(cosine(b, a)[2:], known)
    assert torch.allclose(cosine(a, scale * a)[1:], torch.ones(4))


def test_maps_of_different_sizes_do_not_compare() -> None:
    with pytest.raises(SightlineError, match=r"\(2, 4, 4\) and \(2, 5, 4\)"):
        cosine(torch.ones(2, 4, 4), torch.ones(2, 5, 4))


# Decisions ----------------------------------------------------------------------------------------------------------


def test_f1_reference_values(oracle: Any) -> None:
    ref = oracle("metrics_f1")
    logits, label = torch.from_numpy(ref["logits"]), torch.from_numpy(ref["labels"])
    metrics = classification(7, multilabel=True)
    for rows in (slice(0, 1), slice(1, 17), slice(17, 40)):
        metrics.update(logits[rows], label[rows])
    found = metrics.compute()
    assert 100 * found["f1_per_class"].item() == pytest.approx(float(ref["f1_per_class"]), rel=1e-6)
    assert 100 * found["f1_overall"].item() == pytest.approx(float(ref["f1_overall"]), rel=1e-6)
    assert found["f1_per_class"] < ref["cf1_harmonic_of_means"] / 100


def decisions(count: int = 60, classes: int = 8, absent: int = 6) -> tuple[Tensor, Tensor]:
    """Logits within [0, 1], which are no probabilities; one class is never a label."""
    torch.manual_seed(1)
    label = torch.randint(classes - 1, (count,))
    label[label >= absent] += 1
    return torch.rand(count, classes) * 0.8 + 0.2 * F.one_hot(label, classes), label


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_single_labels_against_scikit_learn_and_the_audit(batch: int) -> None:
    logits, label = decisions()
    metrics = classification(8)
    for x, y in zip(logits.split(batch), label.split(batch), strict=True):
        metrics.update(x, y)
    found = {name: value.item() for name, value in metrics.compute().items()}
    odds = logits.double().softmax(1).numpy()
    present = [k for k in range(8) if k != 6]
    assert found == {
        "accuracy": pytest.approx((odds.argmax(1) == label.numpy()).mean()),
        "top5": pytest.approx(np.mean([y in np.argsort(-p)[:5] for p, y in zip(odds, label.numpy(), strict=True)])),
        "macro_f1": pytest.approx(f1_score(label, odds.argmax(1), average="macro")),
        "auroc": pytest.approx(np.mean([roc_auc_score(label == k, odds[:, k]) for k in present])),
    }
    assert found["accuracy"] < found["top5"] < 1
    every = np.arange(60)[None]
    audited = np.column_stack([label, odds])
    assert found["auroc"] == pytest.approx(stats.macro_auroc(audited, every)[0])
    assert found["macro_f1"] == pytest.approx(stats.macro_f1(np.column_stack([label, odds.argmax(1)]), every)[0])


@pytest.mark.parametrize("batch", [1, 60])
def test_several_labels_against_scikit_learn_and_the_audit(batch: int) -> None:
    """Class 0 is never a label, class 1 always; no logit is below 0 in the first batches of one."""
    torch.manual_seed(2)
    label = (torch.rand(60, 5) < 0.4).float()
    label[:, 0], label[:, 1] = 0, 1
    logits = torch.randn(60, 5) + label
    logits[:3] = logits[:3].sigmoid()
    metrics = classification(5, multilabel=True)
    for x, y in zip(logits.split(batch), label.split(batch), strict=True):
        metrics.update(x, y)
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == {
        "f1_per_class": pytest.approx(f1_score(label, logits > 0, average="macro", zero_division=0)),
        "f1_overall": pytest.approx(f1_score(label, logits > 0, average="micro")),
        "auroc": pytest.approx(roc_auc_score(label[:, 2:], logits[:, 2:], average="macro")),
    }
    decided = np.column_stack([label, logits > 0]).astype(int)
    assert found["f1_per_class"] == pytest.approx(stats.f1_per_class(decided, np.arange(60)[None])[0])


def test_which_metrics_there_are() -> None:
    assert set(classification(5)) == {"accuracy", "macro_f1", "auroc"}
    assert set(classification(6)) == {"accuracy", "top5", "macro_f1", "auroc"}
    assert set(classification(6, top=2)) == {"accuracy", "top2", "macro_f1", "auroc"}
    assert set(classification(3, multilabel=True)) == {"f1_per_class", "f1_overall", "auroc"}
    assert set(classification(6)) | set(classification(3, multilabel=True)) <= set(catalogue.CATALOGUE)


def test_metrics_of_decisions_can_be_called_cloned_and_reset() -> None:
    logits, label = decisions()
    metrics = classification(8)
    first = metrics(logits[:20], label[:20])
    assert first["accuracy"].item() == pytest.approx((logits[:20].argmax(1) == label[:20]).float().mean().item())
    again = metrics.clone(prefix="val/")
    again.reset()
    again.update(logits, label)
    metrics.update(logits[20:], label[20:])
    assert {f"val/{name}": value for name, value in metrics.compute().items()} == again.compute()


def test_auroc_of_one_class_alone_is_not_defined() -> None:
    metrics = classification(3)
    metrics.update(torch.randn(4, 3), torch.zeros(4).long())
    assert metrics.compute()["auroc"].isnan()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (torch.tensor([0, 3]), r"labels of 0 to 2, got \[0, 3\]"),
        (torch.tensor([0, -1]), r"got \[-1, 0\]"),
        (torch.eye(2, 3), r"labels of shape \(2, 3\); expected \(2, 3\) and \(2,\)"),
    ],
)
def test_labels_that_are_no_classes_are_refused(label: Tensor, message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        classification(3).update(torch.zeros(2, 3), label)


def test_shares_are_no_labels() -> None:
    with pytest.raises(SightlineError, match="labels of 0 to 1"):
        classification(3, multilabel=True).update(torch.zeros(2, 3), torch.full((2, 3), 0.5))
