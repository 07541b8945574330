"""A model together with the objectives that train it: what a training loop calls and what DDP wraps."""

from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor, nn

from sightline.errors import SightlineError
from sightline.objectives.base import Objective
from sightline.objectives.step import Step
from sightline.objectives.weights import Varying, Weight
from sightline.types import Batch


class Guided(nn.Module):
    """``loss, terms = guided(batch)`` in any training loop; ``loss.backward()`` follows as usual.

    The loss is the sum over all terms of weight times term. Wrap this module, not the model, in
    DistributedDataParallel: gradients taken inside the step are then part of its forward.

    `epoch`, None at first, is for the training loop to set where a weight is scheduled: whole epochs so far, or parts.

    Args:
        model: a classifier; `sightline.load_model` makes one with normalisation inside.
        objectives: at least one; CE keeps every parameter in the graph.
        size: side of the images, or their (H, W) or (D, H, W); used once, to find the layers the explainers read.

    Raises:
        SightlineError: no objective, two terms of one name, or a layer that cannot be found.
    """

    def __init__(self, model: nn.Module, objectives: Iterable[nn.Module], size: int | Sequence[int] = 224) -> None:
        super().__init__()
        self.model = model
        self.epoch: float | None = None
        objectives = list(objectives)
        for objective in objectives:
            if not isinstance(objective, Objective):
                raise SightlineError(
                    f"{type(objective).__name__} is not an Objective: subclass it and return named terms."
                )
        self.objectives = nn.ModuleList(objectives)
        names = [name for objective in self._each() for name in objective.weights]
        if not names:
            raise SightlineError("objectives is empty: pass at least one, such as [CE()].")
        if len(set(names)) < len(names):
            raise SightlineError(f"objectives name the same term twice: {names}. Keep one of each.")
        for objective in self._each():
            objective.bind(model, size)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one batch and its terms, unweighted and detached, by name."""
        taps = [tap for objective in self._each() for tap in objective.taps]
        # None, for gradients of the image without rules: see `record`.
        ruled = any(objective.ruled for objective in self._each()) or (None if "image" in taps else False)
        step = Step(self.model, taps, ruled=ruled)
        weighted: dict[str, tuple[Weight, Tensor]] = {}
        terms: dict[str, Tensor] = {}
        for objective in self._each():
            found = objective(step, batch)
            if missing := (set(objective.weights) - set(found)) | (set(found) & set(terms)):
                raise SightlineError(f"{type(objective).__name__}: term {min(missing)!r} is missing, or another's.")
            # Terms without a weight are only logged.
            weighted |= {name: (weight, found[name]) for name, weight in objective.weights.items()}
            terms |= {name: term.detach() for name, term in found.items()}
        loss = batch.image.new_zeros(())
        for name, (weight, term) in weighted.items():
            loss = loss + (weight.at(name, terms, self.epoch) if isinstance(weight, Varying) else weight) * term
        return loss, terms

    def meet(self, groups: Sequence[str], ids: Sequence[str] = (), known: Sequence[bool] | None = None) -> None:
        """Tell the objectives what the training set knows of its images, by `Batch.index`; see `Objective.meet`."""
        for objective in self._each():
            objective.meet(groups, ids, known)

    def _each(self) -> list[Objective]:
        return list(cast(Iterable[Objective], self.objectives))
