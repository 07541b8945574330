"""PG: does the brightest point of a map lie on the evidence?"""

from math import inf
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from sightline.errors import SightlineError
from sightline.metrics.distance import checked_margin, near
from sightline.metrics.per_image import PerImage, Scores, on_mask
from sightline.types import Evidence, Maps, Masks

Average = Literal["overall", "per_class", "official"]


def pointing_game(maps: Maps, mask: Masks, margin: float = 15.0) -> Scores:
    """1 where ``min_{q in mask} |argmax(map) - q|^2 < margin^2``, else 0; Zhang et al. 2018, the "pointing game".

    The disc is exact and its edge does not count, which is the same as dilating the mask by it. The first of several
    largest pixels is the point. A margin of 0 asks for a point on the mask itself.

    Args:
        maps: (B, *spatial) maps at any resolution, in 1, 2 or 3 dimensions; resized to the masks' size.
        mask: (B, *spatial) in [0, 1]; pixels above 0.5 are evidence.
        margin: in pixels of the masks. The papers' 15 are pixels of the original image.

    Returns:
        (B,) 0 or 1; NaN where the map has no positive value.

    Raises:
        SightlineError: the maps do not fit the masks.
    """
    peak, position = on_mask(maps, mask).flatten(1).max(1, keepdim=True)
    hit = near(mask, margin).flatten(1).gather(1, position)
    return hit.to(peak).masked_fill(~(peak > 0), torch.nan).squeeze(1)


def mean_per_class(hit: Scores, label: Int[Tensor, " b"], classes: int | None = None) -> Tensor:
    """The mean of the classes' hit rates, NaN left out.

    Over the classes seen; or, where `classes` is given, over so many, one never seen counting 0.
    """
    hit, label = hit[~hit.isnan()], label[~hit.isnan()]
    rates = [hit[label == one].mean() for one in label.bincount().nonzero()]
    return torch.stack(rates).sum() / (classes or len(rates)) if rates else hit.new_tensor(torch.nan)


class PointingGame(PerImage):
    """PG: the share of maps whose brightest point lies on the evidence.

    Images without a mask and all-zero maps are not scored.

    Args:
        margin: in pixels of the masks, see `pointing_game`.
        average: "overall" is ``hits / (hits + misses)``, as the papers print it. "per_class" is the mean of the hit
            rates of the classes seen. "official" is what the public code computes: that mean over all `classes`, where
            one without a scored image counts 0, so that a subset of the data is underestimated.
        classes: how many there are; for "official" alone.

    Raises:
        SightlineError: an unusable argument; or labels that are not one known class each, where the average needs them.
    """

    key = "pg"
    label: list[Tensor]

    def __init__(
        self, margin: float = 15.0, average: Average = "overall", classes: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if average not in ("overall", "per_class", "official") or (average == "official") != bool(classes):
            raise SightlineError(
                f"PointingGame: average={average!r} with classes={classes}. Expected 'overall' or 'per_class' without "
                "classes, or 'official' with their number."
            )
        self.margin = checked_margin("PointingGame", margin)
        self.average, self.classes = average, classes
        self.add_state("label", default=[], dist_reduce_fx="cat")

    def score(self, evidence: Evidence) -> Scores:
        """(B,) 1 for a hit, 0 for a miss, NaN where neither is defined."""
        hit = pointing_game(evidence.map, evidence.mask, self.margin)
        return hit.masked_fill(~evidence.has_mask, torch.nan)

    def update(self, evidence: Evidence) -> None:
        """Score a batch."""
        label = [] if self.average == "overall" else [self._checked(evidence.label)]
        super().update(evidence)
        self.label += label

    def compute(self) -> Tensor:
        """The share of hits, averaged as asked; NaN if no image was scored."""
        if self.average == "overall" or not len(self.index):
            return super().compute()
        return mean_per_class(self._distinct(self.value), self._distinct(self.label), self.classes)

    def _checked(self, label: Tensor) -> Tensor:
        if label.ndim > 1 or label.min() < 0 or label.max() >= (self.classes or inf):
            raise SightlineError(
                f"PointingGame: average={self.average!r} needs one class per image, 0 to {(self.classes or inf) - 1}; "
                f"got labels {label.tolist()[:8]}. Use average='overall'."
            )
        return label
