import pytest
import torch
from torch import nn

from nets import Deep, Residual, Volume
from sightline.compat import repair_torchvision
from sightline.errors import SightlineError
from sightline.layers import candidates, find_layer, spatial
from sightline.models import Normalise

TORCHVISION = {
    "alexnet": "features.11",
    "vgg11_bn": "features.27",
    "resnet18": "layer4",
    "densenet121": "features",
    "mobilenet_v3_small": "features",
    "convnext_tiny": "features",
    "swin_t": "permute",
    "squeezenet1_1": "classifier.2",
    "shufflenet_v2_x1_0": "conv5",
    "googlenet": "inception5b",
}
TIMM = {
    "vit_tiny_patch16_224": "blocks.11.norm1",
    "deit_tiny_distilled_patch16_224": "blocks.11.norm1",
    "resnetv2_50": "norm",
    "convnextv2_atto": "norm_pre",
    "swin_tiny_patch4_window7_224": "norm",
    "poolformer_s12": "stages",
}


@pytest.mark.parametrize(("name", "layer"), TORCHVISION.items())
def test_torchvision(name, layer):
    repair_torchvision()
    models = pytest.importorskip("torchvision").models
    options = {"init_weights": True} if name == "googlenet" else {}
    assert find_layer(models.get_model(name, weights=None, **options)) == layer


@pytest.mark.parametrize(("name", "layer"), TIMM.items())
def test_timm(name, layer):
    repair_torchvision()
    assert find_layer(pytest.importorskip("timm").create_model(name)) == layer


def test_small_nets_and_volumes():
    assert find_layer(Residual(), 16) == "act"
    assert find_layer(Deep(), (12, 16)) == "features"
    assert find_layer(Volume(), 8) == "body"


def test_a_pooling_layers_output_is_passed_over():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 2))
    assert find_layer(net, 8) == "1"


def test_a_layer_whose_positions_nobody_reads_is_not_usable():
    class FirstCell(nn.Module):
        def forward(self, x):
            return x[:, :, 0, 0]

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), FirstCell(), nn.Linear(4, 2))
    assert {c.name: c.usable for c in candidates(net, 8)} == {"0": True, "1": False}
    assert find_layer(net, 8) == "0"


def test_no_layer_is_an_error_that_says_what_to_do():
    with pytest.raises(SightlineError, match="Pass layer="):
        find_layer(nn.Sequential(Normalise([0.5], [0.5]), nn.Flatten(), nn.Linear(48, 2)), 4)


def test_a_wrong_size_is_an_error():
    with pytest.raises(SightlineError, match="size it was built for"):
        find_layer(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)), 8)


def test_the_model_is_left_as_it_was():
    net = Residual()
    net.body.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    find_layer(net, 16)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert not net.body[1].training
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 5, 4, 6), (2, 5, 4, 6)),
        ((2, 7, 7, 96), (2, 96, 7, 7)),
        ((2, 197, 64), (2, 64, 14, 14)),
        ((2, 201, 8), (2, 8, 14, 14)),
        ((2, 6, 3, 4, 5), (2, 6, 3, 4, 5)),
    ],
)
def test_spatial(shape, expected):
    assert spatial(torch.rand(shape)).shape == expected


def test_spatial_drops_the_prefix_and_keeps_the_order():
    tokens = torch.arange(10.0).view(1, 10, 1)
    assert spatial(tokens).flatten().tolist() == list(range(1, 10))


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 1, 1)])
def test_spatial_needs_positions(shape):
    with pytest.raises(SightlineError, match="no spatial positions"):
        spatial(torch.rand(shape))
