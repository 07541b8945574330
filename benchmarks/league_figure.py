"""A league as a picture: who is right where the habit breaks, and where the maps lie, a dot for each seed.

Run:  .venv/bin/python benchmarks/league_figure.py recipes/league/habitats07.yaml
It draws the numbers that lie beside the league as .json into an .svg beside it, which names them by their digest.
"""

import argparse
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from statistics import mean

from drawing import COLOURS, save
from league import Rows, definition
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results import Results, Runs
from table import by_seed, heading

from sightline.files import read_json

MAP = "test/ch"
LOOKS = {
    "labels": (COLOURS[0], "o"),
    "groups": (COLOURS[1], "s"),
    "laboratories": (COLOURS[1], "s"),
    "groups of validation images": (COLOURS[2], "D"),
    "masks": (COLOURS[3], "v"),
    "10 % of masks": (COLOURS[4], "^"),
    "1 % of masks": (COLOURS[5], "P"),
}
"""guidance -> its colour and mark, the same in every picture."""
INCHES = 0.19
"""For each row."""


def figure(results: Results, rows: Rows, broken: str = "shifted", holds: str = "test") -> Figure:
    """All rows that have runs, best decisions first: accuracy on the two splits, and CH on `test`."""
    decision, habit = f"{broken}/accuracy", f"{holds}/accuracy"
    order = sorted((row for row in rows if results.get(row)), key=lambda row: middle(decision, results[row]))
    told = sorted({rows[row]["guidance"] for row in order}, key=list(LOOKS).index)
    drawn = Figure(figsize=(9, 1 + INCHES * len(order)), layout="constrained")
    decisions, maps = drawn.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for height, row in enumerate(order):
        decisions.plot(middle(habit, results[row]), height, "|", color="#888888", ms=8, mew=1.5)
        for axes, column in ((decisions, decision), (maps, MAP)):
            dots(axes, by_seed(column, results[row]), height, *LOOKS[rows[row]["guidance"]])
    decisions.set_yticks(range(len(order)), [rows[row]["title"] for row in order])
    decisions.set_ylim(-0.7, len(order) - 0.3)
    decisions.set_title(f"{heading(decision)} (grey bar: {holds})")
    maps.set_title(heading(MAP))
    for axes in (decisions, maps):
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.tick_params(axis="y", length=0)
        axes.grid(color="#dddddd", lw=0.6)
        axes.set_axisbelow(True)
    for guidance in told:
        decisions.plot([], [], LOOKS[guidance][1], color=LOOKS[guidance][0], label=guidance)
    drawn.legend(loc="outside upper center", ncols=len(told), title="guidance beside the images")
    return drawn


def middle(column: str, runs: Runs) -> float:
    return mean(by_seed(column, runs).values())


def dots(axes: Axes, seeds: Mapping[str, float], height: float, colour: str, mark: str) -> None:
    """A small, pale mark for each seed, and one at their mean; none of maps that are all empty."""
    axes.plot(list(seeds.values()), [height] * len(seeds), mark, color=colour, ms=3.5, alpha=0.5, mew=0)
    if seeds:
        axes.plot(mean(seeds.values()), height, mark, color=colour, ms=5)


def digest(numbers: Path) -> str:
    """What tells whether a picture is of these numbers."""
    return f"{numbers.name}, SHA-256 {sha256(numbers.read_bytes()).hexdigest()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("leagues", nargs="+", type=Path)
    for league in parser.parse_args().leagues:
        numbers = league.with_suffix(".json")
        says = definition(league)
        picture = figure(read_json(numbers), says["rows"], **says.get("picture", {}))
        save(picture, league.with_suffix(".svg"), Description=digest(numbers))


if __name__ == "__main__":
    main()
