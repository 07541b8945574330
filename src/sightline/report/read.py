"""Comparisons, audits and run directories as small values; every file that is missing or odd is named."""

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.errors import SightlineError
from sightline.files import read_json
from sightline.report.numbers import Difference, Estimate


@dataclass(frozen=True)
class Audit:
    """One model scored on one split."""

    folder: Path
    summary: Mapping[str, Any]

    @property
    def run_folder(self) -> Path | None:
        """<run> where the audit lies at <run>/audit/<split>."""
        parent = self.folder.absolute().parent
        return parent.parent if parent.name == "audit" else None


@dataclass(frozen=True)
class Split:
    """Several audits of the same images, the first one's run being the baseline."""

    name: str
    audits: Mapping[str, Audit]
    metrics: Mapping[str, Mapping[str, Estimate]]
    """metric -> run -> estimate."""
    differences: Mapping[str, Mapping[str, Difference]]
    """run -> metric -> difference to the baseline; empty where nothing was compared."""
    baseline: str
    level: float
    data: Mapping[str, Any]

    def estimate(self, metric: str, run: str) -> Estimate:
        return self.metrics.get(metric, {}).get(run, Estimate())

    def difference(self, metric: str, run: str) -> Difference | None:
        return self.differences.get(run, {}).get(metric)


@dataclass(frozen=True)
class Run:
    """How one model was trained. Empty where its files are not at hand."""

    name: str
    folder: Path | None
    info: Mapping[str, Any]
    recipe: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    """quantity -> (epochs done, value), in the order of the log."""


def splits(paths: Sequence[Path]) -> list[Split]:
    """Read comparisons (comparison.json or its folder) and single audits (an audit directory).

    Single audits of the same images become one split, side by side without differences.

    Raises:
        SightlineError: nothing given, a path that is neither, a field that is missing, or one split given twice.
    """
    if not paths:
        raise SightlineError("no comparison given. Pass a comparison.json, its folder, or an audit directory.")
    found: list[Split] = []
    alone: dict[tuple[str, str], list[Audit]] = {}
    for path in map(located, paths):
        content = _object(path)
        try:
            if content.get("kind") == "comparison":
                found.append(_comparison(path, content))
            else:
                alone.setdefault((str(content["data"]["hash"]), content["split"]), []).append(_audit(path.parent))
        except (KeyError, TypeError, AttributeError) as error:
            raise SightlineError(
                f"{path} is not what `sightline compare` or `sightline audit` writes: {error!r}. Run that command again."
            ) from error
    found += map(_side_by_side, alone.values())
    return _named(found)


def located(path: Path) -> Path:
    """The JSON file meant by a comparison.json, a summary.json or a folder that holds one."""
    if path.is_file():
        return path
    for name in ("comparison.json", "summary.json"):
        if (path / name).is_file():
            return path / name
    raise SightlineError(
        f"{path} is neither a comparison nor an audit directory: it holds no comparison.json and no summary.json. "
        "Make one with `sightline compare` or `sightline audit`."
    )


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or content.get("kind") not in ("comparison", "audit"):
        raise SightlineError(f'{path} has no "kind": "comparison" or "audit". Pass what compare or audit wrote.')
    return content


def _comparison(path: Path, content: Mapping[str, Any]) -> Split:
    audits = [_audit(_resolved(path, folder)) for folder in content["audits"]]
    if len(audits) != len(content["runs"]) or content["baseline"] not in content["runs"]:
        raise SightlineError(f"{path} must list one audit for each run, the baseline among them. Run compare again.")
    return Split(
        name=content["split"],
        audits=dict(zip(content["runs"], audits, strict=True)),
        metrics={
            metric: {run: Estimate.of(value) for run, value in of_runs.items()}
            for metric, of_runs in content["metrics"].items()
        },
        differences={
            run: {metric: Difference.of(value) for metric, value in of_metrics.items()}
            for run, of_metrics in content["differences"].items()
        },
        baseline=content["baseline"],
        level=content["level"],
        data=content["data"],
    )


def _resolved(path: Path, folder: str) -> Path:
    """An audit's folder as written in a comparison: relative to that file, or to where the command was started."""
    beside = path.parent / folder
    return beside if beside.exists() or not Path(folder).exists() else Path(folder)


def _audit(folder: Path) -> Audit:
    return Audit(folder, _object(folder / "summary.json"))


def _side_by_side(audits: Sequence[Audit]) -> Split:
    names = _unique([str(audit.summary["run"]) for audit in audits])
    first = audits[0].summary
    metrics = {
        metric: {n: Estimate.of(a.summary["metrics"].get(metric)) for n, a in zip(names, audits, strict=True)}
        for metric in first["metrics"]
    }
    named = dict(zip(names, audits, strict=True))
    return Split(first["split"], named, metrics, {}, names[0], first["level"], first["data"])


def _unique(names: Sequence[str]) -> list[str]:
    """Number the repeated names: a, a -> a, a (2)."""
    return [n if (k := names[: i + 1].count(n)) == 1 else f"{n} ({k})" for i, n in enumerate(names)]


def _named(found: Sequence[Split]) -> list[Split]:
    names = [split.name for split in found]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SightlineError(f"split {repeated[0]!r} was given more than once. Pass one comparison for each split.")
    return list(found)


def names(of_splits: Sequence[Split]) -> list[str]:
    """The runs of all splits, each once, in order of appearance."""
    return list(dict.fromkeys(run for split in of_splits for run in split.audits))


def runs(of_splits: Sequence[Split], folders: Sequence[Path] = ()) -> list[Run]:
    """How the audited runs were trained, plus what was given in `folders` but not audited.

    A run's directory is the one in `folders` that holds its audit, else the one named in its run.json like it, else
    <run> of <run>/audit/<split>.

    Raises:
        SightlineError: a folder given holds no metrics.csv, or its files cannot be read.
    """
    for folder in folders:
        if not (folder / "metrics.csv").is_file():
            raise SightlineError(f"{folder} is not a run directory: it holds no metrics.csv. Pass what `train` wrote.")
    given = {folder.absolute(): read_run(folder.name, folder) for folder in folders}
    found = []
    for name in names(of_splits):
        folder = _run_folder(name, of_splits, given)
        found.append(read_run(name, folder))
        given.pop(folder.absolute() if folder else Path(), None)
    return found + list(given.values())


def _run_folder(name: str, of_splits: Sequence[Split], given: Mapping[Path, Run]) -> Path | None:
    audits = [split.audits[name] for split in of_splits if name in split.audits]
    holding = [f for f in given if any(f in audit.folder.absolute().parents for audit in audits)]
    called = [f for f, run in given.items() if run.info.get("name", f.name) == name]
    return next(iter([*holding, *called, *(audit.run_folder for audit in audits)]), None)


def read_run(name: str, folder: Path | None) -> Run:
    if folder is None:
        return Run(name, None, {}, "", {})
    info, recipe, log = (folder / file for file in ("run.json", "recipe.yaml", "metrics.csv"))
    return Run(
        name,
        folder,
        read_json(info) if info.is_file() else {},
        recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        read_curves(log) if log.is_file() else {},
    )


def read_curves(log: Path) -> dict[str, list[tuple[float, float]]]:
    """The quantities of a Lightning CSV log as (epochs done, mean over that epoch's rows), without learning rates.

    Where a quantity was logged by step and by epoch, the epoch's value is kept.

    Raises:
        SightlineError: no epoch column, or a cell that is not a number.
    """
    sums: dict[str, dict[int, list[float]]] = {}
    with log.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                epoch = int(row.pop("epoch"))
                cells = {key: float(cell) for key, cell in row.items() if cell and _plotted(key, row)}
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise SightlineError(f"{log}, line {number}: {error}. Expected an epoch and numbers.") from error
            for key, value in cells.items():
                sums.setdefault(key.removesuffix("_epoch"), {}).setdefault(epoch, []).append(value)
    means = {key: [(e + 1.0, math.fsum(v) / len(v)) for e, v in sorted(of.items())] for key, of in sums.items()}
    return {key: [p for p in points if math.isfinite(p[1])] for key, points in means.items()}


def _plotted(key: str, row: Mapping[str, str]) -> bool:
    by_step = key.endswith("_step") and key.removesuffix("_step") + "_epoch" in row
    return key != "step" and not by_step and not key.startswith(("lr", "learning_rate"))


def relative(path: Path, out: Path) -> str:
    """`path` as seen from the page's folder: the page then speaks of no machine."""
    return Path(os.path.relpath(path, out.absolute().parent)).as_posix()
