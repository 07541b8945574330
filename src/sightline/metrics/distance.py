"""Which pixels lie within a margin of a mask."""

from math import ceil, inf, isqrt

import torch
from jaxtyping import Bool
from torch import Tensor

from sightline.errors import SightlineError
from sightline.types import Masks


def near(mask: Masks, margin: float) -> Bool[Tensor, "b ..."]:
    """``min_{q in mask} |p - q|^2 < margin^2`` for every pixel p: the mask, dilated by an open disc.

    Exact, as squared distances are integers; the edge of the disc does not count. One axis after the other,
    ``f(p) <- min_o f(p + o) + o^2`` over the offsets o within the margin (Felzenszwalb and Huttenlocher 2012,
    "Distance Transforms of Sampled Functions"); what is farther is all alike, and fits into 16 bits.

    Args:
        mask: (B, *spatial), any number of axes; pixels above 0.5 are the mask.
        margin: in pixels, 0 or more; 0 is the mask itself.

    Returns:
        (B, *spatial); False everywhere where the mask is empty.
    """
    farthest = sum((side - 1) ** 2 for side in mask.shape[1:])
    limit = max(ceil(min(margin**2, farthest + 1)), 1)
    small = torch.int16 if 2 * limit <= torch.iinfo(torch.int16).max else torch.int32
    squared = torch.full_like(mask, limit, dtype=small).masked_fill(mask > 0.5, 0)
    for axis in range(1, mask.ndim):
        squared = _along(squared, axis, isqrt(limit - 1))
    return squared < limit


def _along(squared: Tensor, axis: int, reach: int) -> Tensor:
    """The least, over offsets o up to `reach` along one axis, of the value o away plus o^2."""
    least, shifted = squared.clone(), squared.clone()
    for step in range(1, min(reach, squared.shape[axis] - 1) + 1):
        shifted += 2 * step - 1  # step^2 in all
        kept = squared.shape[axis] - step
        for to, start in ((0, step), (step, 0)):
            target = least.narrow(axis, to, kept)
            torch.minimum(target, shifted.narrow(axis, start, kept), out=target)
    return least


def checked_margin(metric: str, margin: float) -> float:
    """`margin` if it is a number of pixels.

    Raises:
        SightlineError: it is not; the message names the metric.
    """
    if not 0 <= margin < inf:
        raise SightlineError(f"{metric}: margin={margin} must be a number of pixels, 0 or more.")
    return margin
