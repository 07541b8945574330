"""RISE: which parts of the image, left visible at random, go with a high score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sightline.arguments import at_least, number, one_of
from sightline.explainers.rerun import untouched
from sightline.maps import hat, separable
from sightline.passes import Pass, Target, record

Score = Literal["softmax", "sigmoid", "logit"]


@dataclass(frozen=True)
class RISE:
    """``sum_i f(x * M_i) M_i / (N * keep)`` over N random masks (Petsiuk et al., BMVC 2018, eq. 6).

    f is the target's score of what a mask leaves visible. A mask is a random grid of zeros and ones with `cells` along
    each axis, resized linearly to `cells + 1` cells of ``ceil(size / cells)`` pixels and cropped to the image at a
    random offset. All images get the same masks. Of multi-view images each view is masked on its own, or its part in
    the score could not be told from the others'.

    The model runs forward only, on N images for each one explained. It keeps its mode and is left as it was.

    Args:
        masks: N; the paper uses 4000 for VGG16 and 8000 for ResNet50 at 224 pixels.
        cells: along each axis of the image.
        keep: the probability that a cell is visible.
        seed: of the masks.
        batch_size: at most how many images run at once.
        fill: the value of what is hidden; 0 is black for images in [0, 1].
        score: f: the target's probability ("softmax"), that of a multi-label model ("sigmoid"), or its logit.
    """

    masks: int = 1000
    cells: int = 7
    keep: float = 0.5
    seed: int = 0
    batch_size: int = 64
    fill: float = 0.0
    score: Score = "softmax"

    taps: ClassVar[tuple[str, ...]] = ()
    ruled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        one_of(self, "score", self.score, Score)
        at_least(1, self, "masks", "cells", "batch_size")
        at_least(0, self, "seed")
        number(self, "keep", self.keep, 1e-6, 1)
        number(self, "fill", self.fill)

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map at the image's resolution, non-negative unless the score is the logit."""
        target, views = run.target(target), run.image.shape[1 : run.channel]
        grids, offsets = draws((self.masks, *views), self.cells, run.size, self.keep, self.seed)
        at_once = max(1, self.batch_size // len(run.image))
        total = run.image.new_zeros((), dtype=torch.promote_types(run.image.dtype, torch.float32))
        with untouched(run.model), torch.set_grad_enabled(differentiable):
            for some in torch.arange(self.masks).split(at_once):
                masks = enlarged(grids[some].to(total), offsets[some], run.size)
                # Autocast would round the sum over all masks to bfloat16's eight bits.
                scores = self._scores(run, target, masks).to(total)
                with torch.autocast(total.device.type, enabled=False):
                    total = total + (scores @ masks.flatten(1)).unflatten(1, masks.shape[1:])
        return total / (self.masks * self.keep)

    def _scores(self, run: Pass, target: Tensor, masks: Tensor) -> Tensor:
        """(B, n) score of every image under every mask (n, *views, *spatial)."""
        image, visible = run.image.detach(), masks.to(run.image).unsqueeze(run.channel)
        masked = (self.fill + visible.unsqueeze(1) * (image - self.fill)).flatten(0, 1)
        logits = torch.cat([record(run.model, part).logits for part in masked.split(self.batch_size)])
        chosen = _SCORES[self.score](logits.to(masks)).unflatten(0, (len(masks), -1))
        scores: Tensor = chosen[:, torch.arange(len(image)), target].T
        return scores


_SCORES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": torch.sigmoid,
    "logit": lambda logits: logits,
}


def draws(count: Sequence[int], cells: int, size: Sequence[int], keep: float, seed: int) -> tuple[Tensor, Tensor]:
    """Random grids (*count, cells, ...) of booleans and their offsets (*count, axes) in pixels."""
    generator = torch.Generator().manual_seed(seed)
    grids = torch.rand(*count, *[cells] * len(size), generator=generator, dtype=torch.float32) < keep
    offsets = [torch.randint(ceil(length / cells), tuple(count), generator=generator) for length in size]
    return grids, torch.stack(offsets, -1)


def enlarged(grids: Tensor, offsets: Tensor, size: Sequence[int]) -> Tensor:
    """Masks (*count, *size) in [0, 1]: grids (*count, cells, ...) resized linearly and cropped at their offsets."""
    axes = len(size)
    count, flat = grids.shape[:-axes], offsets.flatten(0, -2)
    weights = [_crop(flat[:, axis], grids.shape[-1], length).to(grids) for axis, length in enumerate(size)]
    masks: Tensor = separable(grids.flatten(0, len(count) - 1), weights).unflatten(0, count)
    return masks


def _crop(offset: Tensor, cells: int, length: int) -> Tensor:
    """(n, length, cells) weights that resize one axis to ``(cells + 1) * ceil(length / cells)`` and crop it."""
    pixels = (cells + 1) * ceil(length / cells)
    centres = (torch.arange(length) + offset.unsqueeze(1) + 0.5).double() * (cells / pixels) - 0.5
    return hat(centres.clamp(0, cells - 1), cells)
