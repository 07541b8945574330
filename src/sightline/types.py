"""The shapes that travel between the parts."""

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sightline.errors import SightlineError

log = logging.getLogger(__name__)

SLACK = 1e-3
"""How far outside [0, 1] a mask may lie for rounding."""

# jaxtyping checks these while the tests run and costs nothing otherwise. "..." stands for the spatial axes.
Images = Float[Tensor, "b c ..."]
Maps = Float[Tensor, "b ..."]
Masks = Float[Tensor, "b ..."]
Logits = Float[Tensor, "b classes"]
Labels = Int[Tensor, " b"] | Float[Tensor, "b classes"]


class Batch(NamedTuple):
    """A sample (without the leading B) and a batch alike: `default_collate` and `pin_memory` understand it."""

    image: Tensor
    """(B, C, *spatial) float in [0, 1]; normalisation is the model's first layer."""
    label: Tensor
    """(B,) int64, -1 where unlabelled; (B, classes) float for multi-label, -1 where nothing is known of a class."""
    mask: Tensor
    """(B, *spatial) or (B, classes, *spatial) float, 1 = evidence; ones where nobody annotated."""
    has_mask: Tensor
    """(B,) bool."""
    index: Tensor  # type: ignore[assignment]  # a tuple has a method of this name, which nobody needs here
    """(B,) int64 identity in the dataset: joins audits, seeds sampling, drops DDP padding."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The batch on a device."""
        return Batch(*(field.to(device, non_blocking=non_blocking) for field in self))


def warn_of_normalised(image: Tensor) -> None:
    """Say so where images have been normalised already."""
    low, high = map(float, image.detach().aminmax()) if image.numel() else (0.0, 1.0)
    if not -0.5 < low <= high < 1.5:
        log.warning(
            "images lie between %.3g and %.3g, where [0, 1] is expected. Leave normalisation to the model "
            "(`sightline.load_model`, or a first layer of its own): what is removed or changed counts in [0, 1].",
            low, high,
        )  # fmt: skip


def within(mask: Tensor) -> Tensor:
    """Masks in [0, 1], which resizing may have left by some digits of a float.

    Raises:
        SightlineError: a value lies further outside.
    """
    low, high = map(float, mask.detach().aminmax()) if mask.numel() else (0.0, 1.0)
    if not -SLACK <= low <= high <= 1 + SLACK:
        raise SightlineError(f"masks lie between {low:g} and {high:g}: expected [0, 1], where 1 is evidence.")
    return mask.clamp(0, 1)


class Evidence(NamedTuple):
    """What a metric scores: a map beside what the dataset and the model say of the same image.

    The fields from `image` on may be missing; a metric that needs one names it in its `needs`.
    """

    map: Maps
    """(B, *spatial) non-negative map at its own resolution."""
    mask: Masks
    """(B, *spatial) float, 1 = evidence, at the image's resolution."""
    has_mask: Bool[Tensor, " b"]
    logits: Logits
    label: Labels
    index: Int[Tensor, " b"]  # type: ignore[assignment]
    image: Tensor | None = None
    """(B, C, *spatial) in [0, 1]."""
    target: Tensor | None = None
    """(B,) int64, the class that the map explains."""
    predict: Callable[[Tensor], Tensor] | None = None
    """Images like `image` -> logits (N, classes), in evaluation mode; differentiable where gradients are enabled."""
    explain: Callable[..., Tensor] | None = None
    """Images, one for each of the batch and of any size -> their maps of `target`, like `map`.

    It enables the gradients it needs. The keyword `model` puts another network of the same layers in the place of the
    one under audit.
    """
    zero: Tensor | None = None
    """What the network takes for 0, in a shape that broadcasts to `image`; None for 0 itself."""
    others: Tensor | None = None
    """(B, 3, C, *spatial) images of other classes, drawn for each image by its index."""
    model: nn.Module | None = None
    """The model under audit; not to be changed."""
    present: Bool[Tensor, "b classes"] | None = None
    """(B, classes) bool, the classes of each image and of its `others`."""
