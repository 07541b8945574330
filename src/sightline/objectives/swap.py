"""Context: the evidence stays, what lies around it is replaced, and the answer has to stay."""

from typing import Literal

import torch
from torch import Tensor

from sightline.arguments import number, one_of
from sightline.maps import bounding_box, per_map
from sightline.objectives.base import Objective, classification_loss, evidence, nonnegative, share
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.passes import rank
from sightline.types import Batch
from sightline.views import blurred, hidden, mean_colour, surrounded


def context_swap(image: Tensor, mask: Tensor, has_mask: Tensor, shift: int) -> Tensor:
    """``mask * image + (1 - mask) * other``, where other is the image `shift` places further on in the batch.

    Args:
        image: (B, C, *spatial).
        mask: (B, *spatial) in [0, 1], 1 = evidence.
        has_mask: (B,) bool; images without a mask are left as they are.
        shift: whole number; a multiple of B pairs each image with itself.

    Returns:
        (B, C, *spatial). The other image's own evidence may show in the new background, as it would in life.
    """
    return surrounded(image, image.roll(-shift, 0), mask, has_mask)


class OtherContext(Objective):
    """What objectives share that show images in another context."""

    needs = ("masks",)

    def choose(self, outside: str, sigma: float, hide: str | None) -> None:
        """Take and check the arguments of `ContextSwap` that say what stands around the evidence."""
        self.outside, self.sigma, self.hide = outside, sigma, hide
        one_of(self, "outside", self.outside, ("swap", "blur", "mean", "noise"))
        one_of(self, "hide", self.hide, (None, "box", "mask"))
        number(self, "sigma", self.sigma, 1e-6)

    def elsewhere(self, step: Step, batch: Batch) -> Tensor:
        """(B, C, *spatial) images whose surroundings were replaced; those without a mask are as they were."""
        axes, mask = rank(step.model), evidence(step, batch, type(self).__name__)
        shown = self.hide is None or self.outside != "swap"
        source = batch.image if shown else self._without_evidence(batch, mask, axes)
        other = self._surroundings(source, axes, step.random("swap"))
        return surrounded(batch.image, other, mask, batch.has_mask, batch.image.ndim - axes - 1)

    def _without_evidence(self, batch: Batch, mask: Tensor, axes: int) -> Tensor:
        """The images without what their masks mark; those that nobody annotated stay as they are."""
        marked = mask * per_map(batch.has_mask, mask)
        hole = bounding_box(marked, axes).to(mask) if self.hide == "box" else marked
        return hidden(batch.image, hole.unsqueeze(-axes - 1).to(batch.image), axes)

    def _surroundings(self, image: Tensor, axes: int, generator: torch.Generator) -> Tensor:
        if self.outside == "blur":
            return blurred(image, self.sigma * min(image.shape[-axes:]), axes)
        if self.outside == "mean":
            return mean_colour(image, axes)
        if self.outside == "noise":
            return torch.rand(image.shape, generator=generator, dtype=image.dtype).to(image.device)
        return image.roll(-int(torch.randint(1, max(len(image), 2), (), generator=generator)), 0)


class ContextSwap(OtherContext):
    """Cross-entropy on images whose background was replaced: an intervention on the shortcut. Term: "swap".

    Unlike a penalty on the map, it makes the background useless for the decision. Images without a mask stay as they
    are. Under "swap" a batch of one has no other image and trains on itself. To BatchNorm's running statistics the
    images count like any others that are trained on.

    Where no training image breaks the shortcut, hide the evidence that comes along with the background: else an image
    shows two objects, and the habitat tells which of them does not count.

    Args:
        weight: factor in the loss.
        smoothing: label smoothing in [0, 1).
        outside: what comes in its place: another image of the batch ("swap", the only one that keeps backgrounds as
            they are in life), the "blur" or the "mean" colour of the image itself, or "noise", uniform in [0, 1].
        sigma: the blur's standard deviation as a share of the image's short side, above 0.
        hide: under "swap", fill the other image's own evidence with what lies around it: the bounding "box" of its
            mask, or the "mask" itself, whose shape then shows. None leaves it where it is.
    """

    def __init__(
        self,
        weight: Weight = 1.0,
        smoothing: float = 0.0,
        outside: Literal["swap", "blur", "mean", "noise"] = "swap",
        sigma: float = 0.1,
        hide: Literal["box", "mask"] | None = None,
    ) -> None:
        super().__init__()
        self.weights, self.smoothing = nonnegative(swap=weight), share(self, "smoothing", smoothing)
        self.choose(outside, sigma, hide)

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        logits = step.run(self.elsewhere(step, batch), ()).logits
        return {"swap": classification_loss(logits, batch.label, self.smoothing)}


def divergence(first: Tensor, second: Tensor, *, multilabel: bool = False) -> Tensor:
    """``(KL(p | q) + KL(q | p)) / 2 = sum (p - q)(log p - log q) / 2`` of what two (B, classes) logits say.

    Args:
        first, second: logits.
        multilabel: p and q are of each class by itself, and the mean over classes is taken.

    Returns:
        (B,), not negative.
    """
    if multilabel:
        return ((first.sigmoid() - second.sigmoid()) * (first - second)).mean(1) / 2
    p, q = first.log_softmax(1), second.log_softmax(1)
    return ((p.exp() - q.exp()) * (p - q)).sum(1) / 2


class ContextConsistency(OtherContext):
    """What is said of an image is to be said of its evidence in another context. Term: "consistency".

    ``(KL(p | q) + KL(q | p)) / 2``, with p of the image and q of the same evidence elsewhere, averaged over the batch;
    both are trained. The divergence is that of R-Drop (Liang et al., NeurIPS 2021). It takes no labels, so images
    labelled -1 take part; it stands beside `CE`, which says what p is to be. Images without a mask count 0.

    Args:
        weight: factor in the loss; where no image breaks the habit it takes about 10 to outweigh `CE`.
        outside, sigma, hide: see `ContextSwap`. Where no image breaks the habit, `hide` is what makes it work.
    """

    teaches = False

    def __init__(
        self,
        weight: Weight = 10.0,
        outside: Literal["swap", "blur", "mean", "noise"] = "swap",
        sigma: float = 0.1,
        hide: Literal["box", "mask"] | None = "mask",
    ) -> None:
        super().__init__()
        self.weights = nonnegative(consistency=weight)
        self.choose(outside, sigma, hide)

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        here, there = step.run(batch.image).logits, step.run(self.elsewhere(step, batch), ()).logits
        apart = divergence(here, there, multilabel=batch.label.ndim == 2)
        return {"consistency": (apart * batch.has_mask).mean()}
