"""One self-contained HTML page about several runs: numbers, pictures and facts, from files alone."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from sightline import __version__
from sightline.errors import SightlineError
from sightline.files import write_text
from sightline.report import charts, numbers, pictures, read, svg
from sightline.report.gallery import Gallery, gallery
from sightline.report.reproduce import commands
from sightline.report.verdict import hardest, verdict

__all__ = ["build"]

TITLE = "Where it looks, what it decides"


def build(
    comparisons: Sequence[Path], out: Path, runs: Sequence[Path] = (), title: str = TITLE, images: int = 24
) -> Path:
    """Write the report of some comparisons to one HTML file that needs no network.

    Args:
        comparisons: comparison.json files or their folders, one for each split; or audit directories.
        out: the HTML file to write, whole or not at all.
        runs: run directories for training curves and recipes; by default those the audits lie in.
        title: the page's heading.
        images: rows of the gallery of the hardest split; the other splits show a third of it.

    Returns:
        `out`.

    Raises:
        SightlineError: a comparison, summary, gallery or score file is missing or damaged, or `out` cannot be written.
    """
    if images < 1:
        raise SightlineError(f"images is {images}: expected at least 1 row for the gallery.")
    out = Path(out)
    splits = read.splits([Path(path) for path in comparisons])
    write_text(out, _render(_content(splits, read.runs(splits, [Path(run) for run in runs]), title, images, out)))
    return out


def _content(
    splits: Sequence[read.Split], runs: Sequence[read.Run], title: str, images: int, out: Path
) -> dict[str, Any]:
    hard = hardest(splits)
    colours = {run: k for k, run in enumerate(dict.fromkeys([*read.names(splits), *(run.name for run in runs)]))}
    shown = {split.name: gallery(split, images if split is hard else max(1, images // 3)) for split in splits}
    return {
        "title": title,
        "version": __version__,
        "splits": splits,
        "hard": hard,
        "runs": runs,
        "names": read.names(splits),
        "colours": colours,
        "verdict": verdict(splits),
        "galleries": shown,
        "curves": _curves(runs, colours),
        "scatter": _scatter(hard, shown[hard.name], colours),
        "dots": charts.dots({split.name: split.metrics.get("accuracy", {}) for split in splits}, colours),
        "tables": {"main": numbers.MAIN, "more": numbers.MORE},
        "write": numbers,
        "mark": svg.mark,
        "commands": commands(splits, runs, out),
        "scale_bar": pictures.scale_bar(),
        "relative": lambda path: read.relative(path, out),
    }


def _scatter(split: read.Split, of_split: Gallery, colours: Mapping[str, int]) -> str | None:
    places = [charts.Place(run, split.estimate("ch", run), split.estimate("accuracy", run)) for run in split.audits]
    return charts.scatter(places, colours, split.name, of_split.even_map, 1 / max(len(split.data["classes"]), 1))


def _curves(runs: Sequence[read.Run], colours: Mapping[str, int]) -> list[str]:
    """One small chart for each quantity any run logged: validation first, then the terms of the loss."""
    quantities = dict.fromkeys(quantity for run in runs for quantity, points in run.curves.items() if points)
    ordered = sorted(quantities, key=lambda quantity: not quantity.startswith("val"))
    lines = {q: {run.name: run.curves[q] for run in runs if run.curves.get(q)} for q in ordered}
    return [charts.curves(quantity, of_runs, colours) for quantity, of_runs in lines.items()]


def _render(content: Mapping[str, Any]) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files(__name__).joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(content)
