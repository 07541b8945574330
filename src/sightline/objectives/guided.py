"""A model together with the objectives that train it: what a training loop calls and what DDP wraps."""

from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor, nn

from sightline.errors import SightlineError
from sightline.objectives.base import Objective
from sightline.objectives.step import Step
from sightline.types import Batch


class Guided(nn.Module):
    """``loss, terms = guided(batch)`` in any training loop; ``loss.backward()`` follows as usual.

    The loss is the sum over all terms of weight times term. Wrap this module, not the model, in
    DistributedDataParallel: gradients taken inside the step are then part of its forward.

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
        step = Step(self.model, taps, ruled=any(objective.ruled for objective in self._each()))
        loss = batch.image.new_zeros(())
        terms: dict[str, Tensor] = {}
        for objective in self._each():
            found = objective(step, batch)
            if missing := (set(objective.weights) - set(found)) | (set(found) & set(terms)):
                raise SightlineError(f"{type(objective).__name__}: term {min(missing)!r} is missing, or another's.")
            for name, term in found.items():
                if name in objective.weights:  # others are only logged
                    loss = loss + objective.weights[name] * term
                terms[name] = term.detach()
        return loss, terms

    def _each(self) -> list[Objective]:
        return list(cast(Iterable[Objective], self.objectives))
