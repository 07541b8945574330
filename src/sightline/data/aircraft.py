"""FGVC-Aircraft."""

from pathlib import Path
from typing import Literal

from PIL import Image

from sightline.data.archive import Archive
from sightline.data.base import Size, fraction
from sightline.listing import Entry
from sightline.published import Table, one_based, resplit, table

BANNER = 20
"""Rows at the bottom of each image that name its photographer."""

LISTS = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}


class Aircraft(Archive):
    """10,000 photographs of aircraft of 100 variants, 70 families and 30 manufacturers, each with a box.

        images_variant_train.txt, images_variant_val.txt, images_variant_test.txt, the same of family, manufacturer
        variants.txt, families.txt, manufacturers.txt, images_box.txt
        images/0034309.jpg ...

    The banner with the photographer's name is cut off, as the authors ask for. Maji et al., "Fine-Grained Visual
    Classification of Aircraft", arXiv 1306.5151. For non-commercial research.

    Args:
        root: the folder "data" of the archive; see `Archive`.
        split: "train", "val" or "test", 3334, 3333 and 3333 images.
        level: what the classes are.
        val: null for the published splits; a share merges "train" and "val" and sets that much of each class aside.
        size, channels, mask_fraction, label_fraction, seed, verify: see `Folder`.
    """

    name = "FGVC-Aircraft"
    home = "the folder data of fgvc-aircraft-2013b.tar.gz, https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"

    def __init__(
        self,
        root: str = "fgvc-aircraft-2013b/data",
        split: str = "train",
        level: Literal["variant", "family", "manufacturer"] = "variant",
        val: float | None = None,
        size: Size = 224,
        channels: int = 3,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        self.level = level
        self.val = val if val is None else fraction("val", val)
        super().__init__(root, split, size, channels, mask_fraction, label_fraction, seed, verify)

    def listed(self, folder: Path) -> list[Entry]:
        boxes = Table(folder / "images_box.txt", self.home)
        entries = [
            Entry(number, label, split, "", folder / f"images/{number}.jpg", one_based(boxes[number].split()))
            for split in ("train", "val", "test")
            for number, label in table(folder / f"images_{self.level}_{split}.txt", self.home)
        ]
        return resplit(entries, self.val)

    def named(self, folder: Path) -> list[str]:
        return [name for (name,) in table(folder / LISTS[self.level], self.home, columns=1)]

    def picture(self, entry: Entry) -> Image.Image:
        whole = super().picture(entry)
        return whole.crop((0, 0, whole.width, whole.height - BANNER))
