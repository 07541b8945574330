"""What lies where in a folder of images: its samples, before a pixel is read."""

import csv
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sightline.errors import SightlineError, did_you_mean
from sightline.pictures import SUFFIXES, image_files, subfolders
from sightline.regions import MaskFile, Region

COLUMNS = ("id", "class", "split")
BESIDE = ("masks", "annotations")
"""Folders that stand beside those of splits or classes."""
SPELLINGS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}

log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """What is known of a sample before a pixel is read."""

    id: str
    label: str | tuple[str, ...]
    """Its class; of a multi-label dataset its classes, of which there may be none."""
    split: str
    group: str
    """Empty where it belongs to none."""
    image: Path
    region: Region | Mapping[str, Region] | None = None
    """Where the evidence lies, of a multi-label dataset by class; None where nobody annotated."""


def words(label: str | tuple[str, ...]) -> tuple[str, ...]:
    """The classes of an entry, one or several."""
    return (label,) if isinstance(label, str) else label


def regions(entry: Entry) -> Mapping[str, Region]:
    """Its regions by class; of a single-label dataset the one there is, under an empty name."""
    if entry.region is None:
        return {}
    return entry.region if isinstance(entry.region, Mapping) else {"": entry.region}


def refuse_strangers(entries: Iterable[Entry], classes: Sequence[str]) -> None:
    """Refuse entries of a class that is none of `classes`."""
    known = set(classes)
    for entry in entries:
        for word in words(entry.label):
            if word not in known:
                raise SightlineError(f"{entry.image}: unknown class {word!r}. {did_you_mean(word, classes)}")


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
        f"root: there is no folder {root!r}, nor {str(there)!r}. Give its path (of a run's data: "
        "--override data.root=PATH), or set the environment variable SIGHTLINE_DATA to the folder your datasets lie in."
    )


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


def below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files of these suffixes in `folder` and the folders in it by path, hidden ones left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )


def mask_path(folder: Path, image: Path) -> Path:
    """Where the mask of an image in `folder` lies, if it has one."""
    inner = image.relative_to(folder)
    if inner.parts[0] == "images" and (folder / "splits.csv").exists():
        return folder / "masks" / inner.relative_to("images").with_name(f"{image.stem}.png")
    return folder / "masks" / inner.with_name(f"{image.name}.png")


def from_tree(folder: Path) -> list[Entry]:
    """Samples of `<split>/<class>/<file>` or of `<class>/<file>`; masks of no image are counted in a warning."""
    inner = [path for path in subfolders(folder) if path.name not in BESIDE]
    flat = any(image_files(path) for path in inner)
    masks = set(below(folder / "masks", SUFFIXES))
    splits = {"all": inner} if flat else {SPELLINGS.get(path.name, path.name): subfolders(path) for path in inner}
    entries = [
        Entry(f"{label.name}/{image.name}", label.name, split, "", image, beside(folder, image, masks))
        for split, labels in splits.items()
        for label in labels
        for image in image_files(label)
    ]
    if not entries:
        raise SightlineError(
            f"{folder} holds no images. Lay them out as images/<class>/<id>.jpg with a splits.csv, "
            "as <split>/<class>/<file>, or as <class>/<file>."
        )
    refuse_shared(entries)
    warn_of_rest(folder, "masks", len(masks) - sum(entry.region is not None for entry in entries))
    return entries


def beside(folder: Path, image: Path, masks: set[Path]) -> MaskFile | None:
    """The mask of an image in a tree: `masks/` and its path with ".png" behind, or in place of its suffix."""
    path = mask_path(folder, image)
    places = (path, path.with_name(f"{image.stem}.png"))
    return next((MaskFile(place) for place in places if place in masks), None)


def refuse_shared(entries: Iterable[Entry]) -> None:
    """Refuse a mask that may be either of two images': x.png is of x.jpg, and of x.tif in the same folder."""
    owners: dict[Region, Entry] = {}
    for entry in entries:
        if isinstance(entry.region, MaskFile) and (owner := owners.setdefault(entry.region, entry)) is not entry:
            names = owner.image.name, entry.image.name
            raise SightlineError(
                f"{entry.region.path} may be the mask of {names[0]} or of {names[1]}. Call it {names[0]}.png or "
                f"{names[1]}.png."
            )


def from_table(folder: Path) -> list[Entry]:
    """Samples of `splits.csv`, in its order; files it does not list are counted in a warning."""
    table = folder / "splits.csv"
    rows = read_rows(table)
    images = {label.name: image_files(label) for label in subfolders(folder / "images")}
    masks = set((folder / "masks").glob("*/*.png"))
    refuse_unknown_classes(table, rows, tuple(images))
    files = find_images(table, rows, images)
    drawn = {(path.parent.name, path.stem): MaskFile(path) for path in masks}
    entries = [entry(row, image, drawn.get((row["class"], row["id"]))) for row, image in zip(rows, files, strict=True)]
    warn_of_rest(table, "images", sum(map(len, images.values())) - len(entries))
    every = len(below(folder / "masks", SUFFIXES))
    warn_of_rest(table, "masks", max(every, len(masks)) - sum(entry.region is not None for entry in entries))
    return name_apart(entries)


def entry(row: dict[str, str], image: Path, region: Region | None) -> Entry:
    """The sample a row of `splits.csv` describes."""
    split = SPELLINGS.get(row["split"], row["split"])
    return Entry(row["id"], row["class"], split, row.get("group") or "", image, region)


def name_apart(entries: list[Entry]) -> list[Entry]:
    """Ids with their class in front, if without it two classes share one."""
    if len({entry.id for entry in entries}) == len(entries):
        return entries
    return [entry._replace(id=f"{entry.label}/{entry.id}") for entry in entries]


def read_rows(table: Path) -> list[dict[str, str]]:
    """The rows of `splits.csv`, each with an id, a class and a split, no image twice."""
    rows = read_table(table, COLUMNS)
    refuse_gaps(table, rows)
    return rows


def read_table(table: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a comma-separated file that has at least these columns.

    Raises:
        SightlineError: it cannot be read, is no such text, or lacks a column.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)  # else a quote that nobody closes swallows the lines behind it
            rows, found = list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SightlineError(f"cannot read {table}: {error}. It should be comma-separated text in UTF-8.") from error
    for column in columns:
        if column not in found:
            raise SightlineError(f"{table} has no column {column!r}. {did_you_mean(column, found)}")
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
        named = " A mask is called masks/<class>/<id>.png." if what == "masks" and table.suffix == ".csv" else ""
        log.warning("%s: %d %s in the folder belong to no line and are left out.%s", table, count, what, named)


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
