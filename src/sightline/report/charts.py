"""The page's charts as inline SVG: colours come from the page's style, so that light, dark and print each fit."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from markupsafe import Markup

from sightline.report.numbers import ACCURACY, CH, Estimate, Metric, interval, shown

COLOURS = 8
"""Colours and shapes that the page's style and `outline` know; further runs start again."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """Maps [low, high] linearly onto pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values inside [low, high]."""
        step = round_step((self.high - self.low) / count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def round_step(step: float) -> float:
    """The least of 1, 2, 2.5 and 5 times a power of ten that is not below `step`.

    >>> round_step(0.03), round_step(21)
    (0.05, 25.0)
    """
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))


def span(values: Sequence[float], least: float = 0.05) -> tuple[float, float]:
    """The range of the values with some air around it, at least `least` wide."""
    low, high = min(values), max(values)
    air = max(0.08 * (high - low), (least - (high - low)) / 2)
    return low - air, high + air


def share_span(values: Sequence[float]) -> tuple[float, float]:
    """`span` for shares: never outside [0, 1]."""
    low, high = span(values)
    return max(low, 0.0), min(high, 1.0)


def outline(run: int, x: float, y: float, size: float = 5.5) -> str:
    """The SVG path of the run's mark around (x, y): runs differ in shape as well as in colour."""
    shape = run % COLOURS
    if shape == 0:
        return f"M{x - size:.1f},{y:.1f}a{size},{size} 0 1 0 {2 * size},0a{size},{size} 0 1 0 {-2 * size},0Z"
    corners, turn, stretch = ((4, 45, 1.2), (4, 0, 1.25), (3, 0, 1.3), (3, 180, 1.3), (5, 0, 1.2), (6, 0, 1.15), (3, 90, 1.3))[shape - 1]
    angles = (math.radians(turn - 90 + 360 * k / corners) for k in range(corners))
    points = [f"{x + stretch * size * math.cos(a):.1f},{y + stretch * size * math.sin(a):.1f}" for a in angles]
    return f"M{'L'.join(points)}Z"


def mark(run: int) -> Markup:
    """The run's mark, to stand before its name."""
    svg = _svg(14, 14, None)
    svg.set("class", "mark")
    _add(svg, "path", d=outline(run, 7, 7, 5), fill="currentColor")
    return _markup(svg)


# Maps against decisions --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """One run in the picture: its CH and its accuracy."""

    run: str
    ch: Estimate
    accuracy: Estimate


def scatter(places: Sequence[Place], colours: Mapping[str, int], even_map: float | None, split: str) -> Markup | None:
    """CH against accuracy, one mark with interval bars for each run; None where no run has both."""
    places = [place for place in places if place.ch.value is not None and place.accuracy.value is not None]
    if not places:
        return None
    width, height = 440, 360
    svg = _svg(width, height, f"CH against accuracy on {split}: " + "; ".join(map(_in_words, places)) + ".")
    reference = [even_map] if even_map is not None else []
    x = Axis(*share_span(_ends([place.ch for place in places]) + reference), 46, width - 14)
    y = Axis(*share_span(_ends([place.accuracy for place in places])), height - 52, 30)
    _frame(svg, x, y, lambda v: f"{v:.3g}", lambda v: f"{100 * v:.3g}")
    _text(svg, 4, 14, f"Accuracy on {split}, % ↑", "title")
    _text(svg, x.end, height - 8, "CH, share of the map on the evidence →", "title end")
    for value in reference:
        _add(svg, "line", **_vertical(x(value), y), class_="reference")
        _text(svg, x(value) + 5, y.end + 10, "even map", "note")
    _arrows(svg, places, x, y)
    for place in places:
        _cross(_group(svg, colours[place.run]), place, x, y, colours[place.run])
    _names(svg, places, x, y, colours)
    return _markup(svg)


def _in_words(place: Place) -> str:
    return f"{place.run}, CH {shown(place.ch.value, CH)}, accuracy {shown(place.accuracy.value, ACCURACY)} %"


def _at(place: Place, x: Axis, y: Axis) -> Point:
    return x(place.ch.value or 0), y(place.accuracy.value or 0)


def _arrows(svg: ET.Element, places: Sequence[Place], x: Axis, y: Axis) -> None:
    """From the baseline to each other run."""
    start = _at(places[0], x, y)
    for place in places[1:]:
        end = _at(place, x, y)
        _add(svg, "line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_="path")


def _cross(group: ET.Element, place: Place, x: Axis, y: Axis, run: int) -> None:
    at_x, at_y = _at(place, x, y)
    if place.ch.low is not None and place.ch.high is not None:
        _add(group, "line", x1=x(place.ch.low), x2=x(place.ch.high), y1=at_y, y2=at_y, class_="bar")
    if place.accuracy.low is not None and place.accuracy.high is not None:
        _add(group, "line", x1=at_x, x2=at_x, y1=y(place.accuracy.low), y2=y(place.accuracy.high), class_="bar")
    _add(_add(group, "path", d=outline(run, at_x, at_y, 6.5), class_="dot"), "title").text = _in_words(place)


def _names(svg: ET.Element, places: Sequence[Place], x: Axis, y: Axis, colours: Mapping[str, int]) -> None:
    """Each run's name beside its mark, on the side with more room, pushed apart where two would overlap."""
    taken: list[tuple[bool, float, float]] = []
    for place in sorted(places, key=lambda place: -(place.accuracy.value or 0)):
        at_x, at_y = _at(place, x, y)
        left, height = at_x > (x.start + x.end) / 2, at_y - 11
        while any(left == side and abs(at_x - tx) < 130 and abs(height - ty) < 14 for side, tx, ty in taken):
            height += 14
        taken.append((left, at_x, height))
        style = "name end" if left else "name"
        _text(_group(svg, colours[place.run]), at_x + (-10 if left else 10), height, _short(place.run, 24), style)


# Accuracy by split -------------------------------------------------------------------------------------------------


def dots(rows: Mapping[str, Mapping[str, Estimate]], colours: Mapping[str, int], metric: Metric = ACCURACY) -> Markup:
    """One line for each split and run: a mark, its interval, and the number. `rows` is split -> run -> estimate."""
    step, head, width = 22, 30, 440
    height = sum(head + step * len(of_runs) for of_runs in rows.values()) + 34
    words = [f"{run} on {split} {_percent(e)}" for split, of_runs in rows.items() for run, e in of_runs.items()]
    svg = _svg(width, height, f"{metric.title} by split: {'; '.join(words)}.")
    x = Axis(*share_span(_ends([e for of_runs in rows.values() for e in of_runs.values()]) or [0, 1]), 122, width - 52)
    _ticks_below(svg, x, 8, height - 26, lambda v: f"{100 * v:.3g}")
    top = 0.0
    for split, of_runs in rows.items():
        _text(svg, 4, top + 20, split, "title")
        for k, (run, estimate) in enumerate(of_runs.items()):
            _dot(_group(svg, colours[run]), run, estimate, x, top + head + step * (k + 0.5), colours[run])
        top += head + step * len(of_runs)
    return _markup(svg)


def _dot(group: ET.Element, run: str, estimate: Estimate, x: Axis, y: float, colour: int) -> None:
    _text(group, 4, y + 4, _short(run, 16), "name")
    _text(group, x.end + 46, y + 4, shown(estimate.value, ACCURACY), "number end")
    if estimate.low is not None and estimate.high is not None:
        _add(group, "line", x1=x(estimate.low), x2=x(estimate.high), y1=y, y2=y, class_="bar")
    if estimate.value is not None:
        path = _add(group, "path", d=outline(colour, x(estimate.value), y), class_="dot")
        _add(path, "title").text = f"{run}: {_percent(estimate)}"


def _percent(estimate: Estimate) -> str:
    bounds = interval(estimate, ACCURACY)
    return f"{shown(estimate.value, ACCURACY)} %" + (f" ({bounds})" if bounds else "")


# Training curves ---------------------------------------------------------------------------------------------------


def curves(title: str, lines: Mapping[str, Sequence[Point]], colours: Mapping[str, int]) -> Markup:
    """One quantity over the epochs, one line for each run that logged it."""
    width, height = 300, 190
    last = "; ".join(f"{run} ends at {points[-1][1]:.3g}" for run, points in lines.items())
    svg = _svg(width, height, f"{title} over epochs: {last}.")
    every = [point for points in lines.values() for point in points]
    epochs, values = [p[0] for p in every], [p[1] for p in every]
    x = Axis(min(epochs), max(max(epochs), min(epochs) + 1), 44, width - 14)
    y = Axis(*span(values, least=max(1e-9, 0.02 * max(map(abs, values)))), height - 38, 28)
    _frame(svg, x, y, lambda v: f"{v:.0f}" if v == round(v) else "", lambda v: f"{v:.3g}", 4)
    _text(svg, 4, 14, title, "title")
    _text(svg, x.end, height - 6, "epoch", "note end")
    for run, points in lines.items():
        group = _group(svg, colours[run])
        places = [(x(epoch), y(value)) for epoch, value in points]
        _add(group, "polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in places), class_="curve")
        _add(_add(group, "path", d=outline(colours[run], *places[-1], 4), class_="dot"), "title").text = run
    return _markup(svg)


# Pieces ------------------------------------------------------------------------------------------------------------


def _ends(estimates: Sequence[Estimate]) -> list[float]:
    return [end for e in estimates for end in (e.value, e.low, e.high) if end is not None]


def _svg(width: float, height: float, label: str | None) -> ET.Element:
    svg = ET.Element("svg", viewBox=f"0 0 {width:g} {height:g}", width=f"{width:g}", height=f"{height:g}")
    if label is None:
        svg.set("aria-hidden", "true")
    else:
        svg.attrib |= {"class": "chart", "role": "img", "aria-label": label}
    return svg


def _add(parent: ET.Element, tag: str, **attributes: float | str) -> ET.Element:
    text = {k.rstrip("_"): v if isinstance(v, str) else f"{v:.1f}" for k, v in attributes.items()}
    return ET.SubElement(parent, tag, text)


def _text(parent: ET.Element, x: float, y: float, text: str, style: str) -> None:
    _add(parent, "text", x=x, y=y, class_=style).text = text


def _group(parent: ET.Element, run: int) -> ET.Element:
    return _add(parent, "g", class_=f"r{run % COLOURS}")


def _vertical(x: float, y: Axis) -> dict[str, float]:
    return {"x1": x, "x2": x, "y1": y.start, "y2": y.end}


def _frame(
    svg: ET.Element, x: Axis, y: Axis, x_words: Callable[[float], str], y_words: Callable[[float], str], count: int = 5
) -> None:
    _ticks_below(svg, x, y.end, y.start, x_words, count)
    for value in y.ticks(count):
        _add(svg, "line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), class_="grid")
        _text(svg, x.start - 7, y(value) + 4, y_words(value), "tick end")


def _ticks_below(
    svg: ET.Element, x: Axis, top: float, bottom: float, words: Callable[[float], str], count: int = 5
) -> None:
    for value in x.ticks(count):
        if words(value):
            _add(svg, "line", x1=x(value), x2=x(value), y1=top, y2=bottom, class_="grid")
            _text(svg, x(value), bottom + 17, words(value), "tick middle")


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _markup(svg: ET.Element) -> Markup:
    # ElementTree has escaped every name.
    return Markup(ET.tostring(svg, encoding="unicode"))
