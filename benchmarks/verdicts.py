"""What yes or no to a model's maps is worth: rounds of judging, adopting and training, on Habitats without exceptions.

Run:  .venv/bin/python benchmarks/verdicts.py --seeds 0 1 2 --json recipes/habitats/verdicts.json

The images are written to a folder, without their masks. A network with GMP is trained on it with CE. In each round 500
training images not seen before are drawn, the model's maps of them are judged, `sightline annotate --adopt` makes masks
of those judged right, and ContextSwap is trained on the masks of all rounds, propagated. Whoever judges is simulated:
yes is said where what the map marks and the true mask have an intersection over union of a quarter or more. Nothing
else knows the true masks but the last audit.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from results import merge, numbers

from sightline import models, recipe
from sightline.annotate import Answers, Insight, Project
from sightline.audit import audit, of_run
from sightline.cli import main as sightline
from sightline.data import Habitats
from sightline.illustrate import illustrate
from sightline.regions import marked
from sightline.train import train

ASKED, AGREED, LEVEL = 500, 0.25, 0.3
RECIPES = Path(__file__).parent.parent / "recipes" / "habitats"
HABITATS = "data={class_path: Habitats, init_args: {correlation: 1}}"


def write(data: Habitats, folder: Path) -> None:
    """The images of a split as a tree of files."""
    for index, name in enumerate(data.ids):
        path = folder / data.split / data.classes[data.labels[index]] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.read(index)[0]).save(path)


def judge(data: Habitats, folder: Path, run: Path, seed: int) -> dict[str, float]:
    """Say yes or no to a run's maps of images of a folder, and adopt those judged right; how that went."""
    project = Project(folder)
    new = [
        k for k, e in enumerate(project.entries) if e.split == "train" and not project.notes[project.keys[k]].verdict
    ]
    asked = np.random.default_rng(seed).permutation(new)[:ASKED].tolist()
    maps = folder / "annotations" / "maps" / run.name
    shown = [project.entries[k].image for k in asked]
    illustrate(models.load(f"file:{run}"), shown, maps, pictures=False, size=data.size, classes=data.classes)
    insight = Insight(project, [Answers(maps / "maps.npz")])
    agreed = [overlap for k in asked if (overlap := verdict(project, insight, data, k)) >= AGREED]
    if agreed:
        sightline(["annotate", str(folder), "--maps", str(maps / "maps.npz"), "--adopt", str(LEVEL)])
    return {"asked": len(asked), "yes": len(agreed), "overlap": float(np.mean(agreed)) if agreed else 0.0}


def verdict(project: Project, insight: Insight, data: Habitats, index: int) -> float:
    """Judge the map of an image; the intersection over union that decided."""
    mask, map = data.read(data.ids.index(project.entries[index].image.stem))[1] > 0, insight.map(index)
    drawn = np.zeros_like(mask) if map is None else marked(map, mask.shape, LEVEL)
    overlap = float((mask & drawn).sum() / (mask | drawn).sum())
    project.note(index, 0, verdict="yes" if overlap >= AGREED else "no")
    return overlap


def trained(name: str, out: Path, seed: int, data: Mapping[str, Any]) -> None:
    """Train a recipe on `data`, and audit it on Habitats."""
    overrides = ["model.pool=max", f"seed={seed}", f"data={json.dumps(data)}"]
    train(recipe.read(RECIPES / f"{name}.yaml", overrides), out)
    for split in ("test", "shifted"):
        audit(*of_run(out, split, [HABITATS]), out / "audit" / split)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/verdicts"))
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    habitats = Habitats(correlation=1)
    for seed in args.seeds:
        folder = (args.out / f"photos-{seed}").absolute()
        for split in ("train", "val"):
            write(habitats.on(split), folder)
        data = {"class_path": "Folder", "init_args": {"root": str(folder), "size": list(habitats.size)}}
        run = args.out / f"round_0-{seed}"
        trained("plain", run, seed, data)
        merge(args.json, {"round_0": {str(seed): numbers(run)}})
        data = {"class_path": "Propagated", "init_args": {"data": data}}
        for number in range(1, args.rounds + 1):
            told = judge(habitats, folder, run, seed)
            if not told["yes"]:
                print(f"seed {seed}, round {number}: no map was judged right, so there is nothing to go on with")
                break
            run = args.out / f"round_{number}-{seed}"
            trained("swap_alone", run, seed, data)
            merge(args.json, {f"round_{number}": {str(seed): numbers(run) | {"verdicts": told}}})


if __name__ == "__main__":
    main()
