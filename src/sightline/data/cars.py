"""Stanford Cars."""

from pathlib import Path
from typing import Any

from sightline.data.archive import Archive
from sightline.data.base import Size, fraction
from sightline.listing import Entry
from sightline.published import hold_out, matlab, one_based, records

ANNOTATIONS = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


class Cars(Archive):
    """16,185 photographs of cars of 196 makes, models and years, each with a box.

        devkit/cars_meta.mat, devkit/cars_train_annos.mat, cars_test_annos_withlabels.mat
        cars_train/00001.jpg ..., cars_test/00001.jpg ...

    Krause et al., "3D Object Representations for Fine-Grained Categorization", 3dRR 2013. For non-commercial research.

    Args:
        root: see `Archive`.
        split: "train", "val" or "test"; published are 8144 training and 8041 test images.
        val: share of the training images of each class that become "val"; 0 for no such split.
        size, channels, mask_fraction, label_fraction, seed, verify: see `Folder`.
    """

    name = "Stanford Cars"
    home = "cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat of Stanford's Cars Dataset"

    def __init__(
        self,
        root: str = "stanford_cars",
        split: str = "train",
        val: float = 0.1,
        size: Size = 224,
        channels: int = 3,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        self.val = fraction("val", val)
        super().__init__(root, split, size, channels, mask_fraction, label_fraction, seed, verify)

    def listed(self, folder: Path) -> list[Entry]:
        names = self.named(folder)
        entries = [
            self._entry(folder / f"cars_{split}", split, names, record)
            for split, file in ANNOTATIONS.items()
            for record in records(matlab(folder / file, self.home, "annotations"))
        ]
        return hold_out(entries, self.val)

    def named(self, folder: Path) -> list[str]:
        return list(matlab(folder / "devkit/cars_meta.mat", self.home, "class_names"))

    def _entry(self, images: Path, split: str, names: list[str], record: dict[str, Any]) -> Entry:
        box = one_based([record[corner] for corner in CORNERS])
        name = f"{split}/{Path(record['fname']).stem}"
        return Entry(name, names[int(record["class"]) - 1], split, "", images / record["fname"], box)
