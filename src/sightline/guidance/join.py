"""Annotations and the images they belong to."""

import logging
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import PurePath, PurePosixPath, PureWindowsPath

from sightline.errors import SightlineError
from sightline.guidance.base import Annotations
from sightline.listing import Entry, some, words
from sightline.pictures import SUFFIXES
from sightline.regions import AsBox, Dilated, Region, Union

log = logging.getLogger(__name__)


def join(entries: Sequence[Entry], found: Annotations, source: object) -> list[Entry]:
    """The entries with the regions annotated for them in place of those they had.

    An annotation belongs to the image whose file is called as it says or, if none is, to the one called so but for the
    suffix; of several to the one whose folders agree furthest, counted from the file. Windows's paths are
    read too.

    Where classes of the dataset are annotated, a sample of one class gets the region of its class, and one of
    several the region of each; where none is, a sample gets the union of all. What belongs to no image, or to no
    class of the dataset, is counted in a warning.

    Raises:
        SightlineError: an annotation fits several images equally well, or none fits any.
    """
    classes = {word for entry in entries for word in words(entry.label)}
    annotated = {label for regions in found.values() for label in regions}
    if any(isinstance(entry.label, tuple) for entry in entries) and not classes & annotated:
        raise SightlineError(
            f"{source} annotates no class of the dataset, but {some(sorted(annotated))}. The dataset's are "
            f"{some(sorted(classes))}."
        )
    regions = sort(entries, found, source)
    if strange := sorted(annotated - classes) if classes & annotated else []:
        log.warning(
            "%s: annotations of %s are left out. The classes are %s.", source, some(strange), some(sorted(classes))
        )
    return [
        entry._replace(region=choose(entry, by_class, classes & annotated))
        for entry, by_class in zip(entries, regions, strict=True)
    ]


def reshape(entries: Sequence[Entry], dilate: int = 0, boxes: bool = False) -> list[Entry]:
    """The entries with their regions grown by `dilate` pixels of their image, then made boxes."""

    def made(region: Region) -> Region:
        grown = Dilated(region, dilate) if dilate else region
        return AsBox(grown) if boxes else grown

    return [
        entry._replace(
            region={name: made(region) for name, region in entry.region.items()}
            if isinstance(entry.region, Mapping)
            else entry.region and made(entry.region)
        )
        for entry in entries
    ]


def sort(entries: Sequence[Entry], found: Annotations, source: object) -> list[dict[str, Region]]:
    """The regions by class of each entry; annotations of no image are counted in a warning.

    Raises:
        SightlineError: an annotation fits several images equally well, two of one class fit one, or none fits any.
    """
    owned: list[dict[str, Region]] = [{} for _ in entries]
    finder = Finder(entries)
    strangers: list[str] = []
    for name, regions in found.items():
        at = finder.find(name, source)
        if at is None:
            strangers += [name] * bool(regions)
        elif twice := owned[at].keys() & regions.keys():
            raise SightlineError(f"{source} annotates {min(twice)!r} in {entries[at].image} twice, also as {name!r}.")
        else:
            owned[at] |= regions
    if not any(owned):
        raise SightlineError(
            f"{source} annotates no image of the dataset, but {some(list(found)) or 'none'}. The dataset has "
            f"{some([entry.image.name for entry in entries])}."
        )
    if strangers:
        log.warning("%s: %d annotated images are not in the dataset: %s.", source, len(strangers), some(strangers))
    return owned


class Finder:
    """Images by the names their files have."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.images = [entry.image for entry in entries]
        self.names: dict[str, list[int]] = {}
        self.stems: dict[str, list[int]] = {}
        for at, image in enumerate(self.images):
            self.names.setdefault(image.name, []).append(at)
            self.stems.setdefault(stem(image.name), []).append(at)

    def find(self, name: str, source: object) -> int | None:
        """The number of the image a name means; None where it means none.

        Raises:
            SightlineError: it means several.
        """
        path = PureWindowsPath(name)
        near = self.names.get(path.name) or self.stems.get(path.name) or self.stems.get(stem(path.name)) or []
        shared = [agreement(path, self.images[at]) for at in near]
        best = [at for at, folders in zip(near, shared, strict=True) if folders == max(shared)]
        if len(best) > 1:
            raise SightlineError(
                f"{source}: {name!r} may be {self.images[best[0]]} or {self.images[best[1]]}. Name the folder too."
            )
        return best[0] if best else None


def agreement(one: PurePath, other: PurePath) -> int:
    """How many folders agree, counted from the file."""
    pairs = zip(one.parts[-2::-1], other.parts[-2::-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def stem(name: str) -> str:
    """A file's name without the suffix of an image."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in SUFFIXES else name


def choose(entry: Entry, regions: dict[str, Region], classes: set[str]) -> Region | dict[str, Region] | None:
    """What an entry gets of its regions by class, where `classes` of the dataset are annotated."""
    if isinstance(entry.label, tuple):
        return {label: region for label, region in regions.items() if label in classes} or None
    if classes:
        return regions.get(entry.label)
    return Union(tuple(regions.values())) if regions else None
