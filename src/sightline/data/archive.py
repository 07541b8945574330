"""Datasets that are read as their authors publish them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from PIL import Image

from sightline.data.base import Size
from sightline.data.filed import Filed
from sightline.errors import SightlineError
from sightline.listing import Entry, find_root
from sightline.pictures import open_picture

SPLITS = ("train", "val", "test")


class Archive(Filed):
    """A dataset in the layout it is published in. A subclass sets `name` and `home`, and defines `listed`.

    Args:
        root: the folder the published files lie in, or its name under the environment variable SIGHTLINE_DATA.
        split, size, channels, mask_fraction, label_fraction, seed, verify: see `Folder`.

    Raises:
        SightlineError: a file is missing or damaged, or is not as it is published; the message says which.
    """

    home: ClassVar[str]
    """Where the files come from, for whoever misses one."""

    def __init__(
        self,
        root: str,
        split: str = "train",
        size: Size = 224,
        channels: int = 3,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        self.root = root
        folder = find_root(root)
        with self._as_published(folder):
            entries, classes = self.listed(folder), self.named(folder)
        found = {entry.split for entry in entries}
        super().__init__(
            entries,
            split,
            size,
            channels,
            mask_fraction,
            label_fraction,
            seed,
            verify,
            classes=classes,
            splits=sorted(found, key=[*SPLITS, *sorted(found)].index),
        )

    def listed(self, folder: Path) -> list[Entry]:
        """Every sample of every split, before a pixel is read.

        A `LookupError`, `TypeError` or `ValueError` raised here or in `named` is reported as files that are not as they
        are published.
        """
        raise NotImplementedError

    def picture(self, entry: Entry) -> Image.Image:
        """The image as it is stored: what looks at published images heeds no EXIF orientation, nor did annotators."""
        return open_picture(entry.image, turned=False)

    def named(self, folder: Path) -> Sequence[str] | None:
        """Classes in the published order of their numbers; None for the alphabetical order."""
        return None

    @contextmanager
    def _as_published(self, folder: Path) -> Iterator[None]:
        try:
            yield
        except SightlineError:
            raise
        except (LookupError, TypeError, ValueError) as error:
            raise SightlineError(
                f"{folder} does not hold {self.name} as it is published ({error!r}). Expected {self.home}."
            ) from error
