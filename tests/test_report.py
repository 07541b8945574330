"""The report: what the page holds, what it says of the numbers, and that it needs nothing but itself."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.errors import SightlineError
from sightline.report import build, charts, pictures, read
from sightline.report.gallery import Answer, order
from sightline.report.numbers import Difference, Estimate
from sightline.report.verdict import hardest, verdict

# A world of fake files: bright squares (the evidence) on tinted grounds (the shortcut) ------------------------------

CLASSES = ("cat", "dog", "owl")


@dataclass(frozen=True)
class Scene:
    """One image of a split, the same for every run."""

    id: str
    label: int
    group: str
    image: np.ndarray
    mask: np.ndarray
    has_mask: bool


def draw_scenes(count: int, seed: int = 0, side: int = 24) -> list[Scene]:
    generator = np.random.default_rng(seed)
    scenes = []
    for k in range(count):
        label, ground, (top, left) = k % 3, int(generator.integers(3)), generator.integers(2, side - 10, 2)
        image = generator.integers(30, 110, (side, side, 3)).astype(np.uint8)
        image[..., ground] += 60
        mask = np.zeros((side, side), np.uint8)
        mask[top : top + 8, left : left + 5 + label] = 1
        image[mask > 0] = 230
        scenes.append(Scene(f"img-{k:03d}", label, f"{CLASSES[label]}/{ground}", image, mask, k != 5))
    return scenes


def write_audit(
    folder: Path,
    scenes: Sequence[Scene],
    *,
    run: str = "plain",
    split: str = "test",
    accuracy: float = 0.9,
    on_mask: float = 0.2,
    gallery: int = 12,
    classes: Sequence[str] = CLASSES,
) -> Path:
    """An audit directory of a run that answers `accuracy` correctly and has about `on_mask` of its maps on the mask."""
    generator = np.random.default_rng(len(run))
    maps = [fake_map(scene, on_mask, generator) for scene in scenes]
    rows = [
        fake_row(k, scene, map, accuracy, classes, generator)
        for k, (scene, map) in enumerate(zip(scenes, maps, strict=True))
    ]
    folder.mkdir(parents=True)
    write_csv(folder / "scores.csv", rows)
    (folder / "summary.json").write_text(json.dumps(fake_summary(rows, run, split, classes)))
    kept = scenes[:gallery]
    np.savez(
        folder / "gallery.npz",
        id=np.array([scene.id for scene in kept]),
        image=np.stack([scene.image for scene in kept]),
        mask=np.stack([scene.mask for scene in kept]),
        has_mask=np.array([scene.has_mask for scene in kept]),
        map=np.stack(maps[:gallery]).astype(np.float16),
    )
    return folder


def fake_map(scene: Scene, on_mask: float, generator: np.random.Generator) -> np.ndarray:
    """(6, 6) with a share `on_mask` (give or take) in the cells that the mask touches."""
    step = len(scene.mask) // 6
    inside = scene.mask[: 6 * step, : 6 * step].reshape(6, step, 6, step).mean((1, 3))
    ground = generator.random((6, 6)) ** 3 * (inside == 0)
    share = np.clip(on_mask + generator.normal(0, 0.08), 0, 1)
    return share * inside / inside.sum() + (1 - share) * ground / ground.sum()


def fake_row(
    index: int, scene: Scene, map: np.ndarray, accuracy: float, classes: Sequence[str], generator: np.random.Generator
) -> dict[str, Any]:
    correct = generator.random() < accuracy
    answer = scene.label if correct else (scene.label + 1) % len(classes)
    logits = generator.normal(0, 1, len(classes))
    logits[answer] = logits.max() + generator.gamma(2)
    odds = np.exp(logits) / np.exp(logits).sum()
    fine = np.kron(map, np.ones([n // 6 for n in scene.mask.shape]))
    ch = float((fine * scene.mask[: len(fine), : len(fine)]).sum() / fine.sum()) if scene.has_mask else ""
    return {
        "id": scene.id,
        "index": index,
        "label": classes[scene.label],
        "prediction": classes[answer],
        "correct": int(correct),
        "confidence": float(odds[answer]),
        "group": scene.group,
        "has_mask": int(scene.has_mask),
        "ch": ch,
        "pg": "" if ch == "" else int(ch > 0.3),
        "empty_map": 0,
        **{f"p_{name}": float(p) for name, p in zip(classes, odds, strict=True)},
    }


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = [",".join(map(str, row)) for row in ([list(rows[0])] + [list(row.values()) for row in rows])]
    path.write_text("\n".join(lines) + "\n")


def estimated(values: Sequence[float]) -> dict[str, Any]:
    mean, error = float(np.mean(values)), float(np.std(values) / max(len(values), 1) ** 0.5)
    return {"value": mean, "low": max(mean - 2 * error, 0.0), "high": min(mean + 2 * error, 1.0), "n": len(values)}


def fake_summary(rows: Sequence[Mapping[str, Any]], run: str, split: str, classes: Sequence[str]) -> dict[str, Any]:
    correct, chs = [row["correct"] for row in rows], [row["ch"] for row in rows if row["ch"] != ""]
    groups = sorted({row["group"] for row in rows})
    by_group = {g: [row["correct"] for row in rows if row["group"] == g] for g in groups}
    worst = min(groups, key=lambda g: np.mean(by_group[g]))
    return {
        "sightline": "0.1.0",
        "kind": "audit",
        "run": run,
        "model": "cnn",
        "split": split,
        "seed": 0,
        "data": {"name": "Squares", "hash": f"{len(split):02d}" * 32, "images": len(rows), "classes": list(classes)},
        "explainer": "GradCAM(layer='features')",
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "metrics": {
            "accuracy": estimated(correct),
            "macro_f1": estimated(correct),
            "auroc": {"value": 0.9, "low": None, "high": None, "n": len(rows)},
            "worst_group": {**estimated(by_group[worst]), "group": worst},
            "ch": estimated(chs),
            "pg": estimated([row["pg"] for row in rows if row["pg"] != ""]),
        },
        "empty_maps": 0,
        "groups": {g: {"accuracy": float(np.mean(v)), "n": len(v)} for g, v in by_group.items()},
        "level": 0.95,
    }


def write_comparison(folder: Path, audits: Mapping[str, Path]) -> Path:
    """comparison.json of some audits, the first being the baseline, with differences of the right shape."""
    summaries = {run: json.loads((audit / "summary.json").read_text()) for run, audit in audits.items()}
    base, *others = summaries
    metrics = list(summaries[base]["metrics"])
    folder.mkdir(parents=True)
    content = {
        "kind": "comparison",
        "level": 0.95,
        "data": summaries[base]["data"],
        "split": summaries[base]["split"],
        "runs": list(audits),
        "baseline": base,
        "audits": [str(audit) for audit in audits.values()],
        "metrics": {metric: {run: s["metrics"][metric] for run, s in summaries.items()} for metric in metrics},
        "differences": {
            run: {
                metric: fake_difference(metric, summaries[base]["metrics"][metric], summaries[run]["metrics"][metric])
                for metric in metrics
            }
            for run in others
        },
    }
    (folder / "comparison.json").write_text(json.dumps(content))
    return folder / "comparison.json"


def fake_difference(metric: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    value, error = b["value"] - a["value"], 0.02
    p = float(np.exp(-abs(value / error)))
    test = "McNemar exact" if metric == "accuracy" else "paired bootstrap"
    return {"value": value, "low": value - 2 * error, "high": value + 2 * error, "p": p, "test": test, "n": a["n"]}


def write_run(folder: Path, terms: Sequence[str] = ("loss", "ce"), epochs: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(len(folder.name))
    lines = [",".join(["step", "epoch", *terms, "val_accuracy"])]
    for epoch in range(epochs):
        noise = 1 + 0.1 * generator.random(len(terms))
        losses = [f"{scale * 2 / (1 + 0.4 * epoch):.4f}" for scale in noise]
        lines.append(",".join([str(10 * epoch + 5), str(epoch), *losses, ""]))
        accuracy = 0.95 - 0.7 * np.exp(-epoch / 3) + 0.01 * generator.normal()
        lines.append(",".join([str(10 * epoch + 9), str(epoch), *[""] * len(terms), f"{accuracy:.4f}"]))
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    (folder / "recipe.yaml").write_text(f"model: cnn\nobjectives: {list(terms[1:])}\nseed: 0\n")
    info = {"name": folder.name, "sightline": "0.1.0", "versions": {"torch": "2.13.0"}, "seed": 0, "minutes": 1.4}
    (folder / "run.json").write_text(json.dumps({**info, "finished": True}))
    return folder


RUNS = {"plain": (0.9, 0.3, 0.2), "cfcn": (0.88, 0.3, 0.6), "swap": (0.89, 0.8, 0.35)}
"""run -> accuracy on test, accuracy on shifted, share of the maps on the evidence."""


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Path]:
    """Two comparisons of three runs, each audited on test and shifted, as the command line would leave them."""
    comparisons = {}
    for k, split in enumerate(("test", "shifted")):
        scenes = draw_scenes(60, seed=k)
        audits = {
            run: write_audit(
                tmp_path / "runs" / run / "audit" / split,
                scenes,
                run=run,
                split=split,
                accuracy=traits[k],
                on_mask=traits[2],
            )
            for run, traits in RUNS.items()
        }
        comparisons[split] = write_comparison(tmp_path / "runs" / f"comparison-{split}", audits)
    for run, terms in {"plain": ("loss", "ce"), "cfcn": ("loss", "ce", "cfcn"), "swap": ("loss", "ce")}.items():
        write_run(tmp_path / "runs" / run, terms)
    return comparisons
