"""The Oxford-IIIT Pet dataset."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from sightline.data.archive import Archive
from sightline.data.base import Size, fraction
from sightline.listing import Entry
from sightline.published import hold_out, table
from sightline.regions import MaskFile

SPLITS = {"trainval.txt": "train", "test.txt": "test"}
SPECIES = ("cat", "dog")
PET, BORDER = 1, 3
"""Values of a trimap; 2 is background."""


class Pets(Archive):
    """7349 photographs of cats and dogs of 37 breeds, each with a trimap: pet, background, and a border undecided.

        annotations/trainval.txt, annotations/test.txt
        annotations/trimaps/Abyssinian_100.png ...
        images/Abyssinian_100.jpg ...

    Parkhi et al., "Cats and Dogs", CVPR 2012. CC BY-SA 4.0.

    Args:
        root: see `Archive`.
        split: "train", "val" or "test"; published are 3680 images to train and validate and 3669 to test.
        level: classes are the two "species" or the 37 "breeds".
        border: what the trimap's border counts as: "evidence" or "background".
        val: share of the "trainval" images of each class that become "val"; 0 for no such split.
        size, channels, mask_fraction, label_fraction, seed, verify: see `Folder`.
    """

    name = "Oxford-IIIT Pets"
    home = "images.tar.gz and annotations.tar.gz of https://www.robots.ox.ac.uk/~vgg/data/pets/"

    def __init__(
        self,
        root: str = "oxford-iiit-pet",
        split: str = "train",
        level: Literal["species", "breeds"] = "breeds",
        border: Literal["evidence", "background"] = "evidence",
        val: float = 0.1,
        size: Size = 224,
        channels: int = 3,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        self.level = level
        self.border = border
        self.val = fraction("val", val)
        super().__init__(root, split, size, channels, mask_fraction, label_fraction, seed, verify)

    def listed(self, folder: Path) -> list[Entry]:
        return hold_out(self._samples(folder), self.val)

    def named(self, folder: Path) -> list[str]:
        if self.level == "species":
            return list(SPECIES)
        numbered = {int(row[1]): breed(row[0]) for list_ in SPLITS for row in self._rows(folder, list_)}
        return [numbered[number] for number in sorted(numbered)]

    def _rows(self, folder: Path, file: str) -> list[list[str]]:
        return table(folder / "annotations" / file, self.home, columns=4)

    def _samples(self, folder: Path) -> Iterator[Entry]:
        for file, split in SPLITS.items():
            for name, _, species, _ in self._rows(folder, file):
                label = SPECIES[int(species) - 1] if self.level == "species" else breed(name)
                trimap = MaskFile(folder / f"annotations/trimaps/{name}.png", (PET,), (BORDER,), self.border)
                yield Entry(name, label, split, "", folder / f"images/{name}.jpg", trimap)


def breed(name: str) -> str:
    """What an image is called but for its number.

    >>> breed("american_pit_bull_terrier_100")
    'american_pit_bull_terrier'
    """
    return name.rpartition("_")[0]
