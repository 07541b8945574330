"""One self-contained HTML page with all that was found, and pictures of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from sightline.datacheck import drawings
from sightline.datacheck import findings as found
from sightline.datacheck.checking import Checked, annotated, counted, splits
from sightline.datacheck.facts import Facts, shown
from sightline.datacheck.samples import Sample
from sightline.pictures import Pixels
from sightline.report import pictures
from sightline.report.html import rendered

CLASSES, IN_ROW = 20, 8
"""Classes that are pictured, and images of each."""
PAIRS, EXAMPLES = 8, 4
"""Pairs of copies, and images of each kind of odd file."""
SMALL = 160
"""Longest side of an example in pixels."""


@dataclass(frozen=True)
class Picture:
    """An image on the page."""

    src: str
    caption: str


@dataclass(frozen=True)
class Row:
    """A class: some of its images, and their mean."""

    label: str
    images: str
    mean: str
    count: int


def page(checked: Checked) -> str:
    """The HTML."""
    return rendered("sightline.datacheck", _content(checked))


def _content(checked: Checked) -> dict[str, Any]:
    return {
        "checked": checked,
        "findings": checked.findings,
        "rule": found,
        "heat": _heat(checked),
        "bars": _bars(checked),
        "rows": list(_rows(checked)),
        "pairs": list(_pairs(checked)),
        "odd": dict(_odd(checked)),
        "broken": [(row, of) for row, of in _both(checked) if of.broken or of.bad_masks],
        "counted": _counted(checked),
        "splits": splits(checked),
        "spoken": found.spoken,
        "plural": found.plural,
    }


def _both(checked: Checked) -> Iterator[tuple[Sample, Facts]]:
    return zip(checked.rows, checked.facts, strict=True)


def _heat(checked: Checked) -> Markup | None:
    views = [of.view for row, of in _both(checked) if of.view is not None and row.split == checked.trained_on]
    return (
        None
        if checked.cells is None
        else drawings.heat(checked.cells, checked.chance, pictures.plain(_greyed(_mean(views))))
    )


def _bars(checked: Checked) -> Markup | None:
    parts = [
        ("must not tell it", checked.judged, 2),
        ("of the file, or as a whole", checked.facts_judged, 4),
        ("may tell it", checked.references, 0),
    ]
    return drawings.bars(parts, checked.chance) if checked.judged else None


def _rows(checked: Checked) -> Iterator[Row]:
    """Of the split that was probed, as the probes see it."""
    for label in checked.samples.classes[:CLASSES]:
        views = [
            of.view
            for row, of in _both(checked)
            if of.view is not None and row.split == checked.trained_on and label in row.labels
        ]
        if views:
            some = np.concatenate(views[:: max(1, len(views) // IN_ROW)][:IN_ROW], 1)
            mean = pictures.plain(_mean(views), side=len(some))
            yield Row(label, pictures.plain(some, side=some.shape[1]), mean, len(views))


def _mean(views: Sequence[Pixels]) -> Pixels:
    return np.asarray(np.mean(views, 0).round(), np.uint8)


def _greyed(image: Pixels) -> Pixels:
    """Without colour, so that the heat map's own can be seen."""
    return np.repeat(image.mean(-1, keepdims=True).astype(np.uint8), 3, -1)


def _pairs(checked: Checked) -> Iterator[tuple[str, Picture, Picture]]:
    """Those that cross from training into another split first, then those of two classes."""
    rows, copies = checked.rows, checked.copies

    def rank(k: int) -> tuple[bool, bool]:
        a, b = (rows[i] for i in copies.pairs[k])
        return not (a.split != b.split and checked.trained_on in (a.split, b.split)), a.labels == b.labels

    for k in sorted(range(len(copies.pairs)), key=rank)[:PAIRS]:
        a, b = (_picture(rows[i]) for i in copies.pairs[k])
        yield "every pixel alike" if copies.exact[k] else "nearly alike", a, b


def _odd(checked: Checked) -> Iterator[tuple[str, list[Picture]]]:
    """Of each kind that is not the rule."""
    for kind in checked.kinds:
        rows = [row for row, of in _both(checked) if kind in of.odd]
        if len(rows) < len(checked.rows) / 2:
            yield f"{kind}: {len(rows):,}", [_picture(row) for row in rows[:EXAMPLES]]


def _picture(row: Sample) -> Picture:
    image = np.asarray(shown(row.load()[0]))
    return Picture(pictures.plain(image, side=SMALL), f"{row.split}/{row.id}, {', '.join(row.labels)}")


def _counted(checked: Checked) -> list[tuple[str, list[tuple[int, int]]]]:
    """(class, [(images, images with a mask) of each split])."""
    images, masks = counted(checked), annotated(checked)
    return [(c, [(images[s][c], masks[s][c]) for s in splits(checked)]) for c in checked.samples.classes]
