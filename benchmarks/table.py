"""A Markdown table of audited runs, mean and sample standard deviation over seeds.

Run:  .venv/bin/python benchmarks/table.py RUNS test/accuracy shifted/accuracy test/ch
RUNS is a folder of run directories called <method>-<seed>, or what --json made of one.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.catalogue import metric
from sightline.errors import SightlineError
from sightline.files import read_json, write_text
from sightline.stats import seeds

EMPTY = "empty_maps"

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""method -> seed -> "minutes" and, by split, the metrics' values."""


def collect(folder: Path) -> Results:
    """What the audits of a folder's runs say."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for audits in sorted(folder.glob("*-*/audit")):
        method, _, seed = audits.parent.name.rpartition("-")
        of_splits = {one.parent.name: read_json(one) for one in sorted(audits.glob("*/summary.json"))}
        found.setdefault(method, {})[seed] = {
            "minutes": read_json(audits.parent / "run.json")["minutes"],
            **{split: numbers(summary) for split, summary in of_splits.items()},
        }
    if not found:
        raise SightlineError(f"{folder} holds no audited runs called <method>-<seed>.")
    return found


def numbers(summary: Mapping[str, Any]) -> dict[str, Any]:
    """An audit's metrics, without their intervals."""
    values = {key: (entry or {}).get("value") for key, entry in summary["metrics"].items()}
    return values | {EMPTY: summary[EMPTY]}


def cell(values: Iterable[float | None]) -> str:
    """Such as "0.912 ± 0.004"; without the deviation for one seed, "-" for none."""
    of = seeds([value for value in values if value is not None])
    if of.n == 0:
        return "-"
    return f"{of.mean:.3f}" if of.n == 1 else f"{of.mean:.3f} ± {of.sd:.3f}"


def table(found: Results, columns: Sequence[str]) -> list[str]:
    """The lines of a table whose columns are called <split>/<metric>."""
    head = ["", *map(title, columns), "minutes", "seeds"]
    lines = [head, ["---"] * len(head)]
    for method, runs in found.items():
        minutes = cell(run["minutes"] for run in runs.values())
        lines.append([method, *(entry(runs.values(), column) for column in columns), minutes, str(len(runs))])
    return [f"| {' | '.join(line)} |" for line in lines]


def title(column: str) -> str:
    """What heads a column."""
    split, _, key = column.partition("/")
    return f"{'empty maps' if key == EMPTY else metric(key).title}, {split}"


def entry(runs: Iterable[Mapping[str, Any]], column: str) -> str:
    """What stands in it for a method."""
    split, _, key = column.partition("/")
    values = [run[split].get(key) for run in runs if split in run]
    return f"{sum(values):,}" if key == EMPTY else cell(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("columns", nargs="+", metavar="SPLIT/METRIC", help=f"the metric may be {EMPTY}, which add up")
    parser.add_argument("--json", type=Path, help="write the numbers of every run here")
    args = parser.parse_args()
    found = read_json(args.runs) if args.runs.suffix == ".json" else collect(args.runs)
    print("\n".join(table(found, args.columns)))
    if args.json:
        methods = (f"  {json.dumps(name)}: {{\n{runs_text(runs)}\n  }}" for name, runs in found.items())
        write_text(args.json, "{\n" + ",\n".join(methods) + "\n}\n")


def runs_text(runs: Mapping[str, Any]) -> str:
    """A line for each run."""
    return ",\n".join(f"    {json.dumps(seed)}: {json.dumps(run)}" for seed, run in runs.items())


if __name__ == "__main__":
    main()
