"""Grad-CAM, channel-averaged and element-wise."""

from dataclasses import dataclass

from torch import Tensor

from sightline.explainers.cam import CAM


@dataclass(frozen=True)
class GradCAM(CAM):
    """Grad-CAM: activations weighted by the gradient of the target's logit z, then rectified.

    Channel-averaged (Selvaraju et al., ICCV 2017): ``relu(sum_k mean_ij(dz/dA^k) A^k)``.
    Element-wise (Pillai and Pirsiavash, AAAI 2021, eq. 1; known elsewhere as HiResCAM): ``relu(sum_k dz/dA^k * A^k)``,
    rectified after the sum over channels. The two agree, up to scale, ahead of a global average pool.

    Args:
        layer: module whose output is A; None lets `find_layer` choose.
        elementwise: weight each position by its own gradient instead of the channel's mean.
    """

    elementwise: bool = False

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        if not self.elementwise:
            gradient = gradient.mean(tuple(range(2, gradient.ndim)), keepdim=True)
        return (gradient * activation).sum(1).relu()
