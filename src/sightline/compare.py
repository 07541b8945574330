"""Compare audits of the same images: every difference is paired, image by image."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sightline.catalogue import metric
from sightline.columns import aligned
from sightline.errors import SightlineError
from sightline.files import relative, write_json
from sightline.naming import apart
from sightline.scores import Sample, read_scores, read_summary, samples, summarise
from sightline.stats import mcnemar, paired_bootstrap

_ALIKE = ("split", "target")
"""What two audits of the same data must share for their numbers to be comparable."""

LEFT_OUT = ("worst_class",)
"""What a terminal's width has no room for; the report shows it."""

WIDE = 8
"""As many metrics fit a line of text."""


@dataclass(frozen=True)
class Audit:
    """One audit directory, its scores ordered by image id."""

    folder: Path
    summary: Mapping[str, Any]
    scores: pd.DataFrame

    @property
    def classes(self) -> list[str]:
        return list(self.summary["data"]["classes"])


def compare(
    audits: Sequence[str | Path],
    out: str | Path,
    names: Sequence[str] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Join audits by image id, test each against the first, and write `out`/comparison.json.

    Differences are "run minus baseline" with a paired bootstrap interval; p is McNemar's exact one where an
    image is either right or wrong (accuracy, pg), the bootstrap's for all others. A difference in a score of maps is
    over the images where both runs define it.

    Args:
        audits: two audit directories or more of the same data and split; the first is the baseline.
        out: a folder.
        names: what to call the runs, in the order of `audits`; the names in their summaries if left out. Repeated names
            are numbered.
        level: of the intervals.
        seed: of the bootstrap.

    Returns:
        What comparison.json holds.

    Raises:
        SightlineError: fewer than two audits, another number of names, a file that is missing or damaged, or audits of
            different data, splits, settings or images.
    """
    if len(audits) < 2:
        raise SightlineError(f"compare needs two audits or more, got {len(audits)}. The first is the baseline.")
    if names is not None and len(names) != len(audits):
        raise SightlineError(f"{len(names)} names for {len(audits)} audits: give one for each, in their order.")
    loaded = [_load(Path(folder)) for folder in audits]
    for other in loaded[1:]:
        _refuse_unlike(loaded[0], other)
    named = dict(zip(apart(names or [str(one.summary["run"]) for one in loaded]), loaded, strict=True))
    comparison = _comparison(named, level, seed) | {"audits": [relative(one.folder, out) for one in loaded]}
    write_json(Path(out) / "comparison.json", comparison)
    return comparison


def _load(folder: Path) -> Audit:
    summary = read_summary(folder, ("run", "split", "data.hash", "data.classes"))
    return Audit(folder, summary, read_scores(folder).sort_values("id", ignore_index=True))


def _refuse_unlike(a: Audit, b: Audit) -> None:
    """Raise unless both audits scored the same images in the same way."""
    both = f"{a.folder} and {b.folder}"
    for key in _ALIKE:
        if (one := a.summary.get(key)) != (other := b.summary.get(key)):
            raise SightlineError(f"{both} differ in their {key}: {one!r} and {other!r}. Audit both with the same.")
    if a.summary["data"]["hash"] != b.summary["data"]["hash"]:
        data = " and ".join(f"{one.summary['data'].get('name')} ({one.summary['data']['hash'][:12]})" for one in (a, b))
        raise SightlineError(f"{both} scored different data: {data}. Audit both on the same data.")
    if unlike := "; ".join(_scored_otherwise(a.summary.get("scored_by", {}), b.summary.get("scored_by", {}))):
        raise SightlineError(
            f"{both} hold other metrics: {unlike}. Audit both with the same --metrics and --margin; an audit replaces "
            "what its folder held, unless --out names another."
        )
    first, second = set(a.scores["id"]), set(b.scores["id"])
    if first != second:
        raise SightlineError(
            f"{both} scored different images: {_some(first - second)} only in the first, {_some(second - first)} only "
            "in the second. Audit both on the same data."
        )


def _scored_otherwise(one: Mapping[str, str], other: Mapping[str, str]) -> Iterator[str]:
    """What two audits were not both scored by."""
    for key in dict.fromkeys([*one, *other]):
        if key not in other or key not in one:
            yield f"{key} only in the {'first' if key in one else 'second'}"
        elif one[key] != other[key]:
            yield f"{one[key]} and {other[key]}"


def _some(ids: set[str]) -> str:
    return f"{len(ids)}{f' (such as {min(ids)!r})' if ids else ''}"


def _comparison(named: Mapping[str, Audit], level: float, seed: int) -> dict[str, Any]:
    baseline, *others = named
    first = named[baseline]
    of_runs = {name: summarise(one.scores, first.classes, level, seed=seed)["metrics"] for name, one in named.items()}
    measured = {name: samples(one.scores, first.classes) for name, one in named.items()}
    return {
        "kind": "comparison",
        "level": level,
        "seed": seed,
        "data": first.summary["data"],
        "split": first.summary["split"],
        "runs": list(named),
        "baseline": baseline,
        "explainers": {name: one.summary.get("explainer") for name, one in named.items()},
        "metrics": {key: {name: of_runs[name].get(key) for name in named} for key in of_runs[baseline]},
        "differences": {name: _differences(measured[baseline], measured[name], level, seed) for name in others},
    }


def _differences(a: Mapping[str, Sample], b: Mapping[str, Sample], level: float, seed: int) -> dict[str, Any]:
    return {key: _difference(a[key], b[key], level, seed) for key in a if key in b}


def _difference(a: Sample, b: Sample, level: float, seed: int) -> dict[str, Any]:
    if a.image is not None:
        defined = a.defined & b.defined
        a, b = a.among(defined), b.among(defined)
    found = paired_bootstrap(a.data, b.data, a.statistic, level, a.resamples, seed)
    entry = {"value": found.value, "low": found.low, "high": found.high, "p": found.p, "n": found.n}
    if not a.binary or found.value is None:
        return entry | {"test": "paired bootstrap"}
    test = mcnemar(a.data, b.data)
    return entry | {"p": test.p, "test": "McNemar exact", "b": test.b, "c": test.c}


def lost(audits: Sequence[str | Path], level: float = 0.95, seed: int = 0) -> dict[str, dict[str, Any]]:
    """What a run's accuracy loses to the background: on "X_same" less on "X_swapped", the same evidence (`Swapped`).

    Args:
        audits: audit directories of one run, one for each split, called as the splits.
        level: of the intervals.
        seed: of the bootstrap.

    Returns:
        X -> the difference with its paired interval and McNemar's exact p; of no other splits than such pairs.

    Raises:
        SightlineError: a file that is missing or damaged.
    """
    by_split, found = {Path(folder).name: Path(folder) for folder in audits}, {}
    for name, folder in by_split.items():
        inner = name.removesuffix("_same")
        if inner == name or f"{inner}_swapped" not in by_split:
            continue
        swapped, same = _load(by_split[f"{inner}_swapped"]), _load(folder)
        others, own = (samples(one.scores, one.classes).get("accuracy") for one in (swapped, same))
        if others and own and swapped.scores["id"].equals(same.scores["id"]):
            found[inner] = _difference(others, own, level, seed)
    return found


def table(comparison: Mapping[str, Any]) -> str:
    """A plain-text table of the metrics that any run has: value ± half the interval's width.

    A row per run; a row per metric where there are too many of them for a line. A star follows where the interval of
    the difference to the baseline excludes zero.
    """
    every = comparison["metrics"].items()
    known = {key: of for key, of in every if any(e and e["value"] is not None for e in of.values())}
    shown = {key: of for key, of in known.items() if key not in LEFT_OUT}
    rows = [["", *(metric(key).heading for key in shown)]]
    for run in comparison["runs"]:
        clear = comparison["differences"].get(run, {})
        rows.append([_short(run), *(_cell(key, of[run], clear.get(key)) for key, of in shown.items())])
    rows = rows if len(shown) <= WIDE else list(map(list, zip(*rows, strict=True)))
    return "\n".join([_head(comparison), "", *aligned(rows), "", *_notes(comparison, shown)])


def _cell(key: str, entry: Mapping[str, Any] | None, difference: Mapping[str, Any] | None) -> str:
    if entry is None or entry["value"] is None:
        return "– "
    return metric(key).give_or_take(entry) + ("*" if _excludes_zero(difference) else " ")


def _short(name: str, most: int = 15) -> str:
    """Cut in the middle: names of runs tend to differ at either end."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2) :]}"


def _excludes_zero(difference: Mapping[str, Any] | None) -> bool:
    return difference is not None and difference["low"] is not None and not difference["low"] <= 0 <= difference["high"]


def _head(comparison: Mapping[str, Any]) -> str:
    data = comparison["data"]
    return f"{data.get('name')}, {comparison['split']}: {data.get('images')} images; baseline {comparison['baseline']}"


def _notes(comparison: Mapping[str, Any], shown: Iterable[str]) -> list[str]:
    level = f"{100 * comparison['level']:.3g} %"
    notes = [f"± half the {level} interval's width. * the paired {level} interval of run minus baseline excludes zero."]
    if not all(metric(key).higher for key in shown):
        notes.append("↓ lower is better.")
    if len(set(comparison["explainers"].values())) > 1:
        each = "; ".join(f"{run} {explainer}" for run, explainer in comparison["explainers"].items())
        notes.append(f"CH and PG rest on maps of different explainers: {each}.")
    return notes
