"""COCO's object detection format, read and written.

https://cocodataset.org/#format-data: polygons in pixels, run lengths down the columns (numbers where `iscrowd` is 1, or
compressed as its tools do), or boxes (x, y, width, height).
"""

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sightline.errors import SightlineError
from sightline.files import write_text
from sightline.guidance.base import Annotations, Image, Mark, Node, gather, ring, whole
from sightline.guidance.content import Content
from sightline.pictures import Flags
from sightline.regions import Boxes, Polygons, Region, Runs, Size
from sightline.regions.combined import around
from sightline.regions.runs import compress, run_lengths

T = TypeVar("T")

NAME = "COCO JSON (polygons, run lengths or boxes; one file or a folder of them)"


def knows(content: Content) -> bool:
    """Whether it is an object with images and annotations."""
    value = content.first()
    return isinstance(value, dict) and "images" in value and "annotations" in value


def parse(content: Content) -> Annotations:
    """Regions by image and class; a segmentation if there is one, else the box.

    Raises:
        SightlineError: a file is wrong; the message says where.
    """
    files = [listed(Node(document.value, str(document.path))) for document in content.documents]
    images = [image for images, _ in files for image in images]
    return gather(content.path, images, [mark for _, marks in files for mark in marks])


def listed(root: Node) -> tuple[list[Image], list[Mark]]:
    """The images and annotations of one file, whose ids are its own."""
    images = by_id(root.nodes("images"), image)
    names = by_id(root.nodes("categories"), lambda node: node.text("name"))
    return list(images.values()), [mark(node, images, names) for node in root.nodes("annotations")]


def by_id(nodes: list[Node], made: Callable[[Node], T]) -> dict[str, T]:
    """What is made of each node, by its id.

    Raises:
        SightlineError: an id occurs twice.
    """
    found: dict[str, T] = {}
    for node in nodes:
        if (key := node.text("id")) in found:
            raise SightlineError(f"{node.place}: the id {key} occurs twice. Ids must be unique.")
        found[key] = made(node)
    return found


def image(node: Node) -> Image:
    """An image; its size may be left out."""
    return Image(node.text("file_name"), node.size("height", "width") if node.has("width") else None)


def mark(node: Node, images: Mapping[str, Image], names: Mapping[str, str]) -> Mark:
    """One annotation."""
    return Mark(known(node, "image_id", images), known(node, "category_id", names), region(node))


def known(node: Node, key: str, there: Mapping[str, T]) -> T:
    """What an id stands for.

    Raises:
        SightlineError: nothing has this id.
    """
    value = node.text(key)
    if value not in there:
        raise SightlineError(f"{node.place}: {key} {value} is the id of nothing in the file.")
    return there[value]


def region(node: Node) -> Region:
    """Where an annotation lies: polygons, run lengths, or the box where there is no segmentation."""
    if not node.has("segmentation"):
        x, y, width, height = node.numbers("bbox", 4)
        return Boxes(((x, y, x + width, y + height),), source=node.place)
    if isinstance(node.get("segmentation"), dict):
        return runs(node.node("segmentation"), node.place)
    rings = node.items("segmentation")
    if not all(isinstance(values, list) for values in rings):
        raise SightlineError(f"{node.place}, segmentation: expected a list of polygons, each a list of numbers.")
    return Polygons(tuple(ring(values, f"{node.place}, segmentation", 3) for values in rings), source=node.place)


def runs(node: Node, source: str) -> Runs:
    """Run lengths."""
    height, width = (whole(side, f"{node.place}, size") for side in node.numbers("size", 2))
    counts = node.get("counts")
    if not isinstance(counts, str):
        counts = tuple(whole(value, f"{node.place}, counts") for value in node.items("counts"))
    return Runs(counts, (height, width), source=source)


class Masked(NamedTuple):
    """An image and its masks, to be written."""

    name: str
    size: Size
    masks: Mapping[str, Flags]
    """(H, W) by class; of an image that nobody annotated there are none."""


def write(path: str | Path, images: Iterable[Masked], compressed: bool = True) -> None:
    """Write masks as run lengths, whole or not at all.

    Args:
        path: the file.
        images: read one by one, so that they need not fit in memory.
        compressed: run lengths as COCO's tools compress them, or as numbers.

    Raises:
        SightlineError: a mask is empty or of another size than its image, or the file cannot be written.
    """
    listed: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    names: dict[str, int] = {}
    ids = count(1)
    for number, (name, (height, width), masks) in enumerate(images, start=1):
        listed.append({"id": number, "file_name": name, "width": width, "height": height})
        for label, mask in masks.items():
            if mask.shape != (height, width) or not mask.any():
                raise SightlineError(f"the mask of {label} in {name} is empty, or not {width} x {height} pixels.")
            kind = names.setdefault(label, len(names) + 1)
            annotations.append({"id": next(ids), "image_id": number, "category_id": kind} | described(mask, compressed))
    categories = [{"id": number, "name": label} for label, number in names.items()]
    write_text(path, json.dumps({"images": listed, "annotations": annotations, "categories": categories}) + "\n")


def described(mask: Flags, compressed: bool) -> dict[str, Any]:
    """What COCO says of one mask."""
    counts = run_lengths(mask)
    rows, columns = around(mask)
    return {
        "segmentation": {"size": list(mask.shape), "counts": compress(counts) if compressed else list(counts)},
        "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
        "area": int(mask.sum()),
        "iscrowd": 0,
    }
