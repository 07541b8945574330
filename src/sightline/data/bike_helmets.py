"""Bike helmets, by Make ML."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sightline.data.archive import Archive
from sightline.data.base import Size, fraction
from sightline.listing import Entry
from sightline.pictures import image_files
from sightline.published import boxes_in, by_digest, hold_out, narrow, required

CLASSES = ("With Helmet", "Without Helmet")
TEST = 500 / 764
"""CFCN's share of images to test."""


class BikeHelmets(Archive):
    """764 photographs of people on bicycles and motorbikes, with boxes of heads with and without a helmet.

        images/BikesHelmets0.png ...
        annotations/BikesHelmets0.xml ...

    An image may show both classes: labels are (N, 2), each class has its own evidence. There is no published split:
    CFCN tested on 500 images and did not say which; here they come first by SHA-256 of their ids. Published by
    Make ML; on Kaggle as andrewmvd/helmet-detection, CC0.

    Args:
        root: see `Archive`.
        split: "train", "val" or "test".
        only: take images that show exactly one of these classes, labelled with that one.
        val: share of the images not for testing that become "val"; 0 for no such split.
        size, channels, mask_fraction, label_fraction, seed, verify: see `Folder`.
    """

    name = "Bike helmets"
    home = "https://www.kaggle.com/datasets/andrewmvd/helmet-detection"

    def __init__(
        self,
        root: str = "helmet-detection",
        split: str = "train",
        only: list[str] | None = None,
        val: float = 0.2,
        size: Size = 224,
        channels: int = 3,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        self.only = only
        self.val = fraction("val", val)
        super().__init__(root, split, size, channels, mask_fraction, label_fraction, seed, verify)

    def listed(self, folder: Path) -> list[Entry]:
        entries = by_digest(self._samples(folder))
        tested = round(TEST * len(entries))
        parted = [entry._replace(split="test") for entry in entries[:tested]] + entries[tested:]
        return hold_out(narrow(parted, self.only, CLASSES), self.val)

    def named(self, folder: Path) -> Sequence[str]:
        return self.only or CLASSES

    def _samples(self, folder: Path) -> Iterator[Entry]:
        for image in image_files(required(folder / "images", self.home)):
            boxes = boxes_in(folder / f"annotations/{image.stem}.xml")
            yield Entry(image.stem, tuple(boxes), "train", "", image, boxes or None)
