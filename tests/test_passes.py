import jaxtyping
import pytest
import torch
from torch import nn

from nets import Deep, Residual, Views, double
from sightline.errors import SightlineError
from sightline.explainers import LRP, MWP, WBP, FullGrad, GradCAM
from sightline.passes import record, view_size
from sightline.types import Batch

IMAGE = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_tap_ahead_of_an_inplace_activation_keeps_its_own_values():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 2)).double()
    run = record(net, IMAGE, taps=["0"])
    torch.testing.assert_close(run.tap("0"), net[0](IMAGE))
    assert (run.tap("0") < 0).any()
    gradient = run.grad(1, "0")
    expected = torch.where(net[0](IMAGE) > 0, net[3].weight[1].view(4, 6, 6), 0)
    torch.testing.assert_close(gradient, expected)


def test_gradient_with_respect_to_the_image():
    net = double(Deep())
    image = IMAGE.clone().requires_grad_()
    expected = torch.autograd.grad(net(image)[:, 2].sum(), image)[0]
    torch.testing.assert_close(record(net, image).grad(2, "image"), expected)


@pytest.mark.parametrize("target", [None, 1, torch.tensor([1, 0, 3]), lambda logits: logits.argmin(1)])
def test_targets(target):
    run = record(double(Deep()), IMAGE)
    expected = {None: run.logits.argmax(1)}.get(target) if target is None else target
    expected = expected(run.logits) if callable(expected) else torch.as_tensor(expected).expand(3)
    assert torch.equal(run.target(target), expected)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (4, "classes 0 to 3"),
        (-1, "classes 0 to 3"),
        (torch.tensor([1, 2]), "3 images"),
        (torch.tensor([0.0, 1, 2]), "integer"),
    ],
)
def test_bad_targets(target, message):
    with pytest.raises(SightlineError, match=message):
        record(double(Deep()), IMAGE).target(target)


@pytest.mark.parametrize("output", ["mapping", "object", "tuple"])
def test_logits_in_a_container(output):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = double(Deep())

        def forward(self, image):
            logits = self.net(image)
            return {
                "mapping": {"logits": logits},
                "object": type("Output", (), {"logits": logits})(),
                "tuple": (logits, 1),
            }[output]

    net = Wrapped()
    torch.testing.assert_close(record(net, IMAGE).logits, net.net(IMAGE))


def test_unknown_layer_is_suggested():
    with pytest.raises(SightlineError, match="Did you mean 'features'"):
        record(Deep(), IMAGE.float(), taps=["feature"])


def test_no_gradient_under_no_grad():
    with torch.no_grad():
        run = record(double(Deep()), IMAGE, taps=["features"])
    with pytest.raises(SightlineError, match="no_grad or inference"):
        run.grad(0, "features")


@pytest.mark.parametrize("image", [torch.zeros(3, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)])
def test_bad_images(image):
    with pytest.raises(SightlineError, match=r"expected float \(B, C, \*spatial\)"):
        record(Deep(), image)


def test_a_reused_layer_warns_and_gives_its_last_output():
    net = double(Residual()).eval()
    with pytest.warns(UserWarning, match="ran more than once"):
        run = record(net, IMAGE, taps=["act"])
    torch.testing.assert_close(net.head(run.tap("act").mean((2, 3))), run.logits)
    assert not any(module._forward_hooks for module in net.modules())


def test_an_image_tap_makes_the_image_a_leaf_that_requires_grad():
    net, image = double(Deep()), (IMAGE.clone().requires_grad_() * 2)
    run = record(net, image, taps=("image",))
    assert run.image.is_leaf
    expected = torch.autograd.grad(net(image)[:, 1].sum(), image)[0]
    torch.testing.assert_close(run.grad(1, "image"), expected)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_pass_for_no_loss_records_nothing_ahead_of_its_first_tap(frozen):
    net = double(Deep()).requires_grad_(not frozen)
    full = record(double(Deep()), IMAGE, taps=["features"])
    short = record(net, IMAGE, taps=["features"], differentiable=False)
    assert short.tap("features").is_leaf
    assert torch.is_grad_enabled()
    torch.testing.assert_close(short.logits, full.logits)
    torch.testing.assert_close(short.grad(2, "features"), full.grad(2, "features"))


def test_a_pass_for_no_loss_reaches_every_tap():
    net, names = double(Deep()).eval(), ("features.0", "features", "classifier.2")
    full, short = (record(net, IMAGE, taps=names, differentiable=loss) for loss in (True, False))
    for name in names:
        torch.testing.assert_close(short.grad(0, name), full.grad(0, name))


def test_attention_is_fused_where_no_loss_is_taken():
    seen = []

    class Attention(nn.Module):
        def forward(self, x):
            seen.append(torch.backends.cuda.flash_sdp_enabled())
            x = x.flatten(2).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(x, x, x).mean(1)

    net = nn.Sequential(nn.Conv2d(3, 4, 3), Attention(), nn.Linear(4, 2)).double()
    for differentiable in (True, False):
        record(net, IMAGE, taps=["0"], differentiable=differentiable)
    assert seen == [False, True]


def test_rules_need_a_ruled_pass():
    run = record(double(Deep()), IMAGE, taps=("image",))
    with pytest.raises(SightlineError, match="ruled=True"):
        run.grad(0, "image", rules=lambda op, arrived: None)


def test_a_rule_of_ones_own():
    """Half of what arrives at each linear operation: the gradient, halved four times."""
    net = double(Deep()).eval()
    run = record(net, IMAGE, taps=("image",), ruled=True)

    def half(op, arrived):
        return [op.transpose(arrived, op.weight) / 2] if op.kind == "linear" else None

    assert [op.kind for op in run.ops].count("linear") == 4
    torch.testing.assert_close(run.grad(1, "image", rules=half), run.grad(1, "image") / 2**4)
    torch.testing.assert_close(run.grad(1, "image"), record(net, IMAGE, taps=("image",)).grad(1, "image"))


def test_a_rule_that_fails_leaves_the_pass_as_it_was():
    run = record(double(Deep()), IMAGE, taps=("image",), ruled=True)
    expected = run.grad(1, "image")
    with pytest.raises(ZeroDivisionError):
        run.grad(1, "image", rules=lambda op, arrived: 1 / 0)
    torch.testing.assert_close(run.grad(1, "image"), expected)


def test_sizes_and_views():
    net = double(Deep())
    assert view_size(net, IMAGE) == (8, 8)
    assert record(net, IMAGE).size == (8, 8)
    views = double(Views())
    image = torch.rand(2, 3, 1, 8, 6).double()
    assert view_size(views, image) == (3, 8, 6)
    run = record(views, image, taps=["body"])
    assert (run.size, run.channel) == ((8, 6), 2)
    assert run.per_image(run.tap("body")).shape[:2] == (2, 3)


def test_weights_made_in_inference_mode_are_named():
    with torch.inference_mode():
        net = double(Deep())
    with pytest.raises(SightlineError, match="inference mode"):
        record(net, IMAGE)


@pytest.mark.filterwarnings("ignore:layer 'act' ran more than once")
@pytest.mark.parametrize("explainer", [GradCAM("act"), GradCAM("features"), MWP("features")], ids=repr)
def test_no_loss_is_taken_of_a_pass_for_none(explainer):
    net = double(Residual() if explainer.layer == "act" else Deep()).eval()
    run = record(net, IMAGE, taps=explainer.taps, ruled=explainer.ruled, differentiable=False)
    assert explainer(run, 1).shape[0] == 3
    with pytest.raises(SightlineError, match="differentiable=False"):
        explainer(run, 1, differentiable=True)


def test_a_class_is_a_number_and_a_batch_goes_to_a_device(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(SightlineError, match="target='cat': a pass knows classes by number"):
        record(double(Deep()), torch.rand(1, 3, 12, 12).double()).target("cat")
    one = torch.ones(1)
    assert {field.device.type for field in Batch(one, one, one, one, one).to("meta")} == {"meta"}


@pytest.mark.parametrize("explainer", [WBP(), LRP(), FullGrad()], ids=lambda e: type(e).__name__)
def test_explainers_with_rules_refuse_a_pass_without(explainer):
    run = record(double(Deep()), IMAGE, taps=("image",))
    with pytest.raises(SightlineError, match="ruled=True"):
        explainer(run, 1)
