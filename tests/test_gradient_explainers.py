"""Gradients of the image, class activation maps beyond Grad-CAM, and RISE, each against a slow, plain version."""

import copy
import dataclasses
import gc
import itertools
import math
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nets import Deep, Residual, Volume, double
from numeric import directional
from sightline import explain, record
from sightline.compat import repair_torchvision
from sightline.errors import SightlineError
from sightline.explainers import cam, rerun
from sightline.explainers.arguments import reduced
from sightline.explainers.gradcampp import GradCAMPlusPlus
from sightline.explainers.gradient import Gradient, InputXGradient
from sightline.explainers.integrated import IntegratedGradients, quadrature
from sightline.explainers.layercam import LayerCAM
from sightline.explainers.rise import RISE, draws, enlarged
from sightline.explainers.smoothgrad import SmoothGrad

repair_torchvision()


class Views(nn.Module):
    """Several views of each image through one network, their logits averaged with unequal weights."""

    def __init__(self):
        super().__init__()
        self.net = Deep()
        self.register_buffer("share", torch.tensor([0.5, 0.3, 0.2]))

    def forward(self, image):
        logits = self.net(image.flatten(0, 1)).unflatten(0, image.shape[:2])
        return (logits * self.share.view(1, -1, 1)).sum(1)


class Smooth(nn.Sequential):
    """No kinks: integrals and differences converge fast."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Conv2d(4, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(256, 4)
        )


class Noisy(nn.Module):
    """BatchNorm and dropout, which training mode makes random and stateful, and a dict for an output."""

    def __init__(self):
        super().__init__()
        self.net, self.drop = Residual(), nn.Dropout(0.3)

    def forward(self, image):
        return {"logits": self.net(self.drop(image))}


def random(*shape, seed=2):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


IMAGE, VOLUME, VIEWS = random(3, 3, 12, 12), random(2, 1, 8, 6, 4), random(2, 3, 3, 12, 12)
CASES = {
    "residual": (Residual, IMAGE),
    "deep": (Deep, IMAGE),
    "volume": (Volume, VOLUME),
    "views": (Views, VIEWS),
}
TARGET = torch.tensor([3, 1, 0])

on_each = pytest.mark.parametrize("case", CASES)


def setting(case):
    net, image = CASES[case]
    return double(net()).eval(), image, TARGET[: len(image)]


def plain_gradient(net, one, cls):
    """Of one image, through autograd alone."""
    one = one.detach().clone().requires_grad_()
    return torch.autograd.grad(net(one[None])[0, cls], one)[0]


def per_image(function, image, target):
    return torch.stack([function(one, int(cls)) for one, cls in zip(image, target, strict=True)])


def channel(case):
    return 2 if case == "views" else 1


def assert_agree(maps, theirs):
    """To a millionth of the largest value."""
    assert maps.shape == theirs.shape
    assert (maps - theirs).abs().max() <= 1e-6 * theirs.abs().max()
    assert theirs.abs().max() > 0


# ---------------------------------------------------------------------------------------------------------------------
# Gradient and image times gradient


@on_each
@pytest.mark.parametrize("how", ["sum", "abs_sum", "max_abs", None])
def test_gradient_and_image_times_gradient(case, how):
    net, image, target = setting(case)
    gradient = per_image(lambda one, cls: plain_gradient(net, one, cls), image, target)
    fold = {
        "sum": lambda v: sum(v.unbind(channel(case))),
        "abs_sum": lambda v: sum(part.abs() for part in v.unbind(channel(case))),
        "max_abs": lambda v: torch.stack([part.abs() for part in v.unbind(channel(case))]).max(0).values,
        None: lambda v: v,
    }[how]
    torch.testing.assert_close(explain(net, image, target, Gradient(how)), fold(gradient))
    torch.testing.assert_close(explain(net, image, target, InputXGradient(how)), fold(gradient * image))


def test_gradient_agrees_with_finite_differences_in_the_image():
    net, step = double(Smooth()), 1e-5
    maps = explain(net, IMAGE[:1], 2, Gradient())
    for y, x in [(0, 0), (5, 7), (11, 3)]:
        nudge = torch.zeros_like(IMAGE[:1])
        nudge[..., y, x] = step
        with torch.no_grad():
            slope = (net(IMAGE[:1] + nudge) - net(IMAGE[:1] - nudge))[0, 2] / (2 * step)
        assert maps[0, y, x].item() == pytest.approx(slope.item(), rel=1e-7)


def test_image_times_gradient_splits_the_logit_of_a_network_without_biases():
    net = double(Deep())
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    maps = explain(net, IMAGE, TARGET, InputXGradient())
    torch.testing.assert_close(maps.sum((1, 2)), net(IMAGE)[range(3), TARGET])


@on_each
def test_gradients_against_captum(case):
    attr = pytest.importorskip("captum.attr")
    net, image, target = setting(case)
    saliency = attr.Saliency(net).attribute(image.clone().requires_grad_(), target, abs=False)
    assert_agree(explain(net, image, target, Gradient(None)), saliency)
    product = attr.InputXGradient(net).attribute(image.clone().requires_grad_(), target)
    assert_agree(explain(net, image, target, InputXGradient(None)), product)


def test_reduced():
    values = torch.tensor([[1.0, -3.0], [-2.0, 2.0]])
    assert reduced(values, "sum", 0).tolist() == [-1, -1]
    assert reduced(values, "abs_sum", 0).tolist() == [3, 5]
    assert reduced(values, "max_abs", 0).tolist() == [2, 3]
    assert reduced(values, "max_abs", 1).tolist() == [3, 2]
    assert reduced(values, None, 0) is values


# ---------------------------------------------------------------------------------------------------------------------
# SmoothGrad


def plain_smoothgrad(net, image, target, samples, noise, squared, seed):
    """One image and one draw at a time."""

    def one_map(one, cls):
        generator, total = torch.Generator().manual_seed(seed), torch.zeros_like(one)
        for _ in range(samples):
            draw = torch.randn(one.shape, generator=generator)
            gradient = plain_gradient(net, one + noise * (one.max() - one.min()) * draw, cls)
            total += gradient**2 if squared else gradient
        return total / samples

    return per_image(one_map, image, target)


@on_each
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("batch_size", [None, 1, 2, 4, 7, 100])
def test_smoothgrad(case, squared, batch_size):
    net, image, target = setting(case)
    image = image * torch.tensor([1.0, 3.0, 0.2], dtype=image.dtype)[: len(image)].view(-1, *[1] * (image.ndim - 1))
    explainer = SmoothGrad(5, 0.2, squared, None, seed=4, batch_size=batch_size)
    expected = plain_smoothgrad(net, image, target, 5, 0.2, squared, 4)
    torch.testing.assert_close(explain(net, image, target, explainer), expected)
    folded = explain(net, image, target, SmoothGrad(5, 0.2, squared, "abs_sum", 4, batch_size))
    torch.testing.assert_close(folded, expected.abs().sum(channel(case)))


@pytest.mark.parametrize(("squared", "kind"), [(False, "smoothgrad"), (True, "smoothgrad_sq")])
def test_smoothgrad_against_captum(squared, kind, monkeypatch):
    """With captum's draws replaced by ours; its noise is absolute, ours relative to the image's range."""
    attr = pytest.importorskip("captum.attr")
    net, one = double(Deep()).eval(), IMAGE[:1]
    sigma, generator = 0.1 * float(one.max() - one.min()), torch.Generator().manual_seed(0)
    draws = torch.stack([torch.randn(one.shape[1:], generator=generator) for _ in range(6)]).double()
    monkeypatch.setattr(torch, "normal", lambda mean, std: mean + std * draws)
    expected = attr.NoiseTunnel(attr.Saliency(net)).attribute(
        one.clone(), nt_type=kind, nt_samples=6, stdevs=sigma, target=2, abs=False
    )
    maps = explain(net, one, 2, SmoothGrad(6, squared=squared, reduce=None))
    assert_agree(maps, expected)


def test_smoothgrad_without_noise_is_the_gradient():
    net = double(Deep())
    torch.testing.assert_close(explain(net, IMAGE, 1, SmoothGrad(3, 0)), explain(net, IMAGE, 1, Gradient()))


# ---------------------------------------------------------------------------------------------------------------------
# Integrated gradients

METHODS = ["gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"]


@on_each
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [None, 1, 5, 100])
def test_integrated_gradients(case, method, batch_size):
    net, image, target = setting(case)
    n, baseline = 7, 0.3

    def one_map(one, cls):
        def gradient(a):
            return plain_gradient(net, baseline + a * (one - baseline), cls)

        if method == "riemann_trapezoid":
            values = [gradient(k / (n - 1)) for k in range(n)]
            mean = sum((a + b) / 2 for a, b in itertools.pairwise(values)) / (n - 1)
        elif method == "gausslegendre":
            nodes, weights = np.polynomial.legendre.leggauss(n)
            mean = sum(w / 2 * gradient(0.5 + x / 2) for x, w in zip(nodes, weights, strict=True))
        else:
            shift = {"riemann_left": 0, "riemann_middle": 0.5, "riemann_right": 1}[method]
            mean = sum(gradient((k + shift) / n) for k in range(n)) / n
        return (one - baseline) * mean

    explainer = IntegratedGradients(n, baseline, method, None, batch_size)
    torch.testing.assert_close(explain(net, image, target, explainer), per_image(one_map, image, target))


@on_each
@pytest.mark.parametrize("method", METHODS)
def test_integrated_gradients_against_captum(case, method):
    attr = pytest.importorskip("captum.attr")
    net, image, target = setting(case)
    expected = attr.IntegratedGradients(net).attribute(image, 0.1, target, n_steps=9, method=method)
    if method == "riemann_trapezoid":  # captum's weights sum to 8/9; of all rules, they are float32
        expected = expected * 9 / 8
    maps = explain(net, image, target, IntegratedGradients(9, 0.1, method, None))
    assert_agree(maps, expected)


@pytest.mark.parametrize("method", ["gausslegendre", "riemann_middle", "riemann_trapezoid"])
@pytest.mark.parametrize("baseline", [0.0, -0.7])
def test_integrated_gradients_split_the_change_of_the_logit(method, baseline):
    net = double(Smooth())
    steps = 30 if method == "gausslegendre" else 3000
    maps = explain(net, IMAGE, TARGET, IntegratedGradients(steps, baseline, method, batch_size=300))
    change = (net(IMAGE) - net(torch.full_like(IMAGE, baseline)))[range(3), TARGET]
    torch.testing.assert_close(maps.sum((1, 2)), change, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_quadrature_integrates_polynomials(method):
    positions, weights = map(torch.tensor, quadrature(method, 400))
    assert weights.sum().item() == pytest.approx(1)
    assert 0 <= positions.min() <= positions.max() <= 1
    for power in (1, 2, 3):
        assert (weights * positions**power).sum().item() == pytest.approx(1 / (power + 1), abs=2e-3)


# ---------------------------------------------------------------------------------------------------------------------
# Class activation maps

LAYERS = [
    ("residual", "act"),
    ("residual", "body"),
    ("deep", "features"),
    ("volume", "body"),
    ("views", "net.features"),
]


def plain_pair(net, layer, image, target):
    """Activation and gradient of one image after another, (B, [views], C, *spatial)."""
    kept, pairs = {}, []
    handle = dict(net.named_modules())[layer].register_forward_hook(
        lambda m, i, o: kept.update(a=o.clone()) or kept["a"]
    )
    for one, cls in zip(image, target.tolist(), strict=True):
        gradient = torch.autograd.grad(net(one[None])[0, cls], kept["a"])[0]
        pairs.append((kept["a"].detach(), gradient))
    handle.remove()
    return pairs


def plain_plus_plus(activation, gradient):
    """Channel by channel, position by position."""
    maps = torch.zeros(activation[0].shape, dtype=activation.dtype)
    for a, g in zip(activation, gradient, strict=True):
        weight = 0.0
        for slope in g.flatten().tolist():
            if slope > 0:
                weight += slope * slope**2 / (2 * slope**2 + a.sum().item() * slope**3 + 1e-6)
        maps += weight * a
    return maps.clamp(min=0)


def plain_layer_cam(activation, gradient):
    return sum(a * g.clamp(min=0) for a, g in zip(activation, gradient, strict=True)).clamp(min=0)


@pytest.mark.filterwarnings("ignore:layer 'act' ran more than once")
@pytest.mark.parametrize(("case", "layer"), LAYERS)
@pytest.mark.parametrize(("kind", "plain"), [(GradCAMPlusPlus, plain_plus_plus), (LayerCAM, plain_layer_cam)])
def test_class_activation_maps(case, layer, kind, plain):
    net, image, target = setting(case)
    pairs = plain_pair(net, layer, image, target)
    expected = [torch.stack([plain(a, g) for a, g in zip(*pair, strict=True)]) for pair in pairs]
    expected = torch.stack(expected) if case == "views" else torch.cat(expected)
    maps = explain(net, image, target, kind(layer))
    torch.testing.assert_close(maps, expected)
    assert (maps >= 0).all()
    assert maps.sum() > 0


@pytest.mark.parametrize(("case", "layer"), [("residual", "body"), ("deep", "features"), ("volume", "body")])
@pytest.mark.parametrize(("kind", "name"), [(GradCAMPlusPlus, "GradCAMPlusPlus"), (LayerCAM, "LayerCAM")])
def test_class_activation_maps_against_pytorch_grad_cam(case, layer, kind, name):
    """Ahead of its scaling of each map to [0, 1] and its resizing."""
    theirs = pytest.importorskip("pytorch_grad_cam")
    net, image, target = setting(case)
    module = dict(net.named_modules())[layer]
    with getattr(theirs, name)(net, [module]) as library:
        watched = library.activations_and_grads
        watched(image)[range(len(image)), target].sum().backward()
        activation, gradient = watched.activations[0].numpy(), watched.gradients[0].numpy()
        expected = library.get_cam_image(image, module, target, activation, gradient, False)
    maps = explain(net, image, target, kind(layer))
    assert_agree(maps, torch.tensor(expected).clamp(min=0))


@pytest.mark.filterwarnings("ignore:layer 'act' ran more than once")
@pytest.mark.parametrize("kind", [GradCAMPlusPlus, LayerCAM])
@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)])
def test_the_closed_form_equals_autograd(kind, pool, monkeypatch):
    net = double(Residual(pool)).eval()
    with torch.no_grad():
        closed = kind("act")(record(net, IMAGE, taps=["act"]), TARGET)
    monkeypatch.setattr(cam, "_pooled_head_gradient", lambda *_: None)
    torch.testing.assert_close(closed, kind("act")(record(net, IMAGE, taps=["act"]), TARGET))


def test_one_view_of_each_image_or_one_image_of_several_views():
    """Neither may be mistaken for a batch of plain images with a closed-form head."""

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Volume()
            self.net.body[0], self.net.body[3] = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
            self.net.body[2], self.net.pool = nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)

        def forward(self, image):
            return self.net(image.flatten(0, 1)).unflatten(0, image.shape[:2]).mean(1)

    net = double(Mean())
    for image in (random(1, 3, 1, 8, 8), random(3, 1, 1, 8, 8), random(2, 3, 1, 8, 8)):
        views = image.shape[1]
        alone = explain(net.net, image.flatten(0, 1), 2, LayerCAM("body")).unflatten(0, image.shape[:2])
        torch.testing.assert_close(explain(net, image, 2, LayerCAM("net.body")), alone / views)


def test_class_activation_maps_under_bfloat16_autocast():
    net, image = double(Deep()).float().eval(), IMAGE.float()
    for explainer in (GradCAMPlusPlus("features"), LayerCAM("features")):
        with torch.autocast("cpu", torch.bfloat16):
            half = explainer(record(net, image, taps=["features"]), 0)
        full = explainer(record(net, image, taps=["features"]), 0)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, full, rtol=0.1, atol=0.05 * full.max().item())


@pytest.mark.parametrize("kind", [GradCAMPlusPlus, LayerCAM])
def test_an_unbound_explainer_says_so(kind):
    with pytest.raises(SightlineError, match="bind"):
        kind()(record(double(Deep()), IMAGE))


# ---------------------------------------------------------------------------------------------------------------------
# RISE


def plain_masks(count, views, cells, size, keep, seed):
    """Every mask on its own: the whole enlarged grid, then the crop."""
    grids, offsets = draws((count, *views), cells, size, keep, seed)
    cell = [math.ceil(length / cells) for length in size]
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    masks = []
    for grid, offset in zip(grids.flatten(0, len(views)), offsets.flatten(0, len(views)).tolist(), strict=True):
        whole = F.interpolate(grid.double()[None, None], [(cells + 1) * c for c in cell], mode=mode)[0, 0]
        masks.append(whole[tuple(slice(o, o + length) for o, length in zip(offset, size, strict=True))])
    return torch.stack(masks).unflatten(0, (count, *views))


def plain_rise(net, image, target, masks, keep, fill, score, axis):
    def one_map(one, cls):
        total = torch.zeros_like(masks[0])
        for mask in masks:
            visible = mask.unsqueeze(axis - 1)
            logits = net((visible * one + (1 - visible) * fill)[None])[0]
            total += {"softmax": logits.softmax(0), "sigmoid": logits.sigmoid(), "logit": logits}[score][cls] * mask
        return total / len(masks) / keep

    with torch.no_grad():
        return per_image(one_map, image, target)


@on_each
@pytest.mark.parametrize("score", ["softmax", "sigmoid", "logit"])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_rise(case, score, batch_size):
    net, image, target = setting(case)
    views, size = ((3,), image.shape[3:]) if case == "views" else ((), image.shape[2:])
    explainer = RISE(9, 4, 0.4, seed=3, batch_size=batch_size, fill=0.2, score=score)
    masks = plain_masks(9, views, 4, size, 0.4, 3)
    expected = plain_rise(net, image, target, masks, 0.4, 0.2, score, channel(case))
    torch.testing.assert_close(explain(net, image, target, explainer), expected)


def test_masks_keep_every_pixel_alike():
    grids, offsets = draws((6000,), 5, (13, 9), 0.3, 0)
    masks = enlarged(grids.double(), offsets, (13, 9))
    assert masks.shape == (6000, 13, 9)
    assert 0 <= masks.min() < 0.01
    assert 0.99 < masks.max() <= 1
    assert (masks.mean(0) - 0.3).abs().max() < 0.03
    assert len(masks.flatten(1).unique(dim=0)) > 5900


def test_rise_finds_what_the_score_depends_on():
    class Corner(nn.Module):
        def forward(self, image):
            evidence = image[:, 0, :4, 8:].mean((1, 2))
            return torch.stack([evidence, torch.zeros_like(evidence)], 1)

    maps = explain(Corner(), torch.ones(1, 3, 12, 12), 0, RISE(800, 4, score="logit"))[0]
    assert maps[:4, 8:].min() > maps[6:, :6].max()


def test_rise_needs_no_gradients():
    net = double(Deep()).eval()
    expected = explain(net, IMAGE, 1, RISE(5))
    with torch.inference_mode():
        torch.testing.assert_close(RISE(5)(record(net, IMAGE), 1), expected)


# ---------------------------------------------------------------------------------------------------------------------
# What several have in common

RERUNNERS = [SmoothGrad(3), IntegratedGradients(3), RISE(5, 3)]
ALL = [Gradient(), InputXGradient(), *RERUNNERS]

each = pytest.mark.parametrize("explainer", ALL, ids=lambda e: type(e).__name__)
each_rerunner = pytest.mark.parametrize("explainer", RERUNNERS, ids=lambda e: type(e).__name__)


def map_of(explainer, net, image, target=None, **options):
    return explainer(record(net, image, taps=explainer.taps), target, **options)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "explainer",
    [
        Gradient("abs_sum"), InputXGradient("max_abs"), SmoothGrad(3, squared=True, batch_size=2), SmoothGrad(3),
        IntegratedGradients(3, batch_size=5), RISE(6, 3, score="logit"), GradCAMPlusPlus("body"), LayerCAM("stem"),
    ],
    ids=repr,
)  # fmt: skip
def test_gradients_of_the_map_agree_with_finite_differences(explainer, training):
    net = double(Residual()).train(training)
    shape = map_of(explainer, net, IMAGE, TARGET).shape
    weight = random(*shape, seed=3)
    analytic, numeric = directional(
        lambda: (map_of(explainer, net, IMAGE, TARGET, differentiable=True) * weight).sum(), net
    )
    assert analytic == pytest.approx(numeric, rel=1e-5)


@pytest.mark.parametrize("explainer", [Gradient(), SmoothGrad(2), IntegratedGradients(2)], ids=repr)
def test_a_vit_with_fused_attention_has_differentiable_maps(explainer):
    timm = pytest.importorskip("timm")
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=4).double().eval()
    image, weight = random(2, 3, 32, 32), random(2, 32, 32, seed=3)
    analytic, numeric = directional(lambda: (map_of(explainer, net, image, 1, differentiable=True) * weight).sum(), net)
    assert analytic == pytest.approx(numeric, rel=1e-5)


@each
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("differentiable", [True, False])
def test_model_and_random_state_are_left_alone(explainer, training, differentiable):
    net = double(Noisy()).train(training)
    net.net.stem.eval()
    run = record(net, IMAGE, taps=explainer.taps)
    twin, modes, state = copy.deepcopy(net), [m.training for m in net.modules()], torch.get_rng_state()
    buffers = {name: (buffer, buffer._version) for name, buffer in net.named_buffers()}
    explainer(run, differentiable=differentiable)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), twin.state_dict().values(), strict=True))
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    for name, buffer in net.named_buffers():
        assert buffer is buffers[name][0]
        assert buffer._version == buffers[name][1]
    run.logits.sum().backward()  # of the pass made before


@each_rerunner
def test_the_model_is_left_alone_by_a_failure(explainer, monkeypatch):
    net = double(Noisy()).train()
    run, twin, state = record(net, IMAGE), copy.deepcopy(net), torch.get_rng_state()

    def fail(image, forward=net.forward):
        forward(image)
        raise RuntimeError("out of luck")

    monkeypatch.setattr(net, "forward", fail)
    with pytest.raises(RuntimeError, match="luck"):
        explainer(run)
    assert net.forward is fail
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), twin.buffers(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("explainer", [SmoothGrad(3), IntegratedGradients(3)], ids=repr)
def test_how_many_images_run_at_once(explainer, monkeypatch):
    """Half a megapixel, unless BatchNorm is looking."""
    batches, large = [], random(2, 3, 300, 400)
    monkeypatch.setattr(rerun, "record", lambda model, x, **kw: batches.append(len(x)) or record(model, x, **kw))
    for training, image, expected in [
        (False, IMAGE, [9]),
        (True, IMAGE, [3, 3, 3]),
        (False, large, [4, 2]),
        (False, large.repeat(3, 1, 1, 1), [6, 6, 6]),
    ]:
        explainer(record(double(Residual()).train(training), image))
        assert batches == expected
        batches.clear()


def test_batchnorm_in_training_sees_one_point_of_every_image():
    net, generator = double(Residual()).train(), torch.Generator().manual_seed(0)

    def gradient(image):
        image = image.requires_grad_()
        return torch.autograd.grad(copy.deepcopy(net)(image)[range(3), TARGET].sum(), image)[0]

    sigma = 0.1 * (IMAGE.amax((1, 2, 3)) - IMAGE.amin((1, 2, 3))).view(3, 1, 1, 1)
    noisy = [IMAGE + sigma * torch.randn(3, 12, 12, generator=generator) for _ in range(4)]
    expected = sum(map(gradient, noisy)) / 4
    torch.testing.assert_close(map_of(SmoothGrad(4, reduce=None), net, IMAGE, TARGET), expected)
    expected = IMAGE * sum(gradient(IMAGE * a) for a in (0.25, 0.75)) / 2
    integrated = IntegratedGradients(2, method="riemann_middle", reduce=None)
    torch.testing.assert_close(map_of(integrated, net, IMAGE, TARGET), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@each_rerunner
def test_a_scripted_model(explainer):
    """Its BatchNorm could not be kept from learning."""
    net = double(Residual()).float()
    scripted, image = torch.jit.script(net), IMAGE.float()
    torch.testing.assert_close(explain(scripted, image, 1, explainer), explain(net, image, 1, explainer))
    with pytest.raises(SightlineError, match="scripted"):
        explainer(record(scripted.train(), image))


@each
def test_only_a_differentiable_map_has_a_graph(explainer):
    net = double(Deep())
    assert not map_of(explainer, net, IMAGE).requires_grad
    assert map_of(explainer, net, IMAGE, differentiable=True).requires_grad


@each_rerunner
def test_no_pass_outlives_its_use(explainer, monkeypatch):
    net, alive, most = double(Deep()), weakref.WeakSet(), []

    def spy(*args, **kwargs):
        run = record(*args, **kwargs)
        alive.add(run.logits)
        most.append(len(alive))
        return run

    run = record(net, IMAGE, taps=explainer.taps)
    monkeypatch.setattr(rerun, "record", spy)
    monkeypatch.setattr("sightline.explainers.rise.record", spy)
    gc.disable()
    try:
        dataclasses.replace(explainer, batch_size=3)(run)
    finally:
        gc.enable()
    assert len(most) >= 3
    assert max(most) <= 2  # the last one, until the next has replaced it


@each
def test_maps_do_not_depend_on_the_rest_of_the_batch(explainer):
    net = double(Residual()).eval()
    maps = map_of(explainer, net, IMAGE, TARGET)
    for index in range(3):
        alone = map_of(explainer, net, IMAGE[index : index + 1], TARGET[index : index + 1])
        torch.testing.assert_close(alone[0], maps[index])


@pytest.mark.parametrize("kind", [SmoothGrad, RISE])
def test_a_seed_settles_the_map(kind):
    net = double(Deep())
    maps = [explain(net, IMAGE, 0, kind(seed=seed)) for seed in (1, 1, 2)]
    torch.manual_seed(99)
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], explain(net, IMAGE, 0, kind(seed=1)))
    assert not torch.equal(maps[0], maps[2])


@each
def test_the_class_explained_is_settled_on_the_clean_image(explainer):
    """Black images, at one end of integrated gradients, belong to another class."""
    net = double(Deep())
    net.classifier[-1].bias.data[3] += 0.5
    top = net(IMAGE).argmax(1)
    torch.testing.assert_close(map_of(explainer, net, IMAGE), map_of(explainer, net, IMAGE, top))
    assert not torch.allclose(map_of(explainer, net, IMAGE), map_of(explainer, net, IMAGE, (top + 1) % 4))


@each
@pytest.mark.parametrize("target", [2, torch.tensor([2, 2, 2]), lambda logits: torch.full((3,), 2)])
def test_targets(explainer, target):
    net = double(Noisy()).eval()
    torch.testing.assert_close(
        map_of(explainer, net, IMAGE, target), map_of(explainer, net.net, IMAGE, torch.tensor([2, 2, 2]))
    )


@pytest.mark.parametrize(
    "explainer",
    [
        Gradient(), Gradient("max_abs"), InputXGradient("abs_sum"), SmoothGrad(3, squared=True), IntegratedGradients(3),
        GradCAMPlusPlus("features"), LayerCAM("features"),
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("differentiable", [True, False])
def test_a_zero_gradient_makes_a_zero_map(explainer, differentiable):
    net = double(Deep())
    net.features[3].weight.data.zero_()
    net.features[3].bias.data.fill_(-1e3)
    maps = map_of(explainer, net, IMAGE, 0, differentiable=differentiable)
    assert torch.equal(maps, torch.zeros_like(maps))
    if differentiable:
        gradients = torch.autograd.grad(maps.sum(), list(net.parameters()), allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in gradients)


@each
def test_a_constant_image_and_a_frozen_model(explainer):
    net = double(Deep()).requires_grad_(False)
    maps = explain(net, torch.full((2, 3, 12, 12), 0.5).double(), 0, explainer)
    assert maps.isfinite().all()
    assert not any(p.requires_grad for p in net.parameters())


@each
def test_bfloat16_autocast_agrees_with_float32(explainer):
    net, image = double(Smooth()).float().eval(), IMAGE.float()
    with torch.autocast("cpu", torch.bfloat16):
        half = map_of(explainer, net, image, 0)
    full = map_of(explainer, net, image, 0)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.05 * full.abs().max().item())


@pytest.mark.parametrize("explainer", [Gradient(), SmoothGrad(2), IntegratedGradients(2)], ids=repr)
def test_inference_mode_is_refused(explainer):
    with torch.inference_mode(), pytest.raises(SightlineError, match="inference mode"):
        map_of(explainer, double(Deep()), IMAGE)


def construct(kind, **arguments):
    """As outside of the tests, which check types ahead of the constructor."""
    explainer = object.__new__(kind)
    for field in dataclasses.fields(kind):
        object.__setattr__(explainer, field.name, arguments.get(field.name, field.default))
    explainer.__post_init__()


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Gradient, {"reduce": "mean"}, r"Gradient\(reduce='mean'\).*'sum'"),
        (InputXGradient, {"reduce": "Sum"}, "Did you mean 'sum'"),
        (SmoothGrad, {"samples": 0}, r"SmoothGrad\(samples=0\): expected an integer from 1 up"),
        (SmoothGrad, {"samples": 2.5}, "integer"),
        (SmoothGrad, {"samples": None}, "integer"),
        (SmoothGrad, {"noise": -0.1}, r"noise=-0.1\): expected a finite number from 0"),
        (SmoothGrad, {"noise": math.nan}, "finite"),
        (SmoothGrad, {"noise": "0.1"}, "number"),
        (SmoothGrad, {"batch_size": 0}, "batch_size=0"),
        (SmoothGrad, {"seed": -1}, "seed=-1"),
        (SmoothGrad, {"reduce": "abs"}, "reduce='abs'"),
        (IntegratedGradients, {"steps": 0}, "steps=0"),
        (IntegratedGradients, {"steps": 1, "method": "riemann_trapezoid"}, "from 2 up"),
        (IntegratedGradients, {"method": "gauss"}, "gausslegendre"),
        (IntegratedGradients, {"baseline": math.inf}, "baseline=inf"),
        (IntegratedGradients, {"batch_size": 0}, "batch_size=0"),
        (IntegratedGradients, {"reduce": "abs"}, "reduce='abs'"),
        (RISE, {"masks": 0}, "masks=0"),
        (RISE, {"cells": True}, "cells=True"),
        (RISE, {"keep": 0}, "keep=0"),
        (RISE, {"keep": 1.1}, "to 1"),
        (RISE, {"batch_size": -3}, "batch_size=-3"),
        (RISE, {"batch_size": None}, "batch_size=None"),
        (RISE, {"score": "probability"}, "softmax"),
        (RISE, {"fill": math.nan}, "fill=nan"),
    ],
)
def test_bad_arguments(kind, arguments, message):
    construct(kind)
    with pytest.raises(SightlineError, match=message):
        construct(kind, **arguments)
