"""GroupDRO: the loss of the groups that are answered worst."""

import logging
from collections.abc import Sequence
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.errors import SightlineError
from sightline.objectives.base import Objective, image_losses, labelled, nonnegative, of_batch, share
from sightline.objectives.ranks import sum_over_ranks, world
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.types import Batch

log = logging.getLogger(__name__)


def group_means(losses: Tensor, group: Tensor, known: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean loss and number of images of each group, (groups,) each, over the batches of all processes.

    Args:
        losses: (B,), taken as constants.
        group: (B,) int64 in [0, groups).
        known: (B,) bool, which images count.
        groups: their number; the mean of a group without an image is 0.
    """
    member = F.one_hot(group, groups).to(losses) * known.unsqueeze(1)
    # Not a product of matrices, which autocast would take in bfloat16.
    total, count = sum_over_ranks(torch.stack([(losses.detach().unsqueeze(1) * member).sum(0), member.sum(0)]))
    return total / count.clamp(min=1), count


def raised(q: Tensor, loss: Tensor, here: Tensor, step_size: float) -> Tensor:
    """(groups,) ``q_g exp(step_size * loss_g)`` for the groups that are `here`, q_g for the others; normalised."""
    # Through logarithms, since the exponential of a large loss has no number.
    return torch.softmax(q.log() + step_size * loss * here, 0)


class GroupDRO(Objective):
    """Group distributionally robust optimisation (Sagawa et al., ICLR 2020, algorithm 1); stands in place of CE.

    ``q_g <- q_g exp(step_size (L_g + C / sqrt(n_g)))``, normalised, then the loss ``sum_g q_g L_g`` with q constant.
    L_g is the mean cross-entropy of the batch's images of group g, n_g the group's size in the training set. Groups
    without an image in the batch keep their q and add nothing. The paper draws groups evenly, which no batch drawn from
    images does: where rare groups are in few batches their q rises late, so take large batches, or few groups. Images
    of no group count as one group more; those labelled -1 are left out. Terms: "group_dro"; "group_dro_worst", the
    largest L_g, is only logged.

    q starts uniform, changes once in each step in training mode, and is saved with the objective's state. Over several
    processes L_g is of all their images: "group_dro" is then the own images' part, and its mean is the whole.

    Args:
        step_size: of q.
        adjustment: C, which raises small groups further; 0 for none.
        weight: factor in the loss.
        smoothing: label smoothing in [0, 1).

    Raises:
        SightlineError: a negative or infinite number; from `meet`, no image has a group; from the first step, nobody
            called `meet`.
    """

    needs = ("groups",)

    q: Tensor
    """(groups,) weights that sum to 1, in the order of the groups' names."""
    group: Tensor
    """(images,) number of each training image's group."""
    size: Tensor
    """(groups,) training images in each."""

    def __init__(
        self, step_size: float = 0.01, adjustment: float = 0.0, weight: Weight = 1.0, smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.weights = nonnegative(group_dro=weight)
        for name, value in {"step_size": step_size, "adjustment": adjustment}.items():
            if not 0 <= value < inf:
                raise SightlineError(f"GroupDRO.{name} is {value}: expected a finite number that is not negative.")
        self.step_size, self.adjustment, self.smoothing = step_size, adjustment, share(self, "smoothing", smoothing)
        self.register_buffer("q", torch.empty(0))
        self.register_buffer("group", torch.empty(0, dtype=torch.long), persistent=False)
        self.register_buffer("size", torch.empty(0), persistent=False)

    def meet(self, groups: Sequence[str], ids: Sequence[str] = (), known: Sequence[bool] | None = None) -> None:
        """Number the groups, and give all of them the same weight.

        Raises:
            SightlineError: no image has a group.
        """
        if not any(groups):
            raise SightlineError(
                "GroupDRO needs groups, but no image of the training set has one: name them in the column "
                '"group" of splits.csv, or use JTT, which needs none.'
            )
        if alone := sum(not name for name in groups):
            log.warning("GroupDRO: %d of %d images have no group; they form one of their own.", alone, len(groups))
        names = {name: number for number, name in enumerate(sorted(set(groups)))}
        self.group = torch.tensor([names[name] for name in groups], device=self.q.device)
        shown = (
            self.group if known is None else self.group[torch.as_tensor(known, dtype=torch.bool, device=self.q.device)]
        )
        self.size = shown.bincount(minlength=len(names)).to(self.q)
        self.q = torch.full_like(self.size, 1 / len(names))

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        losses = image_losses(step.run(batch.image).logits, batch.label, self.smoothing)
        group, known = of_batch(self.group, batch, "GroupDRO"), labelled(batch.label)
        mean, count = group_means(losses, group, known, len(self.q))
        if self.training:
            loss = (mean + self.adjustment * self.size.clamp(min=1).rsqrt()).to(self.q)
            self.q.copy_(raised(self.q, loss, count > 0, self.step_size))
        # Each image's part in its group's mean; the mean over processes that follows divides by their number.
        part = world()[1] * self.q / count.clamp(min=1)
        return {"group_dro": (losses * part[group] * known).sum(), "group_dro_worst": mean.max()}
