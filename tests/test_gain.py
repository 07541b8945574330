"""GAIN against reference values, by hand, and against loops over single images."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import images, rebuild_net
from nets import Deep, Residual, Views, Volume, double
from sightline import Guided
from sightline.errors import SightlineError
from sightline.objectives import CE, GAIN, Scheduled
from sightline.objectives.gain import min_max
from sightline.types import Batch

SETTINGS = {
    "default": {"external": 10.0},
    "sharp": {"weight": 0.5, "external": 1.0, "sigma": 0.25, "omega": 100.0},
    "corners": {"external": 10.0, "align_corners": True},
}


def batch(count=5, shape=(3, 12, 12), label=None, seed=4):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    spatial = shape[1:] if len(shape) == 3 or shape[0] == 1 else (shape[0], *shape[2:])
    mask = (torch.rand(count, *spatial, generator=generator) > 0.6).double()
    label = torch.arange(count) % 4 if label is None else label
    return Batch(image, label, mask, torch.arange(count) % 3 != 2, torch.arange(count))


def terms(net, gain, on, size=12):
    return Guided(net, [gain], size)(on)[1]


@pytest.mark.parametrize("setting", SETTINGS)
def test_values_and_gradients_against_reference(setting, oracle):
    reference = oracle("loss_gain_a")
    meta = reference["meta"]
    net, x = rebuild_net(meta), images(meta)
    labels, masks, has_mask = (torch.tensor(reference[k]) for k in ("labels", "masks", "has_mask"))
    gain = GAIN(layer=meta["layer"], **SETTINGS[setting])
    loss, found = Guided(net, [CE(), gain], 32)(Batch(x, labels, masks.double(), has_mask.bool(), labels))
    for term, expected in [("ce", "L_cl"), ("gain_am", "L_am"), ("gain_e", "L_e")]:
        assert found[term].item() == pytest.approx(float(reference[f"{setting}__{expected}"]), rel=1e-10)
    assert loss.item() == pytest.approx(float(reference[f"{setting}__total"]), rel=1e-10)
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    norms = [g.norm() for g in gradients]
    np.testing.assert_allclose(norms, reference[f"{setting}__total__gradnorm"], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(gradients[0], reference[f"{setting}__total__grad__0.weight"], rtol=1e-8, atol=1e-10)


def test_by_hand():
    """A map of 1, 3, 2, 1 becomes 0, 1, 1/2, 0; one that is the same everywhere becomes 0."""
    maps = torch.tensor([[[1.0, 3.0], [2.0, 1.0]], [[4.0, 4.0], [4.0, 4.0]]])
    assert min_max(maps).tolist() == [[[0, 1], [0.5, 0]], [[0, 0], [0, 0]]]


class Corner(nn.Module):
    """Two class maps of a 2x2 image, their means the logits: its Grad-CAM is known."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv2d(1, 2, 1, bias=False)
        self.maps.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).double()

    def forward(self, image):
        return self.maps(image).relu().mean((2, 3))


def test_a_step_by_hand():
    """Class 0's map is the image x / 4, so A = x on an image from 0 to 1, and x* = x - T(x) x."""
    image = torch.tensor([[[[0.0, 1.0], [0.5, 0.25]]]]).double()
    mask = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]).double()
    one = Batch(image, torch.tensor([0]), mask, torch.tensor([True]), torch.tensor([0]))
    found = terms(Corner(), GAIN(layer="maps", external=1), one, 2)
    left = [x * (1 - 1 / (1 + math.exp(-10 * (x - 0.5)))) for x in (0, 1, 0.5, 0.25)]
    mean = sum(left) / 4
    assert found["gain_am"].item() == pytest.approx(1 / (1 + math.exp(-mean)), rel=1e-6)
    assert found["gain_e"].item() == pytest.approx((0.5**2 + 0.25**2) / 4, rel=1e-6)
    logit = terms(Corner(), GAIN(layer="maps", score="logit"), one, 2)["gain_am"].item()
    assert logit == pytest.approx(mean, rel=1e-6)


def grad_cam(net, layer, image, target, create_graph):
    """Plain Grad-CAM of one image, (h, w): its activation, and the gradient of the logit there."""
    kept = []
    handle = net.get_submodule(layer).register_forward_hook(lambda _m, _i, out: kept.append(out) or out.clone())
    logit = net(image.unsqueeze(0))[0, target]
    handle.remove()
    (gradient,) = torch.autograd.grad(logit, kept, create_graph=create_graph)
    weights = gradient[0].flatten(1).mean(1)
    return sum(w * a for w, a in zip(weights, kept[0][0], strict=True)).relu()


def slow(net, layer, on, order, fill):
    """Both terms, one image and one class at a time."""
    left, outside = [], []
    for image, label, mask, has_mask in zip(*on[:4], strict=True):
        classes = label.nonzero().flatten().tolist() if label.ndim else [int(label)] if label >= 0 else []
        probabilities, distances = [], []
        for k in classes:
            cam = grad_cam(net, layer, image, k, order == 2)
            cam = F.interpolate(cam[None, None], image.shape[1:], mode="bilinear")[0, 0]
            scaled = (cam - cam.min()) / (cam.max() - cam.min() + 1e-8)
            masked = image - torch.sigmoid(10 * (scaled - 0.5)) * (image - fill)
            logits = net(masked.unsqueeze(0))[0]
            probabilities.append((logits.sigmoid() if label.ndim else logits.softmax(0))[k])
            distances.append(((scaled - (mask[k] if mask.ndim == 3 else mask)) ** 2).mean())
        if classes:
            left.append(sum(probabilities) / len(classes))
        if classes and has_mask:
            outside.append(sum(distances) / len(classes))
    return sum(left) / len(left), sum(outside) / len(outside)


def several():
    """(5, 4) labels: one, two, no, three and one class."""
    label = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0]]).double()
    on = batch(label=label)
    masks = (torch.rand(5, 4, 12, 12, generator=torch.Generator().manual_seed(3)) > 0.5).double()
    return on._replace(mask=masks, has_mask=torch.tensor([True, False, True, True, True]))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("labels", ["one class", "some unlabelled", "several classes", "several, one mask"])
def test_values_and_gradients_against_loops(order, labels):
    on = several() if "several" in labels else batch()
    if labels == "several, one mask":
        on = on._replace(mask=on.mask[:, 0])
    if labels == "some unlabelled":
        on = on._replace(label=torch.tensor([-1, 2, 0, -1, 3]))
    net, fill = double(Deep(), 3), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).view(3, 1, 1)
    guided = Guided(net, [GAIN(external=10, layer="features", order=order, fill=[0.1, 0.2, 0.3])], 12)
    loss, found = guided(on)
    left, outside = slow(net, "features", on, order, fill)
    torch.testing.assert_close(found["gain_am"], left.detach())
    torch.testing.assert_close(found["gain_e"], outside.detach())
    got, expected = (torch.autograd.grad(value, list(net.parameters())) for value in (loss, left + 10 * outside))
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("net", "shape", "size"), [(Volume, (1, 6, 8, 8), (6, 8, 8)), (Views, (3, 1, 8, 8), 8)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_volumes_and_several_views(net, shape, size, align_corners):
    on = batch(4, shape)
    model = double(net())
    gain = GAIN(external=1, layer="body", order=2, align_corners=align_corners)
    loss, found = Guided(model, [CE(), gain], size)(on)
    loss.backward()
    assert on.mask.ndim == on.image.ndim - 1
    assert 0 < found["gain_am"] < 1
    assert 0 < found["gain_e"] < 1
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("several_classes", [False, True])
def test_nothing_labelled_is_zero_and_attached(several_classes):
    label = torch.zeros(5, 4).double() if several_classes else torch.full((5,), -1)
    model = double(Deep())
    loss, found = Guided(model, [GAIN(external=10)], 12)(batch(label=label))
    loss.backward()
    assert found == {"gain_am": 0, "gain_e": 0}
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_no_mask_leaves_mining_alone():
    on, model = batch(), double(Deep())
    without = on._replace(has_mask=torch.zeros(5, dtype=torch.bool))
    alone = terms(model, GAIN(), on)
    assert terms(model, GAIN(external=10), without) == {"gain_am": alone["gain_am"], "gain_e": 0}


@pytest.mark.parametrize(("gain", "forwards"), [(GAIN(0, 10), 1), (GAIN(1, 0), 2), (GAIN(Scheduled([0], [0]), 1), 2)])
def test_a_weight_of_zero_drops_its_term(gain, forwards):
    model, seen = double(Deep()), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    guided = Guided(model, [gain], 12)
    seen.clear()
    guided.epoch = 0
    assert set(guided(batch())[1]) == set(gain.weights)
    assert len(seen) == forwards


@pytest.mark.parametrize("bn_update", ["clean", "all"])
def test_running_statistics(bn_update):
    model, plain = double(Residual()), double(Residual())
    Guided(plain, [CE()], 12)(batch())
    Guided(model, [CE(), GAIN(bn_update=bn_update)], 12)(batch())
    same = torch.equal(model.stem[1].running_mean, plain.stem[1].running_mean)
    assert same == (bn_update == "clean")


def test_one_labelled_image_does_not_shrink_the_batch():
    """BatchNorm behind a 1x1 map needs two images in training; one label among five images is no reason to stop."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 10), nn.BatchNorm2d(4), nn.Flatten())
    on = batch(label=torch.tensor([-1, -1, 2, -1, -1]))
    assert torch.isfinite(terms(double(net), GAIN(layer="1"), on)["gain_am"])


@pytest.mark.parametrize("fill", [None, 0.25, [0.1, 0.2, 0.3]])
def test_attention_is_replaced_by_the_fill(fill):
    """All of the image above the threshold: what is classified is the fill, or the mean the network subtracts."""
    model, seen = double(Deep()), []
    model.normalise = nn.Identity()
    model.normalise.mean = torch.tensor([0.4, 0.5, 0.6]).double()
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    guided = Guided(model, [GAIN(sigma=0, omega=1e6, fill=fill)], 12)
    seen.clear()
    guided(batch())
    expected = torch.tensor(model.normalise.mean.tolist() if fill is None else fill).double().view(-1, 1, 1)
    # Where the map is 0 the sigmoid is at its threshold.
    covered = (seen[1] - expected).abs().amax(1) < 1e-6
    assert covered.double().mean() > 0.5
    assert ((seen[1] - (seen[0] + expected) / 2).abs().amax(1)[~covered] < 1e-3).all()


def construct(**arguments):
    """As outside of the tests, which check types ahead of the constructor."""
    gain = GAIN.__new__(GAIN)
    inspect.unwrap(GAIN.__init__)(gain, **arguments)
    return gain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -1}, "'gain_am' is -1"),
        ({"external": math.nan}, "'gain_e' is nan"),
        ({"weight": 0}, "has no term"),
        ({"sigma": 1.5}, r"sigma=1.5\): expected a finite number from 0 to 1"),
        ({"omega": 0}, "omega=0"),
        ({"order": 3}, "order=3.*Known: '1', '2'"),
        ({"score": "probability"}, "Known: 'prob', 'logit'"),
        ({"bn_update": "cleen"}, "Did you mean 'clean'"),
        ({"fill": math.inf}, "expected finite numbers"),
        ({"fill": [0.5, math.nan, 0]}, "expected finite numbers"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(SightlineError, match=message):
        construct(**arguments)


def test_a_fill_for_other_channels():
    with pytest.raises(SightlineError, match="one value or 3, one per channel"):
        terms(double(Deep()), GAIN(fill=[0.1, 0.2]), batch())
