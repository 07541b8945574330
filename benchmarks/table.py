"""A Markdown table of audited runs, mean and sample standard deviation over seeds.

Run:  .venv/bin/python benchmarks/table.py RUNS test/accuracy shifted/accuracy test/ch --against plain
      .venv/bin/python benchmarks/table.py --update recipes
RUNS is a folder of run directories called <method>-<seed>, or what --json made of one. --update makes anew what stands
in Markdown files between the lines <!-- table: RUNS ... --> and <!-- /table -->, RUNS as seen from the file.
"""

import argparse
import json
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from sightline.catalogue import metric
from sightline.errors import SightlineError, did_you_mean
from sightline.files import read_json, write_text
from sightline.stats import seeds

EMPTY = "empty_maps"
MARKED = re.compile(r"^<!-- table: (.+?) -->\n.*?^<!-- /table -->", re.DOTALL | re.MULTILINE)

Runs = Mapping[str, Mapping[str, Any]]
"""seed -> "minutes" and, by split, the metrics' values."""
Results = Mapping[str, Runs]
"""method -> its runs."""
Column = tuple[str, Callable[[Runs], str]]
"""What heads it, and what a method's runs make of it."""


def collect(folder: Path) -> Results:
    """What the audits of a folder's runs say."""
    found: dict[str, dict[str, Any]] = {}
    for audits in sorted(folder.glob("*-*/audit")):
        method, _, seed = audits.parent.name.rpartition("-")
        found.setdefault(method, {})[seed] = numbers(audits.parent)
    if not found:
        raise SightlineError(f"{folder} holds no audited runs called <method>-<seed>.")
    return found


def numbers(run: Path) -> dict[str, Any]:
    """How long a run trained, and what its audits say."""
    minutes = read_json(run / "run.json")["minutes"]
    audits = {file.parent.name: read_json(file) for file in sorted(run.glob("audit/*/summary.json"))}
    return {"minutes": minutes} | {split: values(summary) for split, summary in audits.items()}


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


def table(found: Results, asked: argparse.Namespace) -> str:
    """The rows and columns that the command line asks for."""
    titles = titled(asked.rows or found)
    columns = [*asked_for(found, asked, titles), ("minutes", minutes), ("seeds", lambda runs: str(len(runs)))]
    head = ["", *(heading for heading, _ in columns)]
    rows = ([title, *(fill(runs_of(found, row)) for _, fill in columns)] for row, title in titles.items())
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def titled(rows: Collection[str]) -> dict[str, str]:
    """What each row is called: "plain=CE" calls the runs of `plain` CE."""
    pairs = (row.partition("=") for row in rows)
    return {row: title or row for row, _, title in pairs}


def asked_for(found: Results, asked: argparse.Namespace, titles: Mapping[str, str]) -> Iterator[Column]:
    """The columns asked for: metrics, then differences, then gaps closed."""
    for column in asked.columns:
        yield heading(column), partial(entry, column)
    for base in asked.against[:1]:
        for column in asked.against[1:] or [each for each in asked.columns if each.endswith("/accuracy")]:
            yield f"{heading(column)}, above {titles.get(base, base)}", partial(above, column, runs_of(found, base))
    for low, high, column in asked.gap:
        yield f"{heading(column)}, gap closed", partial(closed, column, runs_of(found, low), runs_of(found, high))


def heading(column: str) -> str:
    """What heads a column called <split>/<metric>."""
    split, _, key = column.partition("/")
    return f"{'empty maps' if key == EMPTY else metric(key).title}, {split}"


def runs_of(found: Results, row: str) -> Runs:
    """The runs of a row."""
    if row not in found:
        raise SightlineError(f"there are no runs of {row!r}. {did_you_mean(row, found)}")
    return found[row]


def by_seed(column: str, runs: Runs) -> dict[str, float]:
    """seed -> a metric on a split, where it is known."""
    split, _, key = column.partition("/")
    known = {seed: run.get(split, {}).get(key) for seed, run in runs.items()}
    return {seed: value for seed, value in known.items() if value is not None}


def entry(column: str, runs: Runs) -> str:
    """A method's metric on a split; empty maps add up."""
    known = by_seed(column, runs).values()
    return f"{sum(known):,}" if column.endswith(EMPTY) and known else cell(known)


def minutes(runs: Runs) -> str:
    """How long a method trains."""
    return cell([run["minutes"] for run in runs.values()])


def cell(known: Collection[float]) -> str:
    """Such as "0.912 ± 0.004"; without the deviation for one seed, "-" for none."""
    of = seeds(list(known))
    if of.n == 0:
        return "-"
    return f"{of.mean:.3f}" if of.n == 1 else f"{of.mean:.3f} ± {of.sd:.3f}"


def above(column: str, base: Runs, runs: Runs) -> str:
    """By how much a method exceeds another, over the seeds that both have."""
    own, other = by_seed(column, runs), by_seed(column, base)
    return paired([own[seed] - other[seed] for seed in own if seed in other], "+", 3)


def closed(column: str, low: Runs, high: Runs, runs: Runs) -> str:
    """The share of the way from one method to another that a third one covers, over the seeds that all have."""
    own, start, end = (by_seed(column, of) for of in (runs, low, high))
    common = [seed for seed in own if seed in start and seed in end and start[seed] != end[seed]]
    return paired([(own[seed] - start[seed]) / (end[seed] - start[seed]) for seed in common], "", 2)


def paired(differences: Collection[float], sign: str, digits: int) -> str:
    """Such as "+0.790 [0.741, 0.839]", the mean with Student's 95 % interval if the seeds differ; "-" for none."""
    of = seeds(list(differences))
    if of.n == 0:
        return "-"
    ends = of.interval()
    return f"{of.mean:{sign}.{digits}f}" + (f" [{ends.low:.{digits}f}, {ends.high:.{digits}f}]" if of.sd else "")


def updated(file: Path) -> str:
    """A Markdown file with its marked tables made anew."""
    return MARKED.sub(
        lambda found: f"<!-- table: {found[1]} -->\n{remade(found[1], file.parent)}\n<!-- /table -->",
        file.read_text(encoding="utf-8"),
    )


def remade(command: str, folder: Path) -> str:
    """The table that a marker asks for in a file of a folder."""
    asked = parser().parse_args(shlex.split(command))
    return table(read(folder / asked.runs), asked)


def read(runs: Path) -> Results:
    return read_json(runs) if runs.suffix == ".json" else collect(runs)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=Path)
    parser.add_argument("columns", nargs="*", metavar="SPLIT/METRIC", help=f"the metric may be {EMPTY}, which add up")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW[=TITLE]", help="these, in this order")
    parser.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar=("ROW", "SPLIT/METRIC"),
        help="differences to this row, paired by seed, with 95 %% intervals; of all accuracies unless told",
    )
    parser.add_argument(
        "--gap",
        nargs=3,
        action="append",
        default=[],
        metavar=("FROM", "TO", "SPLIT/METRIC"),
        help="the share of the way between two rows that a row covers",
    )
    parser.add_argument("--json", type=Path, help="put the numbers of every run here, beside those of others")
    parser.add_argument(
        "--update", type=Path, metavar="FOLDER", help="make the marked tables of all Markdown files below anew"
    )
    return parser


def main() -> None:
    args = parser().parse_args()
    if args.update:
        for file in sorted(args.update.rglob("*.md")):
            write_text(file, updated(file))
    elif not args.runs:
        parser().error("name RUNS, or a folder to --update")
    else:
        found = read(args.runs)
        print(table(merge(args.json, found) if args.json else found, args))


if __name__ == "__main__":
    main()
