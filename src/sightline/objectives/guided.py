"""A model together with the objectives that train it: what a training loop calls and what DDP wraps."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from sightline.errors import SightlineError
from sightline.objectives.base import Objective
from sightline.objectives.step import Step
from sightline.objectives.weights import Varying, Weight
from sightline.passes import rank
from sightline.types import Batch, warn_of_normalised, within


class Guided(nn.Module):
    """``loss, terms = guided(batch)`` in any training loop; ``loss.backward()`` follows as usual.

    The loss is the sum over all terms of weight times term. Wrap this module, not the model, in
    DistributedDataParallel: gradients taken inside the step are then part of its forward.

    `epoch`, None at first, is for the training loop to set where a weight is scheduled: whole epochs so far, or parts.

    Args:
        model: a classifier; `sightline.load_model` makes one with normalisation inside.
        objectives: one or more; CE keeps every parameter in the graph.
        size: side of the images, or their (H, W) or (D, H, W); used once, to find the layers the explainers read.

    Raises:
        SightlineError: no objective, two terms of one name, or a layer that cannot be found.
    """

    def __init__(
        self, model: nn.Module, objectives: Objective | Iterable[nn.Module], size: int | Sequence[int] = 224
    ) -> None:
        super().__init__()
        self.model = model
        self.epoch: float | None = None
        self._looked = False
        objectives = [objectives] if isinstance(objectives, Objective) else list(objectives)
        for objective in objectives:
            if not isinstance(objective, Objective):
                raise SightlineError(
                    f"objectives: {objective!r} is not an Objective, such as CE(). One of your own subclasses it and "
                    "returns named terms."
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
        """The loss of one batch and its terms, unweighted and detached, by name.

        Raises:
            SightlineError: masks that an objective reads do not fit the images, or hold values outside [0, 1].
        """
        batch = self._checked(batch)
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

    def meet(self, groups: Iterable[Any], ids: Sequence[str] = (), known: Sequence[bool] | None = None) -> None:
        """Tell the objectives what the training set knows of its images, by `Batch.index`; see `Objective.meet`.

        Groups may be words or numbers; "" and None are none.
        """
        names = ["" if group is None else str(group) for group in map(_plain, groups)]
        for objective in self._each():
            objective.meet(names, ids, *([] if known is None or all(known) else [known]))

    def _checked(self, batch: Batch) -> Batch:
        """The batch; where an objective reads masks, these as floats and their flags as bools."""
        if missing := [field for field in Batch._fields if not hasattr(batch, field)]:
            raise SightlineError(
                f"Guided takes a sightline.types.Batch, not a {type(batch).__name__} without {', '.join(missing)}."
            )
        if not self._looked:
            warn_of_normalised(batch.image)
            self._looked = True
        if not any("masks" in objective.needs for objective in self._each()):
            return batch
        batch = Batch(*(getattr(batch, field) for field in Batch._fields))
        return batch._replace(mask=_fitting(batch, rank(self.model)), has_mask=batch.has_mask.bool())

    def _each(self) -> list[Objective]:
        return list(cast(Iterable[Objective], self.objectives))


def _plain(value: Any) -> Any:
    """An entry of an array or a tensor as Python has it."""
    return value.item() if hasattr(value, "item") else value


def _fitting(batch: Batch, axes: int) -> Tensor:
    """The masks as floats in [0, 1], ones where there is none.

    Raises:
        SightlineError: they are not one for each image, or each class of it, and of its form; or leave [0, 1].
    """
    mask, image = batch.mask, batch.image
    single = mask.ndim == image.ndim and mask.shape[1] == 1 and batch.label.ndim == 1
    if len(mask) != len(image) or not _alike(mask.shape[1:], image.shape[1:], axes) or single:
        raise SightlineError(
            f"masks of shape {tuple(mask.shape)} do not fit images of shape {tuple(image.shape)}: expected (B, "
            "*spatial) or (B, classes, *spatial), as many as images and as long or flat."
            + " Pass mask.squeeze(1)."
            * single
        )
    if mask.dtype == torch.bool:
        return mask.to(image.dtype)
    mask = mask.to(torch.promote_types(mask.dtype, image.dtype))
    shown = batch.has_mask.bool().view(-1, *[1] * (mask.ndim - 1))
    return within(mask.where(shown, 1))


def _alike(mask: Sequence[int], image: Sequence[int], axes: int) -> bool:
    """Whether a mask has an image's axes, and in two dimensions its form, but for a cell of rounding."""
    if len(image) - len(mask) not in (0, 1):
        return False
    scales = [((m - 1) / side, (m + 1) / side) for m, side in zip(mask[-axes:], image[-axes:], strict=True)]
    lowest, highest = zip(*scales, strict=True)
    return axes != 2 or max(lowest) < min(highest)
