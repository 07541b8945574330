import pytest
import torch
from torch import nn

from nets import Deep, Residual, double
from sightline.errors import SightlineError
from sightline.passes import record

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
