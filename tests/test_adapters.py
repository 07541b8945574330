"""Other libraries' attributions and plain functions as explainers."""

import copy
import importlib.abc
import re
import sys

import numpy as np
import pytest
import torch
from torch import nn

from nets import Deep, Residual, Volume, double
from numeric import directional
from sightline import explain, record
from sightline.compat import repair_torchvision
from sightline.errors import SightlineError
from sightline.explainers import adapters
from sightline.explainers.adapters import Captum, CaptumLayer, Custom, Zennit
from sightline.explainers.gradcam import GradCAM
from sightline.explainers.gradient import Gradient, InputXGradient
from sightline.explainers.integrated import IntegratedGradients

repair_torchvision()


def uniform(*shape, seed=2):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


IMAGE, VOLUME, VIEWS = uniform(3, 3, 12, 12), uniform(2, 1, 8, 6, 4), uniform(2, 3, 3, 12, 12)
TARGET = torch.tensor([3, 1, 0])


class Views(nn.Module):
    """The mean over several views of each image."""

    def __init__(self):
        super().__init__()
        self.net = Deep()

    def forward(self, image):
        return self.net(image.flatten(0, 1)).unflatten(0, image.shape[:2]).mean(1)


class Answer(nn.Module):
    """A dict for an output."""

    def __init__(self):
        super().__init__()
        self.net = Deep()

    def forward(self, image):
        return {"logits": self.net(image)}


def assert_agree(maps, expected):
    """To a millionth of the largest value."""
    assert maps.shape == expected.shape
    assert (maps - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert expected.abs().max() > 0


def close_up(model, image, target):
    """A map that is no explanation, but easy to recognise."""
    return image.amax(1) + target.view(-1, 1, 1)


def squared_gradient(model, image, target):
    return adapters.input_gradient(model, image, target) ** 2


# ---------------------------------------------------------------------------------------------------------------------
# Any function


def test_a_function_is_an_explainer():
    net = double(Deep())
    maps = explain(net, IMAGE, TARGET, Custom(close_up))
    torch.testing.assert_close(maps, IMAGE.amax(1) + TARGET.view(-1, 1, 1))


@pytest.mark.parametrize(("net", "image"), [(Deep, IMAGE), (Volume, VOLUME), (Views, VIEWS), (Answer, IMAGE)])
@pytest.mark.parametrize("reduce", ["sum", "max_abs", None])
def test_the_function_that_comes_along_is_the_gradient(net, image, reduce):
    net = double(net())
    assert_agree(explain(net, image, 1, Custom(reduce=reduce)), explain(net, image, 1, Gradient(reduce)))


def test_a_function_is_printed_and_found_by_name():
    explainer = Custom(close_up, reduce="abs_sum")
    assert repr(explainer) == f"Custom(function='{__name__}:close_up', reduce='abs_sum', seed=0)"
    assert eval(repr(explainer)) == explainer
    assert hash(eval(repr(explainer))) == hash(explainer)
    assert copy.deepcopy(explainer) == explainer != Custom(squared_gradient, reduce="abs_sum")
    assert eval(repr(Custom())) == Custom()
    torch.testing.assert_close(
        explain(double(Deep()), IMAGE, 1, Custom(f"{__name__}:close_up")), explain(double(Deep()), IMAGE, 1, explainer)
    )


def test_a_function_without_a_name_will_do():
    assert explain(double(Deep()), IMAGE, 1, Custom(lambda model, image, target: image)).shape == (3, 12, 12)
    assert "<lambda>" in repr(Custom(lambda model, image, target: image))
    assert "Views" in repr(Custom(Views()))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no.such.module:f", "package.module:function"),
        ("math:no_such_function", "no_such_function"),
        ("close_up", "package.module:function"),
        ("math:pi", "expected f"),
        ("", "package.module:function"),
    ],
)
def test_functions_that_do_not_exist(function, message):
    with pytest.raises(SightlineError, match=message):
        Custom(function)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, x, t: x.amax(1).numpy(), "returned ndarray: expected one tensor"),
        (lambda m, x, t: x[:2].amax(1), r"shape \(2, 12, 12\) for images of \(3, 3, 12, 12\)"),
        (lambda m, x, t: x.sum(), r"shape \(\)"),
        (lambda m, x, t: x.amax((1, 2)), r"shape \(3, 12\)"),
        (lambda m, x, t: x.amax(1).log().log(), "not finite"),
    ],
)
def test_functions_that_return_no_map(function, message):
    with pytest.raises(SightlineError, match=message):
        explain(double(Deep()), IMAGE, 0, Custom(function))


def test_maps_of_a_function_may_be_part_of_a_loss():
    net, weight = double(Residual()).train(), uniform(3, 12, 12, seed=3)
    for function in (adapters.input_gradient, squared_gradient):
        analytic, numeric = directional(
            lambda f=function: (Custom(f)(record(net, IMAGE), TARGET, differentiable=True) * weight).sum(), net
        )
        assert analytic == pytest.approx(numeric, rel=1e-5)


def test_only_a_differentiable_map_has_a_graph():
    run = record(double(Deep()), IMAGE)
    assert not Custom()(run).requires_grad
    assert Custom()(run, differentiable=True).requires_grad
    with pytest.raises(SightlineError, match="without a graph"):
        Custom(close_up)(run, differentiable=True)


def sloppy(model, image, target):
    """Leaves behind what can be left behind."""
    model.train()
    for module in model.modules():
        module.register_forward_hook(lambda *_: None)
        module.note = "was here"
    model.extra = nn.Linear(2, 2)
    model.pool = nn.AdaptiveMaxPool2d(1)
    model.act.inplace = False
    model(image).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
            parameter.requires_grad_(False)
    torch.rand(3)
    np.random.rand(3)
    return torch.rand(3, 12, 12) + float(np.random.rand())


def snapshot(net):
    return {
        "state": copy.deepcopy(net.state_dict()),
        "identity": [id(t) for t in [*net.parameters(), *net.buffers(), *net.modules()]],
        "modes": [m.training for m in net.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules()],
        "attributes": [len(vars(m)) for m in net.modules()],
        "inplace": [getattr(m, "inplace", False) for m in net.modules()],
        "grads": [p.grad.clone() for p in net.parameters() if p.grad is not None],
        "requires": [p.requires_grad for p in net.parameters()],
        "versions": [t._version for t in [*net.parameters(), *net.buffers()]],
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.random.get_state()[1]),
    }


def assert_same(before, after):
    assert before.keys() == after.keys()
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=0, msg=lambda text, key=key: f"{key}: {text}")


BORROWERS = [
    Custom(sloppy), Custom(), Captum(), Captum("DeepLift"), Captum("LRP"), Captum("GuidedBackprop"),
    Captum("Occlusion", {"sliding_window_shapes": [3, 4, 4]}), Captum("KernelShap", {"n_samples": 5}),
    CaptumLayer(layer="body"), CaptumLayer("GuidedGradCam", layer="body"), Zennit(),
    Zennit("EpsilonPlus", canonizer="SequentialMergeBatchNorm"), Zennit(None, "SmoothGrad"), Zennit("GuidedBackprop"),
]  # fmt: skip


several = pytest.mark.filterwarnings("ignore:You are providing multiple inputs for Lime")


def needs(explainer):
    if isinstance(explainer, Captum):
        pytest.importorskip("captum.attr")
    if isinstance(explainer, Zennit):
        pytest.importorskip("zennit")


@several
@pytest.mark.filterwarnings("error:.*hooks")
@pytest.mark.parametrize("explainer", BORROWERS, ids=repr)
@pytest.mark.parametrize("training", [True, False])
def test_whatever_happens_the_model_and_the_random_states_are_left_alone(explainer, training):
    needs(explainer)
    net = double(Residual()).train(training)
    net.stem.eval()
    net.head.weight.requires_grad_(False)
    record(net, IMAGE).logits.sum().backward()
    run = record(net, IMAGE)
    before = snapshot(net)
    try:
        explainer(run, TARGET)
    except SightlineError:  # halfway through: the two know no rule for a sum, and no activation that is used twice
        assert explainer in (Captum("LRP"), Captum("DeepLift"))
    assert_same(before, snapshot(net))
    run.logits.sum().backward()  # of the pass made before


@several
@pytest.mark.parametrize("explainer", [one for one in BORROWERS[1:] if one != Captum("LRP")], ids=repr)
def test_the_global_random_states_do_not_matter(explainer):
    needs(explainer)
    net = double(Deep())
    if "layer" in vars(explainer):
        explainer = CaptumLayer(explainer.method, layer="features.3")
    run = record(net, IMAGE)
    first = explainer(run, TARGET)
    torch.manual_seed(9)
    np.random.seed(9)
    assert torch.equal(explainer(run, TARGET), first)


def test_a_seed_makes_another_map():
    run = record(double(Deep()), IMAGE)

    def noise(model, image, target):
        return torch.rand(3, 12, 12) + float(np.random.rand())

    assert torch.equal(Custom(noise, seed=1)(run), Custom(noise, seed=1)(run))
    assert not torch.equal(Custom(noise, seed=1)(run), Custom(noise, seed=2)(run))


# ---------------------------------------------------------------------------------------------------------------------
# captum


@pytest.mark.parametrize(("net", "image"), [(Deep, IMAGE), (Volume, VOLUME), (Views, VIEWS), (Answer, IMAGE)])
def test_captum_methods_that_we_have_too(net, image):
    pytest.importorskip("captum.attr")
    net, target = double(net()), TARGET[: len(image)]
    pairs = [
        (Captum(options={"abs": False}), Gradient()),
        (Captum(reduce="abs_sum"), Gradient("abs_sum")),
        (Captum(reduce=None, options={"abs": False}), Gradient(None)),
        (Captum("InputXGradient"), InputXGradient()),
        (Captum("IntegratedGradients", {"n_steps": 6, "baselines": 0.2}), IntegratedGradients(6, 0.2)),
    ]
    for theirs, ours in pairs:
        assert_agree(explain(net, image, target, theirs), explain(net, image, target, ours))


@pytest.mark.parametrize(
    ("net", "image", "layer"),
    [(Deep, IMAGE, "features"), (Volume, VOLUME, "body"), (Answer, IMAGE, "net.features"), (Residual, IMAGE, "body")],
)
def test_captum_layers(net, image, layer):
    pytest.importorskip("captum.attr")
    net, target = double(net()), TARGET[: len(image)]
    theirs = CaptumLayer(options={"relu_attributions": True}, layer=layer)
    assert_agree(explain(net, image, target, theirs), explain(net, image, target, GradCAM(layer)))
    elementwise = explain(net, image, target, CaptumLayer("LayerGradientXActivation", layer=layer))
    assert_agree(elementwise.relu(), explain(net, image, target, GradCAM(layer, elementwise=True)))


def test_captum_finds_its_layer_and_reads_those_of_single_views():
    pytest.importorskip("captum.attr")
    product = CaptumLayer("LayerGradientXActivation", layer="net.features")
    maps = explain(double(Views()), VIEWS, 1, product)
    assert maps.shape == (2, 3, 4, 4)
    assert_agree(maps.relu(), explain(double(Views()), VIEWS, 1, GradCAM("net.features", elementwise=True)))
    found = explain(double(Deep()), IMAGE, 1, CaptumLayer("GuidedGradCam"))
    assert found.shape == (3, 12, 12)
    assert_agree(found, explain(double(Deep()), IMAGE, 1, CaptumLayer("GuidedGradCam", layer="features")))


def test_captum_occlusion():
    """Against a plain loop: the fall of the logit when a window is black, averaged over the windows over a pixel."""
    pytest.importorskip("captum.attr")
    net = double(Deep())
    explainer = Captum("Occlusion", {"sliding_window_shapes": (3, 4, 4), "strides": [3, 2, 2]}, reduce="max_abs")
    total, count = torch.zeros(3, 12, 12).double(), torch.zeros(12, 12).double()
    with torch.no_grad():
        for y in range(0, 9, 2):
            for x in range(0, 9, 2):
                image = IMAGE.clone()
                image[:, :, y : y + 4, x : x + 4] = 0
                total[:, y : y + 4, x : x + 4] += (net(IMAGE) - net(image))[range(3), TARGET].view(3, 1, 1)
                count[y : y + 4, x : x + 4] += 1
    assert_agree(explain(net, IMAGE, TARGET, explainer), (total / count).abs())


# ---------------------------------------------------------------------------------------------------------------------
# zennit


@pytest.mark.parametrize(("net", "image"), [(Deep, IMAGE), (Volume, VOLUME), (Views, VIEWS), (Answer, IMAGE)])
def test_zennit_without_rules_is_the_gradient(net, image):
    pytest.importorskip("zennit")
    net, target = double(net()), TARGET[: len(image)]
    assert_agree(explain(net, image, target, Zennit(None)), explain(net, image, target, Gradient()))
    steps = Zennit(None, "IntegratedGradients", options={"n_iter": 5})
    riemann = IntegratedGradients(5, method="riemann_right")
    assert_agree(explain(net, image, target, steps), explain(net, image, target, riemann))


def test_zennit_composites_and_canonizers():
    pytest.importorskip("zennit")
    from zennit import attribution, canonizers, composites

    head = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(500, 4))
    net = double(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), head)).eval()
    start = torch.eye(4).double()[TARGET]
    low, high = torch.tensor([0.0, -0.1, -0.2]).double(), torch.tensor([1.0, 1.1, 1.2]).double()
    box = composites.EpsilonGammaBox(low.view(1, 3, 1, 1), high.view(1, 3, 1, 1), gamma=0.5)
    box.canonizers = [canonizers.SequentialMergeBatchNorm()]
    for options, composite in [
        (("EpsilonPlus", "Gradient", None, {"epsilon": 0.1}), composites.EpsilonPlus(epsilon=0.1)),
        (("EpsilonAlpha2Beta1",), composites.EpsilonAlpha2Beta1()),
        (
            ("EpsilonGammaBox", "Gradient", "SequentialMergeBatchNorm",
             {"low": [0, -0.1, -0.2], "high": (1, 1.1, 1.2), "gamma": 0.5}),
            box,
        ),
    ]:  # fmt: skip
        with attribution.Gradient(net, composite) as attributor:
            _, expected = attributor(IMAGE.clone().requires_grad_(), start)
        assert_agree(explain(net, IMAGE, TARGET, Zennit(*options)), expected.sum(1))


def test_bounds_may_be_numbers():
    pytest.importorskip("zennit")
    net, one = double(Deep()), Zennit("EpsilonGammaBox", options={"low": 0, "high": 1.0})
    three = Zennit("EpsilonGammaBox", options={"low": [0, 0, 0], "high": [1, 1, 1]})
    assert_agree(explain(net, IMAGE, 1, one), explain(net, IMAGE, 1, three))
    assert explain(double(Volume()), VOLUME, 1, one).shape == (2, 8, 6, 4)


# ---------------------------------------------------------------------------------------------------------------------
# Both


@pytest.mark.parametrize("explainer", [Captum(), CaptumLayer(layer="features"), Zennit()], ids=repr)
def test_maps_of_other_libraries_cannot_be_part_of_a_loss(explainer):
    with pytest.raises(SightlineError, match="cannot be part of a loss"):
        explainer(record(double(Deep()), IMAGE), differentiable=True)


@pytest.mark.parametrize("explainer", [Captum(), CaptumLayer(layer="features"), Zennit(), Zennit(None)], ids=repr)
def test_maps_have_no_graph_and_zero_gradients_make_zero_maps(explainer):
    needs(explainer)
    net = double(Deep())
    run = record(net, IMAGE)
    assert not explainer(run).requires_grad
    net.features[3].weight.data.zero_()
    net.features[3].bias.data.fill_(-1e3)
    maps = explain(net, IMAGE, 0, explainer)
    assert torch.equal(maps, torch.zeros_like(maps))


@pytest.mark.filterwarnings("error:.*hooks")
@pytest.mark.parametrize(
    "explainer",
    [Captum("DeepLift"), Captum("GuidedBackprop"), CaptumLayer(layer="features.0"), Zennit(), Zennit("BetaSmooth")],
    ids=repr,
)
def test_inplace_activations_do_not_disturb(explainer):
    needs(explainer)
    net, twin = double(Deep()), double(Deep())
    twin.features[1].inplace = False
    maps, expected = (explain(n, IMAGE, TARGET, explainer) for n in (net, twin))
    torch.testing.assert_close(maps, expected)
    assert net.features[1].inplace


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({"b": 1, "a": [2, [3, 4]]}, (("a", (2, (3, 4))), ("b", 1))),
        ((("b", 1), ("a", "x")), (("a", "x"), ("b", 1))),
        ([["a", [1]]], (("a", (1,)),)),
        ({}, ()),
    ],
)
@pytest.mark.parametrize("kind", [Captum, Zennit])
def test_options_are_values(kind, options, frozen):
    explainer = object.__new__(kind)  # ahead of its constructor types are checked, in tests
    vars(explainer).update(reduce="sum", seed=0, options=options)
    explainer.__post_init__()
    assert explainer.options == frozen
    assert hash(kind(options=frozen)) == hash(kind(options=dict(frozen)))
    assert eval(repr(kind(options=frozen))) == kind(options=dict(frozen))


@pytest.mark.parametrize(
    ("explainer", "message"),
    [
        (Captum("Salience"), "Did you mean 'Saliency'"),
        (Captum("LayerGradCam"), "CaptumLayer runs it"),
        (Captum("NoiseTunnel"), "no method 'NoiseTunnel' that explains a class"),
        (Captum("NeuronGradient"), "no method 'NeuronGradient' that explains a class"),
        (Captum("Tensor"), "no method 'Tensor'"),
        (CaptumLayer("Saliency", layer="features"), "Captum runs it"),
        (CaptumLayer("LayerGradcam", layer="features"), "Did you mean 'LayerGradCam'"),
        (CaptumLayer(), "bind"),
        (CaptumLayer(layer="feature"), "no layer 'feature'"),
        (Captum(options={"abss": True}), "takes no option 'abss'. Did you mean 'abs'"),
        (Captum(options={"target": 1}), "takes no option 'target'"),
        (Captum("Occlusion"), "failed inside captum: TypeError.*sliding_window_shapes"),
        (Captum("Occlusion", {"sliding_window_shapes": (3, 99, 99)}), "failed inside captum: AssertionError"),
        (Captum("IntegratedGradients", {"return_convergence_delta": True}), "returned tuple"),
        (CaptumLayer("LayerGradientXActivation", layer="classifier.2"), "no spatial positions"),
        (Zennit("EpsilonPlusFlatt"), "no composite 'EpsilonPlusFlatt'. Did you mean 'EpsilonPlusFlat"),
        (Zennit("Conv2d"), "no composite 'Conv2d'"),
        (Zennit(attributor="Gradients"), "no attributor 'Gradients'. Did you mean 'Gradient'"),
        (Zennit(canonizer="ResNetCanoniser"), "no canonizer 'ResNetCanoniser'. Did you mean 'ResNetCanonizer'"),
        (Zennit(options={"gamma": 1}), "takes no option 'gamma'"),
        (Zennit(None, options={"epsilon": 1}), "takes no option 'epsilon'"),
        (Zennit("EpsilonGammaBox"), "failed inside zennit: TypeError.*low"),
    ],
    ids=repr,
)
def test_what_the_libraries_do_not_have(explainer, message):
    needs(explainer)
    with pytest.raises(SightlineError, match=message):
        explainer(record(double(Deep()), IMAGE), 1)


@pytest.mark.parametrize("kind", [Captum, CaptumLayer, Zennit])
def test_options_that_are_no_values(kind):
    with pytest.raises(SightlineError, match=rf"{kind.__name__}\(options=.*can be hashed"):
        kind(options={"baselines": {"a": 1}})


@pytest.mark.parametrize(("explainer", "extra"), [(Captum(), "captum"), (Zennit(), "zennit")], ids=["captum", "zennit"])
def test_a_library_that_is_not_installed(explainer, extra, monkeypatch):
    class Missing(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name.partition(".")[0] == extra:
                raise ModuleNotFoundError(f"No module named {extra!r}", name=extra)

    for name in [name for name in sys.modules if name.partition(".")[0] == extra]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(SightlineError, match=re.escape(f'pip install "sightline[{extra}]"')):
        explainer(record(double(Deep()), IMAGE))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("explainer", [Captum("GuidedBackprop"), Zennit()], ids=repr)
def test_a_scripted_model_hides_its_layers(explainer):
    needs(explainer)
    with pytest.raises(SightlineError, match="scripted"):
        explain(torch.jit.script(double(Deep())), IMAGE, 0, explainer)
    custom = explain(torch.jit.script(double(Deep())), IMAGE, 0, Custom())
    assert_agree(custom, explain(double(Deep()), IMAGE, 0, Gradient()))


def test_inference_mode():
    pytest.importorskip("captum.attr")
    net = double(Deep())
    occlusion = Captum("Occlusion", {"sliding_window_shapes": (3, 6, 6)})
    expected = explain(net, IMAGE, 0, occlusion)
    with torch.inference_mode():
        run = record(net, IMAGE)
        assert_agree(occlusion(run, 0), expected)
        with pytest.raises(SightlineError, match="no gradients in inference mode"):
            Captum()(run, 0)


def test_bad_images_and_targets():
    with pytest.raises(SightlineError, match="classes 0 to 3"):
        explain(double(Deep()), IMAGE, 4, Captum())
