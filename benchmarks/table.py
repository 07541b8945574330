"""A Markdown table of audited runs, mean and sample standard deviation over seeds.

Run:  .venv/bin/python benchmarks/table.py RUNS test/accuracy shifted/accuracy test/ch --against plain
      .venv/bin/python benchmarks/table.py --update recipes
RUNS is a folder of run directories called <method>-<seed>, or what --json made of one. --update makes anew what stands
in Markdown files between the lines <!-- table: RUNS ... --> and <!-- /table -->, RUNS as seen from the file.
"""

import argparse
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

from league import Rows, definition
from results import EMPTY, Results, Runs, merge, read

from sightline.catalogue import metric
from sightline.errors import SightlineError, did_you_mean
from sightline.files import write_text
from sightline.stats import seeds

MARKED = re.compile(r"^<!-- table: (.+?) -->\n.*?^<!-- /table -->", re.DOTALL | re.MULTILINE)

Column = tuple[str, Callable[[Runs], str]]
"""What heads it, and what a method's runs make of it."""


def table(found: Results, asked: argparse.Namespace) -> str:
    """The rows and columns that the command line asks for."""
    league = definition(asked.league)["rows"] if asked.league else {}
    found = {**{row: {} for row in league}, **found}
    titles = titled(asked.rows or [row for row in league or found if found[row]], league)
    columns = [*asked_for(found, asked, titles), ("minutes", minutes), ("seeds", lambda runs: str(len(runs)))]
    told = ["guidance"] if league else []
    head = ["", *told, *(heading for heading, _ in columns)]
    rows = (
        [
            title,
            *(league.get(row, {}).get(key, "") for key in told),
            *(fill(runs_of(found, row)) for _, fill in columns),
        ]
        for row, title in titles.items()
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def titled(rows: Collection[str], league: Rows) -> dict[str, str]:
    """What each row is called: "plain=CE" calls the runs of `plain` CE, else a league may say."""
    pairs = (row.partition("=") for row in rows)
    return {row: title or league.get(row, {}).get("title", row) for row, _, title in pairs}


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
    asked.league = asked.league and folder / asked.league
    return table(read(folder / asked.runs), asked)


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
    parser.add_argument("--league", type=Path, help="a league's file, for rows, their order, titles and guidance")
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
