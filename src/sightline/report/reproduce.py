"""The commands that make everything on the page again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

from sightline.files import relative
from sightline.report.read import Run, Split, names

AGAIN = "again"
"""The folder that the commands write to: nothing at hand is touched."""


def commands(splits: Sequence[Split], runs: Sequence[Run], out: Path) -> list[str]:
    """Train, refit, audit, compare and report, to be run from the page's folder; none where a recipe is not at hand."""
    audited = [run for run in runs if run.name in names(splits)]
    renamed = any(
        audit.summary.get("split", split.name) != split.name for split in splits for audit in split.audits.values()
    )
    if renamed or not all(run.folder and run.recipe for run in audited):
        return []
    folders = [_again(run.name) for run in audited]
    training: dict[str, str] = {}
    for run in sorted(audited, key=lambda run: "dfr" in run.info):  # what is refitted has been trained before
        training |= _training(run, out, training)
    audit = f"sightline audit {' '.join(folders)} --split {' '.join(quote(split.name) for split in splits)}"
    return [*training.values(), audit + _options(splits[0]), *_ending(splits, folders)]


def _training(run: Run, out: Path, known: Mapping[str, str]) -> dict[str, str]:
    """The command that makes a run, by the run's name; if that refits another's last layer, the other's too."""
    recipe = quote(f"{relative(run.folder or out, out.resolve().parent)}/recipe.yaml")
    done = run.info.get("dfr")
    if done is None:
        return {run.name: f"sightline train {recipe} --out {_again(run.name)}"}
    options = " ".join(f"--{key} {quote(str(done[key]))}" for key in ("split", "by", "rounds", "seed"))
    parent = {} if done["run"] in known else {done["run"]: f"sightline train {recipe} --out {_again(done['run'])}"}
    return parent | {run.name: f"sightline dfr {_again(done['run'])} {options} --out {_again(run.name)}"}


def _again(name: str) -> str:
    return quote(f"{AGAIN}/{name}")


def _options(split: Split) -> str:
    """What the audits were asked for, as far as their summaries tell."""
    summary = split.audits[split.baseline].summary
    keys = dict.fromkeys(key.partition("-")[0] for key in summary.get("scored_by", ()))
    metrics = "" if set(keys) <= {"ch", "pg"} else f" --metrics {' '.join(map(quote, keys))}"
    return metrics + "".join(f" --{key} {quote(str(summary[key]))}" for key in ("target", "margin") if summary.get(key))


def _ending(splits: Sequence[Split], folders: Sequence[str]) -> list[str]:
    page = f"--out {AGAIN}/report.html"
    if len(folders) == 1:
        return [f"sightline report {' '.join(f'{folders[0]}/audit/{quote(split.name)}' for split in splits)} {page}"]
    comparison = f"{AGAIN}/comparison"
    return [f"sightline compare {' '.join(folders)} --out {comparison}", f"sightline report {comparison} {page}"]
