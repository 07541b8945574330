"""LayerCAM: each position weighted by its own positive gradient."""

from dataclasses import dataclass

from torch import Tensor

from sightline.explainers.cam import CAM


@dataclass(frozen=True)
class LayerCAM(CAM):
    """LayerCAM (Jiang et al., IEEE TIP 2021): ``relu(sum_k relu(dz/dA^k) * A^k)``.

    Unlike Grad-CAM it stays sharp at early layers, where one weight for a whole channel says little.

    Args:
        layer: module whose output is A; None lets `find_layer` choose.
    """

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        return (gradient.relu() * activation).sum(1).relu()
