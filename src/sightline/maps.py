"""Map arithmetic. A map is (B, *spatial), raw and non-negative unless said otherwise, at any resolution."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.errors import SightlineError

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}

Scale = Literal["max", "abs_max", "minmax", "none"]


def resize(maps: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Resize (B, *spatial) or (B, C, *spatial) linearly along each axis to `size`.

    Half-pixel centres, edges clamped, no antialiasing: `align_corners=False`, everywhere in sightline where no paper's
    code says otherwise. With `align_corners` the centres of the corner cells lie over each other.

    Raises:
        SightlineError: `size` names more or fewer axes than the maps have.
    """
    size = tuple(size)
    if tuple(maps.shape[-len(size) :]) == size:
        return maps
    extra = maps.ndim - len(size)
    if len(size) not in _MODES or extra not in (1, 2):
        raise SightlineError(f"cannot resize maps of shape {tuple(maps.shape)} to {size}: expected (B, *spatial).")
    planes = maps if extra == 2 else maps.unsqueeze(1)
    out = F.interpolate(planes, size, mode=_MODES[len(size)], align_corners=align_corners)
    return out if extra == 2 else out.squeeze(1)


def normalize(maps: Tensor, eps: float = 1e-8) -> Tensor:
    """Scale each map to sum 1: ``m / (sum m + eps) + eps``.

    The trailing eps makes an all-zero map nearly uniform instead of NaN, as in the public code of the consistency
    papers (GC and CGC).
    """
    return maps / (per_map(maps.flatten(1).sum(1), maps) + eps) + eps


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


def rescaled(maps: Tensor, how: Scale = "max", eps: float = 1e-8) -> Tensor:
    """Saliency in units of each map's own extremes, which are held constant.

    Args:
        maps: (B, ...) saliency s of any sign.
        how: ``relu(s) / max relu(s)`` ("max"), ``|s| / max |s|`` ("abs_max") or ``(s - min s) / (max s - min s)``
            ("minmax"), all in [0, 1]; or s as it is ("none").
        eps: the least that a map is divided by; an all-zero map stays zero.
    """
    if how == "none":
        return maps
    if how == "minmax":
        values = maps - per_map(maps.detach().flatten(1).amin(1), maps)
    else:
        values = maps.abs() if how == "abs_max" else maps.relu()
    return values / per_map(values.detach().flatten(1).amax(1).clamp(min=eps), maps)


def soft_mask(maps: Tensor, sigma: float | Tensor = 0.25, omega: float = 100.0) -> Tensor:
    """``T = sigmoid(omega * (s - sigma))`` (PPI, eq. 2): near 1 where s exceeds the threshold, near 0 below.

    Args:
        maps: (B, ...) saliency s.
        sigma: one threshold for all, or one for each map in a shape that broadcasts to `maps`.
        omega: how sharp the step is.
    """
    return (omega * (maps - sigma)).sigmoid()


def adaptive_threshold(maps: Tensor, k: float = 7.0) -> Tensor:
    """``mean(s) + k * std(s)`` of each map, below its maximum; (B, 1, ...), population deviation."""
    flat = maps.flatten(1)
    peak = flat.amax(1)
    below = torch.nextafter(peak, torch.full_like(peak, -torch.inf))
    return per_map(torch.minimum(flat.mean(1) + k * flat.std(1, correction=0), below), maps)


def top_k_threshold(maps: Tensor, k: int = 1000) -> Tensor:
    """The k-th largest entry of each map, or the least of one that has fewer entries; (B, 1, ...)."""
    flat = maps.flatten(1)
    return per_map(flat.topk(min(k, flat.shape[1])).values[:, -1], maps)


def hard_points(maps: Tensor, k: float = 7.0, signed: bool = True) -> Tensor:
    """``s > k * std(s)`` for each of (B, ...) maps, as bool: deviation of the population, mean not subtracted.

    With `signed=False` it is ``|s|`` that exceeds.
    """
    bound = per_map(k * maps.flatten(1).std(1, correction=0), maps)
    return (maps if signed else maps.abs()) > bound


def hard_box(weights: Tensor, reach: float = 1.2) -> Tensor:
    """The box around each cloud of points: along every axis its centre of mass plus and minus `reach` deviations.

    Args:
        weights: (B, *spatial) non-negative, what each position counts: 1 where there is a point, or several, or more
            where points are to weigh more.
        reach: in population standard deviations of the coordinate.

    Returns:
        (B, *spatial) bool, the box rounded outwards to whole pixels, at least one; nothing where there is no point.
    """
    inside = torch.ones_like(weights, dtype=torch.bool)
    for axis in range(1, weights.ndim):
        along = _interval(weights.movedim(axis, 1).reshape(len(weights), weights.shape[axis], -1).sum(2), reach)
        inside = inside & along.view(len(weights), *[-1 if a == axis else 1 for a in range(1, weights.ndim)])
    return inside


def _interval(mass: Tensor, reach: float) -> Tensor:
    """(B, length) bool, which cells of an axis the box covers, from the mass (B, length) at each."""
    mass = mass.double()
    cells, total = torch.arange(mass.shape[1], device=mass.device), mass.sum(1, keepdim=True)
    centre = (mass * cells).sum(1, keepdim=True) / total
    spread = reach * ((mass * (cells - centre) ** 2).sum(1, keepdim=True) / total).sqrt()
    # Where there is no mass these are NaN, and no cell is above or below NaN.
    return (cells >= (centre - spread).floor()) & (cells <= (centre + spread).ceil())


def bounding_box(mask: Tensor, axes: int = 2) -> Tensor:
    """The smallest box that holds every position where `mask` is not 0; bool, in the shape of (..., *spatial).

    An empty mask has an empty box. `axes` is the number of spatial axes, the last ones.
    """
    marked, inside = mask != 0, torch.ones_like(mask, dtype=torch.bool)
    for axis in range(-axes, 0):
        along = marked.any(tuple(other for other in range(-axes, 0) if other != axis), keepdim=True)
        inside = inside & (along.cumsum(axis) > 0) & (along.flip(axis).cumsum(axis) > 0).flip(axis)
    return inside


def per_map(values: Tensor, maps: Tensor) -> Tensor:
    """One value for each map, (B,), in a shape that broadcasts to `maps`."""
    return values.view(-1, *[1] * (maps.ndim - 1))
