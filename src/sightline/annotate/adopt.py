"""Masks out of maps: what the model's map marks in an image, where somebody said yes to it."""

from sightline.annotate.answers import Insight
from sightline.annotate.canvas import write_mask
from sightline.annotate.project import Project
from sightline.errors import SightlineError
from sightline.regions import marked


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
