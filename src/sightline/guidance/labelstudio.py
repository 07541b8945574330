"""Label Studio's JSON export.

https://labelstud.io/guide/export: coordinates in percent of the image's sides; a brush is packed bytes.
"""

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from sightline.errors import SightlineError, did_you_mean
from sightline.guidance.base import Annotations, Image, Mark, Node, gather, ring, whole
from sightline.guidance.content import Content
from sightline.pictures import SUFFIXES
from sightline.regions import Brush, Points, Polygons, Region, Relative, Size, ellipse
from sightline.regions.shapes import Boxes, Shape, stretch, turn

NAME = "Label Studio JSON (rectangles, polygons, ellipses, key points, brushes)"

UPLOADED = re.compile(r"/upload/.*?(?:[0-9a-f]{8}-)?([^/]+)$")
"""What Label Studio makes of the name of an uploaded file: eight letters in front."""

PLACELESS = ("choices", "textarea", "rating", "number", "datetime", "taxonomy", "relation", "pairwise", "ranker")
"""Results that say something of the whole image."""


def knows(content: Content) -> bool:
    """Whether it is a list of tasks."""
    tasks = content.first()
    return isinstance(tasks, list) and bool(tasks) and isinstance(tasks[0], dict) and "annotations" in tasks[0]


def parse(content: Content) -> Annotations:
    """Regions by image and class: what any annotator of an image marked; predictions are passed over.

    Raises:
        SightlineError: a file is wrong; the message says where.
    """
    tasks = [
        Node(task, f"{document.path}, task {place}")
        for document in content.documents
        for place, task in enumerate(document.value)
    ]
    marks = [mark(result, name(task)) for task in tasks for result in results(task)]
    return gather(content.path, [Image(name(task)) for task in tasks], marks)


def name(task: Node) -> str:
    """The file's name, without what Label Studio puts in front.

    Raises:
        SightlineError: the task has no image, or more than one address.
    """
    addresses = map(address, task.node("data").strings())
    paths = [path for path in addresses if PurePosixPath(path).suffix.lower() in SUFFIXES]
    if len(paths) != 1:
        raise SightlineError(f"{task.place}, data: expected the address of one image, found {len(paths)}.")
    return paths[0]


def address(text: str) -> str:
    """The path in an address, without what Label Studio puts in front of an uploaded file's name.

    >>> address("/data/upload/1/0a1b2c3d-cat%201.jpg"), address("/data/local-files/?d=cats/1.jpg")
    ('cat 1.jpg', 'cats/1.jpg')
    """
    parts = urlsplit(text)
    local = parse_qs(parts.query).get("d", [])
    path = local[0] if local else unquote(parts.path)
    uploaded = UPLOADED.search(path)
    return uploaded[1] if uploaded else path.lstrip("/")


def results(task: Node) -> list[Node]:
    """What the annotators marked; cancelled annotations and results without a place left out."""
    done = [node for node in task.nodes("annotations") if not node.has("was_cancelled")]
    return [result for node in done for result in node.nodes("result") if result.text("type") not in PLACELESS]


def mark(result: Node, image: str) -> Mark:
    """One result.

    Raises:
        SightlineError: it is of no known kind, has no label or several, or was drawn on a turned image.
    """
    kind = result.text("type")
    if kind not in SHAPES:
        raise SightlineError(f"{result.place}: results of type {kind!r} cannot be read. {did_you_mean(kind, SHAPES)}")
    if result.has("image_rotation"):
        raise SightlineError(f"{result.place} was drawn on an image turned in Label Studio. Turn its file instead.")
    value = result.node("value")
    labels = value.items(kind)
    if len(labels) != 1:
        raise SightlineError(f"{value.place}, {kind}: expected one label, not {labels}.")
    size = result.size("original_height", "original_width")
    return Mark(Image(image), str(labels[0]), SHAPES[kind](value, size))


def rectangle(value: Node, size: Size) -> Region:
    """A rectangle, perhaps turned around its upper left corner."""
    left, top, width, height = (value.number(key) for key in ("x", "y", "width", "height"))
    box = (left, top, left + width, top + height)
    if not value.has("rotation"):
        return percent(Boxes((box,), source=value.place))
    corners = (left, top, box[2], top, box[2], box[3], left, box[3])
    return turned(value, corners, size)


def oval(value: Node, size: Size) -> Region:
    """An ellipse, perhaps turned around its centre."""
    x, y, across, down = (value.number(key) for key in ("x", "y", "radiusX", "radiusY"))
    return turned(value, ellipse(x, y, across, down), size)


def turned(value: Node, corners: tuple[float, ...], size: Size) -> Region:
    """A ring in percent, turned around (x, y) in the pixels it was drawn on, for only there angles are right."""
    x, y = size[1] / 100, size[0] / 100
    angle = value.number("rotation") if value.has("rotation") else 0.0
    around = turn(stretch(corners, x, y), value.number("x") * x, value.number("y") * y, angle)
    return percent(Polygons((stretch(around, 1 / x, 1 / y),), source=value.place))


def polygon(value: Node, size: Size) -> Region:
    """A polygon."""
    flat = [number for point in value.items("points") for number in (point if isinstance(point, list) else [point])]
    return percent(Polygons((ring(flat, f"{value.place}, points", 3),), source=value.place))


def point(value: Node, size: Size) -> Region:
    """A point; its width is in percent of the image's."""
    width = value.number("width") if value.has("width") else 0.0
    at = value.number("x"), value.number("y")
    return percent(Points(at, width / 200 * size[1], source=value.place))


def brush(value: Node, size: Size) -> Region:
    """A brush."""
    packed = [whole(byte, f"{value.place}, rle") for byte in value.items("rle")]
    if value.text("format") != "rle" or max(packed, default=0) > 255:
        raise SightlineError(f"{value.place}: expected bytes in the format 'rle', as Label Studio exports brushes.")
    return Brush(bytes(packed), size, source=value.place)


def percent(shape: Shape) -> Relative:
    """A shape in percent of its image's sides."""
    return Relative(shape, 100)


SHAPES: dict[str, Callable[[Node, Size], Region]] = {
    "rectanglelabels": rectangle,
    "polygonlabels": polygon,
    "ellipselabels": oval,
    "keypointlabels": point,
    "brushlabels": brush,
}
