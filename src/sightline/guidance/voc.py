"""Boxes as Pascal VOC writes them: one XML file per image.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/index.html: pixels are counted from 1, and the last one belongs
to the box.
"""

from sightline.guidance.base import Annotations, Image, Mark, Node, gather
from sightline.guidance.content import Content, Document
from sightline.guidance.xml import Tag, is_tag, root
from sightline.regions import Boxes

NAME = "Pascal VOC XML (boxes; one file or a folder of them)"


def knows(content: Content) -> bool:
    """Whether it is XML whose root is called annotation."""
    return is_tag(content.first(), "annotation")


def parse(content: Content) -> Annotations:
    """Regions by image and class.

    Raises:
        SightlineError: a file is wrong; the message says where.
    """
    files = [(root(document), image(document)) for document in content.documents]
    marks = [mark(tag, picture) for tree, picture in files for tag in tree.all("object")]
    return gather(content.path, [picture for _, picture in files], marks)


def image(document: Document) -> Image:
    """The image a file is about; its size may be left out, or be 0 as some tools write."""
    tree = root(document)
    sizes = [Node(tag.texts(), tag.place).size("height", "width") for tag in tree.all("size")]
    return Image(tree.child("filename").text(), next((size for size in sizes if all(size)), None))


def mark(tag: Tag, picture: Image) -> Mark:
    """One object."""
    box = Node(tag.child("bndbox").texts(), tag.place)
    left, top, right, bottom = (box.number(key) for key in ("xmin", "ymin", "xmax", "ymax"))
    return Mark(picture, tag.child("name").text(), Boxes(((left - 1, top - 1, right, bottom),), source=tag.place))
