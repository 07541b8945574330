"""Wrong-reason mass: how much of a map lies on a known confounder."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sightline.arguments import one_of
from sightline.errors import SightlineError
from sightline.metrics.content import Zero, content_heatmap
from sightline.metrics.per_image import PerImage, Scores
from sightline.types import Evidence


class RegionMass(PerImage):
    """The mean share of the maps that lies on a region where no evidence is: a tag, a ruler, a frame around the image.

    ``sum(map * region) / sum(map)``, as in `content_heatmap`; the lower, the better. A right answer for the wrong
    reason shows here where the confounder is known (Ross et al. 2017, "Right for the Right Reasons"). The region is the
    same for all images, and no masks are needed.

    Args:
        region: a picture's file, grey levels above 127 are the region; or a tensor (*spatial), values above 0.5. It is
            resized to the masks' size, to the nearest pixel.
        zero: "skip", "uniform" or "zero", see `content_heatmap`.

    Raises:
        SightlineError: a file that cannot be read, an empty region or one that does not fit the masks, or an unknown
            `zero`.
    """

    key = "wrong"
    higher_is_better = False

    def __init__(self, region: str | Path | Tensor, zero: Zero = "skip", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.region, self.zero = region, one_of(self, "zero", zero, Zero)
        self._marked = (region > 0.5).cpu() if isinstance(region, Tensor) else _read(Path(region))
        if not self._marked.any():
            of = "the tensor" if isinstance(region, Tensor) else region
            raise SightlineError(
                f"RegionMass: {of} marks no region. Expected grey levels above 127 of 255 in a file, or values above "
                "0.5 in a tensor."
            )

    def score(self, evidence: Evidence) -> Scores:
        """(B,) share of each map that lies on the region, NaN where it is not defined."""
        region = self._at(evidence.mask.shape[1:]).to(evidence.mask)
        return content_heatmap(evidence.map, region.expand_as(evidence.mask), self.zero)

    def _at(self, size: torch.Size) -> Tensor:
        """(1, *size) the region, 0 or 1."""
        if self._marked.ndim != len(size):
            raise SightlineError(
                f"RegionMass: a region of shape {tuple(self._marked.shape)} does not fit masks of shape {tuple(size)}: "
                "expected as many axes."
            )
        return F.interpolate(self._marked[None, None].float(), tuple(size), mode="nearest-exact")[0]


def _read(path: Path) -> Tensor:
    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.asarray(picture.convert("L")) > 127)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise SightlineError(f"RegionMass: cannot read {path}: {error}. Expected a grey picture.") from error
