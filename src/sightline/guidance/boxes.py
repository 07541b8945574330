"""Boxes in a table: image, class, xmin, ymin, xmax, ymax.

Pixels from the corner of the image, the last two exclusive; or shares of its sides, if no number in the file exceeds 1.
"""

from sightline.errors import SightlineError
from sightline.guidance.base import Annotations, Image, Mark, Node, gather
from sightline.guidance.content import Content
from sightline.regions import Boxes, Relative

NAME = "a CSV of boxes (id or image, class, xmin, ymin, xmax, ymax)"

EDGES = ("xmin", "ymin", "xmax", "ymax")
NAMES = ("image", "id", "filename")
LABELS = ("class", "label")


def knows(content: Content) -> bool:
    """Whether it is a table with the edges of boxes."""
    rows = content.first()
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and set(EDGES) <= set(rows[0])


def parse(content: Content) -> Annotations:
    """Regions by image and class; an image may have several rows.

    Raises:
        SightlineError: a file is wrong; the message says where.
    """
    path, rows = content.only()
    nodes = [Node(row, f"{path}, line {line}") for line, row in enumerate(rows, start=2)]
    found = [(node, tuple(node.number(edge) for edge in EDGES)) for node in nodes]
    shares = all(max(edges) <= 1 for _, edges in found)
    marks = [mark(node, edges, shares) for node, edges in found]
    return gather(path, dict.fromkeys(mark.image for mark in marks), marks)


def mark(node: Node, edges: tuple[float, ...], shares: bool) -> Mark:
    """One row."""
    left, top, right, bottom = edges
    if right <= left or bottom <= top:
        raise SightlineError(f"{node.place}: the box {edges} holds nothing. Expected xmin < xmax and ymin < ymax.")
    box = Boxes(((left, top, right, bottom),), source=node.place)
    return Mark(Image(one_of(node, NAMES)), one_of(node, LABELS), Relative(box) if shares else box)


def one_of(node: Node, keys: tuple[str, ...]) -> str:
    """What stands in the first of some columns that is there.

    Raises:
        SightlineError: none is, or it is empty.
    """
    for key in keys:
        if node.has(key):
            return node.text(key)
    raise SightlineError(f"{node.place}: expected a column {' or '.join(keys)} that is not empty.")
