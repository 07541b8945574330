"""Masks out of maps: what the model's map marks in an image, where somebody said yes to it."""

import numpy as np
from PIL import Image

from sightline.annotate.answers import Insight
from sightline.annotate.canvas import write_mask
from sightline.annotate.project import Project
from sightline.annotate.ranking import Array
from sightline.errors import SightlineError
from sightline.pictures import Flags
from sightline.regions import Size, grown

GROWN = 1 / 16
"""What a mask is grown by, as a share of the image's short side: a cell of a map, about, since maps peak inside."""


def marked(map: Array, size: Size, level: float) -> Flags:
    """(H, W), what a map (h, w) marks: where it exceeds `level` of its maximum, and `GROWN` around that.

    The map is interpolated linearly. A map without positive values marks nothing.
    """
    fine = np.asarray(Image.fromarray(map.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR))
    above: Flags = fine > max(level * float(fine.max()), 0.0)
    return grown(above, GROWN * min(size)) if above.any() else above


def adopt(project: Project, insight: Insight, level: float) -> int:
    """Write what maps mark as masks, of images judged "yes" that nobody has drawn on; how many.

    Raises:
        SightlineError: `level` is not in [0, 1), no image is judged "yes" and has a map, or a file cannot be written.
    """
    if not 0 <= level < 1:
        raise SightlineError(f"--adopt {level}: expected a share of a map's maximum, from 0 to below 1, such as 0.3.")
    right = [index for index, key in enumerate(project.keys) if project.notes[key].verdict == "yes"]
    yes = [(index, map) for index in right if (map := insight.map(index)) is not None]
    if not yes:
        raise SightlineError(
            f"{project.folder}: no image that is judged yes has a map. Judge maps first (`sightline annotate "
            f"{project.folder} --model RUN`, keys y and x), and pass the same --model or --maps."
        )
    adopted = 0
    for index, map in yes:
        place = project.place(index)
        if not project.annotated[index] and not place.log.exists():
            mask = marked(map, project.sizes[index], level)
            write_mask(place.mask, mask)
            project.annotated[index] = bool(mask.any())
            adopted += project.annotated[index]
    return adopted
