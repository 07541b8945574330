"""Markdown table of audited runs, mean and sample standard deviation over seeds.

Run:  .venv/bin/python benchmarks/table.py RUNS --split test shifted
RUNS is a folder of run directories called <method>-<seed>, each audited on every split.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sightline.catalogue import CATALOGUE
from sightline.errors import SightlineError
from sightline.files import read_json
from sightline.stats import seeds

METRICS = ("accuracy", "macro_f1", "auroc", "worst_group", "ch", "pg")


def cell(values: Iterable[float | None]) -> str:
    """Such as "0.912 ± 0.004"; without the deviation for one seed, "-" for none."""
    of = seeds([value for value in values if value is not None])
    if of.n == 0:
        return "-"
    return f"{of.mean:.3f}" if of.n == 1 else f"{of.mean:.3f} ± {of.sd:.3f}"


def row(method: str, runs: list[Path], split: str, metrics: Iterable[str]) -> list[str]:
    """One line of the table."""
    summaries = [read_json(run / "audit" / split / "summary.json") for run in runs]
    values: dict[str, list[Any]] = {m: [(s["metrics"][m] or {}).get("value") for s in summaries] for m in metrics}
    minutes = cell(read_json(run / "run.json")["minutes"] for run in runs)
    empty = sum(summary["empty_maps"] for summary in summaries)
    return [method, *(cell(values[m]) for m in metrics), str(empty), minutes, str(len(runs))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--split", nargs="+", default=["test"])
    parser.add_argument("--metrics", nargs="+", default=METRICS, choices=CATALOGUE)
    args = parser.parse_args()
    methods = defaultdict(list)
    for audit in sorted(args.runs.glob("*-*/audit")):
        methods[audit.parent.name.rpartition("-")[0]].append(audit.parent)
    if not methods:
        raise SightlineError(f"{args.runs} holds no audited runs called <method>-<seed>.")
    for split in args.split:
        head = [split, *(CATALOGUE[m].title for m in args.metrics), "empty maps", "minutes", "seeds"]
        print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
        for method, runs in methods.items():
            print(f"| {' | '.join(row(method, runs, split, args.metrics))} |")
        print()


if __name__ == "__main__":
    main()
