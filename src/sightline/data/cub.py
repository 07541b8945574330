"""Caltech-UCSD Birds-200-2011."""

from itertools import islice
from pathlib import Path
from typing import Literal

from sightline.data.archive import Archive
from sightline.data.base import Size, fraction
from sightline.listing import Entry
from sightline.published import Table, by_digest, hold_out, table
from sightline.regions import Boxes, MaskFile, Region

IMAGES = 11_788

PPI = {"train": 8190, "val": 2311, "test": 1227}
"""Sizes of the PPI authors' split, 60 fewer in all than there are images."""

MOST = tuple(range(128, 256))
"""A segmentation's grey is the share of five annotators who saw the bird there."""


class CUB(Archive):
    """11,788 photographs of 200 species of birds, each with the bird's outline and box.

        images.txt, image_class_labels.txt, train_test_split.txt, bounding_boxes.txt, classes.txt
        images/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg ...
        segmentations/001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.png ...

    Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", Caltech CNS-TR-2011-001. Images belong to their
    photographers; for non-commercial research and teaching.

    Args:
        root: see `Archive`.
        split: "train", "val" or "test".
        partition: "standard", 5994 training and 5794 test images, or "ppi", in the sizes of the PPI authors' 8190,
            2311 and 1227. Which images theirs are was not published: these are drawn by SHA-256 of the ids.
        evidence: the bird's "segmentation", where most of five annotators saw it, or its "box".
        val: share of the standard training images of each class that become "val"; 0 for no such split.
        size, channels, mask_fraction, label_fraction, seed, verify: see `Folder`.
    """

    name = "CUB-200-2011"
    home = "CUB_200_2011.tgz and segmentations.tgz of https://www.vision.caltech.edu/datasets/cub_200_2011/"

    def __init__(
        self,
        root: str = "CUB_200_2011",
        split: str = "train",
        partition: Literal["standard", "ppi"] = "standard",
        evidence: Literal["segmentation", "box"] = "segmentation",
        val: float = 0.1,
        size: Size = 224,
        channels: int = 3,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        self.partition = partition
        self.evidence = evidence
        self.val = fraction("val", val)
        super().__init__(root, split, size, channels, mask_fraction, label_fraction, seed, verify)

    def listed(self, folder: Path) -> list[Entry]:
        labels, boxes, training = (
            Table(folder / name, self.home)
            for name in ("image_class_labels.txt", "bounding_boxes.txt", "train_test_split.txt")
        )
        names = Table(folder / "classes.txt", self.home)
        entries = [
            Entry(
                Path(path).stem,
                names[labels[number]],
                "train" if training[number] == "1" else "test",
                "",
                folder / "images" / path,
                self._region(folder, path, boxes[number]),
            )
            for number, path in table(folder / "images.txt", self.home)
        ]
        return hold_out(entries, self.val) if self.partition == "standard" else as_ppi(entries)

    def named(self, folder: Path) -> list[str]:
        return list(Table(folder / "classes.txt", self.home).values())

    def _region(self, folder: Path, path: str, box: str) -> Region:
        if self.evidence == "segmentation":
            return MaskFile((folder / "segmentations" / path).with_suffix(".png"), MOST)
        left, top, width, height = map(float, box.split())
        return Boxes(((left, top, left + width, top + height),))


def as_ppi(entries: list[Entry]) -> list[Entry]:
    """`entries` with their splits drawn anew, in the proportions of `PPI`; what is over belongs to none and goes."""
    ordered = iter(by_digest(entries))
    sizes = {split: round(len(entries) * size / IMAGES) for split, size in PPI.items()}
    return [entry._replace(split=split) for split, size in sizes.items() for entry in islice(ordered, size)]
