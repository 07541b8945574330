"""CGC beyond its formula: the ablation, unlabelled images, several views, warm-up, and bad arguments."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import images, rebuild_net
from nets import Deep, Residual, Views, Volume, double
from numeric import directional
from sightline import Guided, record
from sightline.errors import SightlineError
from sightline.explainers import GradCAM
from sightline.objectives import CE, CGC, Scheduled
from sightline.objectives.cgc import contrast, squared_gap, unit_pair
from sightline.types import Batch
from sightline.views import Crop


def batch(label=(0, 1, 2, 3, 0, 1), size=12):
    generator = torch.Generator().manual_seed(4)
    count = len(label)
    image = torch.rand(count, 3, size, size, generator=generator, dtype=torch.float64)
    return Batch(
        image, torch.tensor(label), torch.ones(count, size, size), torch.zeros(count).bool(), torch.arange(count)
    )


def seen_by(model):
    shapes = []
    model.register_forward_pre_hook(lambda _, inputs: shapes.append(len(inputs[0])))
    return shapes


def terms(model, on, *objectives, seed=1, epoch=None):
    guided = Guided(model, objectives, on.image.shape[2:])
    guided.epoch = epoch
    torch.manual_seed(seed)
    return guided(on)


def test_the_ablation_against_public_implementation(oracle):
    reference = oracle("cgc_resnet18_96")
    meta = reference["meta"]
    net, x = rebuild_net(meta), images(meta)
    rows = torch.tensor(reference["crop"]).long()
    crop = Crop(tuple(x.shape[2:]), rows[:, :2], rows[:, 2:4], rows[:, 4].bool())
    explainer = GradCAM("layer4", elementwise=True)
    runs = [record(net, view, taps=explainer.taps) for view in (x, crop.apply(x))]
    maps = [explainer(run, runs[0].target(), differentiable=True) for run in runs]
    loss = squared_gap(*unit_pair(*maps, crop)).mean()
    assert loss.item() == pytest.approx(float(reference["mse_loss"]), rel=1e-9)
    gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    norms = [0.0 if g is None else g.norm().item() for g in gradients]
    np.testing.assert_allclose(norms, reference["official_mse_gradnorm"], rtol=1e-8, atol=1e-14)


def test_the_ablation_by_hand():
    """Unit maps on different pixels of four are 2/4 apart, equal ones 0, and ones at 45 degrees (2 - sqrt(2))/4."""
    crop = Crop((2, 2), torch.zeros(3, 2).long(), torch.full((3, 2), 2), torch.zeros(3).bool())
    maps = torch.tensor([[[1.0, 0], [0, 0]], [[2, 0], [0, 0]], [[3, 0], [0, 0]]]).double()
    views = torch.tensor([[[0, 0], [0, 5.0]], [[7, 0], [0, 0]], [[1, 1], [0, 0]]]).double()
    expected = torch.tensor([1 / 2, 0, (2 - math.sqrt(2)) / 4]).double()
    torch.testing.assert_close(squared_gap(*unit_pair(maps, views, crop)), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("anchor", ["orig", "aug"])
def test_own_views_may_lie_anywhere_among_the_others(anchor):
    anchors, everyone = (F.normalize(torch.randn(5, 9, dtype=torch.float64)) for _ in range(2))
    whole = contrast(anchors, everyone, everyone, 0, 0.5, anchor)
    part = contrast(anchors[2:4], everyone[2:4], everyone, 2, 0.5, anchor)
    torch.testing.assert_close(part, whole[2:4])


def test_only_unlabelled_images_get_a_view():
    model = double(Residual()).eval()
    mixed = batch((0, -1, 2, -1, -1, 1))
    shapes = seen_by(model)
    _, found = terms(model, mixed, CE(), CGC(on="unlabelled"))
    assert shapes[1:] == [6, 3]  # the first is for finding the layer
    rows = (mixed.label < 0).nonzero().squeeze(1)
    alone = Batch(*(part[rows] for part in mixed))
    torch.testing.assert_close(found["cgc"], terms(model, alone, CE(), CGC())[1]["cgc"])
    assert found["cgc"] > 0.1
    expected = F.cross_entropy(model(mixed.image)[mixed.label >= 0], mixed.label[mixed.label >= 0])
    torch.testing.assert_close(found["ce"], expected.detach())


def test_without_unlabelled_images_the_term_is_zero_and_statistics_learn_nothing_from_the_stand_in():
    model = double(Residual())
    alone = double(Residual())
    loss, found = terms(model, batch(), CE(), CGC(on="unlabelled", weight=3))
    expected = terms(alone, batch(), CE())[0]
    assert found["cgc"] == 0
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for got, wanted in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(got.grad, wanted.grad)
    for got, wanted in zip(model.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("label", [(0, 1, 0, 1), (0, 1, 0, -1)])
def test_batchnorm_of_one_value_per_channel_gets_two_images(label):
    """The second one's view stands in, and does not count."""
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    model = double(torch.nn.Sequential(*body, torch.nn.Flatten(), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3)))
    shapes = seen_by(model)
    loss, found = terms(model.train(), batch(label), CE(), CGC(on="unlabelled"))
    assert shapes[1:] == [4, 2]
    assert found["cgc"] == 0  # one view has no other to be told from
    loss.backward()


def test_official_on_unlabelled_images_classifies_another_crop_of_the_labelled():
    model = double(Residual()).eval()
    mixed = batch((0, -1, 2, -1, -1, 1))
    shapes = seen_by(model)
    _, found = terms(model, mixed, CE(), CGC("official", on="unlabelled"))
    assert set(found) == {"ce", "cgc", "cgc_ce_xe"}
    assert shapes[1:] == [6, 3, 6]


@pytest.mark.parametrize("options", [{"on": "unlabelled"}, {"negatives": False, "weight": 100.0}, {"gather": False}])
def test_gradients_agree_with_finite_differences(options):
    model = double(Deep())
    guided = Guided(model, [CE(), CGC(scale=(0.4, 1), **options)], 12)
    mixed = batch((0, -1, 2, -1, -1, 1))

    def loss():
        torch.manual_seed(5)
        return guided(mixed)[0]

    analytic, numeric = directional(loss, model)
    assert analytic == pytest.approx(numeric, rel=1e-5)


def test_lambda_warms_up():
    ramp = Scheduled([0, 5], [0, 2], ramp=True)
    for epoch, factor in [(0, 0), (1.25, 0.5), (5, 2), (9, 2)]:
        loss, found = terms(double(Deep()), batch(), CE(), CGC(weight=ramp), epoch=epoch)
        torch.testing.assert_close(loss.detach(), found["ce"] + factor * found["cgc"])


@pytest.mark.parametrize(("net", "shape"), [(Volume, (1, 6, 8, 8)), (Views, (3, 1, 8, 8))])
@pytest.mark.parametrize("options", [{}, {"preset": "official"}, {"negatives": False, "weight": 100.0}])
def test_volumes_and_views(net, shape, options):
    model = double(net())
    spatial = shape[1:] if net is Volume else (shape[0], *shape[2:])
    image = torch.rand(3, *shape, dtype=torch.float64)
    several = Batch(image, torch.tensor([1, 3, 0]), torch.ones(3, *spatial), torch.zeros(3).bool(), torch.arange(3))
    guided = Guided(model, [CE(), CGC(layer="body", scale=(0.4, 1), **options)], spatial)

    def loss():
        torch.manual_seed(5)
        return guided(several)[0]

    analytic, numeric = directional(loss, model)
    assert analytic == pytest.approx(numeric, rel=1e-5)


def test_views_of_one_image_are_cut_alike():
    cgc, image = CGC(scale=(0.2, 0.5)), torch.rand(2, 3, 1, 8, 8)
    image[:, 1:] = image[:, :1]
    cut = cgc._crop(image, (8, 8), torch.Generator().manual_seed(0)).apply(image)
    assert cut.shape == image.shape
    torch.testing.assert_close(cut[:, 1:], cut[:, :1].expand(-1, 2, -1, -1, -1))
    assert not torch.equal(cut, image)


def test_views_of_unlabelled_images_cannot_be_classified():
    with pytest.raises(SightlineError, match="have no label to learn"):
        CGC(ce_on=["aug"], on="unlabelled")
