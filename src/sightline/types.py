"""The shapes that travel between the parts."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

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
    """(B,) int64, -1 where unlabelled; (B, classes) float for multi-label."""
    mask: Tensor
    """(B, *spatial) or (B, classes, *spatial) float, 1 = evidence; ones where nobody annotated."""
    has_mask: Tensor
    """(B,) bool."""
    index: Tensor  # type: ignore[assignment]  # a tuple has a method of this name, which nobody needs here
    """(B,) int64 identity in the dataset: joins audits, seeds sampling, drops DDP padding."""


class Evidence(NamedTuple):
    """What a metric scores: a map beside what the dataset and the model say of the same image."""

    map: Maps
    """(B, *spatial) non-negative map at its own resolution."""
    mask: Masks
    """(B, *spatial) float, 1 = evidence, at the image's resolution."""
    has_mask: Bool[Tensor, " b"]
    logits: Logits
    label: Labels
    index: Int[Tensor, " b"]  # type: ignore[assignment]
