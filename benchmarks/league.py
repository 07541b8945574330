"""Train and audit what a league still lacks: many methods on the same data, with one network and budget, several seeds.

Run:  .venv/bin/python benchmarks/league.py recipes/league/habitats07.yaml --seeds 0 1 2 --jobs 2
A run that was killed is resumed; one that fails is named, and the others go on. Numbers are put into --json run by run,
and a row and seed that it holds are not run again. Several processes may work on one league.

A league is a YAML file of
  like       another league: its keys hold where this one is silent, its rows come ahead of the own ones
  data       what every row trains on, as in a recipe
  recipes    the folder of the rows' recipes, as seen from the file
  overrides  of every row's recipe, such as the network
  audits     split -> metrics
  rows       name -> `recipe`, unless it is called as the row; `overrides`; or `dfr`, the row whose last layer is
             refitted; `maps`, an explainer whose maps of the training split are kept in the run's folder "maps"; for
             tables `title` and `guidance`. null takes a row of `like` out
  first      rows that only serve others, with `audits` of their own
  picture    the splits of league_figure.py: `broken` and `holds`, unless they are shifted and test
Overrides may name $data and, as $row, the run directory of a row with the same seed, which is then run first.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from string import Template
from threading import Thread
from typing import Any, cast

import yaml
from filelock import FileLock, Timeout
from results import merge, numbers

from sightline.errors import SightlineError, did_you_mean
from sightline.files import read_json

Rows = Mapping[str, Mapping[str, Any]]


def definition(file: Path) -> dict[str, Any]:
    """What a league's file says, together with the one that it is like."""
    own = yaml.safe_load(file.read_text(encoding="utf-8"))
    other = definition(file.parent / own["like"]) if "like" in own else {}
    rows = {**other.get("rows", {}), **own.get("rows", {})}
    return other | own | {"rows": {name: row for name, row in rows.items() if row is not None}}


@dataclass(frozen=True)
class League:
    """A league's definition, the folder of its runs and the file of their numbers."""

    file: Path
    out: Path
    json: Path

    @cached_property
    def says(self) -> dict[str, Any]:
        return definition(self.file)

    @cached_property
    def rows(self) -> Rows:
        """All rows, those that only serve others too."""
        return self.says["rows"] | self.says["first"]

    def run(self, name: str, seed: int) -> Path:
        return self.out / f"{name}-{seed}"

    def audits(self, name: str) -> Mapping[str, Sequence[str]]:
        row = self.rows[name]
        return ({"train": ["ch"]} if "maps" in row else {}) | row.get("audits", self.says["audits"])

    def recipe(self, name: str) -> Path:
        return self.file.parent / self.says["recipes"] / f"{self.rows[name].get('recipe', name)}.yaml"

    def overrides(self, name: str, seed: int) -> list[str]:
        """Of a row's recipe, with what stands for other runs and the data filled in."""
        known = {other: self.run(other, seed) for other in self.rows} | {"data": json.dumps(self.says["data"])}
        return [*(Template(text).substitute(known) for text in self.templates(name)), f"seed={seed}"]

    def templates(self, name: str) -> list[str]:
        return ["data=$data", *self.says.get("overrides", []), *self.rows[name].get("overrides", [])]

    def before(self, name: str) -> list[str]:
        """The rows whose runs a row builds on."""
        told = {word for text in self.templates(name) for word in Template(text).get_identifiers()}
        return [other for other in self.rows if other in told | {self.rows[name].get("dfr")}]

    def missing(self, names: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
        """The rows and seeds whose numbers are not there yet."""
        for name in names:
            if name not in self.says["rows"]:
                raise SightlineError(f"{self.file} has no row {name!r}. {did_you_mean(name, self.says['rows'])}")
        held = read_json(self.json) if self.json.exists() else {}
        return [
            (name, seed)
            for seed in seeds
            for name in names
            if not set(self.audits(name)) <= set(held.get(name, {}).get(str(seed), {}))
        ]


def make(league: League, name: str, seed: int, *, wait: bool = True) -> None:
    """Do what is left to do of one row and seed, and of the runs it builds on; put its numbers into the league's file.

    Raises:
        Timeout: another process is at it, and this one was not told to wait.
    """
    run = league.run(name, seed)
    with FileLock(f"{run}.lock", blocking=wait):
        for other in league.before(name):
            make(league, other, seed)
        train(league, name, seed)
        audit(run, league.audits(name), league.rows[name].get("maps"))
    if name in league.says["rows"]:
        merge(league.json, {name: {str(seed): numbers(run)}})


def train(league: League, name: str, seed: int) -> None:
    """Train a run, or refit another one's last layer, unless that is done."""
    from sightline import recipe
    from sightline.dfr import dfr
    from sightline.train import train

    run, refitted = league.run(name, seed), league.rows[name].get("dfr")
    begun = (run / "recipe.yaml").exists()
    if not refitted:
        train(recipe.read(league.recipe(name), league.overrides(name, seed)), run, resume=begun)
    elif not begun:
        dfr(league.run(refitted, seed), run, split="val", seed=seed)


def audit(run: Path, audits: Mapping[str, Sequence[str]], maps: str | None = None) -> None:
    """Audit the splits of a run that are not yet; keep the training images' maps of an explainer."""
    from sightline.audit import audit, of_run, scaled_margin
    from sightline.explainers.names import named as explainer
    from sightline.metrics.names import named

    for split, metrics in audits.items():
        out, kept = run / "audit" / split, maps and split == "train"
        if not (out / "summary.json").exists() or (kept and not (run / "maps").exists()):
            subject, data = of_run(run, split)
            margin = scaled_margin(data.size, None)
            how: dict[str, Any] = {"metrics": [each for spec in metrics for each in named(spec, margin=margin)]}
            if kept:
                how |= {"explainers": [explainer(maps)], "maps": run / "maps"}
            audit(subject, data, out, **how)


def cell(league: League, name: str, seed: int) -> None:
    """`make`, unless another process is at it; what it prints goes to a file beside the run."""
    with (
        open(f"{league.run(name, seed)}.log", "a", encoding="utf-8") as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        make(league, name, seed, wait=False)


def outcome(made: Future[None]) -> str:
    error = made.exception()
    if isinstance(error, Timeout):
        return "left to the process that is at it"
    return f"failed: {type(error).__name__}: {error}" if error else "done"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("league", type=Path)
    parser.add_argument("--rows", nargs="+", help="these rows only")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, help="folder of the runs; default runs/league/<the file's name>")
    parser.add_argument("--json", type=Path, help="where the numbers go; default beside the league")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--list", action="store_true", help="say what is missing, and stop")
    args = parser.parse_args()
    out = args.out or Path("runs/league") / args.league.stem
    league = League(args.league, out, args.json or args.league.with_suffix(".json"))
    missing = league.missing(args.rows or list(league.says["rows"]), args.seeds)
    if args.list:
        print(*(f"{name} {seed}" for name, seed in missing), sep="\n")
    elif failed := ran(league, missing, args.jobs):
        sys.exit(f"{failed} of {len(missing)} failed; the logs are in {out}")


def ran(league: League, cells: Sequence[tuple[str, int]], jobs: int) -> int:
    """Make all cells, saying how each went; how many failed."""
    league.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # jobs share the cores
    failed = 0
    with ProcessPoolExecutor(jobs, get_context("spawn"), end_with_parent) as pool:
        made = {pool.submit(cell, league, *each): each for each in cells}
        for future in as_completed(made):
            said = outcome(future)
            failed += said.startswith("failed")
            print("{}-{}: {}".format(*made[future], said), flush=True)
    return failed


def end_with_parent() -> None:
    """End this process when the one that started it is killed; its run can be resumed."""

    def watch() -> None:
        cast(BaseProcess, parent_process()).join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
