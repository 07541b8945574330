"""Context swap: the evidence stays, the background comes from another image, the label stays."""

import torch
from torch import Tensor

from sightline.objectives.base import Objective, classification_loss, evidence, nonnegative
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.types import Batch


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
    keep = torch.where(has_mask.view(-1, *[1] * (mask.ndim - 1)), mask, 1).unsqueeze(1)
    return torch.lerp(image.roll(-shift, 0), image, keep)


class ContextSwap(Objective):
    """Cross-entropy on images whose background was swapped: an intervention on the shortcut. Term: "swap".

    Unlike a penalty on the map, it makes the background useless for the decision. A batch of one has no other image
    and trains on itself.

    Args:
        weight: factor in the loss.
        smoothing: label smoothing in [0, 1).
    """

    def __init__(self, weight: Weight = 1.0, smoothing: float = 0.0) -> None:
        super().__init__()
        self.weights = nonnegative(swap=weight)
        self.smoothing = smoothing

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        count = len(batch.image)
        shift = int(torch.randint(1, max(count, 2), (), generator=step.random("swap")))
        swapped = context_swap(batch.image, evidence(step, batch, "ContextSwap"), batch.has_mask, shift)
        return {"swap": classification_loss(step.run(swapped, ()).logits, batch.label, self.smoothing)}
