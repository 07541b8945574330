"""Indian Diabetic Retinopathy Image Dataset, its segmentation part."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from sightline.data.archive import Archive
from sightline.data.base import Size, fraction
from sightline.errors import SightlineError, did_you_mean
from sightline.listing import SPELLINGS, Entry, read_table
from sightline.pictures import image_files
from sightline.published import hold_out, required
from sightline.regions import MaskFile

KINDS = {
    "MA": "1. Microaneurysms",
    "HE": "2. Haemorrhages",
    "EX": "3. Hard Exudates",
    "SE": "4. Soft Exudates",
    "OD": "5. Optic Disc",
}
ALWAYS = ("MA", "EX", "OD")
"""Kinds that every image has."""

PARTS = {"train": "a. Training Set", "test": "b. Testing Set"}


class IDRiD(Archive):
    """81 photographs of the retina, 4288 x 2848 pixels, each with the outlines of four kinds of lesions and the disc.

        A. Segmentation/1. Original Images/a. Training Set/IDRiD_01.jpg ...
        A. Segmentation/2. All Segmentation Groundtruths/a. Training Set/1. Microaneurysms/IDRiD_01_MA.tif ...

    The authors' 54 training images and 27 test images. A label is every class that has an outline: nearly all images
    have MA, HE, EX and OD, about half have SE. Reducing the photographs takes most of the time of construction; a copy
    reduced once is read as well: `images/IDRiD_01.jpg`, `masks/MA/IDRiD_01.png`, a `splits.csv` of id and split.

    Porwal et al., "Indian Diabetic Retinopathy Image Dataset (IDRiD)", Data 2018, doi:10.3390/data3030025. CC BY 4.0.

    Args:
        root: see `Archive`.
        split: "train", "val" or "test".
        classes: of "MA", "HE", "EX", "SE" and "OD", which are microaneurysms, haemorrhages, hard and soft exudates and
            the optic disc.
        val: share of the training images that become "val"; 0 for no such split.
        size, channels, mask_fraction, label_fraction, seed, verify: see `Folder`.
    """

    name = "IDRiD"
    home = "A. Segmentation.zip of https://doi.org/10.21227/H25W98"

    def __init__(
        self,
        root: str = "IDRiD",
        split: str = "train",
        classes: tuple[str, ...] = tuple(KINDS),
        val: float = 0.15,
        size: Size = (224, 336),
        channels: int = 3,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        for name in classes:
            if name not in KINDS:
                raise SightlineError(f"classes: there is no {name!r}. {did_you_mean(name, KINDS)}")
        self.classes = tuple(classes)
        self.val = fraction("val", val)
        super().__init__(root, split, size, channels, mask_fraction, label_fraction, seed, verify)

    def listed(self, folder: Path) -> list[Entry]:
        found = reduced(folder) if (folder / "splits.csv").exists() else published(folder, self.home)
        return hold_out([self._entry(image, split, mask) for image, split, mask in found], self.val)

    def named(self, folder: Path) -> tuple[str, ...]:
        return self.classes

    def _entry(self, image: Path, split: str, mask: Callable[[str], Path]) -> Entry:
        there = [kind for kind in self.classes if kind in ALWAYS or mask(kind).exists()]
        masks = {kind: MaskFile(required(mask(kind), self.home)) for kind in there}
        return Entry(image.stem, tuple(masks), split, "", image, masks)


Found = tuple[Path, str, Callable[[str], Path]]
"""An image, its split, and where its mask of a kind lies if there is one."""


def published(folder: Path, home: str) -> Iterator[Found]:
    """The images of both parts."""
    folder = folder / "A. Segmentation" if (folder / "A. Segmentation").exists() else folder
    for split, part in PARTS.items():
        for image in image_files(required(folder / "1. Original Images" / part, home)):
            yield image, split, partial(tif, folder / "2. All Segmentation Groundtruths" / part, image.stem)


def reduced(folder: Path) -> Iterator[Found]:
    """The images of a reduced copy."""
    images = {image.stem: image for image in image_files(folder / "images")}
    for row in read_table(folder / "splits.csv", ("id", "split")):
        image = images.get(row["id"]) or required(folder / "images" / f"{row['id']}.jpg", "a copy with its splits.csv")
        yield image, SPELLINGS.get(row["split"], row["split"]), partial(png, folder / "masks", image.stem)


def tif(folder: Path, name: str, kind: str) -> Path:
    """A published mask."""
    return folder / KINDS[kind] / f"{name}_{kind}.tif"


def png(folder: Path, name: str, kind: str) -> Path:
    """A reduced mask."""
    return folder / kind / f"{name}.png"
