"""PPI against reference values, by hand, against loops over single images, and by finite differences."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import images, rebuild_net
from nets import Deep, Views, Volume, double
from numeric import directional
from sightline import Guided
from sightline.errors import SightlineError
from sightline.explainers import LRP, WBP, GradCAM, Gradient
from sightline.maps import (
    adaptive_threshold,
    hard_box,
    hard_points,
    rescaled,
    soft_mask,
    top_k_threshold,
)
from sightline.objectives import CE, PPI, Scheduled, contrast_loss, ppi
from sightline.types import Batch

MODES = ["soft", "soft_adaptive", "soft_topk", "hard_point", "hard_box"]
K = {"soft_adaptive": "k_ad", "soft_topk": "k_top", "hard_point": "k_hard", "hard_box": "k_box"}
PAPER = {"ppi_con": 1.0, "ppi_reg": 0.1, "ppi_ad": 1.0}


def batch(count=5, shape=(3, 12, 12), label=None):
    generator = torch.Generator().manual_seed(4)
    image = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    spatial = shape[1:] if len(shape) == 3 or shape[0] == 1 else (shape[0], *shape[2:])
    label = torch.arange(count) % 4 if label is None else label
    return Batch(image, label, torch.ones(count, *spatial), torch.zeros(count).bool(), torch.arange(count))


def terms(net, objective, on, size=12):
    return Guided(net, [objective], size)(on)[1]


def gradients(loss, net):
    return torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True)


class Given:
    """An explainer of whatever one likes."""

    taps, ruled = (), False

    def __init__(self, maps):
        self.maps = maps

    def __call__(self, run, target=None, *, differentiable=False):
        return self.maps


def removed(net, maps, **arguments):
    """The mask made of `maps`: what is missing in the image of ones that the network classifies next."""
    seen = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    on = batch(len(maps))._replace(image=torch.ones_like(maps))
    Guided(net, [PPI(Given(maps), w2=0, w3=0, **arguments)], 8)(on)
    return 1 - seen[-1]


@pytest.fixture
def reference(request, oracle, monkeypatch):
    """(reference values, network, batch) of one file, whose partners every image then has."""
    values = oracle(f"loss_ppi_{request.param}")
    meta = values["meta"]
    x, labels, partner = images(meta), torch.tensor(values["labels"]), torch.tensor(values["partner"])
    if "zero_image" in meta:
        x[meta["zero_image"]] = 0
    monkeypatch.setattr(ppi, "partners", lambda known, generator: partner)
    return values, rebuild_net(meta), batch(len(x))._replace(image=x, label=labels)


each_file = pytest.mark.parametrize("reference", ["a", "a_zero", "b_train"], indirect=True)


def setting(values, mode, **others):
    """The arguments behind the values of one mask."""
    meta = values["meta"]
    if mode not in meta.get("modes", MODES):
        pytest.skip("this reference has other masks")
    weights = dict(zip(("w1", "w2", "w3"), meta["w"], strict=True))
    return weights | {"mask": mode, "k": meta[K[mode]] if mode in K else None} | others


def expect_norms(loss, net, values, name):
    found = gradients(loss, net)
    np.testing.assert_allclose([g.norm() for g in found], values[f"{name}_gradnorm"], rtol=1e-9, atol=1e-10)
    for (parameter, _), gradient in zip(net.named_parameters(), found, strict=True):
        if (full := f"{name}_grad__{parameter}") in values:
            np.testing.assert_allclose(gradient, values[full], rtol=1e-8, atol=1e-10)


@each_file
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("contrast", ["capped", "one_vs_others", "uncapped"])
def test_values_and_gradients_against_reference(reference, mode, contrast):
    values, net, on = reference
    soft = mode.startswith("soft")
    for moves in {soft, False}:
        objective = PPI(**setting(values, mode, contrast=contrast, differentiable=moves))
        loss, found = Guided(net, [CE(), objective], 24)(on)
        for term, expected in {
            "ce": "L_cls",
            "ppi_con": f"{mode}__L_con_{contrast}",
            "ppi_reg": "L_reg",
            "ppi_ad": f"{mode}__L_ad",
        }.items():
            assert found[term].item() == pytest.approx(float(values[expected]), rel=1e-10)
        assert loss.item() == pytest.approx(float(values[f"{mode}__total_{contrast}"]), rel=1e-10)
        assert found["ppi_empty"].item() == pytest.approx(1 - len(values[f"{mode}__kept"]) / len(on.image), abs=1e-6)
        if contrast != "uncapped":
            expect_norms(loss, net, values, f"{mode}__{contrast}__{'diff' if moves else 'const'}")


@each_file
def test_single_terms_against_reference(reference):
    values, net, on = reference
    for name, objective in {
        "L_reg": PPI(w1=0, w2=1, w3=0),
        "soft__L_con_uncapped__diff": PPI(w1=1, w2=0, w3=0, contrast="uncapped"),
    }.items():
        expect_norms(Guided(net, [objective], 24)(on)[0], net, values, name)
    same = terms(net, PPI(ad_target="same"), on, 24)["ppi_ad"]
    assert same.item() == pytest.approx(float(values["soft__L_ad_same_class"]), rel=1e-10)
    for reg, expected in [("raw_sum", values["raw_l1_per_image"].mean()), ("mask", values["mask_mean"].mean())]:
        assert terms(net, PPI(reg=reg), on, 24)["ppi_reg"].item() == pytest.approx(expected, rel=1e-10)


@each_file
def test_masks_against_reference(reference):
    values, _, _ = reference
    meta, s = values["meta"], torch.tensor(values["s"])
    positive, peak = rescaled(s), values["s_bar_max"].clip(1e-8).reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(positive, values["s"].clip(0) / peak)
    np.testing.assert_allclose(soft_mask(positive), values["mask__soft"], rtol=1e-9)
    adaptive, expected = adaptive_threshold(positive, meta["k_ad"]).flatten(), values["sigma_adaptive"]
    np.testing.assert_allclose(adaptive, expected, atol=1e-12)
    np.testing.assert_allclose(top_k_threshold(positive, meta["k_top"]).flatten(), values["sigma_topk"])
    assert (hard_points(s, meta["k_hard"]).numpy() == values["mask__hard_point"]).all()
    box = hard_box(hard_points(s, meta["k_box"]).sum(1))
    assert (box.unsqueeze(1).numpy() == values["mask__hard_box"]).all()
    for inside, (top, bottom, left, right) in zip(box, values["box"], strict=True):
        expected = torch.zeros_like(inside)
        if top >= 0:
            expected[top : bottom + 1, left : right + 1] = True
        assert torch.equal(inside, expected)


@pytest.mark.parametrize("reference", ["b_train"], indirect=True)
@pytest.mark.parametrize("bn_update", ["clean", "all"])
def test_running_statistics_against_reference(reference, bn_update):
    values, net, on = reference
    Guided(net, [CE(), PPI(bn_update=bn_update)], (28, 32))(on)
    names = [name for name in values if name.startswith("after_clean__")]
    after = {name: net.get_buffer(name.removeprefix("after_clean__")).numpy() for name in names}
    assert len(names) == 6
    assert all(np.allclose(after[name], values[name], rtol=1e-12) for name in names) == (bn_update == "clean")


def test_saliency_by_hand():
    s = torch.tensor([[[1.0, -4.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]).double()
    assert rescaled(s)[0].tolist() == [[0.5, 0], [1, 0]]
    assert rescaled(s, "abs_max")[0].tolist() == [[0.25, 1], [0.5, 0]]
    assert rescaled(s, "minmax")[0].tolist() == [[5 / 6, 0], [1, 4 / 6]]
    assert rescaled(s, "none") is s
    for how in ("max", "abs_max", "minmax"):
        assert not rescaled(s, how)[1].any()


def test_the_largest_saliency_is_held_constant():
    s = torch.tensor([[3.0, 1.0, -1.0]], requires_grad=True)
    for how, expected in [("max", [1 / 3, 1 / 3, 0]), ("abs_max", [1 / 3, 1 / 3, -1 / 3]), ("minmax", [1 / 4] * 3)]:
        (gradient,) = torch.autograd.grad(rescaled(s, how).sum(), s)
        assert gradient[0].tolist() == pytest.approx(expected)


def test_thresholds_by_hand():
    s = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]]).double()
    assert soft_mask(s, 0.25, 4)[0].flatten().tolist() == pytest.approx(
        [1 / (1 + math.exp(1)), 1 / (1 + math.exp(-3)), *[1 / (1 + math.exp(-1))] * 2]
    )
    deviation = math.sqrt(0.125)
    assert adaptive_threshold(s, 1).shape == (1, 1, 1)
    assert adaptive_threshold(s, 1).item() == pytest.approx(0.5 + deviation)
    assert 0.999 < adaptive_threshold(s, 7).item() < 1
    assert [top_k_threshold(s, k).item() for k in (1, 2, 3, 4, 5)] == [1, 0.5, 0.5, 0, 0]


def test_points_and_box_by_hand():
    s = torch.tensor([[[[3.0, -3.0], [1.0, -1.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    assert hard_points(s, 1)[0, 0].tolist() == [[True, False], [False, False]]  # the deviation is sqrt 5
    assert hard_points(s, 1, signed=False)[0, 0].tolist() == [[True, True], [False, False]]
    assert hard_points(s, 0.4)[0, 0].tolist() == [[True, False], [True, False]]
    assert not hard_points(s, 0)[1].any()
    points = torch.zeros(3, 6, 9)
    points[0, 2, 2] = 1  # alone
    points[1, 1, 4] = points[1, 3, 4] = 1  # rows 2 +- 1.2, column 4
    box = hard_box(points)
    assert box[0].nonzero().tolist() == [[2, 2]]
    assert torch.equal(box[1].nonzero().unique(dim=0), torch.cartesian_prod(torch.arange(5), torch.tensor([4])))
    assert not box[2].any()
    points[1, 1, 4] = 3  # centre 1.5, deviation sqrt 3 / 2
    assert hard_box(points)[1].nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    assert hard_box(points[:, 2]).shape == (3, 9)


def test_contrast_by_hand():
    """Probabilities 3/4 and 1/8 of the label among three classes, chance is 1/3."""
    logits = torch.tensor([[0.75, 0.125, 0.125], [0.125, 0.75, 0.125]]).double().log()
    label = torch.tensor([0, 0])
    assert contrast_loss(logits, label).tolist() == pytest.approx([math.log(3 / 4), math.log(1 / 3)])
    assert contrast_loss(logits, label, "uncapped").tolist() == pytest.approx([math.log(3 / 4), math.log(1 / 8)])
    assert contrast_loss(logits, label, "one_vs_others").tolist() == pytest.approx([-math.log(1 / 4), -math.log(7 / 8)])
    logits, label = torch.randn(6, 2), torch.arange(6) % 2
    flipped = F.cross_entropy(logits, 1 - label, reduction="none")
    torch.testing.assert_close(contrast_loss(logits, label, "one_vs_others"), flipped)


def test_contrast_stays_finite_where_the_class_is_certain():
    logits = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    for contrast, expected in [("capped", [0, 0, 0]), ("one_vs_others", [1, -1, 0])]:
        loss = contrast_loss(logits, torch.tensor([0]), contrast).sum()
        assert torch.autograd.grad(loss, logits)[0][0].tolist() == pytest.approx(expected, abs=1e-6)


def test_every_known_image_has_another_as_partner():
    known = torch.tensor([True, False, True, True, False])
    drawn = [ppi.partners(known, torch.Generator().manual_seed(seed)).tolist() for seed in range(20)]
    assert {tuple(partner) for partner in drawn} == {(2, 1, 3, 0, 4), (3, 1, 0, 2, 4)}
    assert ppi.partners(torch.tensor([False, True])).tolist() == [0, 1]
    assert ppi.partners(torch.tensor([True, True])).tolist() == [1, 0]


def slow_saliency(net, image, target):
    """WBP of one image in a network of convolutions, ReLU, pools and linear layers: x times the logit's gradient."""
    x = image.unsqueeze(0).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[0, target], x, create_graph=True)
    return image * gradient[0]


def slow_mask(s, mode, k):
    entries = sorted(s.detach().flatten().tolist())
    count, peak = s.numel(), entries[-1]
    deviation = math.sqrt(sum((e - sum(entries) / count) ** 2 for e in entries) / count)
    if mode == "hard_point":
        return (s.detach() > k * deviation).double()
    if mode == "hard_box":
        points = (s.detach() > k * deviation).nonzero().double()[:, 1:]
        mask = torch.zeros_like(s)
        low = (points.mean(0) - 1.2 * points.std(0, correction=0)).floor().clamp(min=0).long()
        high = (points.mean(0) + 1.2 * points.std(0, correction=0)).ceil().long()
        mask[:, low[0] : high[0] + 1, low[1] : high[1] + 1] = 1
        return mask
    bar = s.relu() / peak
    sigma = {"soft": 0.25, "soft_topk": max(entries[-int(k or 1)], 0) / peak}.get(mode)
    if sigma is None:
        values = bar.detach().flatten()
        sigma = float(values.mean() + k * values.std(correction=0))
    return 1 / (1 + torch.exp(-100 * (bar - sigma)))


def slow(net, on, mode, k, shift, fill):
    """The three terms, one image at a time."""
    labelled = [i for i, label in enumerate(on.label) if label >= 0]
    con, reg, foreign, masks = [], [], [], {}
    for i in labelled:
        s = slow_saliency(net, on.image[i], on.label[i])
        masks[i] = slow_mask(s, mode, k)
        reg.append((s.relu() / s.detach().max()).sum() / s.numel())
    for place, i in enumerate(labelled):
        other = masks[labelled[(place + shift) % len(labelled)]].detach()
        x, label = on.image[i], on.label[i]
        without = net((x - masks[i] * (x - fill)).unsqueeze(0))[0].softmax(0)[label]
        con.append(torch.maximum(without.log(), torch.tensor(0.25).double().log()))
        foreign.append(-net((x - other * (x - fill)).unsqueeze(0))[0].softmax(0)[label].log())
    return {
        "ppi_con": sum(con) / len(con),
        "ppi_reg": sum(reg) / len(reg),
        "ppi_ad": sum(foreign) / len(foreign),
    }


@pytest.mark.parametrize(
    ("mode", "k"), [("soft", None), ("soft_adaptive", 2), ("soft_topk", 20), ("hard_point", 2), ("hard_box", 2)]
)
@pytest.mark.parametrize("label", [None, torch.tensor([1, -1, 0, 3, -1, 2])])
def test_values_and_gradients_against_loops(mode, k, label, monkeypatch):
    monkeypatch.setattr(ppi, "partners", lambda known, _: partners(known, 2))
    on, net = batch(6, label=label), double(Deep())
    fill = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).view(3, 1, 1)
    loss, found = Guided(net, [PPI(mask=mode, k=k, fill=[0.1, 0.2, 0.3])], 12)(on)
    expected = slow(net, on, mode, k, 2, fill)
    assert {name: found[name].item() for name in PAPER} == pytest.approx({n: v.item() for n, v in expected.items()})
    total = sum(weight * expected[name] for name, weight in PAPER.items())
    for got, want in zip(gradients(loss, net), gradients(total, net), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-11)


def partners(known, shift):
    ring, partner = known.nonzero().flatten(), torch.arange(len(known))
    partner[ring] = ring.roll(-shift)
    return partner


EXACT = {"sigma": 0.002, "omega": 50.0, "scale": "none", "ad_detach": False}


@pytest.mark.parametrize("explainer", [WBP(reduce=None), Gradient(None), Gradient(), GradCAM(), LRP()])
@pytest.mark.parametrize("reg", ["mean", "raw_sum", "mask", "all_classes"])
def test_gradients_agree_with_finite_differences(explainer, reg):
    net = double(Deep()).eval()
    guided = Guided(net, [PPI(explainer, reg=reg, ad_target="same", contrast="uncapped", **EXACT)], 12)

    def loss():
        torch.manual_seed(1)
        return guided(batch())[0]

    analytic, numeric = directional(loss, net)
    assert analytic == pytest.approx(numeric, rel=1e-6)
    assert abs(numeric) > 1e-6


def test_a_constant_mask_keeps_its_gradient_to_itself():
    """Differentiable or not, the terms are the same; what differs is the gradient, and L_reg has one either way."""
    net, on = double(Deep()), batch()
    torch.manual_seed(1)
    loss, moving = Guided(net, [PPI()], 12)(on)
    torch.manual_seed(1)
    constant_loss, constant = Guided(net, [PPI(differentiable=False)], 12)(on)
    assert moving == constant
    assert not torch.equal(gradients(loss, net)[0], gradients(constant_loss, net)[0])
    alone = Guided(net, [PPI(w1=0, w3=0, differentiable=False)], 12)(on)[0]
    assert gradients(alone, net)[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("objective", "second"),
    [
        (PPI(), True),
        (PPI(differentiable=False), True),
        (PPI(differentiable=False, w2=0), False),
        (PPI(mask="hard_box", w2=0), False),
        (PPI(mask="hard_box"), True),
    ],
)
def test_second_order_only_where_it_is_needed(objective, second):
    asked, explainer = [], objective.explainers[0]

    class Asked(WBP):
        def __call__(self, run, target=None, *, differentiable=False):
            asked.append(differentiable)
            return explainer(run, target, differentiable=differentiable)

    objective.explainers = (Asked(detach=True, reduce=None),)
    Guided(double(Deep()), [CE(), objective], 12)(batch())
    assert asked == [second]


@pytest.mark.parametrize(("net", "shape", "size"), [(Volume, (1, 6, 8, 8), (6, 8, 8)), (Views, (3, 1, 8, 8), 8)])
@pytest.mark.parametrize("explainer", [None, Gradient(), GradCAM("body")])
@pytest.mark.parametrize("mask", MODES)
def test_volumes_and_several_views(net, shape, size, explainer, mask):
    model = double(net())
    objective = PPI(explainer, mask, k=None if mask == "soft" else 1)
    loss, found = Guided(model, [CE(), objective], size)(batch(4, shape))
    loss.backward()
    assert found["ppi_con"] < 0 < found["ppi_ad"]
    assert found["ppi_empty"] < 1
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in model.parameters())


def test_each_view_has_its_own_box():
    maps = torch.zeros(2, 3, 1, 8, 8)
    maps[0, 0, 0, 1:3, 1:3] = maps[0, 1, 0, 5, 6] = maps[1, 2, 0, 0, 7] = 1
    expected = torch.zeros_like(maps)
    expected[0, 0, 0, :4, :4] = expected[0, 1, 0, 5, 6] = expected[1, 2, 0, 0, 7] = 1  # 1.5 +- 0.6, outwards: 0 to 3
    assert torch.equal(removed(Views(), maps, mask="hard_box", k=1), expected)


def test_a_volume_has_a_box_along_every_axis():
    maps = torch.zeros(1, 2, 5, 6, 7)
    maps[0, 0, 1, 2, 3] = maps[0, 1, 3, 2, 3] = 1
    net = nn.Sequential(nn.Conv3d(2, 1, 1), nn.Flatten(), nn.Linear(210, 4))
    box = removed(net, maps, mask="hard_box", k=1)
    assert box.nonzero().tolist() == [[0, c, d, 2, 3] for c in (0, 1) for d in range(5)]  # 2 +- 1.2


@pytest.mark.parametrize(("weighted", "expected"), [(False, range(1, 14)), (True, range(8))])
def test_a_weighted_box_leans_to_the_larger_saliency(weighted, expected):
    """Points at 2 and 12: 7 +- 6, or with weights 9 and 1 around 3 +- 3.6."""
    maps = torch.zeros(1, 1, 1, 20)
    maps[..., 2], maps[..., 12] = -9, -1
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(20, 4))
    box = removed(net, maps, mask="hard_box", k=0, signed=False, weighted=weighted)
    assert box.flatten().nonzero().flatten().tolist() == list(expected)


@pytest.mark.parametrize("mode", MODES)
def test_where_nothing_speaks_for_the_class_nothing_is_removed(mode):
    """Three entries do in the first image, none in the second; there are not as many as top-k would take."""
    maps = -torch.rand(2, 3, 4, 4)
    maps[0, 0, :, 1] = torch.tensor([1.0, 0.9, 0.8, 0.0])
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten(), nn.Linear(16, 4))
    mask = removed(net, maps, mask=mode, k={"soft": None, "soft_topk": 9}.get(mode, 1))
    assert (mask[0, 0, :3, 1] > 0.9).all()
    assert (mask[1] < 1e-6).all()
    if mode != "hard_box":  # of all channels
        assert (mask[0, 1:] < 1e-6).all()


def test_maps_without_channels_stand_for_every_channel():
    """The same mask as of a map repeated in the image's shape, whatever the threshold counts."""

    class Repeated(Gradient):
        def __call__(self, run, target=None, *, differentiable=False):
            return super().__call__(run, target, differentiable=differentiable).unsqueeze(1).repeat(1, 3, 1, 1)

    for mode in MODES:
        found = []
        for explainer in (Gradient(), Repeated()):
            torch.manual_seed(1)
            found.append(terms(double(Deep()), PPI(explainer, mode, k=None if mode == "soft" else 2), batch()))
        assert found[0] == found[1]


@pytest.mark.parametrize("case", ["one image", "unlabelled", "black"])
@pytest.mark.parametrize("mask", MODES)
def test_what_cannot_count_is_zero_and_attached(case, mask):
    on = batch(1 if case == "one image" else 5, label=torch.full((5,), -1) if case == "unlabelled" else None)
    if case == "black":
        on.image.zero_()
    model = double(Deep())
    loss, found = Guided(model, [PPI(mask=mask, k=None if mask == "soft" else 1)], 12)(on)
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    zero = {"one image": {"ppi_ad"}, "unlabelled": {*PAPER, "ppi_empty"}, "black": {"ppi_con", "ppi_reg"}}[case]
    assert {name for name, value in found.items() if value == 0} >= zero
    assert (found["ppi_empty"] == 1) == (case == "black")


def test_unlabelled_images_count_in_no_term():
    net, on = double(Deep()), batch(4, label=torch.tensor([0, -1, 2, -1]))
    pair = batch(2)._replace(image=on.image[[0, 2]], label=on.label[[0, 2]])
    torch.testing.assert_close(terms(net, PPI(), on), terms(net, PPI(), pair))


@pytest.mark.parametrize(
    ("objective", "forwards"),
    [(PPI(), 3), (PPI(w1=0), 2), (PPI(w3=0), 2), (PPI(w1=0, w3=0), 1), (PPI(w1=Scheduled([0], [0]), w3=0), 2)],
)
def test_a_weight_of_zero_drops_its_term(objective, forwards):
    model, seen = double(Deep()), []
    guided = Guided(model, [objective], 12)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    guided.epoch = 0
    assert set(guided(batch())[1]) == {*objective.weights, "ppi_empty"}
    assert len(seen) == forwards


def test_the_papers_schedule():
    """100 times the contrast after 20 epochs."""
    guided = Guided(double(Deep()), [PPI(w1=Scheduled([0, 20], [1, 100]))], 12)
    losses = []
    for guided.epoch in (19, 20):
        torch.manual_seed(1)
        loss, found = guided(batch())
        losses.append(loss)
    assert (losses[1] - losses[0]).item() == pytest.approx(99 * found["ppi_con"].item())


@pytest.mark.parametrize("fill", [None, 0.25, [0.1, 0.2, 0.3]])
def test_what_is_removed_becomes_the_fill(fill):
    """A threshold below everything: x* and x' are the fill, or the mean that the network subtracts."""
    model, seen = double(Deep()), []
    model.normalise = nn.Identity()
    model.normalise.mean = torch.tensor([0.4, 0.5, 0.6]).double()
    guided = Guided(model, [PPI(sigma=-1, omega=1e4, fill=fill)], 12)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    guided(batch())
    expected = torch.tensor(model.normalise.mean.tolist() if fill is None else fill).double().view(-1, 1, 1)
    for masked in seen[1:]:
        torch.testing.assert_close(masked, expected.expand_as(masked))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision(dtype):
    """bfloat16 by autocast: terms close to float64's."""
    on = batch()
    expected = terms(double(Deep()), PPI(Gradient(None), omega=10), on)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        found = terms(double(Deep()).float(), PPI(Gradient(None), omega=10), on._replace(image=on.image.float()))
    for name in PAPER:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=0.1 if dtype is torch.bfloat16 else 1e-4)


def construct(**arguments):
    """As outside of the tests, which check types ahead of the constructor."""
    objective = PPI.__new__(PPI)
    inspect.unwrap(PPI.__init__)(objective, **arguments)
    return objective


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"w1": -1}, "'ppi_con' is -1"),
        ({"w2": math.nan}, "'ppi_reg' is nan"),
        ({"w3": math.inf}, "'ppi_ad' is inf"),
        ({"w1": 0, "w2": 0, "w3": 0}, "no term is left"),
        ({"mask": "soft_top"}, "Did you mean 'soft_topk'"),
        ({"contrast": "cap"}, "Did you mean 'capped'"),
        ({"scale": "maximum"}, "scale='maximum'"),
        ({"reg": "sum"}, "reg='sum'"),
        ({"ad_target": "other"}, "Known: 'own', 'same'"),
        ({"bn_update": "cleen"}, "Did you mean 'clean'"),
        ({"sigma": math.nan}, "sigma=nan"),
        ({"omega": 0}, "omega=0"),
        ({"mask": "hard_point", "k": -1}, "k=-1"),
        ({"k": 7}, "has no k"),
        ({"mask": "soft_topk", "k": 0.5}, "whole number from 1 up, not 0.5"),
        ({"mask": "soft_topk", "k": 0}, "whole number from 1 up, not 0"),
        ({"signed": False}, "signed=False is for hard masks"),
        ({"mask": "hard_point", "weighted": True}, "weighted=True is for"),
        ({"mask": "hard_point", "reg": "mask"}, "trains nothing"),
        ({"differentiable": False, "reg": "mask"}, "trains nothing"),
        ({"fill": math.inf}, "fill is inf"),
        ({"fill": [0.5, math.nan, 0]}, "not finite"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(SightlineError, match=message):
        construct(**arguments)


@pytest.mark.parametrize(
    ("objective", "label", "message"),
    [
        (PPI(fill=[0.1, 0.2]), None, "one value or 3, one per channel"),
        (PPI(), torch.ones(5, 4).double(), "one class per image"),
    ],
)
def test_bad_batches(objective, label, message):
    with pytest.raises(SightlineError, match=message):
        terms(double(Deep()), objective, batch(label=label))
