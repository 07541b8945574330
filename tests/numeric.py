"""Finite differences along a random direction of all weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def directional(loss: Callable[[], Tensor], net: nn.Module, step: float = 1e-6) -> tuple[float, float]:
    """(analytic, numeric) derivative of `loss` along one random direction; the weights are put back."""
    parameters = list(net.parameters())
    generator = torch.Generator().manual_seed(7)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    grads = torch.autograd.grad(loss(), parameters, allow_unused=True)
    analytic = sum(float((g * d).sum()) for g, d in zip(grads, direction, strict=True) if g is not None)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=sign * step)
        values.append(loss().item())
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(d, alpha=sign * step)
    return analytic, (values[0] - values[1]) / (2 * step)
