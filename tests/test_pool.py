"""Networks of both hubs with their global average swapped for a maximum, against their head on such a maximum."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import _weigh
from sightline import explain, load_model
from sightline.errors import SightlineError
from sightline.layers import find_layer
from sightline.models import save
from sightline.pools import GlobalMaxPool, swap_pool

slow = pytest.mark.slow
AXES = {"NCHW": (2, 3), "NHWC": (1, 2), "NLC": (1,)}
# The pools that are modules. The average of one position is that position, so a maximum ahead of the pool swaps it.
MODULES = {
    "resnet18": "avgpool", "resnext50_32x4d": "avgpool", "squeezenet1_1": "classifier.3",
    "googlenet": "avgpool", "inception_v3": "avgpool", "mobilenet_v3_small": "avgpool", "efficientnet_b0": "avgpool",
    "efficientnet_v2_s": "avgpool", "regnet_y_400mf": "avgpool", "regnet_x_400mf": "avgpool",
    "convnext_tiny": "avgpool", "swin_t": "avgpool", "swin_v2_t": "avgpool", "maxvit_t": "classifier.0",
}  # fmt: skip
SLOW = {
    "regnet_y_400mf",
    "resnext50_32x4d", "googlenet", "inception_v3", "efficientnet_v2_s", "convnext_tiny", "swin_t",
    "swin_v2_t", "maxvit_t",
}  # fmt: skip
# Features, then the head, of those that call a function instead.
FUNCTIONS = {
    "densenet121": lambda net, x: net.classifier(F.relu(net.features(x)).amax((2, 3))),
    "mobilenet_v2": lambda net, x: net.classifier(net.features(x).amax((2, 3))),
    "mnasnet0_5": lambda net, x: net.classifier(net.layers(x).amax((2, 3))),
    "shufflenet_v2_x0_5": lambda net, x: net.fc(
        net.conv5(net.stage4(net.stage3(net.stage2(net.maxpool(net.conv1(x)))))).amax((2, 3))
    ),
}
TIMM = [
    ("test_resnet", "NCHW", {}),
    ("test_byobnet", "NCHW", {}),
    ("test_coatnet", "NCHW", {}),
    ("test_convnext", "NCHW", {}),
    ("test_convnext3", "NCHW", {}),
    ("test_efficientnet", "NCHW", {}),
    ("test_efficientnet_gn", "NCHW", {}),
    ("test_nfnet", "NCHW", {}),
    ("test_mambaout", "NHWC", {}),
    ("test_vit2", "NLC", {}),
    ("test_vit4", "NLC", {}),
    ("test_vit_relpos", "NLC", {}),
    ("vit_tiny_patch16_224", "NLC", {"global_pool": "avg", "img_size": 64, "depth": 2}),
    ("beit_base_patch16_224", "NLC", {"img_size": 64, "depth": 1, "embed_dim": 48, "num_heads": 3}),
    ("swin_tiny_patch4_window7_224", "NHWC", {"embed_dim": 24, "depths": [1, 1, 1, 1], "img_size": 64}),
    ("regnetx_002", "NCHW", {}),
    ("edgenext_xx_small", "NCHW", {}),
    pytest.param("mixer_s32_224", "NLC", {}, marks=slow),
    pytest.param("resmlp_12_224", "NLC", {}, marks=slow),
    pytest.param("poolformer_s12", "NCHW", {}, marks=slow),
    pytest.param("resnet18", "NCHW", {}, marks=slow),
    pytest.param("levit_128s", "NLC", {}, marks=slow),
    pytest.param("pvt_v2_b0", "NCHW", {}, marks=slow),
    pytest.param("ghostnet_050", "NCHW", {}, marks=slow),
    pytest.param("efficientnet_lite0", "NCHW", {}, marks=slow),
    pytest.param("mobilevit_xxs", "NCHW", {}, marks=slow),
    pytest.param("mobilenetv4_conv_small", "NCHW", {}, marks=slow),
    pytest.param("regnety_002", "NCHW", {}, marks=slow),
    pytest.param("densenet121", "NCHW", {}, marks=slow),
    pytest.param("repvit_m0_9", "NCHW", {}, marks=slow),
    pytest.param("convmixer_768_32", "NCHW", {}, marks=slow),
    pytest.param("inception_v3", "NCHW", {}, marks=slow),
    pytest.param("coatnet_pico_rw_224", "NCHW", {}, marks=slow),
    pytest.param("efficientformerv2_s0", "NCHW", {}, marks=slow),
    pytest.param("twins_svt_small", "NLC", {}, marks=slow),
    pytest.param("swinv2_tiny_window8_256", "NHWC", {}, marks=slow),
    pytest.param("tf_efficientnetv2_b0", "NCHW", {}, marks=slow),
]


def both(spec, **options):
    """A network as it is and with its pool swapped, in evaluation mode, with the same weights that let signals pass."""
    pair = [load_model(spec, num_classes=5, pool=pool, **options).eval() for pool in (None, "max")]
    for model in pair:
        _weigh(model.net, seed=0).float()
    return pair


def image(size):
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def check(plain, swapped, x, reference):
    """The two give different logits, and the swapped one's are the reference's."""
    expected, got, before = reference(plain.net, plain.normalise(x)), swapped(x), plain(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(before, got, rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", [pytest.param(n, marks=slow) if n in SLOW else n for n in MODULES])
def test_torchvision_with_a_pool(name):
    plain, swapped = both(f"torchvision:{name}")

    def reference(net, x):
        take = net.get_submodule(MODULES[name])
        handle = take.register_forward_pre_hook(lambda _, inputs: (inputs[0].amax((2, 3), keepdim=True),))
        logits = net(x)
        handle.remove()
        return logits

    check(plain, swapped, image((224, 224) if name in ("maxvit_t", "inception_v3") else (96, 64)), reference)
    assert list(swapped.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torchvision_with_a_function(name):
    plain, swapped = both(f"torchvision:{name}")
    check(plain, swapped, image((96, 64)), FUNCTIONS[name])
    assert list(swapped.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize(("name", "layout", "arguments"), TIMM)
def test_timm(name, layout, arguments):
    pytest.importorskip("timm")
    plain, swapped = both(f"timm:{name}", arguments=arguments)
    prefix = getattr(plain.net, "num_prefix_tokens", 0) if layout == "NLC" else 0

    def reference(net, x):
        features = net.forward_features(x)
        peak = features[:, prefix:].amax(AXES[layout], keepdim=True)
        return net.forward_head(torch.cat([features[:, :prefix], peak], 1) if prefix else peak)

    size = arguments.get("img_size", plain.net.default_cfg["input_size"][-1])
    check(plain, swapped, image((size, size)), reference)


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("torchvision:shufflenet_v2_x0_5", {}),
        ("torchvision:squeezenet1_1", {}),
        ("timm:test_vit2", {}),
        ("timm:test_mambaout", {}),
        ("sightline:cnn", {"filters": [4, 6]}),
    ],
)
def test_swapped_networks_are_saved_and_explained(spec, arguments, tmp_path):
    model = load_model(spec, num_classes=4, pool="max", arguments=arguments).eval()
    x = image((64, 64))
    save(model, tmp_path / "model.safetensors")
    back = load_model(f"file:{tmp_path}").eval()
    torch.testing.assert_close(back(x), model(x), rtol=0, atol=0)
    assert back.origin["pool"] == "max"
    layer = find_layer(model, 64)
    assert not isinstance(model.get_submodule(layer), GlobalMaxPool | nn.AdaptiveMaxPool2d)
    assert explain(model, x).flatten(1).sum(1).min() > 0


def test_weights_are_those_of_the_network_as_published(tmp_path):
    pytest.importorskip("timm")
    plain = load_model("timm:test_vit2", num_classes=4)
    torch.save(plain.net.state_dict(), tmp_path / "w.pt")
    swapped = load_model("timm:test_vit2", num_classes=4, pool="max", weights=str(tmp_path / "w.pt"))
    for own, published in zip(swapped.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own, published)


@pytest.mark.parametrize("spec", ["timm:test_vit", "sightline:cfcn_f"])
def test_networks_without_a_global_average(spec):
    with pytest.raises(SightlineError, match="has no global average pool"):
        load_model(spec, num_classes=3, pool="max")


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec", ["torchvision:alexnet", "torchvision:vgg11", "torchvision:vit_b_16", "timm:xcit_nano_12_p16_224"]
)
def test_more_networks_without_a_global_average(spec):
    with pytest.raises(SightlineError, match="has no global average pool"):
        load_model(spec, num_classes=3, pool="max")


MINE = """
import torch
from torch import nn

class Gate(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.pool = pool
    def forward(self, x):
        return x * self.pool(x).sigmoid()

class Mean(nn.Module):
    def forward(self, x):
        return {mean}

def net(num_classes):
    return nn.Sequential(nn.Conv{n}d(1, 6, 3, padding=1), nn.ReLU(), {rest})
"""


def mine(folder, rest, n=2, mean="x.mean((2, 3))"):
    (folder / "mine.py").write_text(MINE.format(rest=rest, n=n, mean=mean))
    return load_model(f"file:{folder}/mine.py:net", num_classes=3, pool="max", mean=[0.5], std=[0.5]).eval()


def test_a_gate_is_no_pool(tmp_path):
    """The average that gates is not what the logits come from; the one behind it is."""
    gate = "Gate(nn.AdaptiveAvgPool2d(1))"
    with pytest.raises(SightlineError, match="has no global average pool"):
        mine(tmp_path, f"{gate}, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, num_classes)")
    model = mine(tmp_path, f"{gate}, nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes)")
    assert isinstance(model.net[2].pool, nn.AdaptiveAvgPool2d)
    assert isinstance(model.net[4], nn.AdaptiveMaxPool2d)


@pytest.mark.parametrize(
    ("rest", "n"),
    [
        ("nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, num_classes)", 3),
        ("Mean(), nn.Linear(6, num_classes)", 2),
        ("Mean(), nn.Dropout(), nn.Linear(6, num_classes)", 2),
    ],
)
def test_networks_of_ones_own(rest, n, tmp_path):
    model = mine(tmp_path, rest, n)
    x = torch.rand(2, 1, *[8] * n)
    peak = model.net[1](model.net[0](model.normalise(x))).flatten(2).amax(2)
    torch.testing.assert_close(model(x), model.net[-1](peak))


def test_what_cannot_be_swapped_is_said(tmp_path):
    """Squares in between do not commute with the maximum, and averages of averages are none of positions."""
    for mean in ("(x - 1).square().mean((2, 3))", "x.mean(3).mean(2)"):
        with pytest.raises(SightlineError, match="cannot be given a maximum"):
            mine(tmp_path, "Mean(), nn.Linear(6, num_classes)", mean=mean)


def test_only_average_and_maximum():
    average = load_model("sightline:cnn", num_classes=3, pool="avg")
    assert isinstance(average.net.pool, nn.AdaptiveAvgPool2d)
    with pytest.raises(SightlineError, match="expected 'max', 'avg' or None"):
        swap_pool(average.net, "median", "sightline:cnn", {}, 3)


def test_the_swap_leaves_the_rest_alone():
    """Mode, statistics, weights, a fresh head of zeros, and the global random state."""
    net = load_model("sightline:cnn", num_classes=3).net
    nn.init.zeros_(net.head.weight)
    before, state = {key: value.clone() for key, value in net.state_dict().items()}, torch.get_rng_state()
    swap_pool(net, "max", "sightline:cnn", {}, 3)
    assert isinstance(net.pool, nn.AdaptiveMaxPool2d)
    assert all(module.training for module in net.modules())
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("layout", AXES)
def test_maximum_by_hand(layout, keep):
    """Of equal maxima the first gets the gradient."""
    axes = AXES[layout]
    x = torch.zeros(1, *[2] * (len(axes) + 1), requires_grad=True)
    y = GlobalMaxPool(axes, keep)(x)
    assert y.shape == x.amax(axes, keepdim=keep).shape
    (slope,) = torch.autograd.grad(y.sum(), x)
    cells = (slope.movedim(1, -1) if layout == "NCHW" else slope).flatten(0, -2)
    assert cells[0].tolist() == [1, 1]
    assert not cells[1:].any()


def test_class_tokens_pass():
    x = torch.rand(3, 7, 4)
    out = GlobalMaxPool((1,), prefix=2)(x)
    assert torch.equal(out[:, :2], x[:, :2])
    assert torch.equal(out[:, 2:], x[:, 2:].amax(1, keepdim=True))
