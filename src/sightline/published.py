"""What published datasets share: the files they must hold, tables of words, MATLAB's structures, a validation split."""

from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

from scipy.io import loadmat

from sightline.errors import SightlineError, did_you_mean
from sightline.guidance import voc
from sightline.guidance.content import load
from sightline.listing import Entry, words
from sightline.regions import Boxes, Region


def required(path: Path, home: str) -> Path:
    """`path`, if it is there.

    Raises:
        SightlineError: it is not; the message says where the dataset comes from.
    """
    if not path.exists():
        raise SightlineError(f"{path} is not there. Lay the files out as they are published: {home}.")
    return path


def table(path: Path, home: str, columns: int = 2) -> list[list[str]]:
    """The lines of a text file, each split at white space into `columns` words; the last one may hold spaces.

    Raises:
        SightlineError: the file is missing, or a line has fewer words.
    """
    rows = [line.split(maxsplit=columns - 1) for line in text(path, home).splitlines() if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) != columns:
            raise SightlineError(f"{path}, line {number}: expected {columns} words, found {' '.join(row)!r}.")
    return [[word.strip() for word in row] for row in rows]


class Table(dict[str, str]):
    """A text file of two columns: what stands behind the first word of each line.

    Raises:
        SightlineError: the file is missing, a line has one word, or no line begins with a word that is looked up.
    """

    def __init__(self, path: Path, home: str) -> None:
        super().__init__((first, rest) for first, rest in table(path, home))
        self.path = path

    def __missing__(self, key: str) -> str:
        raise SightlineError(f"{self.path} has no line for {key!r}. The file is damaged, or of another edition.")


def text(path: Path, home: str) -> str:
    """A text file in UTF-8.

    Raises:
        SightlineError: it is missing or holds something else.
    """
    try:
        return required(path, home).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SightlineError(f"cannot read {path}: {error}. It should be text in UTF-8.") from error


def matlab(path: Path, home: str, variable: str) -> Any:
    """One variable of a MATLAB file, structures as dicts and cells as lists.

    Raises:
        SightlineError: the file is missing, is not MATLAB's up to version 7.2, or lacks the variable.
    """
    required(path, home)
    try:
        return loadmat(path, variable_names=[variable], simplify_cells=True)[variable]
    except Exception as error:  # scipy passes on whatever its parser stumbles over
        raise SightlineError(f"{path} cannot be read as a MATLAB file that holds {variable!r} ({error!r}).") from error


def records(structure: Any) -> list[dict[str, Any]]:
    """The members of a MATLAB structure; one that has only one is no list when it is read."""
    return [structure] if isinstance(structure, dict) else list(structure)


def one_based(corners: Iterable[str | float]) -> Boxes:
    """A box (left, top, right, bottom) of pixels counted from 1, the last ones inside."""
    left, top, right, bottom = map(float, corners)
    return Boxes(((left - 1, top - 1, right, bottom),))


def boxes_in(path: Path) -> Mapping[str, Region]:
    """The boxes in a file in PASCAL VOC's form, by the names of the objects; difficult ones are left out.

    Raises:
        SightlineError: the file is missing or damaged, or an object has no name or no box.
    """
    content = load(path)
    if not voc.knows(content):
        raise SightlineError(f"{path} holds no annotation in PASCAL VOC's form.")
    for thing in (tree := content.first()).findall("object"):
        if thing.findtext("difficult") == "1":
            tree.remove(thing)
    (regions,) = voc.parse(content).values()
    return regions


def boxes_by_name(things: Iterable[tuple[str, Sequence[float]]]) -> dict[str, Boxes]:
    """The boxes (left, top, right, bottom) of each name."""
    named: dict[str, list[tuple[float, float, float, float]]] = {}
    for name, (left, top, right, bottom) in things:
        named.setdefault(name, []).append((float(left), float(top), float(right), float(bottom)))
    return {name: Boxes(tuple(boxes)) for name, boxes in named.items()}


def narrow(entries: Iterable[Entry], only: Sequence[str] | None, classes: Sequence[str]) -> list[Entry]:
    """Samples that show exactly one of the classes `only`, labelled with that one; all as they are if it is None.

    Raises:
        SightlineError: `only` names something else than `classes`.
    """
    for name in only or ():
        if name not in classes:
            raise SightlineError(f"only: there is no class {name!r}. {did_you_mean(name, classes)}")
    return [entry for e in entries if (entry := as_one(e, only))] if only else list(entries)


def as_one(entry: Entry, names: Sequence[str]) -> Entry | None:
    """A sample labelled with the one of `names` it shows, if it shows exactly one."""
    shown = [name for name in names if name in words(entry.label)]
    region = entry.region.get(shown[0]) if len(shown) == 1 and isinstance(entry.region, Mapping) else entry.region
    return entry._replace(label=shown[0], region=region) if len(shown) == 1 else None


def resplit(entries: list[Entry], share: float | None) -> list[Entry]:
    """`entries` as published, or, given a share, with the published "val" part of "train" and that much held out."""
    if share is None:
        return entries
    return hold_out((e._replace(split="train") if e.split == "val" else e for e in entries), share)


def hold_out(entries: Iterable[Entry], share: float) -> list[Entry]:
    """`entries` with `share` of the training samples of each class moved to the split "val", always the same ones.

    Of samples with several classes, `share` of all together. At least one if `share` is not 0, and never all.
    """
    entries = list(entries)
    training: dict[str, list[Entry]] = {}
    for entry in by_digest(entry for entry in entries if entry.split == "train"):
        training.setdefault(entry.label if isinstance(entry.label, str) else "", []).append(entry)
    held = {e.id for members in training.values() for e in members[: portion(len(members), share)]}
    return [e._replace(split="val") if e.split == "train" and e.id in held else e for e in entries]


def whole_groups(entries: Iterable[Entry], shares: Mapping[str, float]) -> list[Entry]:
    """`entries` with their splits drawn anew, always the same way: no group in two of them.

    Of the groups of each class, so many as `shares` says, in the order of their names' SHA-256.
    """
    entries = list(entries)
    classes = {entry.group: entry.label for entry in entries}
    split: dict[str, str] = {}
    for label in dict.fromkeys(classes.values()):
        groups = sorted((name for name in classes if classes[name] == label), key=digest)
        ends = [round(len(groups) * share) for share in accumulate(shares.values())]
        split |= {group: list(shares)[bisect(ends, place)] for place, group in enumerate(groups)}
    return [entry._replace(split=split[entry.group]) for entry in entries]


def by_digest(entries: Iterable[Entry]) -> list[Entry]:
    """`entries` in the order of their ids' SHA-256: as good as random, and the same for all time."""
    return sorted(entries, key=lambda entry: digest(entry.id))


def digest(name: str) -> bytes:
    """The SHA-256 of a name."""
    return sha256(name.encode()).digest()


def portion(count: int, share: float) -> int:
    """`share` of `count`, at least 1 if it is not 0, and never all.

    >>> portion(30, 0.1), portion(3, 0.1), portion(1, 0.1), portion(30, 0)
    (3, 1, 0, 0)
    """
    return min(max(round(share * count), int(share > 0)), count - 1)
