"""The whole job on the embedded benchmark: a classifier that cheats, two remedies, and the proof."""

from pathlib import Path

from sightline import compare, recipe, report
from sightline.audit import audit, of_run
from sightline.train import train

RUNS = ("plain", "cfcn_f", "context_swap")
SPLITS = ("test", "shifted", "swapped")


def demo(out: Path, seed: int = 0) -> Path:
    """Train, audit, compare and report; print the tables and where the page is.

    Runs already finished in `out` are kept, one that was interrupted goes on.

    Args:
        out: folder of the runs and of report.html.
        seed: of the data and the trainings.

    Raises:
        SightlineError: `out` cannot be written, or holds runs of other recipes.
    """
    for name in RUNS:
        print(f"\ntraining {name}", flush=True)
        config = recipe.read(_recipes() / f"{name}.yaml", [f"seed={seed}", f"data.seed={seed}"])
        train(config, out / name, resume=(out / name / "recipe.yaml").exists())
    for name in RUNS:
        subject, data = of_run(out / name)
        for split in SPLITS:
            audit(subject, data.on(split), out / name / "audit" / split)
    for split in SPLITS:
        joined = compare.compare([out / name / "audit" / split for name in RUNS], out / "comparison" / split)
        print(f"\n{split}\n{compare.table(joined)}")
    page = report.build([out / "comparison" / split for split in SPLITS], out / "report.html")
    print(f"\nreport: {page}")
    return page


def _recipes() -> Path:
    """The recipes as installed with the package, or in the repository it is used from."""
    here = Path(__file__).resolve()
    installed = here.parent / "recipes" / "habitats"
    return installed if installed.is_dir() else here.parents[2] / "recipes" / "habitats"
