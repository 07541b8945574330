"""Few-shot episodes: a few training images of each class, drawn again and again."""

from typing import Literal

import numpy as np

from sightline.data.base import Source, at_least
from sightline.data.habits import Integers
from sightline.data.subset import Subset, single
from sightline.errors import SightlineError
from sightline.pictures import Flags


class Episode(Subset):
    """Another dataset with `shots` training images of each class; its other splits are as they are.

    The papers report mean and spread over 20 episodes (CGC, table 7).

    Args:
        data: a dataset with one class per image.
        shots: training images of each class.
        episode: which of the draws, 0, 1, 2, ...
        rest: "dropped", or "unlabelled": the other training images stay, without label and mask.
        split: one of the dataset's.
        mask_fraction: share in [0, 1] of the drawn images of each class that keep their mask.
        seed: with `episode`, of the draw.

    Raises:
        SightlineError: a class has fewer training images, or images have several classes.
    """

    def __init__(
        self,
        data: Source,
        shots: int = 5,
        episode: int = 0,
        rest: Literal["dropped", "unlabelled"] = "dropped",
        split: str = "train",
        mask_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.shots = at_least("shots", shots, 1)
        self.episode = at_least("episode", episode, 0)
        self.rest = rest
        super().__init__(data, split, mask_fraction, seed=seed)

    def choose(self) -> dict[str, Integers]:
        part = self.part(self.split)
        kept = self._drawn(part) if self.rest == "dropped" else np.ones(len(part), np.bool_)
        return {self.split: np.flatnonzero(kept)}

    def annotate(self, has_mask: Flags, has_label: Flags | None = None) -> None:
        if self.rest == "unlabelled":
            drawn = self._drawn(self.part(self.split))
            has_mask, has_label = has_mask & drawn, drawn if has_label is None else has_label & drawn
        super().annotate(has_mask, has_label)

    def _drawn(self, part: Source) -> Flags:
        """(N,) bool, the drawn training images; all of other splits."""
        if self.split != "train":
            return np.ones(len(part), np.bool_)
        drawn = draw(part.has_label, single(part), self.shots, (self.seed, 2, self.episode))
        found = np.bincount(part.labels[drawn], minlength=len(self.classes))
        if found.min() < self.shots:
            raise SightlineError(
                f"shots is {self.shots}, but {self.name} has {found.min()} labelled training images of the class "
                f"{self.classes[found.argmin()]!r}. Take fewer."
            )
        return drawn


def draw(has: Flags, labels: Integers, count: int, entropy: tuple[int, ...]) -> Flags:
    """(N,) bool: of each class `count` of the True entries, or as many as there are."""
    drawn = np.zeros_like(has)
    order = np.argsort(np.random.PCG64(entropy).random_raw(len(labels)), kind="stable")
    for label in np.unique(labels):
        drawn[order[(labels[order] == label) & has[order]][:count]] = True
    return drawn
