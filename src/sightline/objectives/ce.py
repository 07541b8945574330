"""Cross-entropy on the images as they come."""

from torch import Tensor

from sightline.objectives.base import Objective, classification_loss, nonnegative, share
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.types import Batch


class CE(Objective):
    """Cross-entropy; binary cross-entropy where labels are (B, classes). Term: "ce".

    Args:
        weight: factor in the loss.
        smoothing: label smoothing in [0, 1).
    """

    def __init__(self, weight: Weight = 1.0, smoothing: float = 0.0) -> None:
        super().__init__()
        self.weights = nonnegative(ce=weight)
        self.smoothing = share(self, "smoothing", smoothing)

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        return {"ce": classification_loss(step.run(batch.image).logits, batch.label, self.smoothing)}
