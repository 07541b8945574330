"""The page's charts: probes with their intervals, and where in the image the label can be read."""

from collections.abc import Sequence
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from sightline.datacheck.findings import spoken
from sightline.datacheck.probes import Probe
from sightline.report.svg import Axis, add, canvas, columns, dot, group, markup, text

WIDTH, STEP, TOP, SIDE = 440, 22, 30, 440

Part = tuple[str, Sequence[Probe], int]
"""A heading, its probes, and the number of their colour."""


def bars(parts: Sequence[Part], chance: float) -> Markup:
    """Balanced accuracy of each probe, with its interval; chance is a dotted line."""
    parts = [part for part in parts if part[1]]
    height = TOP + sum(STEP * (1 + len(probes)) for _, probes, _ in parts) + 34
    words = "; ".join(f"{p.name} {p.score.value or 0:.2f}" for _, probes, _ in parts for p in probes)
    svg = canvas(WIDTH, height, f"Balanced accuracy of linear probes: {words}.")
    x = Axis(0, 1, 156, WIDTH - 46)
    text(svg, 0, 15, "Balanced accuracy →", "title")
    columns(svg, x, TOP, height - 28, lambda value: f"{value:.2g}")
    add(svg, "line", x1=x(chance), x2=x(chance), y1=TOP, y2=height - 28, class_="reference")
    text(svg, x(chance) + 4, TOP - 4, "chance", "note")
    y = TOP + 6.0
    for heading, probes, colour in parts:
        text(svg, 0, y + 14, heading, "note")
        for k, probe in enumerate(probes, start=1):
            _line(group(svg, colour), probe, colour, x, y + STEP * (k + 0.5))
        y += STEP * (1 + len(probes))
    return markup(svg)


def _line(parent: ET.Element, probe: Probe, colour: int, x: Axis, y: float) -> None:
    score = probe.score
    text(parent, 0, y + 4, probe.name, "number")
    text(parent, WIDTH, y + 4, f"{score.value or 0:.2f}", "number end")
    if score.low is not None and score.high is not None:
        add(parent, "line", x1=x(score.low), x2=x(score.high), y1=y, y2=y, class_="bar")
    dot(parent, colour, x(score.value or 0), y, 5, f"{probe.name}: {spoken(score.value, score.low, score.high)}")


def heat(cells: npt.NDArray[np.float64], chance: float, mean: str) -> Markup:
    """Each cell's balanced accuracy over the mean image: the stronger the colour, the more it gains over chance.

    The colour is full at the best cell's gain, or at a quarter of what there is to gain where no cell has as much.
    """
    svg = canvas(SIDE, SIDE, f"Balanced accuracy of each cell, at most {cells.max():.2f}, chance {chance:.2f}.")
    add(svg, "image", href=mean, x=0.0, y=0.0, width=float(SIDE), height=float(SIDE), preserveAspectRatio="none")
    step, coloured, most = SIDE / len(cells), group(svg, 2), max(0.25, (cells.max() - chance) / (1 - chance))
    for (row, column), value in np.ndenumerate(cells):
        lift = max(0.0, (value - chance) / (1 - chance))
        place = {"x": column * step, "y": row * step, "width": step, "height": step}
        add(coloured, "rect", **place, class_="cell", fill_opacity=f"{0.85 * lift / most:.2f}")
        text(svg, (column + 0.5) * step, (row + 0.5) * step + 4, f"{value:.2f}".lstrip("0"), "number halo middle")
    return markup(svg)
