"""The commands that make everything on the page again."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from sightline.report.read import Run, Split, names, relative

AGAIN = "again"
"""The folder that the commands write to: nothing at hand is touched."""


def commands(splits: Sequence[Split], runs: Sequence[Run], out: Path) -> list[str]:
    """Train, audit, compare and report, to be run from the page's folder; none where a run's recipe is not at hand."""
    audited = [run for run in runs if run.name in names(splits)]
    if not all(run.folder and run.recipe for run in audited):
        return []
    folders = [quote(f"{AGAIN}/{run.name}") for run in audited]
    recipes = [quote(f"{relative(run.folder, out)}/recipe.yaml") for run in audited if run.folder]
    training = [f"sightline train {recipe} --out {folder}" for recipe, folder in zip(recipes, folders, strict=True)]
    audit = f"sightline audit {' '.join(folders)} --split {' '.join(quote(split.name) for split in splits)}"
    return [*training, audit + _options(splits[0]), *_ending(splits, folders)]


def _options(split: Split) -> str:
    """What the audits were asked for, as far as their summaries tell."""
    summary = split.audits[split.baseline].summary
    return "".join(f" --{key} {quote(str(summary[key]))}" for key in ("target", "margin") if summary.get(key))


def _ending(splits: Sequence[Split], folders: Sequence[str]) -> list[str]:
    page = f"--out {AGAIN}/report.html"
    if len(folders) == 1:
        return [f"sightline report {' '.join(f'{folders[0]}/audit/{quote(split.name)}' for split in splits)} {page}"]
    comparison = f"{AGAIN}/comparison"
    return [f"sightline compare {' '.join(folders)} --out {comparison}", f"sightline report {comparison} {page}"]
