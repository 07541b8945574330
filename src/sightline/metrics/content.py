"""CH: how much of a map lies on the evidence."""

from typing import Any, Literal

import torch

from sightline.errors import SightlineError, did_you_mean
from sightline.metrics.per_image import PerImage, Scores, on_mask
from sightline.types import Evidence, Maps, Masks

Zero = Literal["skip", "uniform", "zero"]


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
    heat, evidence = on_mask(maps, mask).flatten(1), mask.flatten(1)
    total = heat.sum(1)
    fill = {"skip": torch.full_like(total, torch.nan), "uniform": evidence.mean(1), "zero": torch.zeros_like(total)}
    return torch.where(total == 0, fill[zero].to(total), (heat * evidence).sum(1) / total)


class ContentHeatmap(PerImage):
    """CH: the mean share of the maps that lies on the evidence; images without a mask are not scored.

    Args:
        zero: "skip", "uniform" or "zero", see `content_heatmap`.

    Raises:
        SightlineError: an unknown `zero`.
    """

    def __init__(self, zero: Zero = "skip", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if zero not in ("skip", "uniform", "zero"):
            raise SightlineError(f"ContentHeatmap: zero={zero!r}. {did_you_mean(zero, ['skip', 'uniform', 'zero'])}")
        self.zero = zero

    def score(self, evidence: Evidence) -> Scores:
        """(B,) share of each map that lies on the evidence, NaN where it is not defined."""
        return content_heatmap(evidence.map, evidence.mask, self.zero).masked_fill(~evidence.has_mask, torch.nan)
