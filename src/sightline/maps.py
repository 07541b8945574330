"""Map arithmetic. A map is (B, *spatial), raw and non-negative unless said otherwise, at any resolution."""

from collections.abc import Sequence

import torch
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


def resize_transposed(images: Tensor, size: Sequence[int]) -> Tensor:
    """The transpose of `resize`, from (B, *fine) to (B, *size): a weighted sum over a resized map, on the small map.

    For all m and a, ``<resize(m), a> = <m, resize_transposed(a)>``.
    """
    fine = images.shape[1:]
    weights = [hat(centres(torch.tensor([[float(s)]]).double(), f), s) for s, f in zip(size, fine, strict=True)]
    return separable(images, [w.transpose(1, 2).to(images) for w in weights])


def centres(source: Tensor, target: int) -> Tensor:
    """(B, target) positions in [0, source - 1] of the centres of `target` cells laid over `source` (B, 1) cells."""
    cells = torch.arange(target, dtype=torch.float64)
    return ((cells + 0.5) * source / target - 0.5).clamp(min=torch.zeros_like(source), max=source - 1)


def hat(positions: Tensor, length: int) -> Tensor:
    """(B, t, length) weights of linear interpolation at `positions` (B, t): ``max(0, 1 - |position - cell|)``."""
    return (1 - (positions.unsqueeze(-1) - torch.arange(length)).abs()).clamp(min=0)


def separable(images: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply each of the last axes of (B, ..., *spatial) by its (B, target, source) matrix."""
    # Autocast would round pixels to bfloat16's eight bits.
    with torch.autocast(images.device.type, enabled=False):
        for axis, matrix in zip(range(-len(matrices), 0), matrices, strict=True):
            moved = images.movedim(axis, -1)
            product = moved.flatten(1, -2) @ matrix.transpose(1, 2)
            images = product.unflatten(1, moved.shape[1:-1]).movedim(-1, axis)
    return images
