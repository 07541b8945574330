"""MS-COCO: common objects in context."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.data.archive import Archive
from sightline.data.base import Size, fraction
from sightline.guidance import coco
from sightline.guidance.content import Content, load
from sightline.listing import Entry
from sightline.published import hold_out, narrow, required
from sightline.regions import MaskFile, Traced

SPLITS = {"train": "train", "val": "test"}
REDUCED = "instances.json"


class COCO(Archive):
    """Photographs of everyday scenes with outlines of all objects of 80 classes.

        annotations/instances_train2014.json, annotations/instances_val2014.json
        train2014/COCO_train2014_000000000009.jpg ..., val2014/COCO_val2014_000000000042.jpg ...

    One of the two parts may be missing. An image shows several classes: labels are (N, 80), the evidence of a class is
    the union of its objects, crowds included. Images without objects have no evidence. Lin et al., "Microsoft COCO",
    ECCV 2014. Annotations CC BY 4.0; images are Flickr's, on Flickr's terms.

    A reduced copy is read as well: instances.json with the part of each image under "origin_split", images/, and
    where there is one a label map of category ids, semantic/000000000009.png. An object has its box otherwise.

    Args:
        root: see `Archive`.
        split: "train", "val" or "test"; "test" is the published validation set, for the test set's labels are secret.
        year: 2014 (82,783 and 40,504 images) or 2017.
        only: take images that show exactly one of these classes, labelled with that one; null for all as they are.
        val: share of the published training images that becomes "val"; 0 for no such split.
        size, channels, mask_fraction, label_fraction, seed: see `Folder`.
        verify: see `Folder`; all of COCO takes long to decode.
    """

    name = "MS-COCO"
    home = "train2014.zip, val2014.zip and annotations_trainval2014.zip of https://cocodataset.org"

    def __init__(
        self,
        root: str = "coco",
        split: str = "train",
        year: int = 2014,
        only: list[str] | None = None,
        val: float = 0.05,
        size: Size = 224,
        channels: int = 3,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = False,
    ) -> None:
        self.year = year
        self.only = only
        self.val = fraction("val", val)
        super().__init__(root, split, size, channels, mask_fraction, label_fraction, seed, verify)

    def listed(self, folder: Path) -> list[Entry]:
        if (folder / REDUCED).exists():
            content = load(folder / REDUCED)
            entries = list(reduced(content, folder))
        else:
            content, entries = self._published(folder)
        self._categories = [category["name"] for category in content.first()["categories"]]
        return hold_out(narrow(entries, self.only, self._categories), self.val)

    def named(self, folder: Path) -> Sequence[str]:
        return self.only or self._categories

    def _published(self, folder: Path) -> tuple[Content, list[Entry]]:
        files = {f"{part}{self.year}": split for part, split in SPLITS.items()}
        paths = {part: folder / f"annotations/instances_{part}.json" for part in files}
        there = [part for part, path in paths.items() if path.exists()]
        if not there:
            required(paths[f"train{self.year}"], self.home)
        contents = {part: load(paths[part]) for part in there}
        entries = [e for part, content in contents.items() for e in listed(content, folder / part, files[part])]
        return contents[there[0]], entries


def listed(content: Content, images: Path, split: str) -> Iterator[Entry]:
    """The images of a file of annotations."""
    for name, regions in coco.parse(content).items():
        yield Entry(Path(name).stem, tuple(regions), split, "", images / name, regions or None)


def reduced(content: Content, folder: Path) -> Iterator[Entry]:
    """The images of a reduced copy."""
    value: Mapping[str, Any] = content.first()
    parts = {image["file_name"]: image["origin_split"] for image in value["images"]}
    numbers = {category["name"]: category["id"] for category in value["categories"]}
    for entry in listed(content, folder / "images", ""):
        regions = entry.region if isinstance(entry.region, Mapping) else {}
        labels = folder / f"semantic/{entry.id}.png"
        traced = {name: Traced(MaskFile(labels, (numbers[name],)), box) for name, box in regions.items()}
        split = SPLITS[parts[entry.image.name]]
        yield entry._replace(split=split, region=traced if traced and labels.exists() else entry.region)
