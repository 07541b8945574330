"""CFCN for several labels: by hand, by reference values; and on the networks it is made for."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from nets import Deep, Views, Volume, double
from numeric import directional
from sightline import Guided, record
from sightline.models import ConvNet
from sightline.objectives import CE, CFCN, causal_focus_loss
from sightline.types import Batch

TWO_BY_TWO = torch.tensor([[[[1.0, 3.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]]])
"""The maps of three classes on one image."""
MASKS = torch.tensor([[[[0.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])


class Maps(nn.Sequential):
    """Takes the maps of its classes for an image: its logits are their averages."""

    def __init__(self):
        super().__init__(
            OrderedDict(maps=nn.Identity(), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())  # type: ignore
        )


def loss_on_maps(maps, label, mask, *objectives, has_mask=None):
    has_mask = torch.ones(len(maps), dtype=torch.bool) if has_mask is None else has_mask
    guided = Guided(Maps(), objectives, maps.shape[2:])
    return guided(Batch(maps, label, mask, has_mask, torch.arange(len(maps))))[0]


def several(count=6, classes=4, size=12, shared=False):
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(count, 3, size, size, generator=generator, dtype=torch.float64)
    label = (torch.rand(count, classes, generator=generator) > 0.5).double()
    mask = (torch.rand(count, *[classes] * (not shared), size, size, generator=generator) > 0.5).double()
    return Batch(image, label, mask, torch.arange(count) % 3 != 2, torch.arange(count))


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("absent", ["literal", "ignore"])
def test_several_labels_against_reference(name, absent, oracle):
    reference = oracle(f"loss_cfcn_{name}")
    maps, label, mask = (torch.tensor(reference[key]).double() for key in ("maps_c", "ml_labels", "ml_masks"))
    maps.requires_grad_()
    loss = loss_on_maps(maps, label, mask, CFCN("C", layer="maps", absent=absent))
    assert loss.item() == pytest.approx(float(reference[f"ml_loss_{'literal' if absent == 'literal' else 'present'}"]))
    alpha = reference["meta"]["alpha"]
    if absent == "ignore":
        gradient = torch.autograd.grad(loss, maps)[0]
        np.testing.assert_allclose(gradient, reference["grad_ml_present_maps"], atol=1e-9)
        total = loss_on_maps(maps, label, mask, CE(), CFCN("C", weight=alpha, layer="maps"))
        assert total.item() == pytest.approx(float(reference["ml_total_present"]))
        gradient = torch.autograd.grad(total, maps)[0]
        np.testing.assert_allclose(gradient, reference["grad_ml_total_maps"], atol=1e-9)


@pytest.mark.parametrize("name", ["a", "b"])
def test_gradients_against_reference(name, oracle):
    reference = oracle(f"loss_cfcn_{name}")
    suffix = "" if "f_loss" in reference else "__up"
    maps = {key: torch.tensor(reference[f"maps_{key}"]).requires_grad_() for key in "fc"}
    labels, masks = torch.tensor(reference["labels"]), torch.tensor(reference["masks"])
    has_mask = torch.tensor(reference["has_mask"])
    for variant in "fc":
        objective = CFCN(variant.upper(), layer="maps")
        loss = loss_on_maps(maps[variant], labels, masks, objective, has_mask=has_mask)
        assert loss.item() == pytest.approx(float(reference[f"{variant}_loss{suffix}"]))
        gradient = torch.autograd.grad(loss, maps[variant])[0]
        np.testing.assert_allclose(gradient, reference[f"grad_{variant}_loss_maps{suffix}"], atol=1e-9)


@pytest.mark.parametrize(
    ("label", "absent", "expected"),
    [
        ([1.0, 1.0, 0.0], "ignore", (1 / 4 + 1) / 2),
        ([1.0, 0.0, 0.0], "ignore", 1 / 4),
        ([0.0, 0.0, 0.0], "ignore", 0),
        ([1.0, 1.0, 0.0], "literal", (1 / 4 + 1 + 1) / 3),
        ([0.0, 1.0, 1.0], "literal", 1),
        ([0.0, 0.0, 0.0], "literal", 1),
    ],
)
def test_several_labels_by_hand(label, absent, expected):
    maps = TWO_BY_TWO.clone().requires_grad_()
    loss = loss_on_maps(maps, torch.tensor([label]), MASKS, CFCN("C", layer="maps", absent=absent))
    assert loss.item() == pytest.approx(expected)
    shared = loss_on_maps(maps, torch.tensor([label]), MASKS[:, 0], CFCN("C", layer="maps"))
    assert shared.item() == pytest.approx((label[0] / 4 + label[2] / 4) / max(sum(label), 1))


def test_each_map_may_have_its_own_mask():
    outside = causal_focus_loss(TWO_BY_TWO, MASKS)
    assert outside.item() == pytest.approx((1 / 4 + 1 + 1) / 3)
    present = torch.tensor([[True, False, False]])
    assert causal_focus_loss(TWO_BY_TWO, MASKS, present=present).item() == pytest.approx(1 / 4)
    assert causal_focus_loss(TWO_BY_TWO, MASKS, present=~present).item() == pytest.approx(1)
    assert causal_focus_loss(TWO_BY_TWO, MASKS, present=present & ~present).item() == 0


def test_variant_f_takes_the_union_of_the_masks_of_the_classes_present():
    label = torch.tensor([[1.0, 1.0, 0.0]])
    masks = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]])
    maps = TWO_BY_TWO.clone().requires_grad_()
    assert loss_on_maps(maps, label, masks, CFCN("F", layer="maps")).item() == pytest.approx((3 / 4 + 0 + 1 / 2) / 3)


@pytest.mark.parametrize("variant", ["F", "C"])
@pytest.mark.parametrize("shared", [True, False])
def test_several_labels_reach_every_weight(variant, shared):
    model, batch = double(Deep()), several(shared=shared)
    guided = Guided(model, [CE(), CFCN(variant, weight=3)], 12)
    guided(batch)[0].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    analytic, numeric = directional(lambda: guided(batch)[0], model)
    assert analytic == pytest.approx(numeric, rel=1e-5)


def test_one_label_of_several_is_as_one_label():
    model, batch = double(Deep()), several()
    one = torch.arange(6) % 4
    many = batch._replace(label=nn.functional.one_hot(one, 4).double())
    for variant in ("F", "C"):
        guided = Guided(model, [CE(), CFCN(variant)], 12)
        torch.testing.assert_close(guided(batch._replace(label=one))[1]["cfcn"], guided(many)[1]["cfcn"])


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_nothing_and_everything_present(label):
    batch = several()
    guided = Guided(double(Deep()), [CE(), CFCN()], 12)
    loss, terms = guided(batch._replace(label=torch.full_like(batch.label, label)))
    loss.backward()
    assert torch.isfinite(loss)
    assert (terms["cfcn"] == 0) == (label == 0)


@pytest.mark.parametrize("variant", ["F", "C"])
def test_unlabelled_images_have_no_map_of_their_own(variant):
    batch = several(shared=True)._replace(label=torch.tensor([0, 1, 2, 3, 0, 1]), has_mask=torch.ones(6).bool())
    hidden = batch._replace(label=torch.tensor([0, 1, 2, -1, -1, -1]))
    guided = Guided(double(Deep()), [CE(), CFCN(variant)], 12)
    without = hidden._replace(has_mask=hidden.label >= 0)
    terms = [guided(b)[1]["cfcn"] for b in (batch, hidden, without)]
    assert (terms[0] == terms[1]) == (variant == "F")
    assert (terms[1] == terms[2]) == (variant == "C")
    own = hidden._replace(mask=several().mask)
    assert guided(own)[1]["cfcn"] == guided(own._replace(has_mask=own.label >= 0))[1]["cfcn"]


@pytest.mark.parametrize("absent", ["ignore", "literal"])
@pytest.mark.parametrize(("variant", "shared"), [("F", False), ("C", False), ("C", True)])
def test_images_whose_several_labels_are_hidden_count_nothing(variant, shared, absent):
    batch = several(shared=shared)._replace(has_mask=torch.ones(6).bool())
    batch.label[3:] = -1
    guided = Guided(double(Deep()), [CE(), CFCN(variant, absent=absent)], 12)
    shown = batch._replace(has_mask=torch.arange(6) < 3)
    assert guided(batch)[1]["cfcn"] == guided(shown)[1]["cfcn"] > 0


@pytest.mark.parametrize("variant", ["F", "C"])
@pytest.mark.parametrize(("net", "shape"), [(Volume, (1, 6, 8, 8)), (Views, (3, 1, 8, 8))])
def test_volumes_and_views(net, shape, variant):
    model = double(net())
    spatial = shape[1:] if net is Volume else (shape[0], *shape[2:])
    image = torch.rand(2, *shape, dtype=torch.float64)
    mask = (torch.rand(2, *spatial) > 0.5).double()
    batch = Batch(image, torch.tensor([1, 3]), mask, torch.tensor([True, True]), torch.arange(2))
    guided = Guided(model, [CE(), CFCN(variant, layer="body", dead="ignore")], spatial)
    analytic, numeric = directional(lambda: guided(batch)[0], model)
    assert analytic == pytest.approx(numeric, rel=1e-5)
    filled = batch._replace(mask=torch.ones_like(mask))
    assert guided(filled)[1]["cfcn"] < 1e-5 < guided(batch)[1]["cfcn"]


def test_eq_3_on_the_papers_network_is_about_the_class_maps_themselves():
    """Logits that average the maps before ReLU, as several labels need them: eq. 3 is literal up to eps."""
    net = ConvNet("cfcn_c", 4, filters=(5,), stride_every=0, logit_from="raw").double()
    batch = several()
    run = record(net, batch.image, taps=["maps"])
    torch.testing.assert_close(run.logits, run.tap("maps").mean((2, 3)))
    assert (run.logits < 0).any()
    term = Guided(net, [CFCN("C", layer="maps")], 12)(batch)[1]["cfcn"]
    expected = causal_focus_loss(run.tap("maps").relu(), batch.mask, present=batch.label > 0)
    torch.testing.assert_close(term, (expected * batch.has_mask).mean().detach(), rtol=1e-5, atol=0)
