"""CH: how much of a map lies on the evidence."""

from typing import Any, Literal

import torch

from sightline.arguments import one_of
from sightline.maps import bounding_box
from sightline.metrics.per_image import PerImage, Scores, on_mask
from sightline.types import Evidence, Maps, Masks

Zero = Literal["skip", "uniform", "zero"]
Region = Literal["mask", "box"]


def content_heatmap(maps: Maps, mask: Masks, zero: Zero = "skip") -> Scores:
    """``sum(map * mask) / sum(map)`` for each image; Pillai and Pirsiavash 2021, "Content Heatmap".

    Args:
        maps: (B, *spatial) maps at any resolution, in 1, 2 or 3 dimensions; resized to the masks' size, negative values
            cut off.
        mask: (B, *spatial) in [0, 1], 1 = evidence.
        zero: an all-zero map is not scored ("skip": NaN), scored as a uniform map ("uniform": the share of the image
            that the mask covers, as the public code's normalisation has it) or as wholly outside ("zero").

    Returns:
        (B,) in [0, 1], free of the maps' scale.

    Raises:
        SightlineError: the maps do not fit the masks.
    """
    heat = on_mask(maps, mask).flatten(1)
    evidence = mask.flatten(1).to(heat)
    total = heat.sum(1)
    fill = {"skip": torch.full_like(total, torch.nan), "uniform": evidence.mean(1), "zero": torch.zeros_like(total)}
    return torch.where(total == 0, fill[zero].to(total), (heat * evidence).sum(1) / total)


class ContentHeatmap(PerImage):
    """CH: the mean share of the maps that lies on the evidence; images without a mask are not scored.

    Args:
        zero: "skip", "uniform" or "zero", see `content_heatmap`.
        region: what counts as evidence: the "mask", or the smallest "box" around it, through all of its axes. Where
            boxes are the annotation, the mask is their union already, as in the paper.

    Raises:
        SightlineError: an unknown `zero` or `region`.
    """

    key = "ch"

    def __init__(self, zero: Zero = "skip", region: Region = "mask", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.zero = one_of(self, "zero", zero, Zero)
        self.region = one_of(self, "region", region, Region)

    def score(self, evidence: Evidence) -> Scores:
        """(B,) share of each map that lies on the evidence, NaN where it is not defined."""
        region = (
            bounding_box(evidence.mask > 0.5, evidence.mask.ndim - 1).to(evidence.mask)
            if self.region == "box"
            else evidence.mask
        )
        return content_heatmap(evidence.map, region, self.zero).masked_fill(~evidence.has_mask, torch.nan)
