"""What class activation maps share: a layer's activation, and the gradient of the target's logit there."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.explainers.arguments import settled
from sightline.layers import spatial
from sightline.passes import Pass, Target


@dataclass(frozen=True)
class CAM:
    """A map made of one layer's activation and its gradient. A subclass says how, in `combine`.

    Args:
        layer: module whose output is A; None lets `find_layer` choose.
    """

    layer: str | None = None

    ruled: ClassVar[bool] = False
    once: ClassVar[bool] = True

    @property
    def taps(self) -> tuple[str, ...]:
        return () if self.layer is None else (self.layer,)

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map, at the layer's resolution and non-negative."""
        with torch.set_grad_enabled(differentiable):
            return run.per_image(self.combine(*layer_pair(run, settled(self), target, differentiable=differentiable)))

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """(N, *spatial) map of A (N, C, *spatial) and dz/dA, which broadcasts to A's shape."""
        raise NotImplementedError


def layer_pair(run: Pass, layer: str, target: Target, *, differentiable: bool) -> tuple[Tensor, Tensor]:
    """(A, dz/dA) at `layer`: A is (N, C, *spatial), and dz/dA has a shape that broadcasts to it.

    Both are float32 at least: under bf16 autocast a sum over hundreds of channels needs more than bf16's eight bits.
    Where the logits are one linear layer on the global average or maximum of A, the gradient is known without
    differentiating, and with it the map and its own gradients. Any other model goes through autograd.

    Raises:
        SightlineError: the pass was recorded without `layer`, or for no loss although `differentiable` is set.
    """
    run.allow(differentiable)
    activation = spatial(run.tap(layer), run.size)
    gradient = _pooled_head_gradient(run, activation, target)
    if gradient is None:
        gradient = spatial(run.grad(target, layer, differentiable=differentiable), run.size)
    wide = torch.promote_types(activation.dtype, torch.float32)
    return activation.to(wide), gradient.to(wide)


def _pooled_head_gradient(run: Pass, activation: Tensor, target: Target) -> Tensor | None:
    """dz/dA for ``z = linear(pool(A))``, in a shape that broadcasts to A's; None if the head is not of that form.

    Tested on the pass itself rather than read off the architecture: dropout, a norm or a second layer between pool
    and logits all change the logits, so no list of known heads is needed.
    """
    linear = next((m for m in reversed(list(run.model.modules())) if isinstance(m, nn.Linear)), None)
    if linear is None or linear.weight.shape != (run.logits.shape[1], activation.shape[1]):
        return None
    if len(activation) != len(run.logits):  # several views of each image
        return None
    flat = activation.flatten(2)
    weight = linear.weight[run.target(target)]
    weight = weight.view(*weight.shape, *[1] * (activation.ndim - 2))
    if _same(linear, flat.mean(2), run.logits):
        return weight / flat.shape[2]
    peak, where = F.adaptive_max_pool1d(flat.detach(), 1, return_indices=True)
    if _same(linear, peak.squeeze(2), run.logits):
        return weight * torch.zeros_like(flat).scatter(2, where, 1).view_as(activation)
    return None


@torch.no_grad()
def _same(linear: nn.Linear, pooled: Tensor, logits: Tensor) -> bool:
    tolerance = min(1000 * torch.finfo(logits.dtype).eps, 0.02)
    return bool((F.linear(pooled, linear.weight, linear.bias) - logits).abs().max() <= tolerance * logits.abs().max())
