"""LabelMe's JSON: one file per image.

https://github.com/wkentaro/labelme: points in pixels from the corner of the image; a mask is a PNG in base64, as large
as the box between its two points, the second included.
"""

import base64
import binascii
import io
from collections.abc import Callable
from math import dist
from pathlib import Path

import numpy as np

from sightline.errors import SightlineError, did_you_mean
from sightline.guidance.base import Annotations, Image, Mark, Node, gather, ring
from sightline.guidance.content import Content, Document
from sightline.pictures import open_image
from sightline.regions import Boxes, Points, Polygons, Region, Runs, Scribbles
from sightline.regions.runs import run_lengths

NAME = "LabelMe JSON (one file or a folder of them)"


def knows(content: Content) -> bool:
    """Whether it is an object with shapes."""
    value = content.first()
    return isinstance(value, dict) and "shapes" in value


def parse(content: Content) -> Annotations:
    """Regions by image and class.

    Raises:
        SightlineError: a file is wrong; the message says where.
    """
    files = [(Node(document.value, str(document.path)), image(document)) for document in content.documents]
    marks = [
        Mark(picture, node.text("label"), region(node)) for root, picture in files for node in root.nodes("shapes")
    ]
    return gather(content.path, [picture for _, picture in files], marks)


def image(document: Document) -> Image:
    """The image a file is about."""
    root = Node(document.value, str(document.path))
    return Image(root.text("imagePath"), root.size("imageHeight", "imageWidth"))


def region(node: Node) -> Region:
    """Where a shape lies.

    Raises:
        SightlineError: it is of no known kind, or has the wrong points.
    """
    kind = node.text("shape_type") if node.has("shape_type") else "polygon"
    if kind not in SHAPES:
        raise SightlineError(f"{node.place}: a shape of type {kind!r} cannot be read. {did_you_mean(kind, SHAPES)}")
    return SHAPES[kind](node)


def polygon(node: Node) -> Region:
    """A polygon."""
    return Polygons((points(node, 3),), source=node.place)


def rectangle(node: Node) -> Region:
    """A box between two corners, whichever they are, or around four."""
    x, y = points(node, 2)[::2], points(node, 2)[1::2]
    return Boxes(((min(x), min(y), max(x), max(y)),), source=node.place)


def circle(node: Node) -> Region:
    """A disc: its centre and a point on its edge."""
    x, y, *edge = points(node, 2)[:4]
    return Points((x, y), dist((x, y), edge), source=node.place)


def line(node: Node) -> Region:
    """A line."""
    return Scribbles((points(node, 2),), source=node.place)


def dots(node: Node) -> Region:
    """Points."""
    return Points(points(node, 1), source=node.place)


def mask(node: Node) -> Region:
    """A PNG in a box."""
    left, top, right, bottom = map(round, points(node, 2)[:4])
    try:
        png = base64.b64decode(node.text("mask"), validate=True)
    except binascii.Error as error:
        raise SightlineError(f"{node.place}, mask: not base64 ({error}).") from error
    picture = open_image(Path(f"{node.place}, mask"), io.BytesIO(png))
    if picture.size != (right - left + 1, bottom - top + 1):
        raise SightlineError(f"{node.place}: the mask is {picture.size} pixels, not as large as its points' box.")
    marked = np.asarray(picture.convert("L")) > 0
    return Runs(run_lengths(marked, "rows"), marked.shape, "rows", (left, top), source=node.place)


def points(node: Node, least: int) -> tuple[float, ...]:
    """Pairs as x and y in turn."""
    pairs = node.items("points")
    flat = [value for pair in pairs for value in (pair if isinstance(pair, list) else [pair])]
    return ring(flat, f"{node.place}, points", least)


SHAPES: dict[str, Callable[[Node], Region]] = {
    "polygon": polygon,
    "rectangle": rectangle,
    "circle": circle,
    "linestrip": line,
    "line": line,
    "point": dots,
    "points": dots,
    "mask": mask,
}
