"""What a step promises objectives: gradients of images, statistics that keep still, maps that are shared."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from nets import Deep, Residual, Views, Volume, double
from sightline import load_model, record
from sightline.explainers import WBP, GradCAM, Gradient
from sightline.objectives import Step
from sightline.passes import keeping_statistics

IMAGE = torch.rand(7, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Stumbles(nn.Module):
    """Fails behind whatever came before it."""

    def forward(self, x):
        raise RuntimeError("stumbled")


def norms(norm):
    """A small network around one kind of norm, whose running statistics are no longer those it starts with."""
    net = double(
        nn.Sequential(nn.Conv2d(3, 5, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    )
    for _ in range(3):
        net(2 * torch.rand_like(IMAGE) - 0.3)
    return net


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def settings(net):
    return [(m.training, m.track_running_stats, m.momentum) for m in net.modules() if hasattr(m, "momentum")]


def bits(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


NORMS = {
    "BatchNorm": lambda: nn.BatchNorm2d(5),
    "BatchNorm cumulative": lambda: nn.BatchNorm2d(5, momentum=None),
    "BatchNorm without statistics": lambda: nn.BatchNorm2d(5, track_running_stats=False),
    "BatchNorm frozen": lambda: nn.BatchNorm2d(5).eval(),
    "InstanceNorm": lambda: nn.InstanceNorm2d(5, affine=True, track_running_stats=True),
    "InstanceNorm cumulative": lambda: nn.InstanceNorm2d(5, momentum=None, track_running_stats=True),
    "InstanceNorm without statistics": lambda: nn.InstanceNorm2d(5),
}


@pytest.mark.parametrize("name", NORMS)
def test_statistics_keep_still_and_outputs_are_those_of_training(name):
    net = norms(NORMS[name]())
    before, set_before = state(net), settings(net)
    kept = Step(net).run(IMAGE, (), update=False).logits
    assert bits(state(net), before)
    assert settings(net) == set_before
    assert torch.equal(kept, Step(net).run(IMAGE, ()).logits)
    learns = name in ("BatchNorm", "BatchNorm cumulative", "InstanceNorm")
    assert bits(state(net), before) != learns


@pytest.mark.parametrize("name", NORMS)
def test_statistics_keep_still_in_a_forward_that_fails(name):
    net = norms(NORMS[name]())
    before, set_before = state(net), settings(net)
    net.append(Stumbles())
    with pytest.raises(RuntimeError, match="stumbled"):
        Step(net).run(IMAGE, (), update=False)
    assert bits(state(net), before)
    assert settings(net) == set_before
    net.pop(-1)
    record(net, IMAGE)
    assert bits(state(net), before) != (name in ("BatchNorm", "BatchNorm cumulative", "InstanceNorm"))


def test_statistics_that_were_kept_are_learnt_again_afterwards():
    net, other = norms(nn.BatchNorm2d(5)), norms(nn.BatchNorm2d(5))
    with keeping_statistics(net):
        net(IMAGE)
    other.load_state_dict(net.state_dict())
    for model in (net, other):
        model(IMAGE)
    assert bits(state(net), state(other))


@pytest.mark.parametrize("ruled", [False, True])
def test_gradients_through_a_pass_that_keeps_statistics(ruled):
    """Whatever explains such a pass: they are those of an ordinary one."""
    net = double(Residual())
    maps = []
    for update in (True, False):
        step = Step(net, ["image", "body"], ruled=ruled)
        step.run(IMAGE, update=update)
        maps.append(step.explain(WBP() if ruled else Gradient(), IMAGE, differentiable=True))
    gradients = [torch.autograd.grad(m.square().sum(), list(net.parameters())[:4]) for m in maps]
    assert torch.equal(*maps)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("net", "shape"), [(Deep, (2, 3, 12, 12)), (Volume, (2, 1, 6, 6, 6)), (Views, (2, 3, 1, 8, 8))]
)
def test_an_image_that_is_only_classified_keeps_its_gradient(net, shape):
    """A loss on the logits reaches what the image was made of, as a differentiable mask needs."""
    model, mask = double(net()), torch.rand(shape, dtype=torch.float64, requires_grad=True)
    image = torch.ones_like(mask) * mask
    run = Step(model, ["image"], ruled=True).run(image, ())
    assert run.image is image
    (gradient,) = torch.autograd.grad(run.logits[:, 1].sum(), mask)
    plain = mask.detach().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(model(plain)[:, 1].sum(), plain)[0])
    assert gradient.abs().sum() > 0


def test_a_constant_map_is_the_differentiable_one_detached():
    step, explainer = Step(double(Deep()), ["image"]), Gradient()
    attached = step.explain(explainer, IMAGE)
    constant = step.explain(explainer, IMAGE, differentiable=False)
    assert attached.requires_grad
    assert not constant.requires_grad
    assert constant.data_ptr() == attached.data_ptr()
    assert step.explain(explainer, IMAGE) is attached


def test_a_map_is_drawn_again_where_a_constant_one_came_first():
    step, explainer = Step(double(Deep()), ["image"]), Gradient()
    constant = step.explain(explainer, IMAGE, differentiable=False)
    assert step.explain(explainer, IMAGE, differentiable=False) is constant
    attached = step.explain(explainer, IMAGE)
    assert attached.requires_grad
    torch.testing.assert_close(attached.detach(), constant)


def test_maps_are_told_apart_by_explainer_image_and_target():
    step, explainer = Step(double(Deep()), ["features"]), GradCAM("features")
    target = torch.zeros(7, dtype=torch.long)
    first = step.explain(explainer, IMAGE, target)
    assert step.explain(replace(explainer), IMAGE, target) is first
    assert step.explain(replace(explainer, elementwise=True), IMAGE, target) is not first
    assert step.explain(explainer, IMAGE, target + 1) is not first
    assert step.explain(explainer, IMAGE.clone(), target) is not first


@pytest.mark.parametrize(("net", "shape"), [(Deep, (2, 3, 8, 8)), (Volume, (2, 1, 6, 6, 6)), (Views, (2, 3, 1, 8, 8))])
def test_zero_of_a_plain_network_is_0(net, shape):
    zero = record(double(net()), torch.rand(shape, dtype=torch.float64)).zero
    assert zero.shape == ()
    assert zero.item() == 0
    assert zero.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_of_a_classifier_is_the_mean_it_subtracts(dtype):
    model = load_model("sightline:cnn", num_classes=4, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7], filters=[4]).to(dtype)
    image = torch.rand(2, 3, 8, 8, dtype=dtype)
    run = record(model, image)
    assert run.zero.dtype == dtype
    assert run.zero.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert torch.equal(model.normalise(run.zero.expand_as(image)), torch.zeros_like(image))


@pytest.mark.parametrize("wbp", [WBP(reduce=None), WBP(), WBP("surrogate"), WBP("autograd", reduce="abs_sum")], ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_wbp_of_a_classifier_is_that_of_its_network_on_the_normalised_image(wbp, training):
    model = load_model("sightline:cnn", num_classes=4, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7], filters=[4, 6])
    model.double().train(training)
    target = torch.arange(7) % 4

    def draw(net, image):
        return wbp(record(net, image, taps=wbp.taps, ruled=wbp.ruled), target)

    torch.testing.assert_close(draw(model, IMAGE), draw(model.net, model.normalise(IMAGE)))
