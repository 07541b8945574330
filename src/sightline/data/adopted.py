"""Maps for masks, where the labels alone say that a map is worth it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sightline.data.base import Source
from sightline.data.subset import Drawn, single
from sightline.errors import SightlineError
from sightline.files import read_json
from sightline.pictures import Flags
from sightline.regions import marked
from sightline.stored import Stored, maps_at


class Adopted(Drawn):
    """Another dataset, whose exceptions get a model's maps for masks: training images one model errs on, not the next.

    A first, short training errs on the images that break a habit (Liu et al., "Just train twice", ICML 2021), and on
    some others that are hard. A second one that counts these more, such as `JTT`, and gets them right decides on
    something else there, and what its map marks is adopted as a mask: where the map exceeds `level` of its maximum, and
    a sixteenth of the image's short side around that. So masks come of labels alone, rough ones: `Propagated` makes of
    them what they have in common, for all images. Masks that somebody drew stay, images whose label is hidden get none,
    and other splits are as they are.

    Both audits are read whenever the training split is built, by whatever contains this dataset too: keep the runs.

    Args:
        data: a dataset of images with one class each.
        run: the second model's run directory, audited on its training split with `--maps`. Of several explainers the
            first one's maps are taken.
        errors: the first model's run directory, audited on its training split, as in `JTT`.
        maps: the folder given to `--maps`; None for "maps" in `run`.
        level: see above; in [0, 1).
        split: one of the dataset's.

    Raises:
        SightlineError: an argument is out of range; an audit or its maps are missing, cannot be read or are of other
            images; no image is an exception, no exception's map marks anything, or the dataset is not one of single
            images with one class each.
    """

    def __init__(
        self,
        data: Source,
        run: str | Path,
        errors: str | Path,
        maps: str | Path | None = None,
        level: float = 0.3,
        split: str = "train",
    ) -> None:
        if not 0 <= level < 1:
            raise SightlineError(f"level must be from 0 to below 1, a share of a map's maximum, not {level}.")
        single(data)
        self.run, self.errors, self.maps, self.level = run, errors, maps, level
        super().__init__(data, split)

    def facts(self) -> dict[str, Any]:
        return super().facts() | ({"masks_adopted": len(self._drawn)} if self._drawn else {})

    def draw(self, has_mask: Flags) -> Iterator[tuple[int, Flags]]:
        """What the maps of the exceptions mark."""
        from sightline.scores import training_scores  # pandas takes a second to import

        first, second = (
            training_scores(run, self.groups.tolist(), self.ids, f"Adopted.{name}")
            for name, run in (("errors", self.errors), ("run", self.run))
        )
        # The audits know the labels that the dataset hides.
        exceptions = ((first["correct"] == 0) & (second["correct"] == 1)).to_numpy() & self.has_label
        if not exceptions.any():
            raise SightlineError(
                f"Adopted: no training image of {self.name} is one that {self.errors} gets wrong and {self.run} right. "
                "Train the first for fewer epochs, or the second with more weight on its errors."
            )
        wanted = np.flatnonzero(exceptions & ~has_mask)
        maps = self._maps(len(second)).at(second["index"].to_numpy()[wanted])
        height, width = self.size
        drawn = [marked(map, (height, width), self.level) for map in maps]
        if len(wanted) and not any(mask.any() for mask in drawn):
            raise SightlineError(
                f"Adopted: none of {len(wanted)} maps of {self.run} has a positive value that is finite. "
                "Audit it with another --explainer."
            )
        yield from zip(wanted.tolist(), drawn, strict=True)

    def _maps(self, rows: int) -> Stored:
        """The maps that the audit of `run` kept."""
        from sightline.scores import audit_of

        summary = read_json(audit_of(self.run, "train") / "summary.json")
        try:
            made_of = {key: summary[key] for key in ("weights", "target", "explainer")}
            made_of["data"] = summary["data"]["hash"]
        except (KeyError, TypeError) as error:
            raise SightlineError(
                f"Adopted.run: the audit of {self.run} on its training split kept no maps. Make them with "
                f"`sightline audit {self.run} --split train --explainer WBP:reduce=abs_sum --maps {self.run}/maps`."
            ) from error
        if made_of["target"] != "label":
            raise SightlineError(f"Adopted.run: the maps of {self.run} are of predictions. Audit with --target label.")
        return maps_at(Path(self.maps or Path(self.run) / "maps"), made_of, rows)
