"""Oxford 102 Flowers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.data.archive import Archive
from sightline.data.base import Size, fraction
from sightline.listing import Entry
from sightline.pictures import Flags
from sightline.published import matlab, resplit
from sightline.regions import MaskFile

SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}
CLASSES = 102

BLUE = (0, 0, 254)
"""What the segmentations paint the background with; JPEG makes it vary."""

NEAR = 64
"""Largest difference of a channel from `BLUE` that still is background."""


class Flowers102(Archive):
    """8189 photographs of 102 kinds of flowers, with segmentations.

        imagelabels.mat, setid.mat
        jpg/image_00001.jpg ..., segmim/segmim_00001.jpg ...

    A segmentation is the image with its background painted blue; an image without one has no mask. Classes are called
    by their number, which is all that is published. Nilsback and Zisserman, "Automated Flower Classification over a
    Large Number of Classes", ICVGIP 2008. No licence is stated.

    Args:
        root: see `Archive`.
        split: "train", "val" or "test", 1020, 1020 and 6149 images.
        val: null for the published splits; a share merges "train" and "val" and sets that much of each class aside.
        size, channels, mask_fraction, label_fraction, seed, verify: see `Folder`.
    """

    name = "Oxford 102 Flowers"
    home = (
        "102flowers.tgz, 102segmentations.tgz, imagelabels.mat and setid.mat of "
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
    )

    def __init__(
        self,
        root: str = "flowers102",
        split: str = "train",
        val: float | None = None,
        size: Size = 224,
        channels: int = 3,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        self.val = val if val is None else fraction("val", val)
        super().__init__(root, split, size, channels, mask_fraction, label_fraction, seed, verify)

    def listed(self, folder: Path) -> list[Entry]:
        labels = matlab(folder / "imagelabels.mat", self.home, "labels")
        segmented = set((folder / "segmim").glob("*.jpg"))
        entries = []
        for split, variable in SPLITS.items():
            for number in matlab(folder / "setid.mat", self.home, variable):
                mask = folder / f"segmim/segmim_{number:05d}.jpg"
                region = Unpainted(mask) if mask in segmented else None
                image = folder / f"jpg/image_{number:05d}.jpg"
                entries.append(Entry(f"{number:05d}", str(labels[number - 1]), split, "", image, region))
        return resplit(entries, self.val)

    def named(self, folder: Path) -> list[str]:
        return [str(number) for number in range(1, CLASSES + 1)]


@dataclass(frozen=True)
class Unpainted(MaskFile):
    """What is not blue in an image whose background is painted blue."""

    def content(self) -> bytes:
        return b"unpainted " + super().content()

    def _mark(self, values: npt.NDArray[Any]) -> Flags:
        return np.asarray((abs(values.astype(np.int16) - BLUE) > NEAR).any(-1))
