import pytest
import torch
from torch import nn

from sightline import load_model
from sightline.errors import SightlineError
from sightline.layers import find_layer
from sightline.models import ConvNet, save

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
    with pytest.raises(SightlineError, match="no global average pool"):
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


def test_arguments_of_the_network_are_taken_directly(tmp_path):
    model = load_model("sightline:cfcn_c", num_classes=3, filters=[4, 6], arguments={"stride_every": 0}).eval()
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == [4, 6, 3]
    assert model.origin["arguments"] == {"filters": [4, 6], "stride_every": 0}
    save(model, tmp_path / "model.safetensors")
    torch.testing.assert_close(load_model(f"file:{tmp_path}").eval()(IMAGE), model(IMAGE), rtol=0, atol=0)
    assert load_model("timm:vit_tiny_patch16_224", num_classes=3, img_size=32).eval()(IMAGE).shape == (2, 3)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("conv_bn_relu", [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout]),
        ("conv_relu_bn", [nn.Conv2d, nn.ReLU, nn.BatchNorm2d, nn.Dropout]),
    ],
)
def test_the_order_within_a_block(order, expected):
    net = load_model("sightline:cnn", num_classes=3, filters=[4], dropout=0.3, order=order).net
    assert [type(layer) for layer in net.block1] == expected
    assert (net.block1[0].bias is None) == (order == "conv_bn_relu")


@pytest.mark.parametrize("logit_from", ["relu", "raw"])
def test_logits_average_the_maps_with_or_without_relu(logit_from):
    model = load_model("sightline:cfcn_c", num_classes=3, filters=[8], logit_from=logit_from).eval()
    before = model.net.maps[0](model.net.block1(model.normalise(IMAGE)))
    before = before.relu() if logit_from == "relu" else before
    torch.testing.assert_close(model(IMAGE), before.mean((2, 3)))
    assert bool((model(IMAGE) < 0).any()) == (logit_from == "raw")


PAPER = {  # CFCN, Table 4: filters, every how many layers a stride of 2, dropout, size of the images and of the maps
    "pets": ([128, 128, 64, 64, 32, 32, 16, 16], 0, 0.3, (96, 96), (96, 96)),
    "aeroplane_cow": ([128, 128, 64, 64, 32], 2, 0.3, (96, 96), (24, 24)),
    "brain_mri": ([64, 64, 64, 32, 32, 32], 3, 0.0, (96, 96), (24, 24)),
    "idrid": ([32, 32, 16, 16, 8, 8], 0, 0.3, (250, 175), (250, 175)),
}


@pytest.mark.parametrize("data", PAPER)
def test_the_papers_networks(data):
    filters, stride_every, dropout, size, cells = PAPER[data]
    options = {"filters": filters, "stride_every": stride_every, "dropout": dropout, "order": "conv_relu_bn"}
    with torch.device("meta"):
        image = torch.empty(1, 3, *size)
        for head in ("cfcn_f", "cfcn_c"):
            net = ConvNet(head, 3, size=size, **options)
            assert net(image).shape == (1, 3)
            assert nn.Sequential(*[*net][: len(filters) + 1])(image).shape == (1, 16 if head == "cfcn_f" else 3, *cells)
            assert sum(isinstance(m, nn.Dropout) for m in net.modules()) == len(filters) * (dropout > 0)


def test_a_network_from_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef net(num_classes, width=3):\n"
        "    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), *head)\n"
        "def loose(num_classes, **options):\n    return net(num_classes, **options)\n"
    )
    model = load_model(f"file:{tmp_path}/mine.py:net", num_classes=6, arguments={"width": 5})
    assert model(IMAGE).shape == (2, 6)
    save(model, tmp_path / "model.safetensors")
    torch.testing.assert_close(load_model(f"file:{tmp_path}")(IMAGE), model(IMAGE))
    with pytest.raises(SightlineError, match="Did you mean 'width'"):
        load_model(f"file:{tmp_path}/mine.py:net", arguments={"widht": 5})
    for name, message in [("widht", "takes no argument 'widht'"), ("chanels", "Did you mean 'channels'")]:
        with pytest.raises(SightlineError, match=message):
            load_model(f"file:{tmp_path}/mine.py:loose", **{name: 5})
    with pytest.raises(SightlineError, match="no function 'nets'"):
        load_model(f"file:{tmp_path}/mine.py:nets")


def test_weights_from_disk(tmp_path):
    net = load_model("torchvision:resnet18", num_classes=3).net
    torch.save(net.state_dict(), tmp_path / "w.pt")
    model = load_model("torchvision:resnet18", num_classes=3, weights=str(tmp_path / "w.pt"))
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), model.net.state_dict().values(), strict=True)
    )
    lacks = r"w\.pt do not fit the network: it lacks layer1\.2\.bn1\.bias, .* and 77 more"
    with pytest.raises(SightlineError, match=lacks):
        load_model("torchvision:resnet34", num_classes=3, weights=str(tmp_path / "w.pt"))
    torch.save(net, tmp_path / "whole.pt")
    with pytest.raises(SightlineError, match=r"whole\.pt hold more than tensors.* Save its state_dict"):
        load_model("torchvision:resnet18", num_classes=3, weights=str(tmp_path / "whole.pt"))


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"net.{name}": value for name, value in state.items()} | {"loss.weight": IMAGE}},
        lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
    ],
)
def test_checkpoints_of_training_loops(tmp_path, wrapped):
    net = load_model("sightline:cnn", num_classes=3, filters=[4, 8]).net
    torch.save(wrapped(net.state_dict()), tmp_path / "w.pt")
    model = load_model("sightline:cnn", num_classes=3, filters=[4, 8], weights=str(tmp_path / "w.pt"))
    for name, value in net.state_dict().items():
        assert torch.equal(model.net.state_dict()[name], value), name


def test_a_checkpoint_of_several_networks_is_refused(tmp_path):
    state = load_model("sightline:cnn", num_classes=3, filters=[4, 8]).net.state_dict()
    torch.save(
        {f"{who}.{name}": value for who in ("teacher", "student") for name, value in state.items()}, tmp_path / "w.pt"
    )
    with pytest.raises(SightlineError, match=r"it holds several: teacher\., student\."):
        load_model("sightline:cnn", num_classes=3, filters=[4, 8], weights=str(tmp_path / "w.pt"))
    (tmp_path / "w.pt").write_text("<html>")
    with pytest.raises(SightlineError, match=r"w\.pt is no file of torch\.save"):
        load_model("sightline:cnn", num_classes=3, filters=[4, 8], weights=str(tmp_path / "w.pt"))


@pytest.mark.parametrize("wrong", [{"mean": [0.5, 0.5]}, {"std": [0.0]}, {"std": []}])
def test_a_normalisation_that_cannot_be_is_refused(wrong):
    with pytest.raises(SightlineError, match="expected one number or one for each of 3 channels"):
        load_model("sightline:cnn", num_classes=3, filters=[4], **wrong)


def test_timm_networks_normalise_as_their_weights_expect():
    for name, mean in (("resnet18", 0.485), ("vit_tiny_patch16_224", 0.5)):
        model = load_model(f"timm:{name}", num_classes=3)
        assert model.normalise.mean[0] == pytest.approx(mean)
    assert load_model("timm:vit_tiny_patch16_224", channels=1).normalise.std.tolist() == [0.25]


def test_a_head_of_another_size_starts_afresh_and_says_so(tmp_path, caplog):
    net = load_model("torchvision:resnet18", num_classes=3).net
    torch.save(net.state_dict(), tmp_path / "w.pt")
    model = load_model("torchvision:resnet18", num_classes=5, weights=str(tmp_path / "w.pt"))
    assert torch.equal(model.net.layer4[1].conv2.weight, net.layer4[1].conv2.weight)
    assert model.net.fc.weight.shape == (5, 512)
    assert "fc.weight" in caplog.text


def test_a_run_directory_lends_its_weights_to_a_network_of_other_classes(tmp_path):
    trained = load_model("sightline:cnn", num_classes=3, filters=[4, 8])
    save(trained, tmp_path / "model.safetensors")
    for weights in (tmp_path, tmp_path / "model.safetensors"):
        model = load_model("sightline:cnn", num_classes=5, filters=[4, 8], pool="max", weights=str(weights))
        assert torch.equal(model.net.block2[0].weight, trained.net.block2[0].weight)
        assert model.net.head.weight.shape == (5, 8)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("torchvision:resnet81", {}, "Did you mean 'resnet"),
        ("timm:resnet81", {}, "timm has no model"),
        ("torchvison:resnet18", {}, "'torchvision'"),
        ("torchvision:resnet18", {"channels": 1}, "3 channels"),
        ("torchvision:resnet18", {"weights": "none.pt"}, "none.pt does not exist"),
        ("file:nowhere", {}, "nowhere.* does not exist"),
        ("torchvision:resnet18", {"arguments": {"groups": 3}}, "cannot be built with {'groups': 3}"),
        ("timm:resnet18", {"img": 3}, "timm:resnet18 takes no argument 'img'"),
        ("timm:vit_tiny_patch16_224", {"embed_dims": 8}, "Did you mean 'embed_dim'"),
        ("torchvision:resnet18", {"grups": 2}, "Did you mean 'groups'"),
        ("torchvision:resnet18", {"num_clases": 2}, "no argument 'num_clases'. Did you mean 'num_classes'"),
        ("timm:resnet18", {"chanels": 1}, "no argument 'chanels'. Did you mean 'channels'"),
        ("timm:resnet18", {"arguments": {"in_chans": 1}}, "load sets 'in_chans'"),
        ("timm:resnet18", {"arguments": {"mean": [0.5]}}, "load sets 'mean'"),
        ("sightline:cfcn_c", {"num_clases": 2}, "Did you mean 'num_classes'"),
        ("sightline:cfcn_c", {"filter": [8]}, "Did you mean 'filters'"),
        ("sightline:cfcn_c", {"filters": [8], "arguments": {"filters": [4]}}, "'filters' is given twice"),
        ("sightline:cfcn_c", {"arguments": {"num_classes": 2}}, "load sets 'num_classes'"),
        ("sightline:cfcn_c", {"filters": [8, 0]}, "expected a positive number"),
        ("sightline:cfcn_c", {"order": "conv_bn_rellu"}, "Did you mean 'conv_bn_relu'"),
        ("sightline:cfcn_c", {"logit_from": "rew"}, "Did you mean 'raw'"),
        ("file:nowhere", {"filters": [8]}, "leave filters out"),
    ],
)
def test_mistakes_are_named(spec, options, message):
    with pytest.raises(SightlineError, match=message):
        load_model(spec, **options)


def test_a_foreign_file_is_not_taken_for_a_run(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(SightlineError, match="not written by sightline"):
        load_model(f"file:{tmp_path}")
