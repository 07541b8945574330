"""Lines: curves of metrics with their intervals, and what training logged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from xml.etree import ElementTree as ET

from markupsafe import Markup

from sightline import catalogue
from sightline.catalogue import Metric, base
from sightline.report.read import Split
from sightline.report.svg import Axis, LogAxis, add, canvas, dot, frame, group, markup, span, text

Colours = Mapping[str, int]
Point = tuple[float, float]

WIDTH, HEIGHT = 300, 200
FEW = 8
"""Points that are all read aloud and marked; of more, the first, the middle and the last."""


@dataclass(frozen=True)
class Kind:
    """What lies along the axes of a metric's curve."""

    x: str = ""
    y: str = ""
    log: bool = False


_ATTACK = Kind("largest change of a pixel, in 255ths", "accuracy, %", log=True)
_BRIGHTNESS = "brightness, in that of the image"
KINDS = {
    "insertion": Kind("share of the pixels shown", "probability"),
    "deletion": Kind("share of the pixels taken", "probability"),
    "topk": Kind("entries taken", "drop of probability", log=True),
    "fgsm": _ATTACK,
    "pgd": _ATTACK,
    "sanity": Kind("share of the layers that are random", "rank correlation"),
    "flips_brightness": Kind(_BRIGHTNESS, "changed predictions, %"),
    "stability_brightness": Kind(_BRIGHTNESS, "similarity of maps"),
}


@dataclass(frozen=True)
class Line:
    """A mean curve, the interval at each of its places where one is known, and of how many images it is."""

    points: Sequence[Point]
    low: Sequence[Point]
    high: Sequence[Point]
    n: int

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Self:
        """From JSON; places where nothing is defined are left out."""
        mean, low, high = (
            [(float(at), end) for at, end in zip(value["axis"], value[key], strict=True) if end is not None]
            for key in ("mean", "low", "high")
        )
        return cls(mean, low, high, value["n"])


def drawn(split: Split, others: bool = False) -> list[str]:
    """The curves there are for a split: of the first explainer and of no map, or those of the others."""
    every = dict.fromkeys(key for audit in split.audits.values() for key in audit.summary.get("curves", {}))
    return [key for key in every if ("@" in key) == others and len(_lines(split, key)) > 0]


def metric_curve(split: Split, key: str, colours: Colours) -> Markup:
    """One metric's mean curve, a line with its interval for each run."""
    of, kind, lines = catalogue.metric(key), KINDS.get(base(key), Kind()), _lines(split, key)
    svg = canvas(WIDTH, HEIGHT, f"{of.title} on {split.name}. {_words(lines, of, kind)}")
    x, y = _axes(lines, kind.log)
    frame(
        svg,
        x,
        y,
        lambda value: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}",
        lambda value: f"{of.scale * value:.3g}",
        4,
    )
    text(svg, 0, 15, of.title, "title")
    text(svg, WIDTH - 12, 15, " ".join(filter(None, (kind.y, "↑" if of.higher else "↓"))), "note end")
    text(svg, x.end, HEIGHT - 5, kind.x, "note end")
    for run, line in lines.items():
        _with_band(group(svg, colours[run]), run, line, x, y, colours[run])
    return markup(svg)


def _lines(split: Split, key: str) -> dict[str, Line]:
    """By run; a curve of fewer than two places is none."""
    found = {run: audit.summary.get("curves", {}).get(key) for run, audit in split.audits.items()}
    lines = {run: Line.of(value) for run, value in found.items() if value}
    return {run: line for run, line in lines.items() if len(line.points) > 1}


def _axes(lines: Mapping[str, Line], log: bool) -> tuple[Axis, Axis]:
    places = sorted({at for line in lines.values() for at, _ in line.points})
    values = [value for line in lines.values() for _, value in [*line.points, *line.low, *line.high]]
    ends = (places[0], places[-1], 46, WIDTH - 12)
    x = LogAxis(*ends, tuple(places)) if log and places[0] > 0 else Axis(*ends)
    return x, Axis(*span(values, least=0.05), HEIGHT - 42, 28)


def _with_band(parent: ET.Element, run: str, line: Line, x: Axis, y: Axis, colour: int) -> None:
    if line.low:
        add(parent, "polygon", points=_path([*line.low, *reversed(line.high)], x, y), class_="band")
    add(parent, "polyline", points=_path(line.points, x, y), class_="curve")
    marked = line.points if len(line.points) <= FEW else line.points[-1:]
    for at, value in marked:
        dot(parent, colour, x(at), y(value), 3.5, f"{run}: {value:.3g} at {at:g}")


def _path(points: Sequence[Point], x: Axis, y: Axis) -> str:
    return " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)


def _words(lines: Mapping[str, Line], of: Metric, kind: Kind) -> str:
    axes = f"{kind.y or of.title}{f' by {kind.x}' if kind.x else ''}: "
    return axes + "; ".join(f"{run} {_read(line, of)}, over {line.n} images" for run, line in lines.items()) + "."


def _read(line: Line, of: Metric) -> str:
    points = line.points
    told = points if len(points) <= FEW else (points[0], points[len(points) // 2], points[-1])
    return ", ".join(f"{of.written(value)} at {at:.3g}" for at, value in told)


TWINS = {"val_loss": "ce"}
"""What was measured in validation, and the term of training that is the same quantity."""


@dataclass(frozen=True)
class Logged:
    """A quantity in training, and its twin in validation, each by run."""

    title: str
    trained: Mapping[str, Sequence[Point]]
    twin: str
    validated: Mapping[str, Sequence[Point]]


def logged(of_runs: Mapping[str, Mapping[str, Sequence[Point]]]) -> list[Logged]:
    """What any run logged: the loss, its terms, what was validated alone; each term with its twin."""
    every = dict.fromkeys(name for of_run in of_runs.values() for name, points in of_run.items() if points)
    validated = {TWINS.get(name, name.removeprefix("val_")): name for name in every if name.startswith("val_")}
    twins = {term: name for term, name in validated.items() if term in every}
    alone = [name for name in every if name not in twins.values()]
    order = sorted(alone, key=lambda name: (name.startswith("val_"), name != "loss"))
    return [_logged(name, twins.get(name, ""), of_runs) for name in order]


def _logged(name: str, twin: str, of_runs: Mapping[str, Mapping[str, Sequence[Point]]]) -> Logged:
    trained, validated = ({run: of[key] for run, of in of_runs.items() if of.get(key)} for key in (name, twin))
    return Logged(name, trained, twin, validated)


def training_curve(of: Logged, colours: Colours) -> Markup:
    """One quantity over the epochs, a line for each run that logged it, a dashed one for its twin in validation."""
    every = [*of.trained.items(), *of.validated.items()]
    svg = canvas(WIDTH, 190, f"{_told(of.title, of.trained)}{f' {_told(of.twin, of.validated)}' if of.twin else ''}")
    epochs, values = zip(*(point for _, points in every for point in points), strict=True)
    x = Axis(min(epochs), max(max(epochs), min(epochs) + 1), 46, WIDTH - 12)
    y = Axis(*span(values, least=0.02 * max(map(abs, values)) or 1.0), 152, 28)
    frame(svg, x, y, lambda epoch: f"{epoch:.0f}" if epoch == round(epoch) else "", lambda value: f"{value:.3g}", 4)
    text(svg, 0, 15, of.title, "title")
    text(svg, WIDTH - 12, 15, f"dashed: {of.twin}" if of.twin else "", "note end")
    text(svg, x.end, 185, "epoch", "note end")
    for run, points in of.validated.items():
        add(group(svg, colours[run]), "polyline", points=_path(points, x, y), class_="curve dashed")
    for run, points in of.trained.items():
        line = group(svg, colours[run])
        add(line, "polyline", points=_path(points, x, y), class_="curve")
        dot(line, colours[run], x(points[-1][0]), y(points[-1][1]), 4, run)
    return markup(svg)


def _told(title: str, lines: Mapping[str, Sequence[Point]]) -> str:
    return f"{title} over epochs: {'; '.join(f'{run} ends at {points[-1][1]:.3g}' for run, points in lines.items())}."
