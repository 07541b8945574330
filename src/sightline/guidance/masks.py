"""Masks in a folder: a file per image and class, a file per image, or maps of labels with a table of what they mean.

`<class>/<image>.png`: what is not 0 is evidence of the class. `<image>.png`: evidence of no class in particular.
With a `values.csv` (value, class) in the folder, every file is a map of labels, grey or with a palette, wherever
in the folder it lies; values of the class "ignore" are no evidence, 0 is background unless listed.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from sightline.errors import SightlineError
from sightline.guidance.base import Annotations, Image, Mark, Node, gather, whole
from sightline.guidance.content import Content
from sightline.listing import below, read_table
from sightline.pictures import SUFFIXES, open_image
from sightline.regions import MaskFile
from sightline.regions.maskfile import shown

NAME = "a folder of mask images (<class>/<image>.png, <image>.png, or label maps with a values.csv)"

TABLE = "values.csv"
IGNORE = "ignore"


def knows(content: Content) -> bool:
    """Whether it is a folder with images."""
    return content.path.is_dir() and not content.documents and bool(below(content.path, SUFFIXES))


def parse(content: Content) -> Annotations:
    """Regions by image and class; an image is called as its mask's path is, without suffix.

    Raises:
        SightlineError: a file is wrong; the message says where.
    """
    folder = content.path
    named = [(file, file.relative_to(folder).with_suffix("").as_posix()) for file in below(folder, SUFFIXES)]
    twice = [name for name, count in Counter(name for _, name in named).items() if count > 1]
    if twice:
        raise SightlineError(f"{folder} holds two masks called {twice[0]}, of different suffixes. Remove one.")
    names = meanings(folder / TABLE) if (folder / TABLE).exists() else None
    marks = [
        Mark(Image(name), label, mask)
        for file, name in named
        for label, mask in (drawn(file, folder) if names is None else labelled(file, names)).items()
    ]
    return gather(folder, (), marks)


def drawn(file: Path, folder: Path) -> dict[str, MaskFile]:
    """A mask of the class its folder is called by, or of none."""
    return {"" if file.parent == folder else file.parent.name: MaskFile(file)}


def labelled(file: Path, names: dict[int, str]) -> dict[str, MaskFile]:
    """The classes that occur in a map of labels.

    Raises:
        SightlineError: it holds a value that has no meaning.
    """
    values = set(np.unique(shown(open_image(file))).tolist())
    if strange := values - names.keys() - {0}:
        raise SightlineError(f"{file} holds the value {min(strange)}, which {TABLE} does not list.")
    occurring = sorted({names[value] for value in values & names.keys()} - {IGNORE})
    return {label: MaskFile(file, tuple(v for v, name in names.items() if name == label)) for label in occurring}


def meanings(table: Path) -> dict[int, str]:
    """The class of each value.

    Raises:
        SightlineError: a value is listed twice.
    """
    found: dict[int, str] = {}
    for line, row in enumerate(read_table(table), start=2):
        node = Node(row, f"{table}, line {line}")
        value = whole(node.get("value"), f"{node.place}, value")
        if value in found:
            raise SightlineError(f"{node.place}: the value {value} is listed twice.")
        found[value] = node.text("class")
    return found
