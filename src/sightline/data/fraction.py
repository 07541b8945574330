"""A part of the training images: how much data does it take?"""

import numpy as np

from sightline.data.base import Source, fraction, thin
from sightline.data.habits import Integers
from sightline.data.subset import Subset
from sightline.errors import SightlineError


class Fraction(Subset):
    """Another dataset with fewer training images; its other splits are as they are.

    Together with `mask_fraction`, which here is a share of the images that remain, it spans the grid of images against
    masks (CFCN, figure 8). A larger share keeps what a smaller keeps.

    Args:
        data: the dataset.
        images: share in [0, 1] of the training images that remain, of each class or, of a multi-label dataset, of all.
        split: one of the dataset's.
        mask_fraction, label_fraction: of the images that remain; see `Folder`.
        seed: says which.

    Raises:
        SightlineError: a class, or a multi-label dataset, would lose all its images.
    """

    def __init__(
        self,
        data: Source,
        images: float = 1.0,
        split: str = "train",
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.images = fraction("images", images)
        super().__init__(data, split, mask_fraction, label_fraction, seed)

    def choose(self) -> dict[str, Integers]:
        part = self.part(self.split)
        share = self.images if self.split == "train" else 1.0
        kept = thin(np.ones(len(part), np.bool_), part.labels, share, self.seed)
        for lost in np.setdiff1d(part.labels, part.labels[kept]) if part.labels.ndim == 1 else ():
            raise SightlineError(f"images: {share:g} of the class {self.classes[lost]!r} is not a single image.")
        return {self.split: np.flatnonzero(kept)}
