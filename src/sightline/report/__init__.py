"""One self-contained HTML page about several runs: numbers, pictures and facts, from files alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sightline.catalogue import Metric
from sightline.errors import SightlineError
from sightline.files import relative, write_text
from sightline.report import charts, lines, numbers, pictures, read, svg, tables, words
from sightline.report.forest import forests
from sightline.report.gallery import Gallery, gallery
from sightline.report.html import rendered
from sightline.report.mistakes import Confusion, confusion, table
from sightline.report.reproduce import commands
from sightline.report.verdict import hardest, judged, verdict

__all__ = ["build"]

TITLE = "Where it looks, what it decides"


def build(
    comparisons: Sequence[Path], out: Path, runs: Sequence[Path] = (), title: str = TITLE, images: int = 24
) -> Path:
    """Write the report of some comparisons to one HTML file that needs no network.

    Args:
        comparisons: comparison.json files or their folders, one for each split, or audit directories; and any
            matrix.json files or their folders.
        out: the HTML file to write, whole or not at all.
        runs: run directories for training curves and recipes; by default those the audits lie in.
        title: the page's heading.
        images: rows of the gallery of the hardest split; the other splits show a third of it.

    Returns:
        `out`.

    Raises:
        SightlineError: a comparison, matrix, summary, gallery or score file is missing or damaged, or `out` cannot be
            written.
    """
    if images < 1:
        raise SightlineError(f"images is {images}: expected at least 1 row for the gallery.")
    out, paths = Path(out), [Path(path) for path in comparisons]
    splits, matrices = read.splits(paths), read.matrices(paths)
    found = read.runs(splits, [Path(run) for run in runs])
    write_text(out, rendered(__name__, _content(splits, found, title, images, out) | _across(splits, matrices)))
    return out


def _content(
    splits: Sequence[read.Split], runs: Sequence[read.Run], title: str, images: int, out: Path
) -> dict[str, Any]:
    hard, maps = hardest(splits), judged(splits)
    colours = {run: k for k, run in enumerate(dict.fromkeys([*read.names(splits), *(run.name for run in runs)]))}
    shown = _galleries(splits, hard, images)
    main = tables.main(splits)
    return {
        "title": title,
        "splits": splits,
        "ordered": [hard, *(split for split in splits if split is not hard)],
        "hard": hard,
        "judged": maps,
        "runs": runs,
        "names": read.names(splits),
        "colours": colours,
        "verdict": verdict(splits),
        "galleries": shown,
        "training": _training(runs, colours),
        "scatter": _scatter(hard, maps, shown[maps.name], colours),
        "dots": _dots(splits, hard, colours),
        "main": main,
        "parts": {split.name: _part(split, shown[split.name], main, colours) for split in splits},
        "write": numbers,
        "mark": svg.mark,
        "commands": commands(splits, runs, out),
        "scale_bar": pictures.scale_bar(),
        "relative": partial(relative, folder=out.resolve().parent),
    }


def _across(splits: Sequence[read.Split], matrices: Sequence[read.Matrix]) -> dict[str, Any]:
    return {"matrices": matrices, "glossary": words.glossary(splits, matrices), "anchor": words.anchor}


@dataclass(frozen=True)
class _Part:
    """What is drawn of one split."""

    rest: Mapping[str, Sequence[Metric]]
    explainers: tables.OfExplainers | None
    forests: Sequence[str]
    other_forests: Sequence[str]
    curves: Sequence[str]
    other_curves: Sequence[str]
    confusions: Sequence[tuple[Confusion, str]]
    """Of each run; with its table drawn, where the classes are few."""


def _part(split: read.Split, of_split: Gallery, main: Sequence[Metric], colours: Mapping[str, int]) -> _Part:
    own = tables.shown(split)
    curves, other_curves = (
        [lines.metric_curve(split, k, colours) for k in lines.drawn(split, o)] for o in (False, True)
    )
    return _Part(
        tables.rest(split, main),
        tables.of_explainers(split),
        forests(split, own, colours),
        forests(split, [key for key in split.metrics if "@" in key], colours),
        curves,
        other_curves,
        [] if split.decision is numbers.F1_OVERALL else _confusions(split, of_split, colours),
    )


def _confusions(split: read.Split, of_split: Gallery, colours: Mapping[str, int]) -> list[tuple[Confusion, str]]:
    found = [confusion(run, split.data["classes"], decided) for run, decided in of_split.decided.items()]
    return [(one, table(one, split.name, colours[one.run]) if one.few else "") for one in found]


def _galleries(splits: Sequence[read.Split], hard: read.Split, images: int) -> dict[str, Gallery]:
    """Of each split; in many rows, the pictures are small enough to keep the page small."""
    rows = {split.name: images if split is hard else max(1, images // 3) for split in splits}
    side = pictures.side(sum((1 + len(split.audits)) * rows[split.name] for split in splits))
    return {split.name: gallery(split, rows[split.name], side) for split in splits}


def _scatter(hard: read.Split, maps: read.Split, of_maps: Gallery, colours: Mapping[str, int]) -> str | None:
    of = hard.decision
    places = [charts.Place(run, maps.estimate("ch", run), hard.estimate(of.key, run), of) for run in hard.audits]
    chance = None if of is numbers.F1_OVERALL else 1 / max(len(hard.data["classes"]), 1)
    return charts.scatter(places, colours, hard.name, maps.name, of_maps.even_map, chance)


def _dots(splits: Sequence[read.Split], hard: read.Split, colours: Mapping[str, int]) -> str:
    of = hard.decision
    return charts.dots({split.name: split.metrics.get(of.key, {}) for split in splits}, colours, of)


def _training(runs: Sequence[read.Run], colours: Mapping[str, int]) -> list[str]:
    return [lines.training_curve(one, colours) for one in lines.logged({run.name: run.curves for run in runs})]
