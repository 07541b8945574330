"""Maps against decisions, and decisions by split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from markupsafe import Markup

from sightline.catalogue import Metric
from sightline.report.numbers import ACCURACY, CH, Estimate, interval
from sightline.report.svg import (
    Axis,
    add,
    canvas,
    columns,
    dot,
    frame,
    group,
    markup,
    share_span,
    short,
    text,
)

Colours = Mapping[str, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class Place:
    """One run in the picture of maps against decisions."""

    run: str
    ch: Estimate
    decision: Estimate
    metric: Metric = ACCURACY
    """What says how good the decisions are."""

    def __str__(self) -> str:
        return f"{self.run}, CH {CH.written(self.ch.value)}, {self.metric.title} {_said(self.decision, self.metric)}"


def scatter(
    places: Sequence[Place],
    colours: Colours,
    split: str,
    maps: str,
    even_map: float | None = None,
    chance: float | None = None,
) -> Markup | None:
    """CH against decisions, one mark with interval bars for each run, the baseline first; None where no run has both.

    Args:
        places: the runs; those without CH or decisions are left out.
        colours: run -> number of its colour and shape.
        split: what the images decided on are called.
        maps: what those are called whose maps CH is of.
        even_map: CH of a map that spreads evenly, always drawn as a reference.
        chance: accuracy of guessing, drawn where it lies among the runs.
    """
    places = [place for place in places if None not in (place.ch.value, place.decision.value)]
    if not places:
        return None
    width, height, of = 440, 360, places[0].metric
    svg = canvas(width, height, f"CH on {maps} against {of.title} on {split}: {'; '.join(map(str, places))}.")
    even = [] if even_map is None else [even_map]
    x = Axis(*share_span(_ends([place.ch for place in places]) + even), 44, width - 14)
    y = Axis(*share_span(_ends([place.decision for place in places])), height - 50, 32)
    frame(svg, x, y, lambda v: f"{v:.3g}", lambda v: f"{of.scale * v:.3g}")
    text(svg, 0, 15, f"{of.title} on {split}{_unit(of)} ↑", "title")
    text(svg, x.end, height - 6, f"CH on {maps}, share of the map on the evidence →", "title end")
    _references(svg, x, y, even_map, chance)
    _paths(svg, places, x, y)
    for place in places:
        _cross(group(svg, colours[place.run]), place, x, y, colours[place.run])
    _names(svg, places, x, y, colours)
    return markup(svg)


def _references(svg: ET.Element, x: Axis, y: Axis, even_map: float | None, chance: float | None) -> None:
    if even_map is not None:
        add(svg, "line", x1=x(even_map), x2=x(even_map), y1=y.start, y2=y.end, class_="reference")
        text(svg, x(even_map) + 5, y.end + 11, "even map", "note")
    if chance is not None and y.low < chance < y.high:
        add(svg, "line", x1=x.start, x2=x.end, y1=y(chance), y2=y(chance), class_="reference")
        text(svg, x.end, y(chance) - 5, "chance", "note end")


def _at(place: Place, x: Axis, y: Axis) -> Point:
    return x(place.ch.value or 0.0), y(place.decision.value or 0.0)


def _paths(svg: ET.Element, places: Sequence[Place], x: Axis, y: Axis) -> None:
    """From the baseline to each other run."""
    start = _at(places[0], x, y)
    for end in (_at(place, x, y) for place in places[1:]):
        add(svg, "line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_="path")


def _cross(parent: ET.Element, place: Place, x: Axis, y: Axis, colour: int) -> None:
    at_x, at_y = _at(place, x, y)
    if place.ch.low is not None and place.ch.high is not None:
        add(parent, "line", x1=x(place.ch.low), x2=x(place.ch.high), y1=at_y, y2=at_y, class_="bar")
    if place.decision.low is not None and place.decision.high is not None:
        add(parent, "line", x1=at_x, x2=at_x, y1=y(place.decision.low), y2=y(place.decision.high), class_="bar")
    dot(parent, colour, at_x, at_y, 6.5, str(place))


def _names(svg: ET.Element, places: Sequence[Place], x: Axis, y: Axis, colours: Colours) -> None:
    """Each run's name beside its mark, on the side with more room, pushed down where two would overlap."""
    taken: list[Point] = []
    for place in sorted(places, key=lambda place: _at(place, x, y)[1]):
        at_x, at_y = _at(place, x, y)
        height = at_y - 11
        while any(abs(at_x - other_x) < 150 and abs(height - other_y) < 16 for other_x, other_y in taken):
            height += 4
        taken.append((at_x, height))
        left = at_x > (x.start + x.end) / 2
        name = short(place.run, 24)
        text(group(svg, colours[place.run]), at_x + (-11 if left else 11), height, name, "name end" if left else "name")


def dots(rows: Mapping[str, Mapping[str, Estimate]], colours: Colours, of: Metric = ACCURACY) -> Markup:
    """Decisions, one line for each split and run: mark, interval and number. `rows` is split -> run -> estimate."""
    step, head, width, top = 23, 34, 440, 26.0
    every = [(run, split, estimate) for split, of_runs in rows.items() for run, estimate in of_runs.items()]
    height = top + head * len(rows) + step * len(every) + 34
    words = "; ".join(f"{run} on {split} {_said(estimate, of)}" for run, split, estimate in every)
    svg = canvas(width, height, f"{of.title} by split: {words}.")
    x = Axis(*share_span(_ends([estimate for _, _, estimate in every])), 136, width - 54)
    text(svg, 0, 15, f"{of.title} by split{_unit(of)} →", "title")
    columns(svg, x, top + 6, height - 26, lambda value: f"{of.scale * value:.3g}")
    for split, of_runs in rows.items():
        text(svg, 0, top + head - 9, split, "note")
        for k, (run, estimate) in enumerate(of_runs.items()):
            _line(group(svg, colours[run]), run, estimate, of, x, top + head + step * (k + 0.5), colours[run])
        top += head + step * len(of_runs)
    return markup(svg)


def _line(parent: ET.Element, run: str, estimate: Estimate, of: Metric, x: Axis, y: float, colour: int) -> None:
    text(parent, 0, y + 4, short(run, 14), "name")
    text(parent, x.end + 50, y + 4, of.written(estimate.value), "number end")
    if estimate.low is not None and estimate.high is not None:
        add(parent, "line", x1=x(estimate.low), x2=x(estimate.high), y1=y, y2=y, class_="bar")
    if estimate.value is not None:
        dot(parent, colour, x(estimate.value), y, 5.5, f"{run}, {_said(estimate, of)}")


def _ends(estimates: Sequence[Estimate]) -> list[float]:
    return [end for e in estimates for end in (e.value, e.low, e.high) if end is not None]


def _said(estimate: Estimate, of: Metric) -> str:
    bounds = interval(estimate, of)
    return of.written(estimate.value) + (" %" if of.scale == 100 else "") + (f" ({bounds})" if bounds else "")


def _unit(of: Metric) -> str:
    return ", %" if of.scale == 100 else ""
