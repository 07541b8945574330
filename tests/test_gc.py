"""GC against public values, a plain loop over images, and by hand; its composites against exhaustive search."""

from functools import cache
from itertools import combinations
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import images, rebuild_net
from nets import Deep, Residual, Views, Volume, double
from sightline import Guided, load_model
from sightline.compat import repair_torchvision
from sightline.errors import SightlineError
from sightline.maps import normalize, resize
from sightline.objectives import CE, GC, gc_loss
from sightline.objectives import gc as module
from sightline.objectives.gc import Plan, groups_of_four, plan_composites
from sightline.types import Batch
from sightline.views import composite, quadrant

CELLS = [(slice(0, 2), slice(0, 3)), (slice(0, 2), slice(3, 6)), (slice(2, 4), slice(0, 3)), (slice(2, 4), slice(3, 6))]


def batch(label, size=(12, 12), channels=(3,)):
    label = torch.as_tensor(label)
    image = torch.rand(len(label), *channels, *size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    mask = torch.ones(len(label), *size, dtype=torch.float64)
    return Batch(image, label, mask, torch.zeros(len(label)).bool(), torch.arange(len(label)))


def plan(label, shared=True, seed=0):
    label = torch.as_tensor(label)
    present = F.one_hot(label.clamp(min=0)).bool() & (label >= 0).unsqueeze(1)
    return plan_composites(present, label.clamp(min=0), shared, Random(seed))


def planned(monkeypatch):
    """The plans of the steps to come."""
    plans = []
    make = plan_composites

    def remember(*args):
        plans.append(make(*args))
        return plans[-1]

    monkeypatch.setattr(module, "plan_composites", remember)
    return plans


def terms_of(model, objective, on, size=12, seed=11):
    torch.manual_seed(seed)
    return Guided(model, [CE(), objective], size)(on)[1]


@pytest.mark.parametrize("leading", [(), (3,), (2, 5), (3, 4)])
def test_geometry(leading):
    pictures, layout, cell = torch.rand(6, *leading, 2, 3), torch.tensor([[5, 0, 3, 3], [1, 2, 0, 4]]), [3, 1]
    tiled, placed = composite(pictures, layout), quadrant(pictures[:2], torch.tensor(cell))
    assert tiled.shape == placed.shape == (2, *leading, 4, 6)
    for n in range(2):
        for c, (rows, columns) in enumerate(CELLS):
            torch.testing.assert_close(tiled[n, ..., rows, columns], pictures[layout[n, c]], rtol=0, atol=0)
            expected = pictures[n] if c == cell[n] else torch.zeros_like(pictures[n])
            torch.testing.assert_close(placed[n, ..., rows, columns], expected, rtol=0, atol=0)


def test_loss_by_hand():
    """Half of the composite's map is elsewhere, and a quarter is missing from each of two positions of its own cell."""
    maps = torch.tensor([[[0.5, 0.0], [0.5, 0.0]]])
    composed = torch.zeros(1, 4, 4)
    composed[0, 0, 2] = composed[0, 1, 2] = 0.25
    composed[0, 3, 0] = 0.5
    assert gc_loss(maps, composed, torch.tensor([1]), "sum").tolist() == [1.0]
    assert gc_loss(maps, composed, torch.tensor([1])).tolist() == [1 / 16]
    assert gc_loss(maps, quadrant(maps, torch.tensor([2])), torch.tensor([2]), "sum").tolist() == [0.0]
    assert gc_loss(maps, quadrant(maps, torch.tensor([2])), torch.tensor([0]), "sum").tolist() == [2.0]


@pytest.mark.parametrize("name", ["gap_96", "gmp_64"])
def test_loss_against_the_public_implementation(name, oracle):
    reference = oracle(f"gc_resnet18_{name}")
    maps, composed, cell = (torch.tensor(reference[key]) for key in ("map_x", "map_comp", "quadrant"))
    np.testing.assert_allclose(quadrant(maps, cell), reference["target_map"], atol=1e-12)
    for reduction, expected in ("mean", "l1_mean"), ("sum", "l1_sum_per_image_mean"):
        assert gc_loss(maps, composed, cell, reduction).mean().item() == pytest.approx(float(reference[expected]))


@pytest.mark.parametrize(("name", "case"), [("gap_96", "total"), ("gmp_64", "total"), ("gmp_64", "l1_detached_target")])
def test_step_against_the_public_implementation(name, case, oracle, monkeypatch):
    """The loss, the norm of each parameter's gradient, and the running statistics that both passes leave behind."""
    reference = oracle(f"gc_resnet18_{name}")
    meta = reference["meta"]
    net, x = rebuild_net(meta), images(meta)
    made = Plan(reference["layout"].tolist(), [[int(cell)] for cell in reference["quadrant"]], 0)
    monkeypatch.setattr(module, "plan_composites", lambda *_: made)
    whole = case == "total"
    gc = GC(meta["lam"] if whole else 1, "own", detach_target=not whole, layer="layer4")
    loss, _ = Guided(net, [CE(float(whole)), gc], x.shape[2:])(batch(reference["labels"])._replace(image=x))
    assert loss.item() == pytest.approx(float(reference["total" if whole else "l1_mean"]), rel=1e-9)
    norms = [g.norm().item() for g in torch.autograd.grad(loss, list(net.parameters()))]
    np.testing.assert_allclose(norms, reference[f"{case}_gradnorm"], rtol=1e-9, atol=1e-10)
    buffers = dict(net.named_buffers())
    after = [key for key in reference if key.startswith("after__")]
    assert len(after) > 2
    for key in after:
        np.testing.assert_allclose(buffers[key.removeprefix("after__")], reference[key], rtol=1e-9)


def grad_cam(model, layer, image, target):
    """The element-wise Grad-CAM of one image, by autograd alone, and of sum 1."""
    kept = {}
    handle = dict(model.named_modules())[layer].register_forward_hook(lambda _m, _i, out: kept.update(a=out))
    logit = model(image)[0, target]
    handle.remove()
    (slope,) = torch.autograd.grad(logit, kept["a"], create_graph=True)
    drawn = (slope * kept["a"]).sum(1)[0].relu()
    return drawn / (drawn.sum() + 1e-8) + 1e-8


@pytest.mark.parametrize("kind", ["shared", "own"])
@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)])
def test_against_a_loop_over_images(kind, pool, monkeypatch):
    """Six images of four classes and one without a label: with "shared", a group of four and two on their own."""
    model, on, plans = double(Residual(pool)).eval(), batch([2, 0, 1, -1, 3, 0, 1]), planned(monkeypatch)
    torch.manual_seed(11)
    loss, terms = Guided(model, [GC(1.0, kind, layer="body")], 12)(on)
    (made,) = plans
    assert list(map(len, made.cells)) == ([4, 1, 1] if kind == "shared" else [1] * 6)
    losses = {}
    for row, cells in zip(made.layout, made.cells, strict=True):
        rows = [torch.cat([on.image[row[2 * k]], on.image[row[2 * k + 1]]], 2) for k in range(2)]
        tiled = torch.cat(rows, 1).unsqueeze(0)
        for cell in cells:
            anchor = row[cell]
            assert all(on.label[other] != on.label[anchor] for c, other in enumerate(row) if c != cell)
            drawn = grad_cam(model, "body", tiled, on.label[anchor])
            expected = torch.zeros_like(drawn)
            corner = 12 * (cell // 2), 12 * (cell % 2)
            alone = grad_cam(model, "body", on.image[anchor : anchor + 1], on.label[anchor])
            expected[corner[0] : corner[0] + 12, corner[1] : corner[1] + 12] = alone
            losses[anchor] = (drawn - expected).abs().mean()
    assert set(losses) == {0, 1, 2, 4, 5, 6}
    expected = torch.stack(list(losses.values())).mean()
    assert terms["gc"].item() == pytest.approx(expected.item(), rel=1e-9)
    assert terms["gc_left_out"].item() == 0
    parameters = list(model.parameters())
    got, wanted = (torch.autograd.grad(value, parameters, allow_unused=True) for value in (loss, expected))
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(*(torch.zeros(()).double() if v is None else v for v in (g, w)), rtol=1e-7, atol=0)


@cache
def most_groups(counts):
    """How many groups of four different classes there can be, by trying all."""
    best = 0
    for four in combinations([c for c, n in enumerate(counts) if n], 4):
        left = sorted(n - (c in four) for c, n in enumerate(counts))
        best = max(best, 1 + most_groups(tuple(n for n in left if n)))
    return best


def test_as_many_groups_as_there_can_be():
    draw = Random(3)
    for seed in range(150):
        counts = sorted(draw.choice([1, 1, 2, 3, 5]) for _ in range(draw.randrange(1, 7)))
        label = [c for c, n in enumerate(counts) for _ in range(n)]
        draw.shuffle(label)
        made = plan(label, seed=seed)
        shared = [row for row, cells in zip(made.layout, made.cells, strict=True) if len(cells) == 4]
        assert len(shared) == most_groups(tuple(counts)), counts
        assert all(len({label[i] for i in row}) == 4 for row in shared)
        served = [row[cell] for row, cells in zip(made.layout, made.cells, strict=True) for cell in cells]
        assert len(set(served)) == len(served) == len(label) - made.left_out
        assert made.left_out == (len(label) if len(counts) == 1 else 0)


def test_a_large_skewed_batch():
    """Of 256 images 100 show one class, 4 each one of 39 others: m groups take m of the former, 3 m of the latter."""
    label = [0] * 100 + [1 + i // 4 for i in range(156)]
    made = plan(label)
    assert sum(len(cells) == 4 for cells in made.cells) == 52


def test_several_classes_per_image_clash_in_both_directions():
    """0 shows what 1 is explained for, but not the other way round."""
    clash = [{0, 1}, {0, 1}, {2}, {3}, {4}]
    for seed in range(20):
        (group,) = groups_of_four(range(5), [0, 1, 2, 3, 4], clash, Random(seed))
        assert len(set(group)) == 4
        assert not {0, 1} <= set(group)


@pytest.mark.parametrize("shared", [True, False])
def test_every_cell_is_as_likely_as_any(shared):
    """1000 draws of a cell for each image: chi-squared with 3 degrees of freedom stays below its 99.9th percentile."""
    label, counts = [0, 1, 2, 3, 3, 4, 0], torch.zeros(7, 4)
    for seed in range(1000):
        made = plan(label, shared, seed)
        for row, cells in zip(made.layout, made.cells, strict=True):
            for cell in cells:
                counts[row[cell], cell] += 1
    assert (counts.sum(1) == 1000).all()
    assert ((counts - 250) ** 2 / 250).sum(1).max() < 16.27


def test_every_image_may_meet_every_other():
    met = torch.zeros(8, 8)
    for seed in range(300):
        for row in plan(range(8), seed=seed).layout:
            met[torch.tensor(row).unsqueeze(1), torch.tensor(row)] += 1
    others = met[~torch.eye(8).bool()]
    assert others.min() > 0.7 * others.mean()


def test_distractors_are_repeated_only_if_they_must_be():
    for seed in range(20):
        assert all(len(set(row)) == 4 for row in plan([0, 1, 1, 1], seed=seed).layout[:1])
        made = plan([0, 0, 1], seed=seed)
        assert sorted(row[cell] for row, (cell,) in zip(made.layout, made.cells, strict=True)) == [0, 1, 2]
        assert made.layout[0].count(2) == 3


@pytest.mark.parametrize(
    ("label", "left_out"), [([1, 1, 1, 1, 1], 1.0), ([2], 1.0), ([-1, -1], 0.0), ([-1, 3, 3], 1.0), ([0, 1, -1], 0.0)]
)
def test_images_without_distractors_are_left_out(label, left_out):
    model = double(Deep())
    torch.manual_seed(11)
    loss, terms = Guided(model, [CE(), GC()], 12)(batch(label))
    loss.backward()
    assert terms["gc_left_out"].item() == left_out
    assert (terms["gc"].item() == 0) == (left_out == 1 or set(label) == {-1})
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_several_classes_per_image(monkeypatch):
    """Image 4 shows every class and distracts from nothing; image 5 shows none and takes no part."""
    shown = [[0, 4], [2], [3], [1], [0, 1, 2, 3, 4], []]
    label = torch.tensor([[float(c in classes) for c in range(5)] for classes in shown]).double()
    plans, drawn, labels = planned(monkeypatch), [], module._labels
    monkeypatch.setattr(module, "_labels", lambda *args: drawn.append(labels(*args)) or drawn[-1])
    guided = Guided(double(Residual(classes=5)).eval(), [CE(), GC()], 12)
    for seed in range(30):
        torch.manual_seed(seed)
        loss, terms = guided(batch(label))
        assert torch.isfinite(loss)
        assert terms["gc_left_out"] == 0
        (group, *others), target = plans[-1].layout, drawn[-1][1].tolist()
        assert all(target[i] in shown[i] for i in range(5))
        assert sorted(group) == [0, 1, 2, 3]
        assert all(target[4] not in shown[i] for own in others for i in own if i != 4)
        assert all(5 not in row for row in plans[-1].layout)
    assert {target[0].item() for _, target in drawn} == {0, 4}


def strided():
    """A network whose maps have half of the image's size, or one position more where that is odd."""
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
    )


@pytest.mark.parametrize("official", [False, True])
def test_maps_that_do_not_fit_are_resized_first_or_scaled_first(official):
    """An image of 9 has a map of 5, its composite of 18 one of 9."""
    maps, drawn = torch.rand(2, 5, 5), torch.rand(2, 9, 9)
    a, b = GC(official_alexnet=official)._fitted(maps, drawn, (9, 9))
    order = (lambda m, s: resize(normalize(m), s)) if official else (lambda m, s: normalize(resize(m, s)))
    torch.testing.assert_close(a, order(maps, (9, 9)))
    torch.testing.assert_close(b, order(drawn, (18, 18)))
    if not official:
        torch.testing.assert_close(b.sum((1, 2)), torch.ones(2))
    loss = Guided(double(strided()), [CE(), GC(official_alexnet=official)], 9)(batch([0, 1, 2, 3], (9, 9)))[0]
    assert torch.isfinite(loss)


def test_half_cells_by_hand():
    """A map's four quarters, each of one value, become the four positions of its cell."""
    maps = torch.tensor([[1.0, 2], [3, 4]]).kron(torch.ones(2, 2)).unsqueeze(0)
    a, b = GC(cells="half")._fitted(maps, torch.ones(1, 4, 4), (8, 8))
    torch.testing.assert_close(a, torch.tensor([[[0.1, 0.2], [0.3, 0.4]]]))
    torch.testing.assert_close(b, torch.full((1, 4, 4), 1 / 16))
    a, b = GC(cells="half")._fitted(torch.rand(1, 7, 7), torch.rand(1, 7, 7), (28, 28))
    assert a.shape[1:] == (28, 28)
    assert b.shape[1:] == (56, 56)


def test_half_cells_keep_the_images_size():
    model, seen = double(Residual()).eval(), []
    guided = Guided(model, [CE(), GC(cells="half")], 12)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    on = batch([0, 1, 2, 3])
    assert torch.isfinite(guided(on)[0])
    image, shrunk = seen
    assert image.shape == (4, 3, 12, 12)
    assert shrunk.shape == (1, 3, 12, 12)
    order = [next(i for i in range(4) if torch.allclose(F.avg_pool2d(on.image, 2)[i], part)) for part in (
        shrunk[0, :, :6, :6], shrunk[0, :, :6, 6:], shrunk[0, :, 6:, :6], shrunk[0, :, 6:, 6:]
    )]  # fmt: skip
    assert sorted(order) == [0, 1, 2, 3]


@pytest.mark.parametrize("cells", ["full", "half"])
def test_transformers_of_one_size(cells):
    repair_torchvision()
    pytest.importorskip("timm")
    model = load_model("timm:vit_tiny_patch16_224", num_classes=4, arguments={"img_size": 64, "depth": 2}).double()
    if cells == "full":
        with pytest.raises(SightlineError, match='cells="half"'):
            Guided(model, [CE(), GC()], 64)
        return
    loss, terms = Guided(model, [CE(), GC(cells="half")], 64)(batch([0, 1, 2, 3], (64, 64)))
    loss.backward()
    assert terms["gc"].item() > 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_check_of_sizes_leaves_the_model_alone():
    model = double(Residual())
    model.stem.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    GC(layer="body").bind(model, 12)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in (model, model.stem, model.body)] == [True, False, True]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("cells", ["full", "half"])
@pytest.mark.parametrize(
    ("net", "size", "shape"), [(Volume, (4, 8, 12), (1, 4, 8, 12)), (Views, (3, 8, 12), (3, 1, 8, 12))]
)
def test_volumes_and_views(net, size, shape, cells, monkeypatch):
    model, plans = double(net()), planned(monkeypatch)
    on = batch([0, 1, 2, 3, 0])._replace(image=torch.rand(5, *shape, dtype=torch.float64))
    seen = []
    guided = Guided(model, [CE(), GC(cells=cells)], size)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loss, terms = guided(on)
    assert terms["gc"].item() > 0
    assert torch.isfinite(loss)
    grown = (8, 12) if cells == "half" else (16, 24)
    assert seen[1].shape == (2, *shape[:-2], *grown)
    if cells == "full":
        torch.testing.assert_close(seen[1][0, ..., :8, 12:], on.image[plans[0].layout[0][1]])


def test_composites_teach_no_running_statistics_if_told_so():
    on, buffers = batch([0, 1, 2, 3]), {}
    for name, objectives in {
        "ce": [CE()],
        "all": [CE(), GC(bn_update="all")],
        "clean": [CE(), GC(bn_update="clean")],
    }.items():
        model = double(Residual())
        Guided(model, objectives, 12)(on)
        buffers[name] = [b.clone() for b in model.buffers()]
    assert all(map(torch.equal, buffers["ce"], buffers["clean"]))
    assert not all(map(torch.equal, buffers["ce"], buffers["all"]))


def test_a_sum_is_a_mean_times_its_positions():
    on, model = batch([0, 1, 2, 3, 3]), double(Residual()).eval()
    mean, total = (terms_of(model, GC(reduction=r, layer="body"), on)["gc"] for r in ("mean", "sum"))
    torch.testing.assert_close(total, mean * 24 * 24)
    assert 0 < total.item() <= 2 + 1e-4
