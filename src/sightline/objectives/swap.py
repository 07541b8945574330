"""Context swap: the evidence stays, what lies around it is replaced, the label stays."""

from typing import Literal

import torch
from torch import Tensor

from sightline.explainers.arguments import number, one_of
from sightline.maps import separable
from sightline.objectives.base import Objective, classification_loss, evidence, nonnegative
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.passes import rank
from sightline.types import Batch
from sightline.views import surrounded


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


def blurred(image: Tensor, sigma: float, axes: int = 2) -> Tensor:
    """`image` under a Gaussian of standard deviation `sigma` pixels along each of its last `axes` axes.

    At an edge the weights of what lies inside are scaled to sum 1, so that a constant image stays one.
    """
    return separable(image, [_gaussian(length, sigma).to(image) for length in image.shape[-axes:]])


def mean_colour(image: Tensor, axes: int = 2) -> Tensor:
    """Each channel's own mean over the last `axes` axes, in the shape of `image`."""
    return image.mean(tuple(range(-axes, 0)), keepdim=True).expand_as(image)


def _gaussian(length: int, sigma: float) -> Tensor:
    """(1, length, length) weights of a blur along one axis; each row sums to 1."""
    cells = torch.arange(length, dtype=torch.float64)
    return (-((cells.unsqueeze(1) - cells) ** 2) / (2 * sigma**2)).softmax(1).unsqueeze(0)


class ContextSwap(Objective):
    """Cross-entropy on images whose background was replaced: an intervention on the shortcut. Term: "swap".

    Unlike a penalty on the map, it makes the background useless for the decision. Images without a mask stay as they
    are. Under "swap" a batch of one has no other image and trains on itself.

    Args:
        weight: factor in the loss.
        smoothing: label smoothing in [0, 1).
        outside: what comes in its place: another image of the batch ("swap", the only one that keeps backgrounds as
            they are in life), the "blur" or the "mean" colour of the image itself, or "noise", uniform in [0, 1].
        sigma: the blur's standard deviation as a share of the image's short side, above 0.
    """

    def __init__(
        self,
        weight: Weight = 1.0,
        smoothing: float = 0.0,
        outside: Literal["swap", "blur", "mean", "noise"] = "swap",
        sigma: float = 0.1,
    ) -> None:
        super().__init__()
        self.weights = nonnegative(swap=weight)
        self.smoothing, self.outside, self.sigma = smoothing, outside, sigma
        one_of(("swap", "blur", "mean", "noise"), self, "outside")
        number(self, "sigma", 1e-6)

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        axes, mask = rank(step.model), evidence(step, batch, "ContextSwap")
        other = self._surroundings(batch.image, axes, step.random("swap"))
        altered = surrounded(batch.image, other, mask, batch.has_mask, batch.image.ndim - axes - 1)
        return {"swap": classification_loss(step.run(altered, ()).logits, batch.label, self.smoothing)}

    def _surroundings(self, image: Tensor, axes: int, generator: torch.Generator) -> Tensor:
        if self.outside == "blur":
            return blurred(image, self.sigma * min(image.shape[-axes:]), axes)
        if self.outside == "mean":
            return mean_colour(image, axes)
        if self.outside == "noise":
            return torch.rand(image.shape, generator=generator, dtype=image.dtype).to(image.device)
        return image.roll(-int(torch.randint(1, max(len(image), 2), (), generator=generator)), 0)
