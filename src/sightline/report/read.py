"""Comparisons, audits, matrices and runs as small values; every file that is missing or odd is named."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from sightline.catalogue import Metric, metric
from sightline.errors import SightlineError
from sightline.files import read_json
from sightline.naming import apart
from sightline.report.numbers import ACCURACY, F1_OVERALL, Difference, Estimate, known
from sightline.scores import read_summary

Point = tuple[float, float]
Made = TypeVar("Made")

REQUIRED = (
    *("sightline", "run", "model", "split", "seed", "explainer", "versions", "metrics", "empty_maps", "level"),
    *("data.name", "data.hash", "data.images", "data.classes"),
)
"""What a summary.json must hold for the page to be complete."""


@dataclass(frozen=True)
class Audit:
    """One model scored on one split."""

    folder: Path
    """Absolute."""
    summary: Mapping[str, Any]

    @property
    def home(self) -> Path | None:
        """<run> where the audit lies at <run>/audit/<split>."""
        parent = self.folder.parent
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

    @property
    def decision(self) -> Metric:
        """What says how good the decisions are: accuracy, or F1-Overall where images may have several classes."""
        several = "accuracy" not in self.metrics and "f1_overall" in self.metrics
        return F1_OVERALL if several else ACCURACY

    def estimate(self, metric: str, run: str) -> Estimate:
        """A run's metric, without a value where it was not audited."""
        return self.metrics.get(metric, {}).get(run, Estimate())

    def empty_maps(self, run: str) -> int:
        """How many of a run's maps are zero everywhere."""
        return int(self.audits[run].summary["empty_maps"]) if run in self.audits else 0

    def one_answer(self, run: str) -> Mapping[str, Any] | None:
        """The class that a run answers whatever the image shows, and its share of the answers."""
        return self.audits[run].summary.get("one_answer") if run in self.audits else None

    @property
    def images(self) -> int:
        """How many images were audited."""
        return int(self.data["images"])

    def difference(self, metric: str, run: str) -> Difference | None:
        """A run's difference to the baseline, None where none was computed."""
        return self.differences.get(run, {}).get(metric)


@dataclass(frozen=True)
class Cell:
    """One model on one kind of data."""

    estimate: Estimate
    diagonal: bool
    """Whether the model was trained on these data."""


@dataclass(frozen=True)
class Matrix:
    """Several models, each on several kinds of data, by one metric."""

    metric: Metric
    level: float
    columns: Sequence[str]
    rows: Mapping[str, Mapping[str, Cell]]
    """model -> column -> cell; none for what was not audited."""
    means: Mapping[str, Estimate]
    """model -> the mean over its cells off the diagonal, and how many there are."""

    def heat(self, cell: Cell) -> float:
        """Where the cell lies between the lowest value of all (0) and the highest (1)."""
        every = [one.estimate.value for row in self.rows.values() for one in row.values()]
        values = [value for value in every if value is not None] or [0.0]
        low, high = min(values), max(values)
        return (known(cell.estimate.value, low) - low) / ((high - low) or 1)


@dataclass(frozen=True)
class Run:
    """How one model was trained. Empty where its files are not at hand."""

    name: str
    folder: Path | None
    info: Mapping[str, Any]
    recipe: str
    curves: Mapping[str, Sequence[Point]]
    """quantity -> (epochs done, value), in the order of the log."""

    @property
    def facts(self) -> dict[str, Any]:
        """What its data say of themselves beside name, hash and number, such as how good propagated masks are."""
        data = self.info.get("data", {})
        return {fact.replace("_", " "): data[fact] for fact in data if fact not in ("name", "hash", "images")}


def splits(paths: Sequence[Path]) -> list[Split]:
    """Read comparisons (comparison.json or its folder) and single audits (an audit directory).

    Single audits of the same images become one split, side by side without differences. The splits come in the order
    of how well their baseline decides, the easiest first. Splits of one name and different data bear the data's name
    as well. A matrix is passed over: see `matrices`.

    Raises:
        SightlineError: nothing given, a path that is neither, a field that is missing, or one split given twice.
    """
    found: list[Split] = []
    alone: dict[tuple[str, str], list[Audit]] = {}
    for path in map(located, paths):
        content = _object(path)
        if content["kind"] == "comparison":
            found.append(_comparison(path, content))
        elif content["kind"] == "audit":
            alone.setdefault((str(content.get("data")), str(content.get("split"))), []).append(_audit(path.parent))
    if not found and not alone:
        raise SightlineError("no comparison given. Pass a comparison.json, its folder, or an audit directory.")
    return _ordered(_told_apart(found + [_side_by_side(audits) for audits in alone.values()]))


def matrices(paths: Sequence[Path]) -> list[Matrix]:
    """Read the matrices (matrix.json or its folder) among `paths`.

    Raises:
        SightlineError: a path that is nothing of the kind, or a field that is missing.
    """
    contents = {path: _object(path) for path in map(located, paths)}
    return [_matrix(path, content) for path, content in contents.items() if content["kind"] == "matrix"]


def located(path: Path) -> Path:
    """The JSON file meant by a comparison.json, a matrix.json, a summary.json or a folder that holds one."""
    if path.is_file():
        return path
    for name in ("comparison.json", "matrix.json", "summary.json"):
        if (path / name).is_file():
            return path / name
    raise SightlineError(
        f"{path} is neither a comparison nor an audit directory, nor a matrix: it holds no comparison.json, no "
        "matrix.json and no summary.json. Make one with `sightline compare`, `sightline matrix` or `sightline audit`."
    )


def _object(path: Path) -> dict[str, Any]:
    return _of_a_kind(path, read_json(path))


def _of_a_kind(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or content.get("kind") not in ("comparison", "matrix", "audit"):
        raise SightlineError(
            f'{path} has no "kind": "comparison", "matrix" or "audit". Pass what compare, matrix or audit wrote.'
        )
    return content


def _matrix(path: Path, content: Mapping[str, Any]) -> Matrix:
    try:
        rows = {run: _each(_cell, content["cells"][run]) for run in content["rows"]}
        means = {run: Estimate(of["mean"], n=of["n"]) for run, of in content["off_diagonal"].items()}
        return Matrix(metric(content["metric"]), content["level"], list(content["columns"]), rows, means)
    except (KeyError, TypeError, AttributeError) as error:
        raise SightlineError(f"{path} is not what `sightline matrix` writes: {error!r}. Run it again.") from error


def _cell(value: Mapping[str, Any]) -> Cell:
    return Cell(Estimate.of(value), bool(value["diagonal"]))


def _comparison(path: Path, content: Mapping[str, Any]) -> Split:
    try:
        runs, baseline = content["runs"], content["baseline"]
        audits = [_audit(_resolved(path, folder)) for folder in content["audits"]]
        if len(audits) != len(runs) or baseline not in runs:
            raise SightlineError(
                f"{path} must list one audit for each run, the baseline among them. Run compare again."
            )
        metrics = {key: _each(Estimate.of, of_runs) for key, of_runs in content["metrics"].items()}
        differences = {run: _each(Difference.of, of_metrics) for run, of_metrics in content["differences"].items()}
        named = dict(zip(runs, audits, strict=True))
        return Split(
            content["split"], named, metrics, differences, baseline, content["level"], audits[0].summary["data"]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise SightlineError(f"{path} is not what `sightline compare` writes: {error!r}. Run it again.") from error


def _each(make: Callable[[Any], Made], values: Mapping[str, Any]) -> dict[str, Made]:
    return {key: make(value) for key, value in values.items()}


def _resolved(path: Path, folder: str) -> Path:
    """An audit's folder as written in a comparison: relative to that file, or to where the command was started."""
    beside = path.parent / folder
    return beside if beside.exists() or not Path(folder).exists() else Path(folder)


def _audit(folder: Path) -> Audit:
    folder = folder.resolve()
    return Audit(folder, _of_a_kind(folder / "summary.json", read_summary(folder, REQUIRED)))


def _side_by_side(audits: Sequence[Audit]) -> Split:
    named = dict(zip(apart([str(audit.summary["run"]) for audit in audits]), audits, strict=True))
    first = audits[0].summary
    metrics = {
        metric: {run: Estimate.of(audit.summary["metrics"].get(metric)) for run, audit in named.items()}
        for metric in dict.fromkeys(key for audit in audits for key in audit.summary["metrics"])
    }
    return Split(first["split"], named, metrics, {}, next(iter(named)), first["level"], first["data"])


def _told_apart(found: Sequence[Split]) -> list[Split]:
    of_name: dict[str, set[str]] = {}
    for split in found:
        of_name.setdefault(split.name, set()).add(str(split.data["name"]))
    return [
        replace(split, name=f"{split.data['name']}/{split.name}") if len(of_name[split.name]) > 1 else split
        for split in found
    ]


def _ordered(found: list[Split]) -> list[Split]:
    called = [split.name for split in found]
    if repeated := sorted({name for name in called if called.count(name) > 1}):
        raise SightlineError(f"split {repeated[0]!r} was given more than once. Pass one comparison for each split.")
    return sorted(found, key=lambda split: -known(split.estimate(split.decision.key, split.baseline).value, 0.0))


def names(of_splits: Sequence[Split]) -> list[str]:
    """The runs of all splits, each once, in order of appearance."""
    return list(dict.fromkeys(run for split in of_splits for run in split.audits))


def runs(of_splits: Sequence[Split], folders: Sequence[Path] = ()) -> list[Run]:
    """How the audited runs were trained, then the runs in `folders` that were not audited.

    An audited run's directory is the one in `folders` that holds its audit or bears its name, else <run> where the
    audit lies at <run>/audit/<split>.

    Raises:
        SightlineError: a folder given holds no metrics.csv, or a run's files cannot be read.
    """
    given = {folder.resolve(): read_run(folder.name, folder.resolve()) for folder in map(_trained, folders)}
    homes = {name: _home(name, of_splits, given) for name in names(of_splits)}
    others = [run for folder, run in given.items() if folder not in homes.values()]
    known = apart([*homes, *(run.name for run in others)])[len(homes) :]
    return [read_run(name, home) for name, home in homes.items()] + [
        replace(run, name=name) for run, name in zip(others, known, strict=True)
    ]


def _trained(folder: Path) -> Path:
    if not (folder / "metrics.csv").is_file():
        raise SightlineError(f"{folder} is not a run directory: it holds no metrics.csv. Pass what `train` wrote.")
    return folder


def _home(name: str, of_splits: Sequence[Split], given: Mapping[Path, Run]) -> Path | None:
    audits = [split.audits[name] for split in of_splits if name in split.audits]
    holding = [folder for folder in given if any(folder in audit.folder.parents for audit in audits)]
    called = [folder for folder, run in given.items() if name in (folder.name, run.info.get("name"))]
    return next(iter([*holding, *called, *(audit.home for audit in audits)]), None)


def read_run(name: str, folder: Path | None) -> Run:
    """What `train` left in a run directory, as far as it is there."""
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


def read_curves(log: Path) -> dict[str, list[Point]]:
    """The quantities of a Lightning CSV log as (epochs done, mean over that epoch's rows), without learning rates.

    Where a quantity was logged by step and by epoch, the epoch's value is kept. What is not finite is left out.

    Raises:
        SightlineError: no epoch column, or a cell that is not a number.
    """
    by_epoch: dict[str, dict[int, list[float]]] = {}
    with log.open(encoding="utf-8", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            try:
                epoch = int(row["epoch"])
                cells = {key: float(cell) for key, cell in row.items() if cell and _plotted(key, row)}
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise SightlineError(f"{log}, line {line}: expected an epoch and numbers, found {row}.") from error
            for key, value in cells.items():
                by_epoch.setdefault(key.removesuffix("_epoch"), {}).setdefault(epoch, []).append(value)
    return {key: _means(epochs) for key, epochs in by_epoch.items()}


def _means(epochs: Mapping[int, Sequence[float]]) -> list[Point]:
    means = ((epoch + 1.0, sum(values) / len(values)) for epoch, values in sorted(epochs.items()))
    return [point for point in means if math.isfinite(point[1])]


def _plotted(key: str, row: Mapping[str, str]) -> bool:
    by_step = key.endswith("_step") and key.removesuffix("_step") + "_epoch" in row
    return key not in ("step", "epoch") and not by_step and not key.startswith(("lr", "learning_rate"))
