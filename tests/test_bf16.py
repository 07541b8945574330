"""Every objective under bfloat16 autocast: finite, near its float32 value, and the weights stay float32."""

import pytest
import torch

from nets import Deep, Residual, double
from sightline import Guided
from test_objectives import VARIANTS, batch


def step(name, net, dtype):
    """(terms, gradients of the loss as one vector) of one step in training mode, from the same weights and draws."""
    guided = Guided(double(net()).float(), VARIANTS[name](), 12)
    images = batch()
    images = images._replace(image=images.image.float(), mask=images.mask.float())
    torch.manual_seed(11)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss, terms = guided(images)
    loss.backward()
    assert {p.dtype for p in guided.parameters()} == {p.grad.dtype for p in guided.parameters()} == {torch.float32}
    return terms | {"loss": loss.detach()}, torch.cat([p.grad.flatten() for p in guided.parameters()])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("net", [Residual, Deep])
@pytest.mark.filterwarnings("ignore:layer 'act' ran more than once")
def test_bfloat16_is_float32_up_to_its_eight_bits(name, net):
    terms, gradient = step(name, net, torch.bfloat16)
    exact, expected = step(name, net, torch.float32)
    assert {k: float(v) for k, v in terms.items()} == pytest.approx({k: float(v) for k, v in exact.items()}, 0.01, 1e-4)
    assert torch.cosine_similarity(gradient, expected, dim=0) > 0.99
    assert gradient.norm().item() == pytest.approx(expected.norm().item(), 0.05)
