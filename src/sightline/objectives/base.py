"""What an objective is, and what objectives need to know of a batch."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.errors import SightlineError
from sightline.explainers import Explainer, bind
from sightline.layers import spatial
from sightline.objectives.ranks import pooled
from sightline.objectives.step import Step
from sightline.objectives.weights import Varying, Weight, finite
from sightline.passes import Pass
from sightline.types import Batch


class Objective(nn.Module):
    """Part of a loss: named, unweighted terms of one training step.

    A subclass sets `weights` (term -> its factor in the loss; a term without one is only logged) and `explainers`,
    and writes `forward`. It asks the step for passes and maps, so that nothing is computed twice.
    """

    weights: dict[str, Weight]
    explainers: tuple[Explainer, ...] = ()
    needs: tuple[str, ...] = ()
    """What it takes from people beside labels: "masks", "groups", "a first run"."""
    teaches: bool = True
    """Whether it makes the answers right by itself, as cross-entropy does; a penalty on maps does not."""

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        """The terms of this step, each a scalar; those with a weight carry a graph."""
        raise NotImplementedError

    def bind(self, model: nn.Module, size: int | Sequence[int]) -> None:
        """Settle which layers the explainers read in `model`, for images of `size`."""
        self.explainers = tuple(bind(explainer, model, size) for explainer in self.explainers)

    def meet(self, groups: Sequence[str], ids: Sequence[str] = (), known: Sequence[bool] | None = None) -> None:
        """Be told of each training image, by `Batch.index`, before training starts; few want to know.

        Args:
            groups: "" for none.
            ids: of the images.
            known: whether their label is shown; None for all.
        """

    @property
    def taps(self) -> tuple[str, ...]:
        """The activations a pass must record for this objective."""
        return tuple(tap for explainer in self.explainers for tap in explainer.taps)

    @property
    def ruled(self) -> bool:
        """Whether an explainer of this objective replaces backward steps of a pass."""
        return any(explainer.ruled for explainer in self.explainers)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name, buffer in self._buffers.items():
            saved = state_dict.get(prefix + name)
            if buffer is not None and not buffer.numel() and saved is not None and saved.numel():
                raise SightlineError(
                    f"the state of {type(self).__name__} is that of a training set: call guided.meet(groups, ids) "
                    "ahead of load_state_dict."
                )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return ", ".join([f"{name}={weight}" for name, weight in self.weights.items()] + [*map(repr, self.explainers)])


def nonnegative(**weights: Weight) -> dict[str, Weight]:
    """The weights, checked.

    Raises:
        SightlineError: one is negative or not finite.
    """
    return {name: w if isinstance(w, Varying) else finite(name, w) for name, w in weights.items()}


def classification_loss(logits: Tensor, label: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy for (B,) classes, mean binary cross-entropy for (B, classes) labels.

    Labels of -1 do not count, of whole images or of single classes; a batch of nothing else gives 0, still attached to
    the logits. Of several processes the mean is `pooled` over all labels that count. Smoothing mixes labels with the
    even answer, ``y (1 - smoothing) + smoothing / classes``, or ``/ 2`` for (B, classes).
    """
    known = label >= 0
    if not bool(known.any()):
        loss = logits.sum() * 0
    elif label.ndim == 2:
        loss = F.binary_cross_entropy_with_logits(logits[known], _smoothed(label[known], smoothing))
    else:
        loss = F.cross_entropy(logits[known], label[known], label_smoothing=smoothing)
    return pooled(loss, known.sum())


def image_losses(logits: Tensor, label: Tensor, smoothing: float = 0.0) -> Tensor:
    """(B,) `classification_loss` of each image by itself; 0 for those labelled -1."""
    if label.ndim == 2:
        known, target = label >= 0, _smoothed(label.clamp(min=0), smoothing)
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * known
        return losses.sum(1) / known.sum(1).clamp(min=1)
    return F.cross_entropy(logits, label.clamp(min=-1), ignore_index=-1, reduction="none", label_smoothing=smoothing)


def _smoothed(label: Tensor, smoothing: float) -> Tensor:
    return label * (1 - smoothing) + smoothing / 2


def share(who: Objective, name: str, value: float) -> float:
    """`value`, if it lies in [0, 1).

    Raises:
        SightlineError: it does not.
    """
    if not 0 <= value < 1:
        raise SightlineError(f"{type(who).__name__}({name}={value}): expected a number in [0, 1).")
    return value


def labelled(label: Tensor) -> Tensor:
    """(B,) bool, which images count: all but those labelled -1, of several classes -1 throughout."""
    return label >= 0 if label.ndim == 1 else (label >= 0).any(1)


def of_batch(known: Tensor, batch: Batch, who: str) -> Tensor:
    """(B,) what `known`, one entry for each training image, says of the batch's.

    Raises:
        SightlineError: `who` was told of no training set, or of a smaller one.
    """
    if int(batch.index.max()) >= len(known):
        raise SightlineError(
            f"{who} was told of {len(known)} training images and finds index {int(batch.index.max())} in a batch: call "
            "guided.meet(groups, ids) with the group and id of every training image before the first step."
        )
    return known[batch.index]


def single_label(step: Step, batch: Batch, who: str) -> Tensor:
    """(B,) labels with the unlabelled images' -1 replaced by class 0, to index by; mask such images out yourself.

    One and the same tensor for all objectives of a step, so that they share the maps of these labels.

    Raises:
        SightlineError: the batch is multi-label.
    """
    if batch.label.ndim != 1:
        raise SightlineError(f"{who} needs one class per image; these labels have shape {tuple(batch.label.shape)}.")
    return step.known(batch.label)


def evidence(step: Step, batch: Batch, who: str) -> Tensor:
    """(B, *spatial) guidance mask of each image's own class, where 1 = evidence."""
    if batch.mask.ndim == batch.image.ndim - 1:
        return batch.mask
    return batch.mask[torch.arange(len(batch.mask)), single_label(step, batch, who)]


def layer_maps(run: Pass, tap: str) -> Tensor:
    """(B, C, *spatial) what a layer recorded; of several views, (B, C, views, *spatial)."""
    maps = run.per_image(spatial(run.tap(tap), run.size))
    return maps.transpose(1, 2) if run.channel == 2 else maps


def filling(run: Pass, fill: float | Sequence[float] | None, who: str) -> Tensor:
    """What replaces removed pixels, in a shape that broadcasts to the image: `fill`, or what the network takes for 0.

    Raises:
        SightlineError: neither one value nor one for each channel.
    """
    if fill is None:
        return run.zero
    values, channels = torch.tensor(fill, dtype=torch.float64).flatten(), run.image.shape[run.channel]
    if len(values) not in (1, channels):
        raise SightlineError(f"{who}(fill={fill!r}): expected one value or {channels}, one per channel.")
    return values.view(-1, *[1] * len(run.size)).to(run.image)
