"""One suite over every exported explainer, then what is particular to each."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import images, rebuild_net
from nets import Deep, Residual, Volume, double
from numeric import directional
from sightline import explain, explainers, record
from sightline.errors import SightlineError
from sightline.explainers import GradCAM, bind

EXPLAINERS = [
    explainer
    for kind in vars(explainers).values()
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__")
    for explainer in [kind(), *([kind(elementwise=True)] if hasattr(kind(), "elementwise") else [])]
]
NETS = {"gap": Residual, "gmp": lambda: Residual(nn.AdaptiveMaxPool2d(1)), "deep": Deep}
IMAGE = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

each = pytest.mark.parametrize("explainer", EXPLAINERS, ids=repr)
on_each = pytest.mark.parametrize("net", NETS)


@each
@on_each
def test_shape_sign_and_no_graph(explainer, net):
    maps = explain(double(NETS[net](), seed=1), IMAGE, explainer=explainer)
    assert maps.shape[0] == 4
    assert maps.ndim == 3
    assert (maps >= 0).all()
    assert maps.sum() > 0
    assert not maps.requires_grad


@each
@on_each
def test_the_order_of_the_batch_does_not_matter(explainer, net):
    model, order = double(NETS[net]()), torch.tensor([2, 0, 3, 1])
    target = torch.tensor([0, 1, 2, 3])
    maps = explain(model, IMAGE, target, explainer)
    torch.testing.assert_close(explain(model, IMAGE[order], target[order], explainer), maps[order])


@each
@on_each
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_the_map_agree_with_finite_differences(explainer, net, training):
    model = double(NETS[net]()).train(training)
    bound, target = bind(explainer, model, 12), torch.tensor([0, 1, 2, 3])
    shape = bound(record(model, IMAGE, taps=bound.taps), target).shape
    weight = torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def loss():
        return (bound(record(model, IMAGE, taps=bound.taps), target, differentiable=True) * weight).sum()

    analytic, numeric = directional(loss, model)
    assert analytic == pytest.approx(numeric, rel=1e-5)


@each
@on_each
def test_the_model_is_left_as_it_was(explainer, net):
    model = double(NETS[net]())
    next(iter(model.children())).eval()
    twin, modes, state = copy.deepcopy(model), [m.training for m in model.modules()], torch.get_rng_state()
    explain(model, IMAGE, explainer=explainer)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))
    assert modes == [m.training for m in model.modules()]
    assert [m.inplace for m in model.modules() if hasattr(m, "inplace")] == [
        m.inplace for m in twin.modules() if hasattr(m, "inplace")
    ]
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@each
def test_a_dead_network_gives_a_zero_map(explainer):
    model = double(Deep())
    model.features[3].bias.data.fill_(-1e3)
    model.features[3].weight.data.zero_()
    maps = explain(model, IMAGE, explainer=type(explainer)("features"))
    assert torch.equal(maps, torch.zeros_like(maps))


@each
def test_volumes(explainer):
    assert explain(double(Volume()), torch.rand(2, 1, 8, 6, 4).double(), explainer=explainer).shape == (2, 4, 3, 2)


@each
def test_explainers_are_values(explainer):
    assert hash(explainer) == hash(copy.deepcopy(explainer))
    assert eval(repr(explainer), vars(explainers).copy()) == explainer


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


def test_a_vit_with_fused_attention_has_differentiable_maps():
    from sightline.compat import repair_torchvision

    repair_torchvision()
    timm = pytest.importorskip("timm")
    net = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=4).double().eval()
    explainer, image = bind(GradCAM(elementwise=True), net, 64), torch.rand(2, 3, 64, 64, dtype=torch.float64)
    weight = torch.rand(2, 4, 4, dtype=torch.float64)

    def loss():
        return (explainer(record(net, image, taps=explainer.taps), 1, differentiable=True) * weight).sum()

    analytic, numeric = directional(loss, net)
    assert analytic == pytest.approx(numeric, rel=1e-5)


def test_bfloat16_autocast_agrees_with_float32():
    net, image = double(Residual()).float().eval(), IMAGE.float()
    with torch.autocast("cpu", torch.bfloat16):
        half = GradCAM("act")(record(net, image, taps=["act"]), 0)
    full = GradCAM("act")(record(net, image, taps=["act"]), 0)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.02 * full.max().item())


def test_an_unbound_explainer_says_so():
    with pytest.raises(ValueError, match="bind"):
        GradCAM()(record(double(Deep()), IMAGE))


def test_a_layer_that_does_not_exist():
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
