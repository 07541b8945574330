"""CVAT's own format for images, version 1.1.

https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/: pixels counted from 0 at the corner of the image; a
mask is run lengths along the rows of its box.
"""

from collections.abc import Callable

from sightline.errors import SightlineError, did_you_mean
from sightline.guidance.base import Annotations, Image, Mark, Node, gather, ring, whole
from sightline.guidance.content import Content
from sightline.guidance.xml import Tag, is_tag, root
from sightline.regions import Boxes, Points, Polygons, Region, Runs, Scribbles, ellipse
from sightline.regions.shapes import turn

NAME = "CVAT for images 1.1 (XML)"


def knows(content: Content) -> bool:
    """Whether it is XML whose root is called annotations."""
    return is_tag(content.first(), "annotations")


def parse(content: Content) -> Annotations:
    """Regions by image and class; tags, which mark no place, are passed over.

    Raises:
        SightlineError: a file is wrong; the message says where.
    """
    pairs = [(tag, image(tag.node())) for document in content.documents for tag in images(root(document))]
    marks = [
        Mark(picture, shape.node().text("label"), region(shape))
        for tag, picture in pairs
        for shape in tag.each()
        if shape.element.tag != "tag"
    ]
    return gather(content.path, [picture for _, picture in pairs], marks)


def images(tree: Tag) -> list[Tag]:
    """The images of a file.

    Raises:
        SightlineError: it is about a video.
    """
    if tree.all("track"):
        raise SightlineError(f"{tree.place} holds tracks of a video. Export the task as 'CVAT for images 1.1'.")
    return tree.all("image")


def image(node: Node) -> Image:
    """An image and its size."""
    return Image(node.text("name"), node.size("height", "width"))


def region(tag: Tag) -> Region:
    """Where a shape lies.

    Raises:
        SightlineError: it is of no known kind, or an attribute is wrong.
    """
    kind = tag.element.tag
    if kind not in SHAPES:
        raise SightlineError(f"{tag.place}: <{kind}> cannot be read. {did_you_mean(kind, SHAPES)}")
    return SHAPES[kind](tag.node())


def box(node: Node) -> Region:
    """A box, perhaps turned around its centre."""
    left, top, right, bottom = (node.number(key) for key in ("xtl", "ytl", "xbr", "ybr"))
    if not (angle := rotation(node)):
        return Boxes(((left, top, right, bottom),), source=node.place)
    corners = (left, top, right, top, right, bottom, left, bottom)
    return Polygons((turn(corners, (left + right) / 2, (top + bottom) / 2, angle),), source=node.place)


def oval(node: Node) -> Region:
    """An ellipse, perhaps turned."""
    x, y, across, down = (node.number(key) for key in ("cx", "cy", "rx", "ry"))
    return Polygons((ellipse(x, y, across, down, rotation(node)),), source=node.place)


def polygon(node: Node) -> Region:
    """A polygon."""
    return Polygons((points(node, 3),), source=node.place)


def polyline(node: Node) -> Region:
    """A line."""
    return Scribbles((points(node, 2),), source=node.place)


def dots(node: Node) -> Region:
    """Points."""
    return Points(points(node, 1), source=node.place)


def mask(node: Node) -> Region:
    """Run lengths in a box."""
    counts = tuple(whole(count, f"{node.place}, rle") for count in node.text("rle").split(","))
    corner = node.whole("left"), node.whole("top")
    return Runs(counts, node.size("height", "width"), "rows", corner, source=node.place)


def points(node: Node, least: int) -> tuple[float, ...]:
    """Points written as x,y;x,y."""
    return ring(node.text("points").replace(";", ",").split(","), f"{node.place}, points", least)


def rotation(node: Node) -> float:
    """Degrees, clockwise."""
    return node.number("rotation") if node.has("rotation") else 0.0


SHAPES: dict[str, Callable[[Node], Region]] = {
    "box": box,
    "polygon": polygon,
    "polyline": polyline,
    "points": dots,
    "mask": mask,
    "ellipse": oval,
}
