"""What a model's map marks, as if somebody had drawn it."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.pictures import Flags
from sightline.regions.base import Size
from sightline.regions.combined import grown

GROWN = 1 / 16
"""What is marked is grown by, as a share of the image's short side: a cell of a map, about, since maps peak inside."""


def marked(map: npt.NDArray[np.floating], size: Size, level: float) -> Flags:
    """(H, W), what a map (h, w) marks: where it exceeds `level` of its maximum, and `GROWN` around that.

    The map is interpolated linearly. A map without positive values marks nothing.
    """
    fine = np.asarray(Image.fromarray(map.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR))
    above: Flags = fine > max(level * float(fine.max()), 0.0)
    return grown(above, GROWN * min(size)) if above.any() else above
