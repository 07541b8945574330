"""Which classes are taken for which: a table of counts, and of many classes a picture and the worst pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from sightline.errors import SightlineError
from sightline.report import pictures
from sightline.report.svg import add, canvas, group, markup, short, text

FEW, MANY, PAIRS = 12, 1000, 8
"""Classes up to which there are counts, classes up to which there is a picture, and how many pairs are named."""

WIDTH, SIDE = 300, 84
TALL = 14
"""Letters of a class that a column has room for, upright."""


@dataclass(frozen=True)
class Confusion:
    """How one run answers the images of one split."""

    run: str
    classes: Sequence[str]
    counts: npt.NDArray[np.int64]
    """(labels, predictions)."""

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Of each label's images; 0 for a label without images."""
        shares: npt.NDArray[np.float64] = self.counts / self.counts.sum(1, keepdims=True).clip(1)
        return shares

    @property
    def pairs(self) -> list[tuple[str, str, int, int]]:
        """The most frequent mistakes as (label, prediction, how many, of how many), the most frequent first."""
        wrong = self.counts * (1 - np.eye(len(self.classes), dtype=np.int64))
        label, prediction = np.unravel_index(np.argsort(-wrong, axis=None, kind="stable")[:PAIRS], wrong.shape)
        of = self.counts.sum(1)
        return [
            (self.classes[i], self.classes[j], int(wrong[i, j]), int(of[i]))
            for i, j in zip(label, prediction, strict=True)
            if wrong[i, j]
        ]

    @property
    def few(self) -> bool:
        """Whether every count can be shown."""
        return len(self.classes) <= FEW

    @property
    def picture(self) -> str | None:
        """The shares as a picture; None for more classes than a page has pixels for."""
        return pictures.shares(self.shares) if len(self.classes) <= MANY else None


def confusion(run: str, classes: Sequence[str], decided: Mapping[tuple[str, str], int]) -> Confusion:
    """The table of what was decided: (label, prediction) -> how many images.

    Raises:
        SightlineError: a name that is no class.
    """
    place = {name: k for k, name in enumerate(classes)}
    if unknown := {name for pair in decided for name in pair} - place.keys():
        raise SightlineError(
            f"the scores of {run} name {min(unknown)!r}, which is no class. Run `sightline audit` again."
        )
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for (label, prediction), count in decided.items():
        counts[place[label], place[prediction]] += count
    return Confusion(run, classes, counts)


def table(of: Confusion, split: str, colour: int) -> Markup:
    """The counts of a few classes, labels down and predictions across, the more opaque the larger the label's share."""
    step, longest = (WIDTH - SIDE) / len(of.classes), max(map(len, of.classes))
    upright = 7 * longest > step
    head = 34 + 7 * min(TALL, longest) if upright else 44
    svg = canvas(WIDTH, head + WIDTH - SIDE, _words(of, split))
    text(svg, 0, 15, of.run, "title")
    text(svg, WIDTH, 15, "prediction", "note end")
    text(svg, SIDE - 8, head - 8, "label", "note end")
    # Three fifths of its size is what a digit is wide.
    cells = add(group(svg, colour), "g", font_size=min(13.0, 1.35 * step / len(str(of.counts.max()))))
    for k, name in enumerate(of.classes):
        text(svg, SIDE - 8, head + step * (k + 0.5) + 4, short(name, 11), "tick end")
        _heading(svg, SIDE + step * (k + 0.5), head - 8, short(name, TALL) if upright else name, upright)
        for j, share in enumerate(of.shares[k]):
            _cell(cells, (SIDE + step * j, head + step * k), step - 1.5, float(share), int(of.counts[k, j]))
    return markup(svg)


def _heading(svg: ET.Element, x: float, y: float, words: str, upright: bool) -> None:
    if upright:
        add(svg, "text", transform=f"translate({x + 4:.1f} {y:.1f}) rotate(-90)", class_="tick").text = words
    else:
        text(svg, x, y, words, "tick middle")


def _cell(parent: ET.Element, corner: tuple[float, float], size: float, share: float, count: int) -> None:
    x, y = corner
    # Faint enough at its strongest for the number to be read.
    add(parent, "rect", x=x, y=y, width=size, height=size, class_="cell", fill_opacity=f"{0.06 + 0.5 * share:.3f}")
    if count:
        text(parent, x + size / 2, y + size / 2, str(count), "number count")


def _words(of: Confusion, split: str) -> str:
    rows = (
        f"{name}: " + (", ".join(f"{n} {of.classes[j]}" for j, n in enumerate(row) if n) or "no images")
        for name, row in zip(of.classes, of.counts.tolist(), strict=True)
    )
    return f"What {of.run} predicts on {split}, label by label. {'; '.join(rows)}."
