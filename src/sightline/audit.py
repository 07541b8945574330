"""Score one model on one split: accuracy, where its maps lie, and the per-image numbers behind both."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from sightline import __version__, models, recipe
from sightline.data import Source
from sightline.errors import SightlineError
from sightline.explainers import Explainer, GradCAM, bind
from sightline.files import whole, write_json
from sightline.metrics import ContentHeatmap, PerImage, PointingGame
from sightline.passes import evaluating, record
from sightline.scores import summarise, write_scores
from sightline.types import Batch, Evidence
from sightline.versions import versions

GALLERY = 256


@dataclass(frozen=True)
class Subject:
    """The model under audit, and what to call it."""

    model: nn.Module
    name: str
    spec: str
    seed: int | None = None


def of_run(folder: str | Path, split: str = "test") -> tuple[Subject, Source]:
    """The trained model of a run directory, and the data of its recipe on `split`.

    Raises:
        SightlineError: the directory holds no recipe or no trained model, or the data cannot be read.
    """
    folder = Path(folder)
    made = recipe.build(recipe.read(folder / "recipe.yaml", [f"data.split={split}"]))
    return Subject(models.load(f"file:{folder}"), folder.name, made.model.spec, made.seed), made.data


def audit(
    subject: Subject,
    data: Source,
    out: str | Path,
    *,
    explainer: Explainer | None = None,
    target: Literal["label", "prediction"] = "label",
    margin: float | None = None,
    batch_size: int = 64,
    level: float = 0.95,
    file: Literal["csv", "parquet"] = "csv",
) -> dict[str, Any]:
    """Explain and score every image of a dataset; write scores, summary.json and gallery.npz into `out`.

    Args:
        subject: the model; scored in evaluation mode, on the device of its parameters.
        data: the split to score.
        out: the audit directory; its files are replaced.
        explainer: element-wise Grad-CAM at the layer `find_layer` chooses, unless another is given.
        target: explain each image's label, as the papers do, or the model's own prediction.
        margin: of the pointing game, in pixels of the masks; None for 15 pixels of an image with a short side of 448,
            the size at which the papers measure, and in proportion for others.
        batch_size: images in memory at a time.
        level: of the intervals.
        file: format of the scores.

    Returns:
        What summary.json holds.

    Raises:
        SightlineError: unlabelled or multi-label data, classes that do not fit the model's, no layer that can be
            explained, or a folder that cannot be written.
    """
    if data.labels.ndim != 1:
        raise SightlineError(f"{data.name} is multi-label: audit needs one class per image.")
    if unlabelled := int((data.labels < 0).sum()):
        raise SightlineError(f"{unlabelled} images of {data.name} are unlabelled: audit needs a class for each.")
    out = Path(out)
    margin = margin if margin is not None else 15 * min(data.size) / 448
    bound = bind(explainer or GradCAM(elementwise=True), subject.model, data.size)
    metrics: dict[str, PerImage] = {"ch": ContentHeatmap(), "pg": PointingGame(margin=margin)}
    gallery = _Gallery(data)
    device = next(subject.model.parameters(), torch.empty(0)).device
    logits, empty = [], []
    with evaluating(subject.model):
        for batch in tqdm(DataLoader(data, batch_size), desc=f"audit {subject.name} on {data.split}", leave=False):
            # What a training set hides from training, it knows all the same.
            batch = batch._replace(label=torch.from_numpy(data.labels[batch.index.numpy()]))
            evidence = _evidence(subject.model, bound, Batch(*(t.to(device) for t in batch)), target)
            for metric in metrics.values():
                metric.update(evidence)
            gallery.add(evidence)
            logits.append(evidence.logits.double().cpu())
            empty.append((evidence.map.flatten(1).amax(1) == 0).cpu())
    frame = _frame(data, torch.cat(logits), torch.cat(empty), metrics)
    summary = {
        "sightline": __version__,
        "kind": "audit",
        "run": subject.name,
        "model": subject.spec,
        "split": data.split,
        "seed": subject.seed,
        "data": {"name": data.name, "hash": data.hash(), "images": len(data), "classes": list(data.classes)},
        "explainer": repr(bound),
        "target": target,
        "margin": margin,
        "versions": versions(),
        "level": level,
        **summarise(frame, data.classes, level=level),
    }
    write_scores(out / f"scores.{file}", frame)
    gallery.write(out / "gallery.npz")
    write_json(out / "summary.json", summary)
    return summary


def _evidence(model: nn.Module, explainer: Explainer, batch: Batch, target: str) -> Evidence:
    run = record(model, batch.image, taps=explainer.taps, ruled=explainer.ruled, differentiable=False)
    maps = explainer(run, batch.label if target == "label" else None)
    return Evidence(maps.float().relu(), batch.mask, batch.has_mask, run.logits.detach(), batch.label, batch.index)


def _frame(data: Source, logits: Tensor, empty: Tensor, metrics: dict[str, PerImage]) -> pd.DataFrame:
    """One row per image, in the dataset's order."""
    if logits.shape[1] != len(data.classes):
        raise SightlineError(f"the model has {logits.shape[1]} outputs, {data.name} has {len(data.classes)} classes.")
    probability = logits.softmax(1).numpy()
    classes = np.array(data.classes)
    top = probability.argmax(1)
    scores = {name: metric.scores()[1].cpu().numpy() for name, metric in metrics.items()}
    columns = {
        "id": list(data.ids),
        "index": range(len(data)),
        "label": classes[data.labels],
        "prediction": classes[top],
        "correct": (top == data.labels).astype(int),
        "confidence": probability.max(1),
        "group": data.groups,
        "has_mask": data.has_mask.astype(int),
        **scores,
        "empty_map": empty.numpy().astype(int),
    }
    return pd.DataFrame(columns | {f"p_{name}": probability[:, i] for i, name in enumerate(classes)})


class _Gallery:
    """Images, masks and maps of a fixed subset: the same images for every audit of the same data."""

    def __init__(self, data: Source) -> None:
        order = sorted(range(len(data)), key=lambda i: hashlib.sha256(data.ids[i].encode()).digest())
        self.data, self.chosen = data, sorted(order[:GALLERY])
        self.maps: dict[int, np.ndarray[Any, Any]] = {}

    def add(self, evidence: Evidence) -> None:
        wanted = set(self.chosen)
        for index, one in zip(evidence.index.tolist(), evidence.map.cpu(), strict=True):
            if index in wanted:
                # A float16 cannot hold maps of magnitude 1e-8: keep each map's shape, and zero maps zero.
                self.maps[index] = (one / one.max().clamp(min=torch.finfo(one.dtype).tiny)).numpy().astype(np.float16)

    def write(self, path: Path) -> None:
        pairs = [self.data.read(i) for i in self.chosen]
        with whole(path) as temporary:
            np.savez_compressed(
                temporary,
                id=np.array([self.data.ids[i] for i in self.chosen]),
                image=np.stack([np.broadcast_to(image, (*image.shape[:2], 3)) for image, _ in pairs]),
                mask=np.stack([mask for _, mask in pairs]).astype(np.uint8),
                has_mask=self.data.has_mask[self.chosen],
                map=np.stack([self.maps[i] for i in self.chosen]),
            )
