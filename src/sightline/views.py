"""Geometry shared by images, masks and maps: a crop and flip, a 2x2 composite, the evidence in other surroundings."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from sightline.maps import centres, hat, separable

HIDING = 0.15
"""Standard deviation of the blur that fills a hole, as a share of the image's short side."""


@dataclass(frozen=True)
class Crop:
    """A box and a mirror flag for each image of a batch, in whole pixels of images of `size`."""

    size: tuple[int, ...]
    start: Tensor
    """(B, n) first pixel of the box along each of the n spatial axes."""
    extent: Tensor
    """(B, n) its length in pixels, at least 1."""
    flip: Tensor
    """(B,) bool: mirror along the last axis, after cropping."""

    @classmethod
    def sample(
        cls,
        count: int,
        size: Sequence[int],
        *,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> "Crop":
        """Draw `count` random resized crops on the CPU.

        The share of the image kept is uniform in `scale`; each later axis's length over the first's is log-uniform in
        `ratio`, as in torchvision's RandomResizedCrop. A side longer than the image is cut to it.
        """
        pixels = torch.tensor(tuple(size), dtype=torch.float64)

        def uniform(columns: int, low: float, high: float) -> Tensor:
            return torch.empty(count, columns, dtype=torch.float64).uniform_(low, high, generator=generator)

        aspect = uniform(len(pixels), log(ratio[0]), log(ratio[1])).exp()
        aspect[:, 0] = 1
        kept = pixels.prod() * uniform(1, *scale)
        side = (kept / aspect.prod(1, keepdim=True)) ** (1 / len(pixels)) * aspect
        extent = side.round().clamp(min=torch.ones_like(pixels), max=pixels)
        start = (uniform(len(pixels), 0, 1) * (pixels - extent + 1)).floor()
        return cls(tuple(size), start.long(), extent.long(), uniform(1, 0, 1).squeeze(1) < flip)

    def apply(self, images: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Cut the boxes out of (B, *spatial) or (B, C, *spatial) and resize them linearly to `size`.

        Equal to slicing, resizing and mirroring one image at a time: nothing outside a box is read. Maps coarser than
        the image are first resized to it, as part of the same product of one small matrix per axis; the result is
        linear in `images`, hence differentiable to any order. `size` defaults to the image's.
        """
        targets = self.size if size is None else tuple(size)
        sources = images.shape[-len(self.size) :]
        axes = range(len(self.size))
        return separable(images, [self._matrix(a, sources[a], targets[a], images) for a in axes])

    def _matrix(self, axis: int, source: int, target: int, like: Tensor) -> Tensor:
        """(B, target, source) weights along one axis, in the dtype and on the device of `like`."""
        length = self.size[axis]
        start, extent = self.start[:, axis, None].double(), self.extent[:, axis, None].double()
        weights = hat(start + centres(extent, target), length)
        if axis == len(self.size) - 1:
            weights = torch.where(self.flip.view(-1, 1, 1), weights.flip(1), weights)
        if source != length:
            weights = weights @ hat(centres(torch.tensor([[float(source)]]).double(), length), source)
        return weights.to(like)


def composite(images: Tensor, layout: Tensor) -> Tensor:
    """2x2 grids of images: (B, ..., H, W) to (N, ..., 2H, 2W), tiled along the last two axes.

    Args:
        images: (B, C, *spatial), (B, views, C, *spatial) or maps (B, *spatial).
        layout: (N, 4) int64, which of the B images each cell shows, row by row.
    """
    return _tiled(images[layout.to(images.device)])


def quadrant(images: Tensor, cell: Tensor) -> Tensor:
    """Each image in one cell of a 2x2 grid, zeros in the other three: (B, ..., H, W) to (B, ..., 2H, 2W).

    Args:
        images: images or maps, as in `composite`.
        cell: (B,) int64 in 0 to 3, row by row.
    """
    chosen = torch.arange(4) == cell.cpu().unsqueeze(1)
    chosen = chosen.to(images.device).view(-1, 4, *[1] * (images.ndim - 1))
    return _tiled(images.unsqueeze(1).where(chosen, 0))


def surrounded(image: Tensor, other: Tensor, mask: Tensor, has_mask: Tensor, channel: int = 1) -> Tensor:
    """``mask * image + (1 - mask) * other``: the evidence of `image` in the surroundings of `other`.

    Args:
        image, other: (B, C, *spatial), or (B, views, C, *spatial) with `channel=2`.
        mask: (B, *spatial) in [0, 1], or (B, views, *spatial); 1 = evidence.
        has_mask: (B,) bool; images without a mask are left as they are.
        channel: the axis of `image` that holds channels.

    Returns:
        A tensor of the shape of `image`.
    """
    keep = torch.where(has_mask.view(-1, *[1] * (mask.ndim - 1)), mask, 1).unsqueeze(channel)
    return torch.lerp(other, image, keep.to(image))


def blurred(image: Tensor, sigma: float, axes: int = 2) -> Tensor:
    """`image` under a Gaussian of standard deviation `sigma` pixels along each of its last `axes` axes.

    At an edge the weights of what lies inside are scaled to sum 1, so that a constant image stays one.
    """
    return separable(image, [_gaussian(length, sigma).to(image) for length in image.shape[-axes:]])


def mean_colour(image: Tensor, axes: int = 2) -> Tensor:
    """Each channel's own mean over the last `axes` axes, in the shape of `image`."""
    return image.mean(tuple(range(-axes, 0)), keepdim=True).expand_as(image)


def hidden(image: Tensor, hole: Tensor, axes: int = 2) -> Tensor:
    """`image` with a hole filled by what lies around it: ``blur(keep * image) / blur(keep)``, where keep = 1 - hole.

    The blur's standard deviation is 0.15 of the short side. Out of its reach the fill is the mean colour of what is
    kept; of an image that is all hole, its own.

    Args:
        image: (..., C, *spatial).
        hole: (..., 1, *spatial) in [0, 1], 1 = to be filled.
        axes: number of spatial axes.
    """
    keep, spatial, little = 1 - hole, tuple(range(-axes, 0)), 1e-3
    sigma = HIDING * min(image.shape[-axes:])
    weight = keep + 1e-6
    mean = (image * weight).sum(spatial, keepdim=True) / weight.sum(spatial, keepdim=True)
    fill = (blurred(image * keep, sigma, axes) + little * mean) / (blurred(keep, sigma, axes) + little)
    return torch.lerp(fill, image, keep.expand_as(image))


def _tiled(cells: Tensor) -> Tensor:
    """(N, 4, ..., H, W) to (N, ..., 2H, 2W)."""
    rows = torch.cat(cells.unflatten(1, (2, 2)).unbind(2), -1)
    return torch.cat(rows.unbind(1), -2)


def _gaussian(length: int, sigma: float) -> Tensor:
    """(1, length, length) weights of a blur along one axis; each row sums to 1."""
    cells = torch.arange(length, dtype=torch.float64)
    return (-((cells.unsqueeze(1) - cells) ** 2) / (2 * sigma**2)).softmax(1).unsqueeze(0)
