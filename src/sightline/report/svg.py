"""SVG elements, axes and the runs' marks. Colours come from the page's style: light, dark and print each fit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from markupsafe import Markup

COLOURS = 8
"""Colours and shapes there are; further runs start again."""

Words = Callable[[float], str]


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


@dataclass(frozen=True)
class LogAxis(Axis):
    """Maps [low, high], above 0, onto pixels by their logarithm."""

    places: tuple[float, ...] = ()
    """What can be ticked."""

    def __call__(self, value: float) -> float:
        return self.start + math.log(value / self.low) / math.log(self.high / self.low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """The places, thinned out where they are many."""
        return list(self.places[:: 1 + len(self.places) // (2 * count)])


def round_step(step: float) -> float:
    """The least of 1, 2, 2.5 and 5 times a power of ten that is not below `step`.

    >>> round_step(0.03), round_step(21)
    (0.05, 25.0)
    """
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))


def span(values: Sequence[float], least: float) -> tuple[float, float]:
    """The range of the values with some air around it, at least `least` wide."""
    low, high = min(values), max(values)
    air = max(0.08 * (high - low), (least - (high - low)) / 2)
    return low - air, high + air


def share_span(values: Sequence[float]) -> tuple[float, float]:
    """`span` for shares: never outside [0, 1]; all of it where there are no values."""
    low, high = span(values or [0.0, 1.0], least=0.05)
    return max(low, 0.0), min(high, 1.0)


def canvas(width: float, height: float, label: str) -> ET.Element:
    """An <svg> that scales with the page and is read aloud as `label`."""
    size = {"viewBox": f"0 0 {width:g} {height:g}", "width": f"{width:g}", "height": f"{height:g}"}
    return ET.Element("svg", {**size, "class": "chart", "role": "img", "aria-label": label})


def add(parent: ET.Element, tag: str, **attributes: float | str) -> ET.Element:
    """Append an element; class_ and fill_opacity are written class and fill-opacity."""
    written = {
        key.rstrip("_").replace("_", "-"): value if isinstance(value, str) else f"{value:.1f}"
        for key, value in attributes.items()
    }
    return ET.SubElement(parent, tag, written)


def text(parent: ET.Element, x: float, y: float, words: str, style: str) -> None:
    """Append text at its baseline's start, or its end or middle if `style` says so."""
    add(parent, "text", x=x, y=y, class_=style).text = words


def group(parent: ET.Element, run: int) -> ET.Element:
    """A group in the colour of a run."""
    return add(parent, "g", class_=f"r{run % COLOURS}")


def dot(parent: ET.Element, run: int, x: float, y: float, size: float, words: str) -> None:
    """The run's mark, with words for whoever points at it."""
    add(add(parent, "path", d=outline(run, x, y, size), class_="dot"), "title").text = words


def outline(run: int, x: float, y: float, size: float) -> str:
    """The path of the run's mark around (x, y): runs differ in shape as well as in colour."""
    if run % COLOURS == 0:
        return f"M{x - size:.1f},{y:.1f}a{size},{size} 0 1 0 {2 * size},0a{size},{size} 0 1 0 {-2 * size},0Z"
    corners, turn = ((4, 45), (4, 0), (3, 0), (3, 180), (5, 0), (6, 0), (3, 90))[run % COLOURS - 1]
    angles = (math.radians(turn - 90 + 360 * k / corners) for k in range(corners))
    points = [f"{x + 1.25 * size * math.cos(a):.1f},{y + 1.25 * size * math.sin(a):.1f}" for a in angles]
    return f"M{'L'.join(points)}Z"


def mark(run: int) -> Markup:
    """The run's mark alone, to stand before its name."""
    svg = ET.Element(
        "svg", {"class": "mark", "viewBox": "0 0 14 14", "width": "14", "height": "14", "aria-hidden": "true"}
    )
    add(svg, "path", d=outline(run, 7, 7, 5), fill="currentColor")
    return markup(svg)


def frame(svg: ET.Element, x: Axis, y: Axis, x_words: Words, y_words: Words, count: int = 5) -> None:
    """Grid lines and their numbers along both axes."""
    columns(svg, x, y.end, y.start, x_words, count)
    for value in y.ticks(count):
        add(svg, "line", x1=x.start, x2=x.end, y1=y(value), y2=y(value), class_="grid")
        text(svg, x.start - 7, y(value) + 4, y_words(value), "tick end")


def columns(svg: ET.Element, x: Axis, top: float, bottom: float, words: Words, count: int = 5) -> None:
    """Upright grid lines with their numbers below; none where there are no words for a value."""
    for value in filter(words, x.ticks(count)):
        add(svg, "line", x1=x(value), x2=x(value), y1=top, y2=bottom, class_="grid")
        text(svg, x(value), bottom + 17, words(value), "tick middle")


def short(name: str, length: int) -> str:
    """The name, cut where it is too long for a chart."""
    return name if len(name) <= length else name[: length - 1] + "…"


def markup(svg: ET.Element) -> Markup:
    """Safe to put into a page: ElementTree has escaped every name."""
    return Markup(ET.tostring(svg, encoding="unicode"))
