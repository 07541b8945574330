"""What datasets of image files share: a subclass lists its entries, they are decoded here."""

from collections import deque
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from PIL import Image

from sightline.data.base import Size, Source, pair
from sightline.errors import SightlineError
from sightline.files import bytes_in
from sightline.listing import Entry, refuse_strangers, regions, words
from sightline.pictures import Pixels, open_picture, resized, shrink
from sightline.progress import progress_bar

MEMORY = 1.5e9
"""Bytes of decoded images and masks that are kept; of a larger dataset every sample is read when it is needed."""


class Listed(Source):
    """A dataset whose samples are entries, each with its evidence as a `Region`, or with none.

    A subclass sets `name`, and `root` and further arguments under their own names, hands over the entries of all
    splits, and defines `decode`. Labels are (N,) where every entry's is a word, (N, classes) zeros and ones where they
    are tuples of words.

    Args:
        entries: every sample of every split.
        size: of every sample.
        split, channels, mask_fraction, label_fraction, seed, verify: see `Folder`.
        classes: in the order of their numbers; None for those that occur, in alphabetical order.
        splits: None for those that occur, in the order in which they do.

    Raises:
        SightlineError: an argument, an image or its evidence is bad; the message says which.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        split: str,
        size: tuple[int, ...],
        channels: int,
        mask_fraction: float,
        label_fraction: float,
        seed: int,
        verify: bool,
        classes: Sequence[str] | None = None,
        splits: Sequence[str] | None = None,
    ) -> None:
        self.splits = tuple(splits or dict.fromkeys(entry.split for entry in entries))
        self.classes = tuple(classes or sorted({word for entry in entries for word in words(entry.label)}))
        refuse_strangers(entries, self.classes)
        super().__init__(split, mask_fraction, seed, label_fraction)
        self.size = size
        self.channels = grey_or_colour(channels)
        self.verify = verify
        self._entries = [entry for entry in entries if entry.split == self.split]
        self.ids = tuple(entry.id for entry in self._entries)
        self.labels = self._labelled(any(isinstance(entry.label, tuple) for entry in entries))
        self.groups = np.array([entry.group for entry in self._entries], np.str_)
        self.annotate(np.array([entry.region is not None for entry in self._entries], np.bool_))
        self._kept = self._decode_all() if verify else []

    @property
    def entries(self) -> Sequence[Entry]:
        """What is known of the split's samples before a pixel is read."""
        return self._entries

    def decode(self, entry: Entry) -> tuple[Pixels, Pixels]:
        """Image and mask of an entry, as `read` returns them."""
        raise NotImplementedError

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        return self._kept[index] if self._kept else self.decode(self._entries[index])

    def content(self, index: int) -> bytes:
        """The bytes of the image's file, or of the files of its folder, and of what is known of its evidence."""
        entry = self._entries[index]
        return bytes_in(entry.image) + b"".join(region.content() for region in regions(entry).values())

    def _labelled(self, several: bool) -> "np.ndarray[tuple[int, ...], np.dtype[np.int64]]":
        number = {name: i for i, name in enumerate(self.classes)}
        if not several:
            return np.array([number[str(entry.label)] for entry in self._entries], np.int64)
        labels = np.zeros((len(self._entries), len(self.classes)), np.int64)
        for row, entry in zip(labels, self._entries, strict=True):
            row[[number[word] for word in words(entry.label)]] = 1
        return labels

    def _decode_all(self) -> list[tuple[Pixels, Pixels]]:
        """Decode everything once; keep it if it fits."""
        progress = progress_bar(self._entries, desc=f"reading {self.name}/{self.split}", unit=" images")
        decoded = map(self.decode, progress)
        masks = 1 if self.labels.ndim == 1 else len(self.classes)
        fits = len(self) * prod(self.size) * (self.channels + masks) <= MEMORY
        return list(decoded) if fits else list(deque(decoded, maxlen=0))


class Filed(Listed):
    """A dataset of image files, resized as `Folder` says; see `Listed`."""

    size: tuple[int, int]

    def __init__(
        self,
        entries: Sequence[Entry],
        split: str,
        size: Size,
        channels: int,
        mask_fraction: float,
        label_fraction: float,
        seed: int,
        verify: bool,
        classes: Sequence[str] | None = None,
        splits: Sequence[str] | None = None,
    ) -> None:
        sides = pair("size", size)
        super().__init__(entries, split, sides, channels, mask_fraction, label_fraction, seed, verify, classes, splits)

    def picture(self, entry: Entry) -> Image.Image:
        """The image of an entry, as large as its evidence is drawn."""
        return open_picture(entry.image)

    def decode(self, entry: Entry) -> tuple[Pixels, Pixels]:
        """Image (H, W, C) and mask (H, W), or (classes, H, W) where regions have classes, of zeros and ones."""
        image = self.picture(entry)
        drawn = {name: shrink(r.draw(image.size[::-1]), self.size) for name, r in regions(entry).items()}
        return resized(image, self.size, self.channels), self._mask(entry, drawn)

    def _mask(self, entry: Entry, drawn: Mapping[str, Pixels]) -> Pixels:
        """What is drawn by class; ones everywhere where nobody annotated."""
        if entry.region is None:
            return np.ones(self.size if self.labels.ndim == 1 else (len(self.classes), *self.size), np.uint8)
        if self.labels.ndim == 1:
            return drawn[""]
        nowhere = np.zeros(self.size, np.uint8)
        return np.stack([drawn.get(name, nowhere) for name in self.classes])


def grey_or_colour(channels: int) -> int:
    """`channels` if it is 1 or 3.

    Raises:
        SightlineError: it is neither.
    """
    if channels not in (1, 3):
        raise SightlineError(f"channels must be 1 (grey) or 3 (colour), not {channels}.")
    return channels
