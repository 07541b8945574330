"""Forest plots: every paired difference to the baseline with its interval, better to the right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from markupsafe import Markup

from sightline.catalogue import Metric
from sightline.report.numbers import Difference, p_value, points, signed_interval
from sightline.report.read import Split
from sightline.report.svg import Axis, add, canvas, columns, dot, group, markup, short, span, text
from sightline.report.tables import by_theme

WIDTH, STEP, HEAD, TOP = 440, 21, 31, 40
OPEN = "On a scale without an end"
Colours = Mapping[str, int]
Differences = Mapping[str, Difference]


@dataclass(frozen=True)
class Block:
    """One metric: the difference of each run that was compared."""

    metric: Metric
    of_runs: Differences

    @property
    def title(self) -> str:
        return f"{self.metric.title}{'' if self.metric.higher else ', mirrored: lower is better'}"

    @property
    def bounded(self) -> bool:
        """Whether a difference of 1 is all there can be, or nearly: such metrics share an axis."""
        return self.metric.span != "0 and up"


def forests(split: Split, keys: Sequence[str], colours: Colours) -> list[Markup]:
    """A plot for each kind of metric; metrics without an upper end have one of their own."""
    found = {
        name: [block for of in metrics if (block := _block(split, of))] for name, metrics in by_theme(keys).items()
    }
    plots = [(name, [block for block in blocks if block.bounded]) for name, blocks in found.items()]
    plots += [(OPEN, [block]) for blocks in found.values() for block in blocks if not block.bounded]
    return [_forest(title, split, blocks, colours) for title, blocks in plots if blocks]


def _block(split: Split, metric: Metric) -> Block | None:
    found = {run: split.difference(metric.key, run) for run in split.differences}
    of_runs = {run: one for run, one in found.items() if one is not None and one.value is not None}
    return Block(metric, of_runs) if of_runs else None


def _span(blocks: Sequence[Block]) -> tuple[float, float]:
    every = [one.gain(block.metric) for block in blocks for one in block.of_runs.values()]
    return span([0.0, *(end for one in every for end in (one.value, one.low, one.high) if end is not None)], least=0.02)


def _forest(title: str, split: Split, blocks: Sequence[Block], colours: Colours) -> Markup:
    height = TOP + sum(HEAD + STEP * len(block.of_runs) for block in blocks) + 36
    svg = canvas(WIDTH, height, f"{title}: differences to {split.baseline} on {split.name}. {_words(blocks)}")
    x = Axis(*_span(blocks), 112, 282)
    text(svg, 0, 15, title, "title")
    text(svg, x.start, TOP - 8, "← worse", "note")
    text(svg, x.end, TOP - 8, "better →", "note end")
    columns(svg, x, TOP, height - 30, lambda value: f"{value:.3g}".replace("-", "−"), 4)
    add(svg, "line", x1=x(0), x2=x(0), y1=TOP, y2=height - 30, class_="zero")
    top = float(TOP)
    for block in blocks:
        text(svg, 0, top + HEAD - 10, block.title, "number halo")
        for k, (run, difference) in enumerate(block.of_runs.items()):
            _line(
                group(svg, colours[run]), run, block.metric, difference, x, top + HEAD + STEP * (k + 0.5), colours[run]
            )
        top += HEAD + STEP * len(block.of_runs)
    return markup(svg)


def _line(parent: ET.Element, run: str, metric: Metric, difference: Difference, x: Axis, y: float, colour: int) -> None:
    gain = difference.gain(metric)
    text(parent, 0, y + 4, short(run, 14), "name")
    text(parent, WIDTH - 78, y + 4, points(difference.value, metric).removesuffix(" points"), "number end")
    text(parent, WIDTH, y + 4, p_value(difference.p), "tick end")
    if gain.low is not None and gain.high is not None:
        add(parent, "line", x1=x(gain.low), x2=x(gain.high), y1=y, y2=y, class_="bar")
    dot(parent, colour, x(gain.value or 0.0), y, 5, f"{run}, {metric.title}: {_said(metric, difference)}")


def _words(blocks: Sequence[Block]) -> str:
    return " ".join(
        f"{block.title}: {'; '.join(f'{run} {_said(block.metric, one)}' for run, one in block.of_runs.items())}."
        for block in blocks
    )


def _said(metric: Metric, difference: Difference) -> str:
    bounds = signed_interval(difference, metric)
    details = ", ".join(filter(None, (bounds, p_value(difference.p))))
    return points(difference.value, metric) + (f" ({details})" if details else "")
