"""Grad-CAM++: Grad-CAM with a weight for every position's gradient."""

from dataclasses import dataclass

from torch import Tensor

from sightline.explainers.cam import CAM


def grad_cam_plus_plus(activation: Tensor, gradient: Tensor, eps: float = 1e-6) -> Tensor:
    """``relu(sum_k w^k A^k)`` with ``w^k = sum_ij alpha_ij^k relu(g_ij^k)`` and ``g = dz/dA``.

    ``alpha = g^2 / (2 g^2 + g^3 sum_ab A_ab + eps)``, which is eq. 19 but for eps.

    Args:
        activation: A, (N, C, *spatial).
        gradient: of a shape that broadcasts to A's.
        eps: the public implementations'; it damps gradients smaller than about its square root.

    Returns:
        (N, *spatial), non-negative.
    """
    axes = tuple(range(2, activation.ndim))
    # Where g is negative its weight is zero, whatever alpha: so alpha is needed for relu(g) only.
    positive = gradient.relu()
    total = activation.sum(axes, keepdim=True)
    weights = positive**3 / (2 * positive**2 + positive**3 * total + eps)
    return (weights.expand_as(activation).sum(axes, keepdim=True) * activation).sum(1).relu()


@dataclass(frozen=True)
class GradCAMPlusPlus(CAM):
    """Grad-CAM++ (Chattopadhay et al., WACV 2018), on the target's logit z; see `grad_cam_plus_plus`.

    The paper explains exp(z), whose higher derivatives are powers of dz/dA. The common factor exp(z) is left out here,
    as in the public implementations: it scales each map as a whole.

    Args:
        layer: module whose output is A; None lets `find_layer` choose.
    """

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        return grad_cam_plus_plus(activation, gradient)
