"""Map arithmetic. A map is (B, *spatial), raw and non-negative unless said otherwise, at any resolution."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from sightline.errors import SightlineError

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (B, *spatial) or (B, C, *spatial) linearly along each axis to `size`.

    Half-pixel centres, edges clamped, no antialiasing: `align_corners=False`, here and everywhere in sightline.

    Raises:
        SightlineError: `size` names more or fewer axes than the maps have.
    """
    size = tuple(size)
    if tuple(maps.shape[-len(size) :]) == size:
        return maps
    extra = maps.ndim - len(size)
    if len(size) not in _MODES or extra not in (1, 2):
        raise SightlineError(f"cannot resize maps of shape {tuple(maps.shape)} to {size}: expected (B, *spatial).")
    out = F.interpolate(maps if extra == 2 else maps.unsqueeze(1), size, mode=_MODES[len(size)], align_corners=False)
    return out if extra == 2 else out.squeeze(1)


def normalize(maps: Tensor, eps: float = 1e-8) -> Tensor:
    """Scale each map to sum 1: ``m / (sum m + eps) + eps``.

    The trailing eps makes an all-zero map nearly uniform instead of NaN, as in the public code of the consistency
    papers (GC and CGC).
    """
    total = maps.flatten(1).sum(1).view(-1, *[1] * (maps.ndim - 1))
    return maps / (total + eps) + eps
