"""Annotations as other tools write them, read as regions. One file per format; this is the list."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from sightline.errors import SightlineError, did_you_mean
from sightline.guidance import boxes, coco, cvat, labelme, labelstudio, masks, voc
from sightline.guidance.base import Annotations
from sightline.guidance.content import load
from sightline.guidance.join import join, reshape
from sightline.listing import Entry

__all__ = ["FORMATS", "Annotations", "guide", "join", "read_guidance", "reshape"]

FORMATS: dict[str, ModuleType] = {
    "coco": coco,
    "voc": voc,
    "cvat": cvat,
    "labelstudio": labelstudio,
    "labelme": labelme,
    "boxes": boxes,
    "masks": masks,
}
"""Each has `NAME`, what it is called in words; `knows(content)`, and `parse(content)`."""


def read_guidance(path: str | Path, format: str | None = None) -> Annotations:  # noqa: A002
    """The regions of each image by class, from a file or folder in one of `FORMATS`.

    Args:
        path: the file or folder.
        format: one of `FORMATS`; None to recognise it from what the file holds.

    Raises:
        SightlineError: the path is missing, its format unknown, or what it says wrong; the message says where.
    """
    if format is not None and format not in FORMATS:
        raise SightlineError(f"guidance: there is no format {format!r}. {did_you_mean(format, FORMATS)}")
    content = load(Path(path))
    known = [FORMATS[format]] if format else [reader for reader in FORMATS.values() if reader.knows(content)]
    if not known:
        names = "; ".join(f"{word}: {reader.NAME}" for word, reader in FORMATS.items())
        raise SightlineError(f"{path} is in no format known here. Known are {names}.")
    return Annotations(known[0].parse(content))


def guide(entries: Sequence[Entry], folder: Path, guidance: str) -> list[Entry]:
    """The entries of a dataset in `folder` with the annotations in `guidance`, a path or "<format>:<path>".

    Raises:
        SightlineError: see `read_guidance` and `join`.
    """
    word, colon, rest = guidance.partition(":")
    format, path = (word, rest) if colon and word in FORMATS else (None, guidance)  # noqa: A001
    return join(entries, read_guidance(folder / path, format), folder / path)
