"""GAIN: without what its map covers, an image is not to show its class; with masks, the map is to be the mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import torch
from torch import Tensor

from sightline.arguments import number, one_of
from sightline.errors import SightlineError
from sightline.explainers import GradCAM
from sightline.maps import per_map, resize, soft_mask
from sightline.objectives.base import Objective, filling, nonnegative, single_label
from sightline.objectives.ranks import pooled
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.types import Batch


def min_max(maps: Tensor, eps: float = 1e-8) -> Tensor:
    """``(m - min) / (max - min + eps)`` for each of (B, *spatial) maps; minimum and maximum are differentiated too."""
    low, high = (per_map(extreme, maps) for extreme in maps.flatten(1).aminmax(dim=1))
    return (maps - low) / (high - low + eps)


@dataclass(frozen=True)
class HeldGradCAM(GradCAM):
    """Grad-CAM whose channels' weights are constants in a second derivative."""

    def combine(self, activation: Tensor, gradient: Tensor) -> Tensor:
        return super().combine(activation, gradient.detach())


class GAIN(Objective):
    """Guided attention inference (Li et al., CVPR 2018). Terms: "gain_am", a probability, and "gain_e", in [0, 1].

    With A the channel-averaged Grad-CAM of the label, upsampled to the image and scaled to [0, 1] for each image, and
    ``T = sigmoid(omega (A - sigma))``, the image without its attention is ``x* = x - T (x - fill)``. "gain_am" is the
    label's probability on x*: whatever still shows the class belongs into the map. "gain_e" (GAIN-ext) is the squared
    distance of A from the mask, its mean over pixels, then over the images that have a mask; 0 if none has.
    Gradients flow through T. Images without a label count in neither.

    With labels (B, classes), both are means over the classes present in each image, then over images; probabilities
    are sigmoids, and every (image, class) pair makes one masked image of one common forward.

    Args:
        weight: of "gain_am", the paper's alpha. The number 0 leaves it out, and its forward with it.
        external: of "gain_e"; GAIN-ext takes 10. The number 0 leaves it out.
        sigma: what counts as attention, in [0, 1].
        omega: how sharply; above 0.
        layer: whose map; None lets `find_layer` choose.
        order: 1 holds the channels' weights constant, as the public trainers do; 2 differentiates them too.
        score: on x*, the label's probability ("prob"), or its "logit", which has no lower bound.
        align_corners: upsample as the public trainers do, instead of as everywhere else in sightline.
        bn_update: whether normalisation layers learn running statistics from "clean" images only, or from "all".
        fill: what attention is replaced by, in [0, 1], one value or one for each channel; None is what the network
            takes for 0, the mean of its own normalisation.

    Raises:
        SightlineError: an argument out of range, or no term left.
    """

    teaches = False

    def __init__(
        self,
        weight: Weight = 1.0,
        external: Weight = 0.0,
        sigma: float = 0.5,
        omega: float = 10.0,
        layer: str | None = None,
        order: Literal[1, 2] = 1,
        score: Literal["prob", "logit"] = "prob",
        align_corners: bool = False,
        bn_update: Literal["clean", "all"] = "clean",
        fill: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.weights = nonnegative(**{k: w for k, w in (("gain_am", weight), ("gain_e", external)) if w != 0})
        if not self.weights:
            raise SightlineError("GAIN(weight=0, external=0) has no term: give one of them a weight.")
        self.needs = ("masks",) * ("gain_e" in self.weights)
        self.explainers = (HeldGradCAM(layer) if order == 1 else GradCAM(layer),)
        self.sigma, self.omega, self.order, self.score = sigma, omega, order, score
        self.align_corners, self.bn_update, self.fill = align_corners, bn_update, fill
        number(self, "sigma", self.sigma, 0, 1)
        number(self, "omega", self.omega, 1e-6)
        one_of(self, "order", self.order, (1, 2))
        one_of(self, "score", self.score, ("prob", "logit"))
        one_of(self, "bn_update", self.bn_update, ("clean", "all"))
        if fill is not None and not all(map(isfinite, [fill] if isinstance(fill, int | float) else fill)):
            raise SightlineError(f"GAIN(fill={fill!r}): expected finite numbers.")

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        size, (explainer,) = step.run(batch.image).size, self.explainers
        targets, present = _classes(step, batch)
        drawn = [step.explain(explainer, batch.image, target) for target in targets]
        maps = torch.stack([min_max(resize(each, size, align_corners=self.align_corners)) for each in drawn])
        terms = {}
        if "gain_am" in self.weights:
            terms["gain_am"] = self._mining(step, batch, maps, torch.stack(targets), present)
        if "gain_e" in self.weights:
            masks = torch.stack([resize(_mask(batch, target), size) for target in targets])
            terms["gain_e"] = _mean((maps - masks).square().flatten(2).mean(2), present & batch.has_mask)
        return terms

    def _mining(self, step: Step, batch: Batch, maps: Tensor, targets: Tensor, present: Tensor) -> Tensor:
        """The mean score of the classes present, each on its image without the class's attention."""
        run, pairs = step.run(batch.image), present.clone()
        pairs[0] = True  # each image at least once: BatchNorm gets no smaller batch for want of labels
        image = batch.image.expand(len(pairs), *batch.image.shape)[pairs]
        mask = soft_mask(maps[pairs], self.sigma, self.omega).unsqueeze(run.channel)
        masked = image - mask * (image - filling(run, self.fill, "GAIN"))
        logits = step.run(masked, (), update=self.bn_update == "all").logits
        scores = self._scored(logits, batch).gather(1, targets[pairs].unsqueeze(1)).squeeze(1)
        return _mean(torch.zeros_like(present, dtype=scores.dtype).masked_scatter(pairs, scores), present)

    def _scored(self, logits: Tensor, batch: Batch) -> Tensor:
        if self.score == "logit":
            return logits
        return logits.softmax(1) if batch.label.ndim == 1 else logits.sigmoid()


def _classes(step: Step, batch: Batch) -> tuple[list[Tensor], Tensor]:
    """The classes of the images in rounds: (B,) targets, and (rounds, B) which of them their images have."""
    if batch.label.ndim == 1:
        return [single_label(step, batch, "GAIN")], (batch.label >= 0).unsqueeze(0)
    count = (batch.label > 0).sum(1)
    rounds = max(1, int(count.max()))
    order = batch.label.argsort(dim=1, descending=True, stable=True)[:, :rounds]
    return list(order.T), torch.arange(rounds, device=count.device).unsqueeze(1) < count


def _mean(values: Tensor, pairs: Tensor) -> Tensor:
    """The mean of (rounds, B) values over each image's pairs, then over all processes' images that have any, or 0."""
    per_image, count = (values * pairs).sum(0) / pairs.sum(0).clamp(min=1), pairs.any(0).sum()
    return pooled(per_image.sum() / count.clamp(min=1), count)


def _mask(batch: Batch, target: Tensor) -> Tensor:
    """(B, *spatial) mask of each image, that of its target if there is one for each class."""
    own = batch.mask.ndim == batch.image.ndim - 1
    return batch.mask if own else batch.mask[torch.arange(len(target)), target]
