"""The numbers of audited runs: from run directories into one JSON file, which adds up over sessions."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from sightline.errors import SightlineError
from sightline.files import read_json, write_text

EMPTY = "empty_maps"

Runs = Mapping[str, Mapping[str, Any]]
"""seed -> "minutes" and, by split, the metrics' values."""
Results = Mapping[str, Runs]
"""method -> its runs."""


def collect(folder: Path) -> Results:
    """What the audits of a folder's runs say."""
    found = by_method((audits.parent for audits in sorted(folder.glob("*-*/audit"))), numbers)
    if not found:
        raise SightlineError(f"{folder} holds no audited runs called <method>-<seed>.")
    return found


def by_method(runs: Iterable[Path], of: Callable[[Path], Mapping[str, Any]]) -> Results:
    """What `of` says of runs called <method>-<seed>."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for run in runs:
        method, _, seed = run.name.rpartition("-")
        found.setdefault(method, {})[seed] = of(run)
    return found


def numbers(run: Path) -> dict[str, Any]:
    """How long a run trained, and what its audits say."""
    audits = {file.parent.name: read_json(file) for file in sorted(run.glob("audit/*/summary.json"))}
    return {"minutes": minutes(run)} | {split: values(summary) for split, summary in audits.items()}


def minutes(run: Path) -> float:
    """How long a run trained."""
    return float(read_json(run / "run.json")["minutes"])


def values(summary: Mapping[str, Any]) -> dict[str, Any]:
    """An audit's metrics, without their intervals."""
    found = {key: (entry or {}).get("value") for key, entry in summary["metrics"].items()}
    return found | {EMPTY: summary[EMPTY]}


def merge(file: Path, found: Results) -> Results:
    """Write runs beside those that a file holds, in place of the same method and seed; what it then holds."""
    with FileLock(f"{file}.lock"):
        held: Results = read_json(file) if file.exists() else {}
        merged = {method: {**held.get(method, {}), **found.get(method, {})} for method in {**held, **found}}
        methods = (f"  {json.dumps(name)}: {{\n{lines_of(runs)}\n  }}" for name, runs in merged.items())
        write_text(file, "{\n" + ",\n".join(methods) + "\n}\n")
    return merged


def lines_of(runs: Runs) -> str:
    """A line for each run."""
    return ",\n".join(f"    {json.dumps(seed)}: {json.dumps(run)}" for seed, run in runs.items())


def read(runs: Path) -> Results:
    """What a JSON file or a folder of runs holds."""
    return read_json(runs) if runs.suffix == ".json" else collect(runs)
