import pytest
import torch
from torch import nn

from nets import Deep, Residual, Volume
from sightline.compat import repair_torchvision
from sightline.errors import SightlineError
from sightline.explainers import GradCAM
from sightline.layers import candidates, find_layer, probe, spatial
from sightline.models import Normalise
from sightline.passes import evaluating, record

SMALL = {"img_size": 64}
SHORT = {"img_size": 64, "depth": 2}
THIN = {"img_size": 64, "depths": (1, 1, 1, 1)}
PLAIN = {"init_weights": False}

# Network, options, size of the image; layer, and the grid of its map: a number stands for a square.
QUICK = [
    ("torchvision:mnasnet0_5", {}, 64, "layers", 2),
    ("torchvision:shufflenet_v2_x1_0", {}, 64, "conv5", 2),
    ("torchvision:squeezenet1_1", {}, 64, "classifier.2", 3),
    ("timm:cait_xxs24_224", SHORT, 64, "blocks_token_only.1.norm1", 4),
    ("timm:convit_tiny", SHORT, 64, "blocks.1.norm1", 4),
    ("timm:convnext_atto", {}, (64, 96), "norm_pre", (2, 3)),
    ("timm:deit3_small_patch16_224", SHORT, 64, "blocks.1.norm1", 4),
    ("timm:deit_tiny_distilled_patch16_224", SHORT, 64, "blocks.1.norm1", 4),
    ("timm:edgenext_xx_small", {}, 64, "norm_pre", 2),
    ("timm:eva02_tiny_patch14_224", {"img_size": 56, "depth": 2}, 56, "norm", 4),
    ("timm:fasternet_t0", {}, 64, "stages", 2),
    ("timm:lcnet_050", {}, 64, "blocks", 2),
    ("timm:levit_128s", {}, 224, "stages", 4),
    ("timm:mixer_s32_224", {"img_size": (64, 96)}, (64, 96), "norm", (2, 3)),
    ("timm:pit_ti_224", {"img_size": (64, 128)}, (64, 128), "transformers.2.blocks.3.norm1", (2, 4)),
    ("timm:pvt_v2_b0", {}, (60, 90), "stages", (2, 3)),
    ("timm:resnest14d", {}, 64, "layer4", 2),
    ("timm:resnet18", {}, 64, "layer4", 2),
    ("timm:samvit_base_patch16", SHORT, 64, "neck", 4),
    ("timm:swin_tiny_patch4_window7_224", THIN | {"img_size": (64, 96)}, (64, 96), "norm", (2, 3)),
    ("timm:swinv2_cr_tiny_224", THIN, 64, "stages", 2),
    ("timm:swiftformer_xs", {}, 64, "norm", 2),
    ("timm:tnt_s_patch16_224", SHORT, 64, "blocks.1.norm_out", 4),
    ("timm:vit_relpos_small_patch16_224", SHORT, 64, "norm", 4),
    ("timm:vit_small_patch14_reg4_dinov2", {"img_size": (56, 84), "depth": 2}, (56, 84), "blocks.1.norm1", (4, 6)),
    ("timm:vit_small_patch16_dinov3", SHORT, 64, "norm", 4),
    ("timm:vit_small_patch32_224", {"depth": 2}, 224, "blocks.1.norm1", 7),
    ("timm:vit_tiny_patch16_224", SHORT | {"img_size": (64, 96)}, (64, 96), "blocks.1.norm1", (4, 6)),
    ("timm:xcit_nano_12_p16_224", {"depth": 2}, (64, 96), "cls_attn_blocks.1.norm1", (4, 6)),
]
HEAVY = [
    ("torchvision:alexnet", {}, 96, "features.11", 5),
    ("torchvision:convnext_tiny", {}, 64, "features", 2),
    ("torchvision:densenet121", {}, 64, "features", 2),
    ("torchvision:efficientnet_b0", {}, 224, "features", 7),
    ("torchvision:efficientnet_v2_s", {}, 64, "features", 2),
    ("torchvision:googlenet", PLAIN, (64, 96), "inception5b", (2, 3)),
    ("torchvision:inception_v3", PLAIN, 299, "Mixed_7c", 8),
    ("torchvision:maxvit_t", {}, 224, "blocks.3", 7),
    ("torchvision:mc3_18", {}, (4, 64, 64), "layer4", (4, 4, 4)),
    ("torchvision:mobilenet_v2", {}, 64, "features", 2),
    ("torchvision:mobilenet_v3_large", {}, 64, "features", 2),
    ("torchvision:mobilenet_v3_small", {}, 64, "features", 2),
    ("torchvision:r2plus1d_18", {}, (4, 64, 64), "layer4", (1, 4, 4)),
    ("torchvision:r3d_18", {}, (4, 64, 64), "layer4", (1, 4, 4)),
    ("torchvision:regnet_x_400mf", {}, 224, "trunk_output", 7),
    ("torchvision:regnet_y_400mf", {}, 64, "trunk_output", 2),
    ("torchvision:resnet18", {}, 224, "layer4", 7),
    ("torchvision:resnet50", {}, 64, "layer4", 2),
    ("torchvision:resnext50_32x4d", {}, 64, "layer4", 2),
    ("torchvision:squeezenet1_0", {}, 224, "classifier.2", 13),
    ("torchvision:swin3d_t", {}, (4, 64, 96), "norm", (2, 2, 3)),
    ("torchvision:swin_t", {}, (64, 96), "permute", (2, 3)),
    ("torchvision:swin_v2_t", {}, 64, "permute", 2),
    ("torchvision:vgg11", PLAIN, 64, "features.19", 4),
    ("torchvision:vgg16_bn", PLAIN, (64, 128), "features.42", (4, 8)),
    ("torchvision:vit_b_16", {"image_size": 64}, 64, "encoder.layers.encoder_layer_11.ln_1", 4),
    ("torchvision:wide_resnet50_2", {}, 64, "layer4", 2),
    ("timm:beit_base_patch16_224", SHORT, 64, "norm", 4),
    ("timm:botnet26t_256", SMALL, 64, "final_conv", 2),
    ("timm:caformer_s18", {}, 64, "stages", 2),
    ("timm:coat_tiny", SMALL, 64, "parallel_blocks.5.norm14", 2),
    ("timm:coatnet_0_rw_224", {}, 224, "norm", 7),
    ("timm:coatnet_nano_rw_224", SMALL, 64, "norm", 2),
    ("timm:convformer_s18", {}, 64, "stages", 2),
    ("timm:convmixer_1024_20_ks9_p14", {}, 56, "blocks", 4),
    ("timm:convnextv2_atto", {}, 64, "norm_pre", 2),
    ("timm:crossvit_tiny_240", {}, 240, "blocks.2.fusion.1.norm1", 20),
    ("timm:cspdarknet53", {}, 64, "stages", 2),
    ("timm:cspresnet50", {}, 64, "stages", 2),
    ("timm:darknet53", {}, 64, "stages", 2),
    ("timm:davit_tiny", {}, (64, 96), "norm_pre", (2, 3)),
    ("timm:dla34", {}, 64, "level5", 2),
    ("timm:dm_nfnet_f0", {}, 64, "final_act", 2),
    ("timm:dpn68", {}, 64, "features", 2),
    ("timm:ecaresnet26t", {}, 64, "layer4", 2),
    ("timm:efficientformer_l1", {}, 224, "norm", 7),
    ("timm:efficientformerv2_s0", {}, 224, "norm", 7),
    ("timm:efficientnet_b0", {}, 64, "bn2", 2),
    ("timm:efficientvim_m1", {}, 224, "norm.3", 4),
    ("timm:efficientvit_b0", {}, 64, "head.in_conv", 2),
    ("timm:efficientvit_m0", {}, 224, "stages", 4),
    ("timm:ese_vovnet19b_dw", {}, 64, "stages", 2),
    ("timm:fastvit_t8", {}, 64, "final_conv", 2),
    ("timm:focalnet_tiny_srf", {}, 64, "norm", 2),
    ("timm:gcvit_xxtiny", {}, 224, "stages", 7),
    ("timm:ghostnet_100", {}, 64, "blocks", 2),
    ("timm:gmixer_24_224", SMALL, 64, "norm", 4),
    ("timm:gmlp_ti16_224", SMALL, 64, "norm", 4),
    ("timm:hiera_tiny_224", {}, 224, "blocks.11", 7),
    ("timm:hrnet_w18_small", {}, 64, "final_layer", 2),
    ("timm:inception_next_atto", {}, 64, "stages", 2),
    ("timm:inception_v3", {}, 139, "Mixed_7c", 3),
    ("timm:inception_v4", {}, 139, "features", 3),
    ("timm:legacy_seresnet18", {}, 64, "layer4", 2),
    ("timm:legacy_xception", {}, 64, "act4", 2),
    ("timm:maxvit_tiny_rw_224", SMALL, 64, "norm", 2),
    ("timm:maxxvit_rmlp_nano_rw_256", {}, 256, "norm", 8),
    ("timm:mobilenetv3_small_100", {}, 64, "blocks", 2),
    ("timm:mobilenetv4_conv_small", {}, 64, "blocks", 2),
    ("timm:mobilenetv4_hybrid_medium", {}, 64, "blocks", 2),
    ("timm:mobileone_s0", {}, 64, "final_conv", 2),
    ("timm:mobilevit_xs", {}, 64, "final_conv", 2),
    ("timm:mobilevitv2_050", {}, 64, "final_conv", 2),
    ("timm:mvitv2_tiny", SMALL, 64, "norm", 2),
    ("timm:naflexvit_base_patch16_gap", {"depth": 2}, (64, 96), "norm", (4, 6)),
    ("timm:nest_tiny", {}, 224, "norm", 14),
    ("timm:nextvit_small", {}, 64, "norm", 2),
    ("timm:nf_resnet50", {}, 64, "final_act", 2),
    ("timm:pit_ti_distilled_224", SMALL, 64, "transformers.2.blocks.3.norm1", 2),
    ("timm:poolformer_s12", {}, 64, "stages", 2),
    ("timm:qwen3_vit_88m", {"depth": 2}, 64, "encoder", 4),
    ("timm:rdnet_tiny", {}, 64, "norm_pre", 2),
    ("timm:regnety_002", {}, 64, "final_conv", 2),
    ("timm:repvgg_a0", {}, 64, "final_conv", 2),
    ("timm:repvit_m0_9", {}, 64, "stages", 2),
    ("timm:res2net50_26w_4s", {}, 64, "layer4", 2),
    ("timm:resmlp_12_224", SMALL, 64, "norm", 4),
    ("timm:resnet50_clip", SMALL, 64, "final_conv", 2),
    ("timm:resnetv2_50", {}, 64, "norm", 2),
    ("timm:resnetv2_50x1_bit", {}, 64, "norm", 2),
    ("timm:rexnet_100", {}, 64, "features", 2),
    ("timm:selecsls42b", {}, 224, "head", 4),
    ("timm:sequencer2d_s", {}, (112, 140), "norm", (8, 10)),
    ("timm:skresnet18", {}, 64, "layer4", 2),
    ("timm:starnet_s1", {}, 64, "norm", 2),
    ("timm:swinv2_tiny_window8_256", THIN, 64, "norm", 2),
    ("timm:tiny_vit_5m_224", {}, 224, "stages", 7),
    ("timm:tresnet_m", {}, 64, "body", 2),
    ("timm:twins_svt_small", {}, 64, "norm", 2),
    ("timm:visformer_tiny", {}, 224, "norm", 7),
    ("timm:vit_base_patch16_siglip_224", SHORT, 64, "norm", 4),
    ("timm:vit_base_patch16_siglip_gap_224", SHORT, 64, "norm", 4),
    ("timm:vit_small_r26_s32_224", {"depth": 2}, 224, "blocks.1.norm1", 7),
    ("timm:volo_d1_224", SMALL, 64, "post_network.1.norm1", 4),
    ("timm:xception41", {}, 64, "act", 2),
]


def build(name, options):
    repair_torchvision()
    library, _, name = name.partition(":")
    if library == "torchvision":
        return pytest.importorskip("torchvision").models.get_model(name, weights=None, num_classes=8, **options)
    timm = pytest.importorskip("timm")
    return timm.create_model(name, num_classes=8, **options) if timm.is_model(name) else pytest.skip("not in this timm")


def all_maps(model, image, layer):
    """A map of every class, (classes, B, *spatial)."""
    with evaluating(model):
        run = record(model, image, taps=(layer,))
        return torch.stack([GradCAM(layer, elementwise=True)(run, k) for k in range(run.logits.shape[1])])


@pytest.mark.parametrize(
    ("name", "options", "size", "layer", "grid"), QUICK + [pytest.param(*one, marks=pytest.mark.slow) for one in HEAVY]
)
def test_architectures(name, options, size, layer, grid):
    model = build(name, options)
    assert find_layer(model, size) == layer
    for zero in (p for p in model.parameters() if p.ndim > 1 and not p.any()):
        nn.init.normal_(zero, std=0.02)
    maps = all_maps(model, probe(model, size, channels=3), layer)
    assert maps.shape == (8, 2, *((grid, grid) if isinstance(grid, int) else grid))
    assert maps.isfinite().all()
    assert maps.amax((0, *range(2, maps.ndim))).gt(0).all()


class Tokens(nn.Module):
    """A class token that reads patches once, by two heads, with attention as modules."""

    def __init__(self, patches, classes=4):
        super().__init__()
        self.patches = patches
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.keys = nn.Linear(8, 8)
        self.heads = nn.Identity()
        self.attention = nn.Dropout()
        self.last = nn.LayerNorm(8)
        self.head = nn.Linear(8, classes)

    def forward(self, image):
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = self.norm(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
        keys = self.heads(self.keys(x).unflatten(2, (2, 4)).transpose(1, 2))
        read = self.attention((keys @ keys.transpose(2, 3)).softmax(3)) @ keys
        return self.head(self.last(read.transpose(1, 2).flatten(2))[:, 0])


class Views(nn.Module):
    """Images (B, views, 3, H, W) through a 2-D network; the logits of the views averaged."""

    def __init__(self):
        super().__init__()
        self.net = Residual()

    def forward(self, image):
        return self.net(image.flatten(0, 1)).unflatten(0, image.shape[:2]).mean(1)


class Cut(nn.Sequential):
    """Its logits are cut off from everything."""

    def forward(self, image):
        return super().forward(image).detach()


class Nought(nn.Sequential):
    """Its logits are zero, whatever the image."""

    def forward(self, image):
        return 0 * super().forward(image)


def test_small_nets_and_volumes():
    assert find_layer(Residual(), 16) == "act"
    assert find_layer(Deep(), (12, 16)) == "features"
    assert find_layer(Volume(), 8) == "body"
    assert find_layer(nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)), 8) == "1"


@pytest.mark.parametrize("size", [16, (16, 24), (8, 20)])
def test_a_class_token_is_followed_back_to_where_it_reads(size):
    model = Tokens(nn.Conv2d(3, 8, 4, 4))
    assert find_layer(model, size) == "norm"
    image = probe(model, size)
    assert all_maps(model, image, "norm").shape[2:] == (image.shape[2] // 4, image.shape[3] // 4)


def test_a_pooling_layers_output_is_passed_over():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 2))
    assert find_layer(net, 8) == "1"


def test_a_reused_module_is_judged_by_its_last_output():
    relu = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Flatten(), nn.Linear(144, 8), relu, nn.Linear(8, 2))
    assert find_layer(net, 8) == "0"
    assert [c.name for c in candidates(Residual(), 16)].count("act") == 1


def test_a_layer_whose_positions_nobody_reads_is_not_usable():
    class FirstCell(nn.Module):
        def forward(self, x):
            return x[:, :, 0, 0]

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), FirstCell(), nn.Linear(4, 2))
    assert {c.name: c.usable for c in candidates(net, 8)} == {"0": True, "1": False}
    assert find_layer(net, 8) == "0"


def test_zero_weights_are_random_in_the_probe_alone():
    net = Residual()
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    weight = net.head.weight
    assert find_layer(net, 16) == "act"
    assert net.head.weight is weight
    assert not weight.any()


def test_a_network_that_training_left_dead_keeps_its_layer():
    net = Residual()
    for part in (net.stem, net.body):
        nn.init.constant_(part[1].bias, -1e4)
    image = torch.rand(2, 3, 16, 16, requires_grad=True)
    net.eval()(image).amax(1).sum().backward()
    assert not image.grad.any()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    assert find_layer(net, 16) == "act"
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("kind", [Cut, Nought])
def test_a_network_that_cannot_be_explained_is_an_error_that_names_layers(kind):
    with pytest.raises(
        SightlineError, match=r"gradient is zero .* Pass layer=, such as 0\.act \(6 x 16 x 16\), 0\.body"
    ):
        find_layer(kind(Residual()), 16)


def test_no_layer_is_an_error_that_says_what_to_do():
    with pytest.raises(SightlineError, match="no layer's output has positions"):
        find_layer(nn.Sequential(Normalise([0.5], [0.5]), nn.Flatten(), nn.Linear(48, 2)), 4)


def test_tokens_of_a_video_that_fit_two_grids_are_an_error_that_names_layers():
    assert find_layer(Tokens(nn.Conv3d(1, 8, 4, 4)), (4, 28, 28)) == "norm"
    with pytest.raises(SightlineError, match=r"norm \(8 x 1569\) does not tell .* such as patches \(8 x 8 x 14 x 14\)"):
        find_layer(Tokens(nn.Conv3d(1, 8, (2, 4, 4), (2, 4, 4))), (16, 56, 56))


def test_strides_that_disagree_are_an_error_that_names_layers():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 6, (3, 1), (4, 1)), nn.Flatten(), nn.Linear(180, 2))
    with pytest.raises(SightlineError, match=r"1 \(6 x 2 x 15\) does not tell .* such as 0 \(4 x 7 x 15\)"):
        find_layer(net, (16, 32))


def test_a_layer_that_cannot_be_told_is_listed_only_where_it_would_be_chosen():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 6, (3, 1), (4, 1)), nn.Flatten(), nn.Linear(180, 2))
    assert [(c.name, c.told) for c in candidates(net, (16, 32))] == [("1", False), ("0", True)]
    net.insert(2, nn.Conv2d(6, 6, (1, 3), (1, 4)))
    net[-1] = nn.Linear(48, 2)
    assert [(c.name, c.told) for c in candidates(net, (16, 32))] == [("2", True), ("0", True)]


def test_tokens_ahead_of_the_batch_are_an_error_that_names_layers():
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.encoder = nn.TransformerEncoderLayer(8, 2, 16)
            self.head = nn.Linear(8, 2)

        def forward(self, image):
            return self.head(self.encoder(self.patches(image).flatten(2).permute(2, 0, 1)).mean(0))

    with pytest.raises(SightlineError, match=r"encoder \(8 x 16\) does not tell .* such as patches \(8 x 4 x 4\)"):
        find_layer(Sequence(), 16)


def test_views_have_shapes_of_their_own():
    first = next(candidates(Views(), (3, 16, 24)))
    assert (first.name, first.shape, first.usable) == ("net.act", (6, 16, 24), True)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(mode):
    net = Residual()
    with mode():
        assert find_layer(net, 16) == "act"


@pytest.mark.parametrize("size", [(16,), (2, 3, 16, 16)])
def test_a_size_of_other_axes_is_an_error(size):
    with pytest.raises(SightlineError, match=r"expected 2, the axes .* or 3 with the number of views"):
        find_layer(Residual(), size)


def test_a_wrong_size_is_an_error():
    with pytest.raises(SightlineError, match=r"\(2, 1, 8, 8\): .* Pass the size it was built for"):
        find_layer(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2)), 8)


def test_an_output_without_logits_is_its_own_error():
    with pytest.raises(SightlineError, match="expected logits"):
        find_layer(nn.Conv2d(3, 4, 3), 8)


def test_channels_rearranged_ahead_of_the_first_convolution():
    net = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    assert find_layer(net, 12) == "2"


def test_a_frozen_model_that_begins_with_an_inplace_operation():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    assert find_layer(net.requires_grad_(False), 8) == "1"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, torch.rand(1, 3, 8, 8))])
def test_torchscript_is_an_error(make):
    net = Residual().eval()
    with pytest.raises(SightlineError, match="the model is TorchScript"):
        find_layer(make(net), 8)
    net.body = torch.jit.script(net.body)
    with pytest.raises(SightlineError, match="layer 'body' is TorchScript"):
        find_layer(net, 8)


def test_a_compiled_model_is_probed_as_it_was_written():
    assert find_layer(torch.compile(Residual()), 8) == "_orig_mod.act"
    net = Residual()
    net.compile()
    assert find_layer(net, 8) == "act"


def test_one_forward_and_few_gradients(monkeypatch):
    net, forwards, gradients = nn.Sequential(*[nn.Conv2d(3, 3, 1) for _ in range(40)], Residual()), [], []
    net.register_forward_hook(lambda *_: forwards.append(1))
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: gradients.append(1) or grad(*a, **k))
    find_layer(net, 8)
    assert (len(forwards), len(gradients)) == (1, 1)
    assert len(list(candidates(net, 8))) > 40
    assert (len(forwards), len(gradients)) == (2, 3)


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
    assert not any(m._forward_hooks for m in net.modules())


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
def test_spatial_takes_images_to_be_square(shape, expected):
    assert spatial(torch.rand(shape)).shape == expected


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((2, 8, 8, 12), (64, 96), (2, 8, 8, 12)),
        ((2, 8, 12, 12), (64, 96), (2, 12, 8, 12)),
        ((2, 56, 56, 24), (224, 224), (2, 24, 56, 56)),
        ((2, 7, 7, 7), (224, 224), (2, 7, 7, 7)),
        ((2, 96, 4, 32), (128, 128), (2, 96, 4, 32)),
        ((2, 512, 2, 7, 7), (16, 112, 112), (2, 512, 2, 7, 7)),
        ((2, 8, 7, 7, 96), (16, 224, 224), (2, 96, 8, 7, 7)),
        ((2, 9, 31), (64,), (2, 9, 31)),
        ((2, 197, 8), (224, 224), (2, 8, 14, 14)),
        ((2, 281, 8), (224, 320), (2, 8, 14, 20)),
        ((2, 285, 8), (224, 320), (2, 8, 14, 20)),
        ((2, 70, 8), (320, 224), (2, 8, 10, 7)),
        ((2, 1 + 14 * 19, 8), (224, 300), (2, 8, 14, 19)),
        ((2, 12 * 18, 8), (200, 300), (2, 8, 12, 18)),
        ((2, 1 + 6**3, 8), (96, 96, 96), (2, 8, 6, 6, 6)),
        ((2, 1 + 2 * 7 * 7, 8), (4, 112, 112), (2, 8, 2, 7, 7)),
    ],
)
def test_spatial_goes_by_the_size_of_the_image(shape, size, expected):
    assert spatial(torch.rand(shape), size).shape == expected
    assert spatial(torch.rand(shape), list(size)).shape == expected


def test_spatial_drops_the_prefix_and_keeps_the_order():
    tokens = torch.arange(10.0).view(1, 10, 1)
    assert spatial(tokens).flatten().tolist() == list(range(1, 10))
    assert spatial(torch.arange(25.0).view(1, 25, 1), (64, 96))[0, 0, 1].tolist() == [7, 8, 9, 10, 11, 12]
    assert spatial(torch.arange(24.0).view(1, 2, 3, 4), (20, 30))[0, 1].tolist() == [[1, 5, 9], [13, 17, 21]]


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 1, 1), (2, 1, 5)])
def test_spatial_needs_positions(shape):
    with pytest.raises(SightlineError, match="no spatial positions"):
        spatial(torch.rand(shape))


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 80, 8), None),
        ((2, 256, 8), (224, 320)),
        ((2, 20, 8), (224, 320)),
        ((2, 393, 8), (16, 224, 224)),
        ((2, 8, 7, 7), (4, 112, 112)),
    ],
)
def test_spatial_does_not_guess(shape, size):
    with pytest.raises(SightlineError, match="does not tell where in"):
        spatial(torch.rand(shape), size)
