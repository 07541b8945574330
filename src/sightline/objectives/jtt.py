"""JTT: just train twice, the second time with more weight on what the first model got wrong."""

import logging
from collections.abc import Sequence
from math import inf
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sightline.errors import SightlineError
from sightline.objectives.base import Objective, image_losses, labelled, nonnegative, of_batch, share
from sightline.objectives.ranks import pooled_mean
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.types import Batch

log = logging.getLogger(__name__)


def upweighted(wrong: Tensor, upweight: float, known: Tensor | None = None) -> Tensor:
    """(N,) `upweight` where `wrong`, (N,) bool, and 1 elsewhere, divided by the mean over all, or those `known`."""
    weight = torch.where(wrong, upweight, 1.0)
    return weight / (weight if known is None else weight[known]).mean()


class JTT(Objective):
    """The second stage of "just train twice" (Liu et al., ICML 2021); stands in place of CE. Needs no groups.

    The first stage is a run of its own with CE, short or strongly regularised, so that it errs on the images that defy
    the shortcut; `sightline audit RUN --split train` then says which. The paper trains the second model on a set that
    holds each of those `upweight` times. Here every image is seen once an epoch, and its cross-entropy weighted by
    ``w_i / mean(w)``, with w_i = `upweight` for them and 1 for the others, and the mean over the training images whose
    label is shown. The expected gradient is that of the mean loss over the paper's set: the one of the weighted sum,
    divided by the mean weight. An epoch has fewer steps than over there. Images labelled -1 are left out. Term: "jtt".

    Args:
        errors: run directory of the first stage, audited on its training split, or that audit's directory.
        upweight: the paper's lambda, at least 1.
        weight: factor in the loss.
        smoothing: label smoothing in [0, 1).

    Raises:
        SightlineError: `upweight` is below 1 or not finite; from `meet`, there is no such audit, or it is of other
            images; from the first step, nobody called `meet`.
    """

    needs = ("a first run",)

    factor: Tensor
    """(images,) weight of each training image, of mean 1."""

    def __init__(
        self, errors: str | Path, upweight: float = 20.0, weight: Weight = 1.0, smoothing: float = 0.0
    ) -> None:
        super().__init__()
        if not 1 <= upweight < inf:
            raise SightlineError(f"JTT.upweight is {upweight}: expected a finite number that is at least 1.")
        self.weights = nonnegative(jtt=weight)
        self.errors, self.upweight, self.smoothing = errors, upweight, share(self, "smoothing", smoothing)
        # Saved with the state, so that a resumed run goes on with the errors it began with.
        self.register_buffer("factor", torch.empty(0))

    def meet(self, groups: Sequence[str], ids: Sequence[str] = (), known: Sequence[bool] | None = None) -> None:
        """Look up which of the training images the first model got wrong."""
        from sightline.scores import training_scores  # pandas takes a second to import

        scores = training_scores(self.errors, groups, ids, "JTT.errors")
        shown = np.ones(len(scores), bool) if known is None else np.array(known, bool)
        wrong, scores = torch.tensor((scores["correct"] == 0).to_numpy()), scores[shown]
        if scores["correct"].nunique() == 1:
            which = "no" if scores["correct"].iloc[0] else "every"
            log.warning("JTT.errors: %s got %s training image wrong, so JTT is plain CE.", self.errors, which)
        elif unknown := [str(name) for name, right in scores["correct"].groupby(scores["label"]) if not right.any()]:
            log.warning(
                "JTT.errors: %s has not learned %s, so that every image of it counts as an error. Train it longer.",
                self.errors, ", ".join(unknown),
            )  # fmt: skip
        self.factor = upweighted(wrong, self.upweight, torch.tensor(shown)).to(self.factor)

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        losses = image_losses(step.run(batch.image).logits, batch.label, self.smoothing)
        factor, known = of_batch(self.factor, batch, "JTT"), labelled(batch.label)
        return {"jtt": pooled_mean((losses * factor)[known])}
