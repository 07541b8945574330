import pytest
import torch
from torch import nn

from sightline import load_model
from sightline.errors import SightlineError
from sightline.layers import find_layer
from sightline.models import save

IMAGE = torch.rand(2, 3, 32, 32)


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "torchvision:vgg11_bn", "timm:resnet18", "sightline:cnn"])
def test_normalisation_inside_and_nothing_in_place(spec):
    model = load_model(spec, num_classes=5, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]).eval()
    assert model(IMAGE).shape == (2, 5)
    normalised = (IMAGE - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    torch.testing.assert_close(model(IMAGE), model.net(normalised))
    assert not any(getattr(m, "inplace", False) for m in model.modules())


@pytest.mark.parametrize(
    ("spec", "pool"), [("torchvision:resnet18", "max"), ("timm:resnet18", "max"), ("sightline:cnn", "max")]
)
def test_gmp_swap_pools_by_maximum(spec, pool):
    model = load_model(spec, num_classes=5, pool=pool).eval()
    head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    kept = {}
    layer = dict(model.named_modules())[find_layer(model, 64)]
    layer.register_forward_hook(lambda m, i, o: kept.update(a=o))
    image = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(model(image), head(kept["a"].amax((2, 3))))


def test_no_pool_to_swap():
    with pytest.raises(SightlineError, match="no global pool"):
        load_model("sightline:cfcn_f", num_classes=3, pool="max")


@pytest.mark.parametrize("head", ["cnn", "cfcn_f", "cfcn_c"])
def test_own_networks(head):
    arguments = {"filters": [4, 6, 8], "stride_every": 2, "size": [32, 24], "dropout": 0.3}
    model = load_model(f"sightline:{head}", num_classes=3, channels=1, arguments=arguments).eval()
    image = torch.rand(2, 1, 32, 24)
    assert model(image).shape == (2, 3)
    assert find_layer(model, (32, 24)) == {"cnn": "net.block3", "cfcn_f": "net.maps", "cfcn_c": "net.maps"}[head]
    if head == "cfcn_c":
        assert (model(image) >= 0).all()


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "sightline:cfcn_f", "timm:vit_tiny_patch16_224"])
def test_saved_models_come_back_whole(spec, tmp_path):
    arguments = {"img_size": 32} if "vit" in spec else {"size": 32} if "cfcn" in spec else {}
    model = load_model(spec, num_classes=4, arguments=arguments, mean=[0.4] * 3, std=[0.3] * 3).eval()
    save(model, tmp_path / "model.safetensors")
    for name in (tmp_path, tmp_path / "model.safetensors"):
        torch.testing.assert_close(load_model(f"file:{name}").eval()(IMAGE), model(IMAGE), rtol=0, atol=0)


def test_a_network_from_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef net(num_classes, width=3):\n"
        "    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), *head)\n"
    )
    model = load_model(f"file:{tmp_path}/mine.py:net", num_classes=6, arguments={"width": 5})
    assert model(IMAGE).shape == (2, 6)
    save(model, tmp_path / "model.safetensors")
    torch.testing.assert_close(load_model(f"file:{tmp_path}")(IMAGE), model(IMAGE))
    with pytest.raises(SightlineError, match="Did you mean 'width'"):
        load_model(f"file:{tmp_path}/mine.py:net", arguments={"widht": 5})
    with pytest.raises(SightlineError, match="no function 'nets'"):
        load_model(f"file:{tmp_path}/mine.py:nets")


def test_weights_from_disk(tmp_path):
    net = load_model("torchvision:resnet18", num_classes=3).net
    torch.save(net.state_dict(), tmp_path / "w.pt")
    model = load_model("torchvision:resnet18", num_classes=3, weights=str(tmp_path / "w.pt"))
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), model.net.state_dict().values(), strict=True)
    )
    with pytest.raises(SightlineError, match=r"w\.pt do not fit"):
        load_model("torchvision:resnet34", num_classes=3, weights=str(tmp_path / "w.pt"))
    torch.save(net, tmp_path / "whole.pt")
    with pytest.raises(SightlineError, match=r"whole\.pt do not fit"):
        load_model("torchvision:resnet18", num_classes=3, weights=str(tmp_path / "whole.pt"))


def test_a_head_of_another_size_starts_afresh_and_says_so(tmp_path, caplog):
    net = load_model("torchvision:resnet18", num_classes=3).net
    torch.save(net.state_dict(), tmp_path / "w.pt")
    model = load_model("torchvision:resnet18", num_classes=5, weights=str(tmp_path / "w.pt"))
    assert torch.equal(model.net.layer4[1].conv2.weight, net.layer4[1].conv2.weight)
    assert model.net.fc.weight.shape == (5, 512)
    assert "fc.weight" in caplog.text


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("torchvision:resnet81", {}, "Did you mean 'resnet"),
        ("timm:resnet81", {}, "timm has no model"),
        ("torchvison:resnet18", {}, "'torchvision'"),
        ("torchvision:resnet18", {"channels": 1}, "3 channels"),
        ("torchvision:resnet18", {"weights": "none.pt"}, "none.pt does not exist"),
        ("file:nowhere", {}, "nowhere.* does not exist"),
        ("timm:resnet18", {"arguments": {"img": 3}}, "cannot be built"),
    ],
)
def test_mistakes_are_named(spec, options, message):
    with pytest.raises(SightlineError, match=message):
        load_model(spec, **options)


def test_a_foreign_file_is_not_taken_for_a_run(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(SightlineError, match="not written by sightline"):
        load_model(f"file:{tmp_path}")
