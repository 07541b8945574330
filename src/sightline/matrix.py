"""The cross-domain matrix: models trained on one kind of data, each audited on all of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sightline import catalogue
from sightline.columns import aligned
from sightline.errors import SightlineError, did_you_mean
from sightline.files import relative, write_json
from sightline.scores import read_summary

Cell = dict[str, Any]


@dataclass(frozen=True)
class _Audit:
    """One audit directory."""

    folder: Path
    summary: Mapping[str, Any]

    @property
    def run(self) -> str:
        return str(self.summary["run"])

    @property
    def data(self) -> str:
        return str(self.summary["data"]["name"])

    @property
    def split(self) -> str:
        return str(self.summary["split"])


def matrix(audits: Sequence[str | Path], metric: str = "auroc", out: str | Path | None = None) -> dict[str, Any]:
    """Join audits of several models on several data: a row for each model, a column for what it was audited on.

    A column is called by its dataset; by its split, where all data are of one set; by "data/split", where both vary. A
    cell is on the diagonal where the model has the name of the dataset (of the split, where all data are of one set):
    it was trained on it.

    Args:
        audits: audit directories.
        metric: a key of their summaries, such as "auroc", "accuracy", "ch" or "ch@WBP".
        out: a folder for matrix.json; None writes nothing.

    Returns:
        What matrix.json holds: "kind", "metric", "level", "rows" and "columns" in the order of `audits`; "cells" by row
        and column, with "value", "low", "high" and "n", whether it is on the "diagonal", and the "audit"; and
        "off_diagonal" by row, the "mean" over so many cells ("n"), each of them counting the same. There is no cell for
        what was not audited; a value that is not defined is None.

    Raises:
        SightlineError: no audits, a file that is missing or damaged, an unknown metric, two audits of one cell, or
            audits that differ in their interval level or, within a column, in their images, target or scoring.
    """
    if not audits:
        raise SightlineError("matrix needs audits of models on data, got none. Make them with `sightline audit`.")
    loaded = [_load(Path(folder), metric) for folder in audits]
    cells = _cells(loaded, metric, out)
    found = {
        "kind": "matrix",
        "metric": metric,
        "level": loaded[0].summary["level"],
        "rows": list(cells),
        "columns": list(dict.fromkeys(column for column, _ in _columns(loaded))),
        "cells": cells,
        "off_diagonal": {run: _off_diagonal(row.values()) for run, row in cells.items()},
    }
    if out is not None:
        write_json(Path(out) / "matrix.json", found)
    return found


def _load(folder: Path, metric: str) -> _Audit:
    summary = read_summary(folder, ("run", "split", "level", "metrics", "data.name", "data.hash"))
    known = summary["metrics"] if isinstance(summary["metrics"], dict) else {}
    if metric not in known:
        raise SightlineError(f"{folder / 'summary.json'} has no metric {metric!r}. {did_you_mean(metric, known)}")
    return _Audit(folder, summary)


def _columns(audits: Sequence[_Audit]) -> list[tuple[str, str]]:
    """What each audit's column is called, and the name of the model that is at home there."""
    if len({one.split for one in audits}) == 1:
        return [(one.data, one.data) for one in audits]
    if len({one.data for one in audits}) == 1:
        return [(one.split, one.split) for one in audits]
    return [(f"{one.data}/{one.split}", one.data) for one in audits]


def _cells(audits: Sequence[_Audit], metric: str, out: str | Path | None) -> dict[str, dict[str, Cell]]:
    """By row and column."""
    first: dict[str, _Audit] = {}
    seen: dict[tuple[str, str], _Audit] = {}
    cells: dict[str, dict[str, Cell]] = {}
    for one, (column, home) in zip(audits, _columns(audits), strict=True):
        _refuse_unlike(first.setdefault(column, one), one, metric, column)
        _refuse_other_level(audits[0], one)
        if (other := seen.setdefault((one.run, column), one)) is not one:
            raise SightlineError(f"{other.folder} and {one.folder} are both of {one.run} on {column}. Leave one out.")
        known = one.summary["metrics"][metric] or {}
        cell = {key: known.get(key) for key in ("value", "low", "high", "n")}
        where = one.folder.as_posix() if out is None else relative(one.folder, out)
        cells.setdefault(one.run, {})[column] = cell | {"diagonal": one.run == home, "audit": where}
    return cells


def _refuse_unlike(a: _Audit, b: _Audit, metric: str, column: str) -> None:
    """Raise unless both audits of a column scored the same images in the same way."""
    both = f"{a.folder} and {b.folder}"
    if a.summary["data"]["hash"] != b.summary["data"]["hash"]:
        raise SightlineError(f"{both} scored different data, both called {column}. Audit both on the same data.")
    of = metric.partition("@")[0]
    scored = [(one.summary.get("target"), one.summary.get("scored_by", {}).get(of)) for one in (a, b)]
    if scored[0][1] and scored[0] != scored[1]:
        raise SightlineError(f"{both} scored {metric} in different ways: {scored[0]} and {scored[1]}. Use one of them.")


def _refuse_other_level(a: _Audit, b: _Audit) -> None:
    if a.summary["level"] != b.summary["level"]:
        levels = f"{a.summary['level']} and {b.summary['level']}"
        raise SightlineError(f"{a.folder} and {b.folder} have intervals of level {levels}. Audit both with the same.")


def _off_diagonal(row: Collection[Cell]) -> Cell:
    values = [cell["value"] for cell in row if not cell["diagonal"] and cell["value"] is not None]
    return {"mean": fmean(values) if values else None, "n": len(values)}


def table(found: Mapping[str, Any]) -> str:
    """The matrix as plain text: value ± half the interval's width, the diagonal in brackets, the mean off it."""
    of, columns = catalogue.metric(found["metric"]), found["columns"]
    rows = [["", *columns, "off the diagonal"]]
    for run, cells in found["cells"].items():
        mean, n = found["off_diagonal"][run].values()
        rows.append([run, *(_cell(of, cells.get(column)) for column in columns), f"{of.written(mean)} ({n})"])
    head = f"{of.heading}: models down, what they were audited on across"
    return "\n".join([head, "", *aligned(rows), "", *_notes(found)])


def _cell(of: catalogue.Metric, cell: Cell | None) -> str:
    if cell is None or cell["value"] is None:
        return "–"
    value = of.give_or_take(cell)
    return f"[{value}]" if cell["diagonal"] else value


def _notes(found: Mapping[str, Any]) -> list[str]:
    notes = [
        f"± half the {100 * found['level']:.3g} % interval's width. [ ] a model on the data it is named after. "
        "( ) how many cells the mean is over."
    ]
    every = [cell for row in found["cells"].values() for cell in row.values()]
    if not any(cell["diagonal"] for cell in every):
        notes.append("No model has the name of a column: the last column is the mean over all.")
    if len(every) < len(found["rows"]) * len(found["columns"]) or any(cell["value"] is None for cell in every):
        notes.append("– not audited, or not defined. Means over different cells do not compare.")
    return notes
