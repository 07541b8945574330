"""What is checked: pictures with labels, wherever they come from, and none of them decoded yet."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sightline.errors import SightlineError
from sightline.listing import Entry, regions, words
from sightline.pictures import Flags, open_image
from sightline.regions import Size

if TYPE_CHECKING:
    from sightline.data import Source

Draw = Callable[[Size], Flags]
Loaded = tuple[Image.Image, Sequence[Draw]]


@dataclass(frozen=True)
class Sample:
    """One image of a dataset."""

    id: str
    labels: tuple[str, ...]
    split: str
    group: str
    load: Callable[[], Loaded]
    """Decodes it: the picture, upright, and what draws each of its regions."""
    file: Path | None = None
    """Where it lies, if it is an image file."""


@dataclass(frozen=True)
class Samples:
    """All images of a dataset."""

    name: str
    classes: tuple[str, ...]
    several: bool
    """Whether an image may have several classes, or none."""
    samples: tuple[Sample, ...]


def from_entries(
    name: str, entries: Sequence[Entry], picture: Callable[[Entry], Image.Image] = lambda e: open_image(e.image)
) -> Samples:
    """Image files as a folder or a dataset lists them; `picture` decodes one."""
    several = any(isinstance(entry.label, tuple) for entry in entries)
    samples = tuple(_of_entry(entry, picture) for entry in entries)
    return Samples(name, tuple(sorted({word for s in samples for word in s.labels})), several, samples)


def from_source(sources: Iterable["Source"]) -> Samples:
    """One dataset's splits, as their samples are read.

    Raises:
        SightlineError: samples are no single images.
    """
    first, *_ = splits = list(sources)
    if len(first.size) != 2:
        raise SightlineError(
            f"{first.name} holds volumes or views {first.size}, and only images (H, W) are checked. Save slices as "
            "images."
        )
    samples = tuple(_of_source(source, i) for source in splits for i in range(len(source)))
    return Samples(first.name, first.classes, first.labels.ndim > 1, samples)


def _of_entry(entry: Entry, picture: Callable[[Entry], Image.Image]) -> Sample:
    load = partial(_load_entry, entry, picture)
    return Sample(entry.id, words(entry.label), entry.split, entry.group, load, entry.image)


def _load_entry(entry: Entry, picture: Callable[[Entry], Image.Image]) -> Loaded:
    return picture(entry), [region.draw for region in regions(entry).values()]


def _of_source(source: "Source", index: int) -> Sample:
    label = source.labels[index]
    numbers = [int(label)] if label.ndim == 0 else np.flatnonzero(label == 1)
    labels = tuple(source.classes[k] for k in numbers)
    load = partial(_load_source, source, index)
    return Sample(source.ids[index], labels, source.split, str(source.groups[index]), load)


def _load_source(source: "Source", index: int) -> Loaded:
    image, mask = source.read(index)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    drawn = np.asarray(mask.reshape(-1, *image.shape[:2]).any(0))
    return picture, [lambda size: drawn] if source.has_mask[index] else []
