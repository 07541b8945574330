"""One suite over every exported explainer, then what is particular to each."""

import copy
import gc
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import images, rebuild_net
from nets import Deep, Residual, Views, Volume, double
from numeric import directional
from sightline import explain, explainers, record
from sightline.compat import repair_torchvision
from sightline.errors import SightlineError
from sightline.explainers import LRP, RISE, WBP, Explainer, FullGrad, GradCAM, SmoothGrad, bind

KINDS = [kind for kind in vars(explainers).values() if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__")]
QUICK = {"SmoothGrad": {"samples": 3}, "IntegratedGradients": {"steps": 3}, "RISE": {"masks": 20, "cells": 3}}
MORE = [
    GradCAM(elementwise=True),
    LRP("gamma"),
    LRP("alpha_beta"),
    LRP("epsilon_gamma_box", relative=True),
    WBP("surrogate", reduce="abs_sum"),
]
EXPLAINERS = [*(kind(**QUICK.get(kind.__name__, {})) for kind in KINDS), *MORE]
CONSTANT = ("Captum", "CaptumLayer", "Zennit")  # their maps can be no part of a loss
DIFFERENTIABLE = [explainer for explainer in EXPLAINERS if type(explainer).__name__ not in CONSTANT]
NETS = {"gap": Residual, "gmp": lambda: Residual(nn.AdaptiveMaxPool2d(1)), "deep": Deep}
IMAGE = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

each = pytest.mark.parametrize("explainer", EXPLAINERS, ids=repr)
each_differentiable = pytest.mark.parametrize("explainer", DIFFERENTIABLE, ids=repr)
on_each = pytest.mark.parametrize("net", NETS)


def recorded(model, explainer, image=IMAGE):
    return record(model, image, taps=explainer.taps, ruled=explainer.ruled)


@each
@on_each
def test_shape_and_no_graph(explainer, net):
    maps = explain(double(NETS[net](), seed=1), IMAGE, explainer=explainer)
    assert maps.shape[0] == 4
    assert maps.ndim == (4 if getattr(explainer, "reduce", "sum") is None else 3)
    assert maps.isfinite().all()
    assert maps.abs().sum() > 0
    assert not maps.requires_grad


@each
@on_each
def test_the_order_of_the_batch_does_not_matter(explainer, net):
    model, order = double(NETS[net]()), torch.tensor([2, 0, 3, 1])
    target = torch.tensor([0, 1, 2, 3])
    maps = explain(model, IMAGE, target, explainer)
    torch.testing.assert_close(explain(model, IMAGE[order], target[order], explainer), maps[order])


@each
def test_images_are_explained_one_by_one(explainer):
    model, target = double(Residual()), torch.tensor([0, 1, 2, 3])
    maps = explain(model, IMAGE, target, explainer)
    alone = [explain(model, image[None], cls[None], explainer) for image, cls in zip(IMAGE, target, strict=True)]
    torch.testing.assert_close(torch.cat(alone), maps)


@each_differentiable
@on_each
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_the_map_agree_with_finite_differences(explainer, net, training):
    model = double(NETS[net]()).train(training)
    bound, target = bind(explainer, model, 12), torch.tensor([0, 1, 2, 3])
    shape = bound(recorded(model, bound), target).shape
    weight = torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def loss():
        return (bound(recorded(model, bound), target, differentiable=True) * weight).sum()

    analytic, numeric = directional(loss, model, step=1e-7)
    assert analytic == pytest.approx(numeric, rel=1e-5)


@each_differentiable
def test_gradients_of_the_map_agree_with_finite_differences_on_a_vit_with_fused_attention(explainer):
    repair_torchvision()
    timm = pytest.importorskip("timm")
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=24, num_classes=4)
    net, image = double(net).eval(), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    assert net.blocks[0].attn.fused_attn
    bound = bind(explainer, net, 32)
    weight = torch.rand(bound(recorded(net, bound, image), 1).shape, dtype=torch.float64)

    def loss():
        return (bound(recorded(net, bound, image), 1, differentiable=True) * weight).sum()

    analytic, numeric = directional(loss, net, step=1e-7)
    assert analytic == pytest.approx(numeric, rel=1e-5)


@pytest.mark.parametrize("explainer", [e for e in EXPLAINERS if e not in DIFFERENTIABLE], ids=repr)
def test_a_map_that_cannot_be_part_of_a_loss_says_so(explainer):
    model = double(Residual()).eval()
    bound = bind(explainer, model, 12)
    with pytest.raises(SightlineError, match="loss"):
        bound(recorded(model, bound), 0, differentiable=True)


@each
@on_each
def test_the_model_is_left_as_it_was(explainer, net):
    model = double(NETS[net]())
    next(iter(model.children())).eval()
    twin, modes, state = copy.deepcopy(model), [m.training for m in model.modules()], torch.get_rng_state()
    explain(model, IMAGE, explainer=explainer)
    assert_untouched(model, twin, modes)
    assert torch.equal(torch.get_rng_state(), state)


@each
def test_a_model_in_training_is_left_as_one_pass_leaves_it(explainer):
    model = double(Residual()).train()
    bound, twin = bind(explainer, model, 12), copy.deepcopy(model)
    run = recorded(model, bound)
    twin(IMAGE)
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    bound(run)
    assert_untouched(model, twin, modes)
    assert torch.equal(torch.get_rng_state(), state)


def assert_untouched(model, twin, modes):
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))
    assert modes == [m.training for m in model.modules()]
    assert [m.inplace for m in model.modules() if hasattr(m, "inplace")] == [
        m.inplace for m in twin.modules() if hasattr(m, "inplace")
    ]
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@each
def test_a_dead_network_gives_a_zero_map(explainer):
    model = double(Deep())
    model.features[3].bias.data.fill_(-1e3)
    model.features[3].weight.data.zero_()
    if hasattr(explainer, "layer"):
        explainer = replace(explainer, layer="features")
    maps = explain(model, IMAGE, explainer=explainer)
    assert maps.isfinite().all()
    if not isinstance(explainer, RISE | FullGrad):  # the one has the same score everywhere, the other has biases
        assert torch.equal(maps, torch.zeros_like(maps))


@each
def test_volumes(explainer):
    maps = explain(double(Volume()), torch.rand(2, 1, 8, 6, 4).double(), explainer=explainer)
    if getattr(explainer, "reduce", "sum") is None:
        maps = maps.sum(1)
    assert maps.shape[1:] in [(4, 3, 2), (8, 6, 4)]
    assert maps.abs().sum() > 0


@each
def test_several_views_of_each_image(explainer):
    model, images = double(Views()), torch.rand(2, 3, 1, 8, 6).double()
    maps = explain(model, images, 1, explainer)
    assert maps.shape[:2] == (2, 3)
    assert maps.shape[-2:] in [(4, 3), (8, 6)]
    swapped = explain(model, images[:, [2, 0, 1]], 1, explainer)  # the model averages over views
    if not isinstance(explainer, RISE | SmoothGrad):  # which draw for each view on its own
        torch.testing.assert_close(swapped, maps[:, [2, 0, 1]])


@each
def test_explainers_are_values(explainer):
    assert hash(explainer) == hash(copy.deepcopy(explainer))
    assert eval(repr(explainer), vars(explainers).copy()) == explainer
    assert isinstance(explainer, Explainer)


@each
def test_calls_leave_nothing_behind(explainer):
    """With the garbage collector off, so that a reference cycle counts as a leak."""
    model = double(Residual()).eval()
    bound = bind(explainer, model, 12)

    def alive():
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    explain(model, IMAGE, 1, bound)
    gc.collect()
    gc.disable()
    try:
        before = alive()
        for _ in range(3):
            explain(model, IMAGE, 1, bound)
            if bound in DIFFERENTIABLE:
                bound(recorded(model, bound), 1, differentiable=True).sum().backward()
                model.zero_grad(set_to_none=True)
        assert alive() == before
    finally:
        gc.enable()


@each
@pytest.mark.parametrize(
    ("image", "target", "message"),
    [
        (IMAGE[0], None, r"expected float \(B, C, \*spatial\)"),
        ((IMAGE * 255).to(torch.uint8), None, r"expected float \(B, C, \*spatial\)"),
        (IMAGE.where(IMAGE > 0.01, torch.nan), None, "NaN"),
        (IMAGE, 4, "classes 0 to 3"),
        (IMAGE, torch.tensor([0, 1]), "4 images"),
    ],
    ids=["rank", "type", "nan", "class", "targets"],
)
def test_bad_input(explainer, image, target, message):
    with pytest.raises(SightlineError, match=message):
        explain(double(Residual()), image, target, explainer)


@each
def test_a_frozen_model_is_explained_alike(explainer):
    model = double(Residual())
    maps = explain(model, IMAGE, explainer=explainer)
    torch.testing.assert_close(explain(model.requires_grad_(False), IMAGE, explainer=explainer), maps)


@each
def test_inference_mode_is_an_error_or_makes_no_difference(explainer):
    model = double(Residual())
    bound = bind(explainer, model, 12)
    expected = explain(model, IMAGE, 1, bound)
    with torch.inference_mode():
        try:
            maps = explain(model, IMAGE, 1, bound)
        except SightlineError as error:
            assert "inference" in str(error)  # noqa: PT017 - either is right
            return
    torch.testing.assert_close(maps.clone(), expected)


def plain_grad_cam(net, layer, image, target, elementwise):
    """One image at a time, one channel at a time, through autograd alone."""
    kept, modules = {}, dict(net.named_modules())
    handle = modules[layer].register_forward_hook(lambda m, i, o: kept.update(a=o.clone()) or kept["a"])
    maps = []
    for one, cls in zip(image, target.tolist(), strict=True):
        gradient = torch.autograd.grad(net(one[None])[0, cls], kept["a"])[0][0]
        weights = gradient if elementwise else gradient.mean((1, 2), keepdim=True).expand_as(gradient)
        maps.append(F.relu(sum(w * a for w, a in zip(weights, kept["a"][0].detach(), strict=True))))
    handle.remove()
    return torch.stack(maps)


@pytest.mark.parametrize("elementwise", [False, True])
@on_each
def test_grad_cam_equals_the_plain_version(net, elementwise):
    model, target = double(NETS[net]()).eval(), torch.tensor([3, 1, 0, 2])
    explainer = bind(GradCAM(elementwise=elementwise), model, 12)
    if explainer.layer == "act":  # used twice: hook the block behind it by name instead
        with pytest.warns(UserWarning, match="more than once"):
            maps = explain(model, IMAGE, target, explainer)
    else:
        maps = explain(model, IMAGE, target, explainer)
    torch.testing.assert_close(maps, plain_grad_cam(model, explainer.layer, IMAGE, target, elementwise))


@pytest.mark.parametrize("net", ["gap", "gmp"])
def test_the_closed_form_needs_no_autograd(net, monkeypatch):
    model = double(NETS[net]()).eval()
    expected = explain(model, IMAGE, explainer=GradCAM("act", elementwise=True))
    monkeypatch.setattr(torch.autograd, "grad", None)
    with torch.no_grad():
        run = record(model, IMAGE, taps=["act"])
    torch.testing.assert_close(GradCAM("act", elementwise=True)(run), expected)


def test_dropout_ahead_of_the_head_leaves_the_closed_form():
    """Dropout in training mode is part of dz/dA; a closed form that forgot it would be silently wrong."""
    net = double(Residual())
    net.pool = nn.Sequential(net.pool, nn.Dropout(0.5))
    torch.manual_seed(5)
    run = record(net.train(), IMAGE, taps=["act"])
    expected = (
        (torch.autograd.grad(run.logits[:, 1].sum(), run.tap("act"), retain_graph=True)[0] * run.tap("act"))
        .sum(1)
        .relu()
    )
    torch.testing.assert_close(GradCAM("act", elementwise=True)(run, 1), expected)


def test_bfloat16_autocast_agrees_with_float32():
    net, image = double(Residual()).float().eval(), IMAGE.float()
    with torch.autocast("cpu", torch.bfloat16):
        half = GradCAM("act")(record(net, image, taps=["act"]), 0)
    full = GradCAM("act")(record(net, image, taps=["act"]), 0)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.02 * full.max().item())


def test_an_unbound_explainer_says_so():
    with pytest.raises(SightlineError, match="bind"):
        GradCAM()(record(double(Deep()), IMAGE))


def test_a_layer_that_does_not_exist(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    net = double(Deep())
    with pytest.raises(SightlineError, match=r"which of this Conv2d is 'features\.0'"):
        explain(net, IMAGE, explainer=GradCAM(net.features[0]))
    with pytest.raises(SightlineError, match="which of this Conv2d is not in this model"):
        record(net, IMAGE, taps=[double(Deep()).features[0]])
    with pytest.raises(SightlineError, match="an instance, not its class or name"):
        explain(net, IMAGE, explainer=GradCAM)
    with pytest.raises(SightlineError, match="no layer 'feature'"):
        explain(double(Deep()), IMAGE, explainer=GradCAM("feature"))


ORACLES = ["resnet18", "resnet18_gmp", "vgg11_bn", "alexnet", "mobilenet_v3_small", "vit_tiny_patch16_224"]


@pytest.mark.parametrize("name", ORACLES)
def test_grad_cam_against_public_implementations(name, oracle):
    reference = oracle(f"cam_{name}")
    net, image = rebuild_net(reference["meta"]), images(reference["meta"])
    for key in (k for k in reference if k.startswith(("gradcam__", "hirescam__"))):
        kind, layer = key.split("__")
        maps = explain(net, image, torch.tensor(reference["targets"]), GradCAM(layer, elementwise=kind == "hirescam"))
        np.testing.assert_allclose(maps, reference[key], rtol=1e-9, atol=1e-9 * max(reference[key].max(), 1e-6))
