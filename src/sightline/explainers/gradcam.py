"""Grad-CAM, channel-averaged and element-wise, in closed form where the head allows it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.layers import spatial
from sightline.passes import Pass, Target


@dataclass(frozen=True)
class GradCAM:
    """Grad-CAM: activations weighted by the gradient of the target's logit z, then rectified.

    Channel-averaged (Selvaraju et al., ICCV 2017): ``relu(sum_k mean_ij(dz/dA^k) A^k)``.
    Element-wise (Pillai and Pirsiavash, AAAI 2021, eq. 1; known elsewhere as HiResCAM): ``relu(sum_k dz/dA^k * A^k)``,
    rectified after the sum over channels. The two agree, up to scale, ahead of a global average pool.

    Where the logits are one linear layer on the global average or maximum of A, the gradient is known without
    differentiating, and with it the map and its own gradients. Any other model goes through autograd.

    Args:
        layer: module whose output is A; None lets `find_layer` choose.
        elementwise: weight each position by its own gradient instead of the channel's mean.
    """

    layer: str | None = None
    elementwise: bool = False

    @property
    def taps(self) -> tuple[str, ...]:
        return () if self.layer is None else (self.layer,)

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map, at the layer's resolution and non-negative."""
        if self.layer is None:
            raise ValueError("GradCAM(layer=None) has no layer yet: bind(explainer, model) finds one.")
        activation = spatial(run.tap(self.layer))
        with torch.set_grad_enabled(differentiable):
            gradient = _pooled_head_gradient(run, activation, target)
            if gradient is None:
                gradient = spatial(run.grad(target, self.layer, differentiable=differentiable))
            if not self.elementwise:
                gradient = gradient.mean(tuple(range(2, gradient.ndim)), keepdim=True)
            # Under bf16 autocast a sum over hundreds of channels needs more than bf16's eight bits.
            wide = torch.promote_types(activation.dtype, torch.float32)
            return (gradient.to(wide) * activation.to(wide)).sum(1).relu()


def _pooled_head_gradient(run: Pass, activation: Tensor, target: Target) -> Tensor | None:
    """dz/dA for ``z = linear(pool(A))``, in a shape that broadcasts to A's; None if the head is not of that form.

    Tested on the pass itself rather than read off the architecture: dropout, a norm or a second layer between pool
    and logits all change the logits, so no list of known heads is needed.
    """
    linear = next((m for m in reversed(list(run.model.modules())) if isinstance(m, nn.Linear)), None)
    if linear is None or linear.weight.shape != (run.logits.shape[1], activation.shape[1]):
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
