"""IoU and Dice: does a map, cut at a share of its maximum, segment the evidence?"""

from typing import Any

import torch

from sightline.errors import SightlineError
from sightline.maps import per_map
from sightline.metrics.per_image import PerImage, Scores, on_mask
from sightline.types import Evidence, Maps, Masks


def iou(maps: Maps, mask: Masks, threshold: float = 0.5) -> Scores:
    """``|S and M| / |S or M|``, where S is ``map >= threshold * max(map)`` and M the mask; Jaccard 1912.

    Maps are cut as Zhou et al. 2016 ("Learning Deep Features for Discriminative Localization") cut theirs, at 0.2.

    Args:
        maps: (B, *spatial) maps at any resolution, in 1, 2 or 3 dimensions; resized to the masks' size before they are
            cut.
        mask: (B, *spatial) in [0, 1]; pixels above 0.5 are evidence.
        threshold: share of each map's maximum, in (0, 1).

    Returns:
        (B,) in [0, 1], free of the maps' scale; NaN where the map has no positive value. S is never empty elsewhere: an
        empty mask scores 0.

    Raises:
        SightlineError: the maps do not fit the masks.
    """
    heat, evidence = on_mask(maps, mask), mask > 0.5
    peak = heat.flatten(1).amax(1)
    seen = heat >= per_map(threshold * peak, heat)
    both, either = ((seen & evidence).flatten(1).sum(1), (seen | evidence).flatten(1).sum(1))
    return (both.to(peak) / either).masked_fill(~(peak > 0), torch.nan)


def dice(maps: Maps, mask: Masks, threshold: float = 0.5) -> Scores:
    """``2 |S and M| / (|S| + |M|) = 2 IoU / (1 + IoU)`` of the same sets as `iou`; Dice 1945.

    Args, returns and errors are those of `iou`.
    """
    overlap = iou(maps, mask, threshold)
    return 2 * overlap / (1 + overlap)


class Overlap(PerImage):
    """A map cut at a share of its maximum, as a segmentation; images without a mask and all-zero maps are not scored.

    Args:
        threshold: share of each map's maximum, in (0, 1).

    Raises:
        SightlineError: a threshold that is no such share.
    """

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < threshold < 1:
            raise SightlineError(
                f"{type(self).__name__}: threshold={threshold} must be a share of the map's maximum, between 0 and 1."
            )
        self.threshold = threshold


class IoU(Overlap):
    """IoU: the mean intersection over union of the cut maps and the masks.

    Args and errors are those of `Overlap`; see `iou`.
    """

    key = "iou"

    def score(self, evidence: Evidence) -> Scores:
        """(B,) intersection over union, NaN where it is not defined."""
        return iou(evidence.map, evidence.mask, self.threshold).masked_fill(~evidence.has_mask, torch.nan)


class Dice(Overlap):
    """Dice: the mean Dice coefficient of the cut maps and the masks.

    Args and errors are those of `Overlap`; see `dice`.
    """

    key = "dice"

    def score(self, evidence: Evidence) -> Scores:
        """(B,) Dice coefficient, NaN where it is not defined."""
        return dice(evidence.map, evidence.mask, self.threshold).masked_fill(~evidence.has_mask, torch.nan)
