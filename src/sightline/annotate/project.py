"""A folder of images that people annotate: what is in it, and what they add to it."""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sightline.annotate.canvas import Canvas, Place, read_mask
from sightline.annotate.notes import Notes
from sightline.annotate.operations import Operation
from sightline.errors import SightlineError
from sightline.files import relative, sweep, write_text
from sightline.guidance import coco
from sightline.listing import Entry, find_root, list_entries, mask_path, words
from sightline.pictures import size_of
from sightline.progress import progress_bar
from sightline.regions import MaskFile

NOTEBOOK = "annotations"
"""The folder in the folder of images that holds all but the masks."""

OPEN = 4
"""Canvases that are kept in memory."""


class Project:
    """The images of a folder, by their places in its listing.

    Every method can be called from several threads at once: what concerns one image happens one after the other.

    Args:
        folder: as `sightline.listing.list_entries` reads it; see `find_root` for where it is looked for.

    Raises:
        SightlineError: the folder or a file in it is bad.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder = find_root(str(folder))
        self.entries = list_entries(folder)
        self.keys = [relative(entry.image, folder) for entry in self.entries]
        bar = progress_bar(self.entries, desc="measuring", unit=" images")
        self.sizes = [size_of(entry.image) for entry in bar]
        self.annotated = [entry.region is not None for entry in self.entries]
        self.notes = Notes(folder / NOTEBOOK / "verdicts.csv", self.keys)
        self._canvases: OrderedDict[int, Canvas] = OrderedDict()
        self._locks: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
        self._shared, self._exporting = threading.Lock(), threading.Lock()

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def classes(self) -> list[str]:
        """In alphabetical order."""
        return sorted({label(entry) for entry in self.entries})

    @contextmanager
    def canvas(self, index: int) -> Iterator[Canvas]:
        """The mask of an image, which nobody else changes meanwhile.

        Raises:
            SightlineError: see `Canvas`.
        """
        with self._shared:
            lock = self._locks[index]
        with lock:
            canvas = self._canvases.get(index) or Canvas(self.place(index), self.sizes[index])
            with self._shared:
                self._canvases[index] = canvas
                self._canvases.move_to_end(index)
                while len(self._canvases) > OPEN:
                    self._canvases.popitem(last=False)
            yield canvas

    def place(self, index: int) -> Place:
        """Where the files of an image lie."""
        entry, notebook = self.entries[index], self.folder / NOTEBOOK
        usual = mask_path(self.folder, entry.image)
        key = usual.relative_to(self.folder / "masks").with_suffix("")
        mask = entry.region.path if isinstance(entry.region, MaskFile) else usual
        return Place(mask, notebook / f"{key}.jsonl", notebook / f"{key}.base.png")

    def add(self, index: int, operations: Sequence[Operation], seconds: float) -> tuple[int, bool]:
        """Log and draw operations; the new version, and whether anything is marked now.

        Raises:
            SightlineError: an operation does not fit its log, or a file cannot be written.
        """
        with self.canvas(index) as canvas:
            new = canvas.add(operations)
            self.annotated[index] = bool(canvas.mask.any())
            version = canvas.version
        if new or not operations:
            self.note(index, seconds)
        return version, self.annotated[index]

    def note(self, index: int, seconds: float, **changes: Any) -> None:
        """Add to the time spent on an image, and change what is said of it.

        Raises:
            SightlineError: the table cannot be written.
        """
        if seconds or changes:
            with self._shared:
                self.notes.change(self.keys[index], seconds, **changes)

    def export(self, path: Path) -> None:
        """Write all masks as COCO's run lengths, of the class of their image.

        Raises:
            SightlineError: a mask cannot be read, or the file cannot be written.
        """
        with self._exporting:
            coco.write(path, map(self._masked, range(len(self))))

    def _masked(self, index: int) -> coco.Masked:
        size = self.sizes[index]
        marked = read_mask(self.place(index).mask, size)
        masks = {label(self.entries[index]): marked} if marked.any() else {}
        return coco.Masked(self.keys[index], size, masks)

    def recover(self) -> None:
        """Mend what a killed process left: temporary files, and masks that are older than their log.

        Raises:
            SightlineError: a file cannot be read or written.
        """
        for folder in (self.folder / "masks", self.folder / NOTEBOOK):
            sweep(folder)
        for index in range(len(self)):
            place = self.place(index)
            if place.log.exists() and modified(place.mask) < modified(place.log):
                with self.canvas(index) as canvas:
                    self.annotated[index] = bool(canvas.mask.any())


def label(entry: Entry) -> str:
    """The classes of an image, as one line."""
    return ", ".join(words(entry.label))


def modified(path: Path) -> int:
    """When a file was written; 0 if there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


def now() -> str:
    """The time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder that is about to be written.

    Raises:
        SightlineError: another process holds it, or the folder cannot be written.
    """
    path = folder / NOTEBOOK / ".lock"
    write_text(path.with_name(".writable"), "")
    path.with_name(".writable").unlink()
    try:
        with FileLock(path, blocking=False):
            yield
    except Timeout as error:
        raise SightlineError(
            f"{folder} is being annotated by another process. Open its page, or end it first."
        ) from error
