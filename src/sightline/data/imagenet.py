"""ImageNet, as ILSVRC 2012 published it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sightline.data.archive import Archive
from sightline.data.base import Size, fraction
from sightline.errors import SightlineError
from sightline.listing import Entry, read_table
from sightline.pictures import Flags, image_files, subfolders
from sightline.published import boxes_in, hold_out, matlab, narrow, records, required, table
from sightline.regions import Size as Shape

DEVKIT = "ILSVRC2012_devkit_t12/data"
SOLUTION = "LOC_val_solution.csv"
BOXES = "Annotations/CLS-LOC"


class ImageNet(Archive):
    """1.28 million photographs of 1000 classes to train, 544,546 with boxes, and 50,000 to test, all with boxes.

        train/n01440764/n01440764_10026.JPEG ...
        val/n01440764/ILSVRC2012_val_00000293.JPEG ..., or all in val/, and then LOC_val_solution.csv, or
            ILSVRC2012_devkit_t12/data/meta.mat and .../ILSVRC2012_validation_ground_truth.txt
        Annotations/CLS-LOC/train/n01440764/n01440764_10026.xml ...
        Annotations/CLS-LOC/val/ILSVRC2012_val_00000293.xml ...

    train/ and val/ may lie in Data/CLS-LOC/, as on Kaggle, and one of them may be missing. Evidence is every box of the
    image's class. Classes are WordNet ids. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge",
    IJCV 2015. For non-commercial research, on terms to be agreed to.

    Args:
        root: see `Archive`.
        split: "train", "val" or "test"; "test" is the published validation set, for the test set's labels are secret.
        only: the WordNet ids to take; null for all.
        val: share of the training images of each class that become "val"; 0 for no such split.
        size, channels, mask_fraction, label_fraction, seed: see `Folder`.
        verify: see `Folder`; all of ImageNet takes long to decode.
    """

    name = "ImageNet"
    home = "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and the boxes of https://image-net.org"

    def __init__(
        self,
        root: str = "imagenet",
        split: str = "train",
        only: list[str] | None = None,
        val: float = 0.02,
        size: Size = 224,
        channels: int = 3,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = False,
    ) -> None:
        self.only = only
        self.val = fraction("val", val)
        super().__init__(root, split, size, channels, mask_fraction, label_fraction, seed, verify)

    def listed(self, folder: Path) -> list[Entry]:
        kaggle = folder / "Data/CLS-LOC"
        images = kaggle if kaggle.is_dir() else folder
        entries = [*training(images / "train", folder / BOXES / "train"), *self._validation(images / "val", folder)]
        if not entries:
            required(images / "train", self.home)
        return hold_out(narrow(entries, self.only, sorted({str(entry.label) for entry in entries})), self.val)

    def named(self, folder: Path) -> list[str] | None:
        return self.only

    def _validation(self, val: Path, folder: Path) -> Iterator[Entry]:
        if not val.is_dir():
            return
        classes = subfolders(val)
        images = [image for inner in classes or [val] for image in image_files(inner)]
        labels = {} if classes else self._labels(folder)
        named = ((image, labels[image.stem] if labels else image.parent.name) for image in images)
        yield from entries("test", named, folder / BOXES / "val")

    def _labels(self, folder: Path) -> dict[str, str]:
        """Classes by the names of the validation images."""
        for solution in (folder / SOLUTION, folder.parent / SOLUTION):
            if solution.exists():
                rows = read_table(solution, ("ImageId", "PredictionString"))
                return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
        home = f"{SOLUTION}, or the devkit of https://image-net.org"
        synsets = records(matlab(folder / DEVKIT / "meta.mat", home, "synsets"))
        wordnet = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
        numbers = table(folder / DEVKIT / "ILSVRC2012_validation_ground_truth.txt", home, columns=1)
        return {f"ILSVRC2012_val_{place:08d}": wordnet[int(number)] for place, (number,) in enumerate(numbers, start=1)}


def training(train: Path, boxes: Path) -> Iterator[Entry]:
    """The images in folders called after their class."""
    for folder in subfolders(train) if train.is_dir() else ():
        yield from entries("train", ((image, folder.name) for image in image_files(folder)), boxes / folder.name)


def entries(split: str, images: Iterable[tuple[Path, str]], boxes: Path) -> Iterator[Entry]:
    """Images with their class; whether one has boxes is known from the names of the files in `boxes` alone."""
    annotated = {path.stem: path for path in boxes.iterdir()} if boxes.is_dir() else {}
    for image, label in images:
        name = image.stem
        yield Entry(name, label, split, "", image, BoxFile(annotated[name], label) if name in annotated else None)


@dataclass(frozen=True)
class BoxFile:
    """Boxes of one class in an XML file that is read when they are drawn: half a million take too long before."""

    path: Path
    label: str

    def draw(self, size: Shape) -> Flags:
        boxes = boxes_in(self.path)
        if self.label not in boxes:
            raise SightlineError(f"{self.path} has no box of {self.label!r}, only of {', '.join(boxes) or 'nothing'}.")
        return boxes[self.label].draw(size)

    def content(self) -> bytes:
        return self.path.read_bytes() + self.label.encode()
