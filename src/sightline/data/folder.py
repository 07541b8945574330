"""Images in folders, with masks and splits where there are any."""

import csv
import logging
import os
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps
from tqdm import tqdm

from sightline.data.base import SPELLINGS, Flags, Pixels, Size, Source, pair
from sightline.errors import SightlineError, did_you_mean

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
COLUMNS = ("id", "class", "split")
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Pillow's modes of more than 8 bits, which it would clip, not scale, to 8."""

MEMORY = 1.5e9
"""Bytes of decoded images and masks that are kept; of a larger dataset every sample is read when it is needed."""

log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """What is known of a sample before a pixel is read."""

    id: str
    label: str
    split: str
    group: str
    image: Path
    mask: Path | None


class Folder(Source):
    """Images from a folder laid out in one of three ways.

    `images/<class>/<id>.jpg` with a `splits.csv` of the columns id, class, split and, if wanted, group. A mask is
    `masks/<class>/<id>.png`, of its image's size, not zero where the evidence is; an image may have none.
    Without `splits.csv`: `<split>/<class>/<file>`, or `<class>/<file>` with the one split "all". Ids are
    "<class>/<file>" there, and "<class>/<id>" where a `splits.csv` uses an id in two classes.

    Images are resized without regard to their aspect (bilinear, antialiased). A pixel of a resized mask is evidence
    if at least half as much of it is covered as of the pixel covered most: large masks keep their outline, and the
    smallest does not vanish.

    Args:
        root: the folder, or its name under the environment variable SIGHTLINE_DATA (by default "data").
        split: one of the splits that are there.
        size: side of the samples in pixels, or [height, width].
        channels: 3 for colour, 1 for grey.
        mask_fraction: share in [0, 1] of the training masks of each class that are kept.
        label_fraction: share of the training images of each class that show their label; the others say -1.
        seed: says which.
        verify: decode every image of the split at construction, so that a bad file is found before training begins.
            Without it files are read, and found bad, when they are needed.

    Raises:
        SightlineError: the folder, `splits.csv`, an image or a mask is missing or bad; the message says which.
    """

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
        folder = find_root(root)
        entries = list_entries(folder)
        self.name = folder.resolve().name
        self.splits = tuple(dict.fromkeys(entry.split for entry in entries))
        self.classes = tuple(sorted({entry.label for entry in entries}))
        super().__init__(split, mask_fraction, seed, label_fraction)
        self.root = root
        self.size = pair("size", size)
        self.channels = grey_or_colour(channels)
        self.verify = verify
        self._take([entry for entry in entries if entry.split == self.split])
        self._kept = self._decode_all() if verify else []

    def _take(self, entries: list[Entry]) -> None:
        self._entries = entries
        self.ids = tuple(entry.id for entry in entries)
        self.labels = np.array([self.classes.index(entry.label) for entry in entries], np.int64)
        self.groups = np.array([entry.group for entry in entries])
        self.annotate(np.array([entry.mask is not None for entry in entries]))

    def _decode_all(self) -> list[tuple[Pixels, Pixels]]:
        """Decode everything once; keep it if it fits."""
        progress = tqdm(
            self._entries, desc=f"reading {self.name}/{self.split}", unit=" images", leave=False, disable=None
        )
        decoded = (decode(entry, self.size, self.channels) for entry in progress)
        fits = len(self) * self.size[0] * self.size[1] * (self.channels + 1) <= MEMORY
        return list(decoded) if fits else list(deque(decoded, maxlen=0))

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        return self._kept[index] if self._kept else decode(self._entries[index], self.size, self.channels)

    def content(self, index: int) -> bytes:
        """The bytes of the image's and the mask's files."""
        entry = self._entries[index]
        return entry.image.read_bytes() + (entry.mask.read_bytes() if entry.mask else b"")


def grey_or_colour(channels: int) -> int:
    """`channels` if it is 1 or 3.

    Raises:
        SightlineError: it is neither.
    """
    if channels not in (1, 3):
        raise SightlineError(f"channels must be 1 (grey) or 3 (colour), not {channels}.")
    return channels


def find_root(root: str) -> Path:
    """The folder `root`, or the one of that name under SIGHTLINE_DATA.

    Raises:
        SightlineError: there is neither.
    """
    here = Path(root).expanduser()
    there = Path(os.environ.get("SIGHTLINE_DATA", "data")).expanduser() / here
    for folder in (here, there):
        if folder.is_dir():
            return folder
    raise SightlineError(
        f"root: there is no folder {root!r}, nor {str(there)!r}. Give its path, or set the environment variable "
        "SIGHTLINE_DATA to the folder your datasets lie in."
    )


# What lies where -----------------------------------------------------------------------------------------------------


def list_entries(folder: Path) -> list[Entry]:
    """Every sample of every split.

    Raises:
        SightlineError: `splits.csv` is bad, or there are no images.
    """
    if (folder / "splits.csv").exists():
        return from_table(folder)
    if (folder / "images").is_dir():
        raise SightlineError(
            f"{folder} has images/ but no splits.csv. Write one with the columns {', '.join(COLUMNS)}."
        )
    return from_tree(folder)


def from_tree(folder: Path) -> list[Entry]:
    """Samples of `<split>/<class>/<file>` or of `<class>/<file>`."""
    flat = any(image_files(inner) for inner in subfolders(folder))
    splits = [("all", folder)] if flat else [(SPELLINGS.get(f.name, f.name), f) for f in subfolders(folder)]
    entries = [
        Entry(f"{label.name}/{image.name}", label.name, split, "", image, None)
        for split, root in splits
        for label in subfolders(root)
        for image in image_files(label)
    ]
    if not entries:
        raise SightlineError(
            f"{folder} holds no images. Lay them out as images/<class>/<id>.jpg with a splits.csv, "
            "as <split>/<class>/<file>, or as <class>/<file>."
        )
    return entries


def from_table(folder: Path) -> list[Entry]:
    """Samples of `splits.csv`, in its order; files it does not list are counted in a warning."""
    table = folder / "splits.csv"
    rows = read_rows(table)
    images = {label.name: image_files(label) for label in subfolders(folder / "images")}
    masks = set((folder / "masks").glob("*/*.png"))
    refuse_unknown_classes(table, rows, tuple(images))
    files = find_images(table, rows, images)
    entries = [entry(folder, row, image, masks) for row, image in zip(rows, files, strict=True)]
    warn_of_rest(table, "images", sum(map(len, images.values())) - len(entries))
    warn_of_rest(table, "masks", len(masks) - sum(entry.mask is not None for entry in entries))
    return name_apart(entries)


def entry(folder: Path, row: dict[str, str], image: Path, masks: set[Path]) -> Entry:
    """The sample a row of `splits.csv` describes."""
    mask = folder / "masks" / row["class"] / f"{row['id']}.png"
    split = SPELLINGS.get(row["split"], row["split"])
    return Entry(row["id"], row["class"], split, row.get("group") or "", image, mask if mask in masks else None)


def name_apart(entries: list[Entry]) -> list[Entry]:
    """Ids with their class in front, if without it two classes share one."""
    if len({entry.id for entry in entries}) == len(entries):
        return entries
    return [entry._replace(id=f"{entry.label}/{entry.id}") for entry in entries]


def read_rows(table: Path) -> list[dict[str, str]]:
    """The rows of `splits.csv`, each with an id, a class and a split, no image twice."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SightlineError(f"cannot read {table}: {error}. It should be comma-separated text in UTF-8.") from error
    for column in COLUMNS:
        if column not in columns:
            raise SightlineError(f"{table} has no column {column!r}. {did_you_mean(column, columns)}")
    refuse_gaps(table, rows)
    return rows


def refuse_gaps(table: Path, rows: list[dict[str, str]]) -> None:
    """Refuse empty cells, images listed twice and a table without rows."""
    for line, row in enumerate(rows, start=2):
        for column in COLUMNS:
            if not row[column]:
                raise SightlineError(f"{table}, line {line}: {column} is empty. Fill it in or delete the line.")
    twice = [name for name, count in Counter(f"{row['class']}/{row['id']}" for row in rows).items() if count > 1]
    if twice:
        raise SightlineError(
            f"{table} lists {some(twice)} more than once. Audits are joined by id: keep one line each."
        )
    if not rows:
        raise SightlineError(f"{table} lists no images.")


def refuse_unknown_classes(table: Path, rows: list[dict[str, str]], known: tuple[str, ...]) -> None:
    """Refuse a class without a folder under `images`."""
    for line, row in enumerate(rows, start=2):
        if row["class"] not in known:
            raise SightlineError(
                f"{table}, line {line}: unknown class {row['class']!r}, there is no folder "
                f"{table.parent / 'images' / row['class']}. {did_you_mean(row['class'], known)}"
            )


def find_images(table: Path, rows: list[dict[str, str]], images: dict[str, list[Path]]) -> list[Path]:
    """The file of each row; refuse a row that has none or two of different suffixes."""
    found: dict[tuple[str, str], list[Path]] = {}
    for path in (path for paths in images.values() for path in paths):
        found.setdefault((path.parent.name, path.stem), []).append(path)
    files = [found.get((row["class"], row["id"]), []) for row in rows]
    missing = [f"images/{row['class']}/{row['id']}.jpg" for row, paths in zip(rows, files, strict=True) if not paths]
    if missing:
        raise SightlineError(
            f"{table} lists {len(missing)} image(s) that are not there with any of the suffixes {', '.join(SUFFIXES)}: "
            f"{some(missing)}. Add the files or delete the lines."
        )
    for paths in files:
        if len(paths) > 1:
            raise SightlineError(f"{paths[0]} and {paths[1].name} have the same id. Rename or remove one.")
    return [path for (path,) in files]


def warn_of_rest(table: Path, what: str, count: int) -> None:
    """Say how many files nothing refers to."""
    if count:
        log.warning("%s: %d %s in the folder belong to no line and are left out.", table, count, what)


def some(names: list[str]) -> str:
    """The first few names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def subfolders(folder: Path) -> list[Path]:
    """Folders in `folder` by name, hidden ones left out."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """Images in `folder` by name, hidden ones left out."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


# What the files show -------------------------------------------------------------------------------------------------


def decode(entry: Entry, size: tuple[int, int], channels: int) -> tuple[Pixels, Pixels]:
    """Image (H, W, C) and mask (H, W) of zeros and ones, at `size`; ones where there is no mask.

    Raises:
        SightlineError: a file is damaged, the mask is empty or not of its image's size.
    """
    image = open_picture(entry.image)
    mask = np.ones(size, np.uint8) if entry.mask is None else shrink(read_mask(entry.mask, image.size), size)
    return resized(image, size, channels), mask


def open_picture(path: Path) -> Image.Image:
    """The decoded image, if 8 bits say all it holds.

    Raises:
        SightlineError: the file is no image, damaged, or has more bits per channel.
    """
    image = open_image(path)
    if image.mode in DEEP:
        raise SightlineError(f"{path} has more than 8 bits per channel. Scale it to 8 and save it again.")
    return image


def resized(image: Image.Image, size: tuple[int, int], channels: int) -> Pixels:
    """(H, W, C) at `size`, in grey or colour."""
    small = image.convert("L" if channels == 1 else "RGB").resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(small).reshape(*size, channels)


def open_image(path: Path) -> Image.Image:
    """The decoded image, turned as its EXIF orientation says.

    Raises:
        SightlineError: the file is no image, or damaged.
    """
    try:
        with refuse_truncated(), Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except Exception as error:  # every decoder has its own way to say that a file is damaged
        raise SightlineError(f"{path} cannot be read as an image ({error}). Replace it or leave it out.") from error


@contextmanager
def refuse_truncated() -> Iterator[None]:
    """Have Pillow raise on a truncated file even if other code told it to fill the rest with grey."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def read_mask(path: Path, size: tuple[int, int]) -> Flags:
    """Where the mask is not zero, (H, W); `size` is its image's (W, H).

    Raises:
        SightlineError: it is damaged, empty or of another size.
    """
    mask = open_image(path)
    if mask.size != size:
        raise SightlineError(
            f"{path} is {mask.width} x {mask.height} pixels, its image {size[0]} x {size[1]}. "
            "A mask must be as large as its image."
        )
    values = np.asarray(mask if mask.mode in ("1", "L", "P", *DEEP) else mask.convert("RGB"))
    marked = values.reshape(*values.shape[:2], -1).any(-1)
    if not marked.any():
        raise SightlineError(
            f"{path} is empty: no pixel differs from 0. If nobody annotated the image, delete the mask."
        )
    return np.asarray(marked)


def shrink(mask: Flags, size: tuple[int, int]) -> Pixels:
    """`mask` at `size`: ones where the covered share of a pixel is at least half of the largest such share."""
    share = Image.fromarray(mask.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)
    covered = np.asarray(share)
    return np.asarray(covered >= covered.max() / 2, np.uint8)
