"""Maps for masks, where the labels alone say that a map is worth it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sightline.data.base import Source, fraction
from sightline.data.subset import Drawn, single
from sightline.errors import SightlineError
from sightline.files import read_json
from sightline.pictures import Flags
from sightline.regions import marked
from sightline.scores import audit_of, training_scores
from sightline.stored import Stored, maps_of


class Adopted(Drawn):
    """Another dataset, whose exceptions get a model's maps for masks: training images one model errs on, not the next.

    A first, short training errs on images that break a habit, and little else (Liu et al., "Just train twice", ICML
    2021). A second one that counts these more, such as `JTT`, and gets them right decides on something else there,
    and what its map marks is adopted as a mask: where the map exceeds `level` of its maximum, and a sixteenth of the
    image's short side around that. So masks come of labels alone, rough ones: `Propagated` makes of them what they have
    in common, for all images. Masks that somebody drew stay, and so do other splits.

    Args:
        data: a dataset of images with one class each.
        run: the second model's run directory, audited on its training split with `--maps`.
        errors: the first model's, audited on its training split, as in `JTT`.
        maps: the folder given to `--maps`; None for "maps" in `run`.
        level: see above, in [0, 1].
        split: one of the dataset's.

    Raises:
        SightlineError: an audit or its maps are missing or of other images, no image is an exception, or the dataset is
            not one of single images.
    """

    def __init__(
        self,
        data: Source,
        run: str | Path,
        errors: str | Path,
        maps: str | Path | None = None,
        level: float = 0.3,
        split: str = "train",
        seed: int = 0,
    ) -> None:
        self.run, self.errors, self.maps = run, errors, maps
        self.level = fraction("level", level)
        single(data)
        super().__init__(data, split, seed=seed)

    def facts(self) -> dict[str, Any]:
        return {"masks_adopted": len(self._drawn)} if self._drawn else {}

    def draw(self, has_mask: Flags) -> Iterator[tuple[int, Flags]]:
        """What the maps of the exceptions mark."""
        first, second = (
            training_scores(run, self.groups.tolist(), self.ids, f"Adopted.{name}")
            for name, run in (("errors", self.errors), ("run", self.run))
        )
        exceptions = np.flatnonzero((first["correct"] == 0) & (second["correct"] == 1) & ~has_mask)
        if not len(exceptions):
            raise SightlineError(
                f"Adopted: no training image of {self.name} is one that {self.errors} gets wrong and {self.run} right. "
                "Train the first for fewer epochs, or the second with more weight on its errors."
            )
        maps = self._maps(len(second)).at(second["index"].to_numpy()[exceptions])
        height, width = self.size
        for index, map in zip(exceptions.tolist(), maps, strict=True):
            yield index, marked(map, (height, width), self.level)

    def _maps(self, rows: int) -> Stored:
        """The maps that the audit of `run` kept."""
        summary = read_json(audit_of(self.run, "train") / "summary.json")
        made_of = {"data": summary["data"]["hash"], "explainer": summary["explainer"], "target": "label"}
        return maps_of(Path(self.maps or Path(self.run) / "maps"), made_of, rows)
