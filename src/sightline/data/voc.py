"""PASCAL VOC 2012."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from sightline.data.archive import Archive
from sightline.data.base import Size, fraction
from sightline.listing import Entry
from sightline.published import boxes_in, hold_out, narrow, table
from sightline.regions import MaskFile, Region, Traced

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""In the order of their numbers in segmentations, from 1."""

OUTLINE = 255
"""Value of a segmentation's outlines, about which nobody decided."""

SPLITS = {"train": "train", "val": "test"}


class VOC(Archive):
    """11,540 photographs of 20 classes of objects, all with boxes, 2913 with segmentations.

        ImageSets/Main/train.txt, ImageSets/Main/val.txt
        JPEGImages/2007_000027.jpg ..., Annotations/2007_000027.xml ...
        SegmentationClass/2007_000032.png ...

    An image may show several classes: labels are (N, 20), each class has its own evidence. Objects marked as difficult
    count neither as label nor as evidence. Everingham et al., "The PASCAL Visual Object Classes Challenge 2012".
    Images are Flickr's, on Flickr's terms.

    Args:
        root: the folder VOC2012; see `Archive`.
        split: "train", "val" or "test"; "test" is the published "val", for the test set's labels are secret.
        only: take images that show exactly one of these classes, labelled with that one: `only: [aeroplane, cow]` is
            where CFCN's Aeroplane-Cow was taken from. Which 718 images those are was not published.
        evidence: "box", or "segmentation" where there is one. A class that a segmentation leaves out has its boxes.
        val: share of the published "train" that becomes "val"; 0 for no such split.
        size, channels, mask_fraction, label_fraction, seed, verify: see `Folder`.
    """

    name = "PASCAL VOC 2012"
    home = "VOCtrainval_11-May-2012.tar, http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"

    def __init__(
        self,
        root: str = "VOCdevkit/VOC2012",
        split: str = "train",
        only: list[str] | None = None,
        evidence: Literal["box", "segmentation"] = "box",
        val: float = 0.1,
        size: Size = 224,
        channels: int = 3,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        self.only = only
        self.evidence = evidence
        self.val = fraction("val", val)
        super().__init__(root, split, size, channels, mask_fraction, label_fraction, seed, verify)

    def listed(self, folder: Path) -> list[Entry]:
        return hold_out(narrow(self._samples(folder), self.only, CLASSES), self.val)

    def named(self, folder: Path) -> Sequence[str]:
        return self.only or CLASSES

    def _samples(self, folder: Path) -> Iterator[Entry]:
        segmented = {path.stem for path in (folder / "SegmentationClass").glob("*.png")}
        for published, split in SPLITS.items():
            for (name,) in table(folder / f"ImageSets/Main/{published}.txt", self.home, columns=1):
                boxes = boxes_in(folder / f"Annotations/{name}.xml")
                regions: Mapping[str, Region] | None = boxes
                if self.evidence == "segmentation":
                    regions = traced(folder / f"SegmentationClass/{name}.png", boxes) if name in segmented else None
                yield Entry(name, tuple(boxes), split, "", folder / f"JPEGImages/{name}.jpg", regions or None)


def traced(segmentation: Path, boxes: Mapping[str, Region]) -> dict[str, Region]:
    """The evidence of each class in a segmentation; its boxes where the segmentation has none."""
    number = {name: place for place, name in enumerate(CLASSES, start=1)}
    return {
        name: Traced(MaskFile(segmentation, (number.get(name, 0),), (OUTLINE,)), box) for name, box in boxes.items()
    }
