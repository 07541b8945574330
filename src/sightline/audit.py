"""Score one model on one split: accuracy, where its maps lie, and the per-image numbers behind both."""

import ctypes
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sightline import __version__, models, recipe
from sightline.arguments import one_of
from sightline.data import Source
from sightline.errors import SightlineError
from sightline.explainers import Explainer, GradCAM, bind
from sightline.explainers.base import mapped
from sightline.explainers.names import named as explainer_named
from sightline.explainers.names import told_apart
from sightline.files import whole, write_json
from sightline.metrics import Curve, PerImage
from sightline.metrics.names import named as metrics_named
from sightline.naming import apart
from sightline.passes import Pass, evaluating, logits_of, record
from sightline.progress import progress_bar
from sightline.scores import summarise, summarise_curves, write_scores
from sightline.stored import Stored, fingerprint, stored
from sightline.types import Batch, Evidence
from sightline.versions import versions

GALLERY = 256
OTHERS = 3
Target = Literal["label", "prediction"]
Format = Literal["csv", "parquet"]

COARSE = 3
"""Cells along the longest side up to which a map cannot say where."""

Array = npt.NDArray[Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """The model under audit, and what to call it."""

    model: nn.Module
    name: str
    spec: str
    seed: int | None = None


def of_run(folder: str | Path, split: str = "test", overrides: Sequence[str] = ()) -> tuple[Subject, Source]:
    """The trained model of a run directory, and the data of its recipe on `split`, or what `overrides` make of them.

    Raises:
        SightlineError: the directory holds no recipe or no trained model, an override is none, or the data cannot be
            read.
    """
    folder = Path(folder)
    made = recipe.build(recipe.read(folder / "recipe.yaml", [*overrides, f"data.split={split}"]))
    return Subject(models.load(f"file:{folder}"), folder.name, made.model.spec, made.seed), made.data


def audit(
    subject: Subject | nn.Module,
    data: Source,
    out: str | Path,
    *,
    explainers: Sequence[Explainer | str] = (GradCAM(elementwise=True),),
    metrics: Sequence[PerImage | str] | None = None,
    target: Target = "label",
    margin: float | None = None,
    batch_size: int = 64,
    level: float = 0.95,
    file: Format = "csv",
    maps: str | Path | None = None,
) -> dict[str, Any]:
    """Explain and score every image of a dataset; write scores, curves, summary.json and gallery.npz into `out`.

    All explainers share one pass over the data, and no more than a batch of it is held. What the first explainer's maps
    score goes by the metrics' keys ("ch"), what the others' score has the explainer's name with it ("ch@WBP"). Of a
    multi-label dataset every class that an image has is explained and scored, in a row of its own.

    Args:
        subject: the model; scored in evaluation mode, on the device of its parameters. By itself it is called as its
            class.
        data: the split to score.
        out: the audit directory; its files are replaced.
        explainers: element-wise Grad-CAM at the layer `find_layer` chooses, unless others are given, as objects or as
            the command line spells them ("WBP"). The first one's maps are shown.
        metrics: CH and PG, unless others are given, as objects or as the command line spells them ("insertion").
        target: explain each image's label, as the papers do, or the model's own prediction.
        margin: of the pointing game, in pixels of the masks, where `metrics` gives none; None for 15 pixels of an
            image with a short side of 448, the size at which the papers measure, and in proportion for others.
        batch_size: images in memory at a time.
        level: of the intervals.
        file: format of the scores.
        maps: a folder in which maps are kept, and from which they are taken where model, data, size, target and
            explainer are the same.

    Returns:
        What summary.json holds.

    Raises:
        SightlineError: unlabelled data, classes that do not fit the model's, no explainer, no layer that can be
            explained, answers or maps that are not finite, a metric that does not suit the data, or a folder that
            cannot be written.
    """
    one_of("audit", "target", target, Target)
    one_of("audit", "file", file, Format)
    if not isinstance(data, Source):
        raise SightlineError(
            f"audit(data={type(data).__name__}): expected a Source, which knows classes, masks and ids. Name a dataset "
            "of sightline.data, or subclass Source as in examples/your_own_data_and_model.py."
        )
    rows = _rows(data, target)
    out = Path(out)
    if isinstance(subject, nn.Module):
        subject = Subject(subject, type(subject).__name__, type(subject).__qualname__)
    asked = [
        metric
        for one in (("ch", "pg") if metrics is None else metrics)
        for metric in (metrics_named(one, margin=scaled_margin(data.size, margin)) if isinstance(one, str) else [one])
    ]
    drawn_by = [explainer_named(one) if isinstance(one, str) else one for one in explainers]
    if not drawn_by:
        raise SightlineError(
            "audit(explainers=[]): an audit is of maps. Pass one explainer or more, such as GradCAM()."
        )
    panels, of_image = _panels(subject.model, data, drawn_by, asked)
    gallery, logits = _Gallery(data, rows), []
    others = any("others" in metric.needs for metric in asked)
    content = data.hash()
    # The data's hash is that of its files; as which samples the model sees them is part of the model here.
    samples = data.size, data.channels, data.views, data.reading
    weights = {"weights": fingerprint(subject.model, *samples)} if maps else {}
    made_of = weights | {"data": content, "target": target}
    with evaluating(subject.model), ExitStack() as files:
        for panel in panels:
            of_panel = made_of | {"explainer": repr(panel.explainer)}
            panel.stored = files.enter_context(stored(Path(maps) if maps else None, of_panel, len(rows.image)))
        for batch in progress_bar(DataLoader(data, batch_size), desc=f"audit {subject.name} on {data.split}"):
            run = _recorded(subject.model, batch, panels)
            logits.append(_answers(run, data, batch.index))
            for seen in _seen(run, batch, data, rows, target, others):
                for panel in panels:
                    panel.score(seen)
                for metric in of_image.values():
                    metric.update(seen.evidence)
                gallery.add(seen.evidence.index, panels[0].latest)
            _trim()
    for panel in panels:
        panel.warn(subject.name)
    frame = _frame(data, rows, torch.cat(logits), panels, of_image)
    curves = _curves(panels, of_image, len(rows.image))
    summary = {
        "sightline": __version__,
        "kind": "audit",
        "run": subject.name,
        "model": subject.spec,
        "normalise": _normalisation(subject.model),
        "split": data.split,
        "seed": subject.seed,
        "data": {
            "name": data.name,
            "hash": content,
            "images": len(data),
            "size": list(data.size),
            "classes": list(data.classes),
        },
        "explainer": repr(panels[0].explainer),
        "explainers": {panel.name: repr(panel.explainer) for panel in panels},
        "scored_by": {key: repr(metric) for key, metric in {**panels[0].metrics, **of_image}.items()},
        "target": target,
        **weights,
        "versions": versions(),
        "level": level,
        **summarise(frame, data.classes, level=level),
        "curves": summarise_curves(curves, level, image=rows.image if rows.multi else None),
    }
    if one := summary["one_answer"]:
        log.warning(
            "%s answers %r to %.0f %% of the images of %s, whatever they show: %.0f %% are of that class. Where it was "
            "trained to this, an objective's weight or the learning rate may have been too large.",
            subject.name, one["class"], 100 * one["share"], data.split, 100 * one["own"],
        )  # fmt: skip
    write_scores(out / f"scores.{file}", frame)
    _write_curves(out / "curves.npz", frame["id"], curves)
    gallery.write(out / "gallery.npz")
    write_json(out / "summary.json", summary)
    return summary


def scaled_margin(size: Sequence[int], margin: float | None = None) -> float:
    """`margin`, or the papers' 15 pixels at a short side of 448 in proportion to images of `size`."""
    return 15 * min(size) / 448 if margin is None else margin


# Rows: what is explained and scored -----------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """One row for each class that an image has; one for an image that has none, which is not explained."""

    image: Array
    """(R,) index of the row's image, ascending."""
    label: Array
    """(R,) class number, -1 for none."""
    first: Array
    """(N + 1,) the first row of each image."""
    multi: bool
    """Whether images may have several classes."""


def _rows(data: Source, target: str) -> _Rows:
    if unlabelled := int((data.labels.reshape(len(data), -1) < 0).any(1).sum()):
        raise SightlineError(f"{unlabelled} images of {data.name} are unlabelled: audit needs a class for each.")
    if data.labels.ndim == 1:
        each = np.arange(len(data))
        return _Rows(each, data.labels, np.arange(len(data) + 1), False)
    if target != "label":
        raise SightlineError(f"{data.name} is multi-label: its maps can only be of the labels. Use target='label'.")
    has = data.labels > 0
    none = np.flatnonzero(~has.any(1))
    image, label = np.nonzero(has)
    image, label = np.concatenate([image, none]), np.concatenate([label, np.full(len(none), -1)])
    order = np.argsort(image, kind="stable")
    return _Rows(image[order], label[order], np.searchsorted(image[order], np.arange(len(data) + 1)), True)


@dataclass(frozen=True)
class _Seen:
    """Those images of a batch that have a row of the same rank, and what the pass says of them."""

    run: Pass
    at: Tensor
    """(b,) their places in the batch."""
    target: Tensor
    """(B,) the class explained, for all of the batch."""
    evidence: Evidence
    """Without a map, and without `explain`."""
    ids: Sequence[str]
    """Of these images."""


def _seen(run: Pass, batch: Batch, data: Source, rows: _Rows, target: str, others: bool) -> Iterator[_Seen]:
    """A batch once for single labels; for several, as often as its images have classes at most."""
    index = batch.index.numpy()  # an array: numpy would take a tensor of one number for that number
    first, end = rows.first[index], rows.first[index + 1]
    for rank in range(int((end - first).max())):
        row = np.minimum(first + rank, end - 1)
        label = torch.from_numpy(rows.label[row])
        at = torch.from_numpy(np.flatnonzero((first + rank < end) & (rows.label[row] >= 0)))
        if not len(at):
            continue
        device = run.logits.device
        explained = run.target() if target == "prediction" else label.clamp(min=0).to(device)
        mask = batch.mask if not rows.multi or batch.mask.ndim < batch.image.ndim else _of_class(batch.mask, label)
        evidence = Evidence(
            torch.zeros_like(mask[at]),
            mask[at],
            batch.has_mask[at],
            run.logits.detach()[at],
            label[at],
            torch.from_numpy(row)[at],
            image=run.image.detach()[at],
            target=explained[at],
            predict=lambda images: logits_of(run.model(images)),
            zero=run.zero,
            **(_others(data, batch.index[at]) if others else {}),
            model=run.model,
        )
        there: dict[str, Any] = {k: v.to(device) for k, v in evidence._asdict().items() if isinstance(v, Tensor)}
        ids = [data.ids[image] for image in batch.index[at].tolist()]
        yield _Seen(run, at.to(device), explained, evidence._replace(**there), ids)


def _of_class(mask: Tensor, label: Tensor) -> Tensor:
    """(B, *spatial) each image's mask of its class, of (B, classes, *spatial)."""
    return mask[torch.arange(len(mask)), label.clamp(min=0)]


def _others(data: Source, index: Tensor) -> dict[str, Any]:
    """`Evidence.others` of the images at `index`, drawn by that index, and the classes that are there with them."""
    shown = [[i, *_drawn(data, i)] for i in index.tolist()]
    labels = data.labels[shown]
    has = labels > 0 if labels.ndim > 2 else labels[..., None] == np.arange(len(data.classes))
    return {
        "others": torch.stack([torch.stack([data[j].image for j in chosen]) for _, *chosen in shown]),
        "present": torch.from_numpy(has.any(1)),
    }


def _drawn(data: Source, index: int) -> list[int]:
    labels = data.labels
    foreign = np.flatnonzero(labels @ labels[index] == 0 if labels.ndim > 1 else labels != labels[index])
    if not len(foreign):
        raise SightlineError(f"image {data.ids[index]!r} of {data.name} has no other that shares no class with it.")
    chosen = np.random.default_rng([index, OTHERS]).choice(foreign, OTHERS, replace=len(foreign) < OTHERS)
    return [int(other) for other in chosen]


# Panels: an explainer and the metrics that score its maps -------------------------------------------------------------


class _Panel:
    """One explainer, and the metrics that score its maps."""

    def __init__(self, name: str, explainer: Explainer, metrics: Mapping[str, PerImage]) -> None:
        self.name, self.explainer, self.metrics = name, explainer, metrics
        self.stored: Stored | None = None
        self.latest = torch.empty(0)
        """The maps scored last, at their own resolution."""
        self.empty: list[Tensor] = []

    def score(self, seen: _Seen) -> None:
        """Explain what is seen, and score the maps."""
        self.latest = self._maps(seen)
        self.empty.append(torch.stack([seen.evidence.index, self.latest.flatten(1).amax(1) == 0], 1).cpu())
        evidence = seen.evidence._replace(map=self.latest, explain=partial(self._explain, seen))
        for metric in self.metrics.values():
            metric.update(evidence)

    def warn(self, subject: str) -> None:
        """Say so where the maps have too few cells to point at anything."""
        shape = self.latest.shape[1:]
        if 0 < max(shape, default=0) <= COARSE:
            log.warning(
                "%s: the maps of %s are %s, too coarse to say where. Name an earlier layer (`sightline layers`), an "
                "explainer of pixels such as WBP, or a larger data.size.",
                subject, self.name, " x ".join(map(str, shape)),
            )  # fmt: skip

    @property
    def known(self) -> bool:
        """Whether all maps are at hand already."""
        return self.stored is not None and bool(self.stored.kept)

    def _maps(self, seen: _Seen) -> Tensor:
        row = seen.evidence.index
        kept = self.stored.get(row) if self.stored else None
        if kept is not None:
            return kept.to(row.device).relu()
        maps = self.explainer(seen.run, seen.target)[seen.at].float()
        if not bool(maps.isfinite().all()):
            bad = int((~maps.isfinite()).flatten(1).any(1).nonzero()[0])
            raise SightlineError(
                f"{self.name} draws NaN or infinity for {seen.ids[bad]!r}. Check that the model's weights are finite, "
                "or choose another layer or explainer."
            )
        return (self.stored.put(row, maps).to(row.device) if self.stored else maps).relu()

    def _explain(self, seen: _Seen, images: Tensor, model: nn.Module | None = None) -> Tensor:
        """Maps of the same classes in other images, or by another model."""
        model = seen.run.model if model is None else model
        with torch.enable_grad():  # which torchmetrics turns off
            return mapped(self.explainer, model, images, seen.target[seen.at]).float().relu()


def _panels(
    model: nn.Module, data: Source, explainers: Sequence[Explainer], metrics: Sequence[PerImage]
) -> tuple[list[_Panel], dict[str, PerImage]]:
    """The explainers, each with metrics of its own; and the metrics that no map is needed for."""
    for metric in metrics:
        metric.reset()  # the same metrics may be given to one audit after the other
    keyed = dict(zip(apart([metric.key for metric in metrics], "{}-{}"), metrics, strict=True))
    of_map = {key: metric for key, metric in keyed.items() if metric.of_map}
    if data.labels.ndim > 1 and len(of_map) < len(keyed):
        unfit = ", ".join(type(metric).__name__ for metric in metrics if not metric.of_map)
        raise SightlineError(f"{data.name} is multi-label: {unfit} needs one class per image. Leave it out.")
    bound = told_apart([bind(explainer, model, data.size) for explainer in explainers])
    panels = [
        _Panel(name, explainer, {key: cast(PerImage, metric.clone()) for key, metric in of_map.items()})
        for name, explainer in bound.items()
    ]
    return panels, {key: metric for key, metric in keyed.items() if not metric.of_map}


def _trim() -> None:
    """Give memory that was freed back to the system.

    glibc would keep what lies between a batch's large tensors and the scores that stay, 100 KiB for each image.
    """
    with suppress(OSError, AttributeError):  # another system, or another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _recorded(model: nn.Module, batch: Batch, panels: Sequence[_Panel]) -> Pass:
    """One pass with what all explainers need whose maps are not at hand."""
    explainers = [panel.explainer for panel in panels if not panel.known]
    device = next(model.parameters(), torch.empty(0)).device
    return record(
        model,
        batch.image.to(device),
        taps=dict.fromkeys(tap for explainer in explainers for tap in explainer.taps),
        ruled=any(explainer.ruled for explainer in explainers),
        differentiable=False,
    )


def _normalisation(model: nn.Module) -> dict[str, Any] | None:
    """What a model of `models.load` does to images first."""
    origin = model.origin if isinstance(model, models.Classifier) else None
    return {end: origin.get(end) for end in ("mean", "std")} if origin else None


def _answers(run: Pass, data: Source, index: Tensor) -> Tensor:
    """(B, classes) float64 logits on the CPU.

    Raises:
        SightlineError: they are not one for each class, or not finite.
    """
    logits = run.logits.detach().cpu().double()
    if logits.shape[1] != len(data.classes):
        raise SightlineError(f"the model has {logits.shape[1]} outputs, {data.name} has {len(data.classes)} classes.")
    odds = logits.sigmoid() if data.labels.ndim > 1 else logits.softmax(1)  # a class may be ruled out by -inf
    if not bool(odds.isfinite().all()):
        bad = data.ids[int(index[(~odds.isfinite()).any(1)][0])]
        raise SightlineError(
            f"the model answers NaN or infinity to {data.name}/{data.split}/{bad}: its training has diverged, its "
            "weights are damaged, or its normalisation divides by 0. There is nothing to audit."
        )
    return logits


# What is written ------------------------------------------------------------------------------------------------------


def _frame(
    data: Source, rows: _Rows, logits: Tensor, panels: Sequence[_Panel], of_image: Mapping[str, PerImage]
) -> pd.DataFrame:
    """One row per image, or per image and class, in the dataset's order."""
    probability = (logits.sigmoid() if rows.multi else logits.softmax(1)).numpy()[rows.image]
    decided = _found(rows, data.classes, probability) if rows.multi else _chosen(rows, data.classes, probability)
    columns = {
        "id": [
            row_id(data, image, label, rows.multi)
            for image, label in zip(rows.image.tolist(), rows.label.tolist(), strict=True)
        ],
        "index": np.arange(len(rows.image)),
        **({"image": np.array(data.ids)[rows.image]} if rows.multi else {}),
        **decided,
        "group": data.groups[rows.image],
        "has_mask": data.has_mask[rows.image].astype(int),
        **{name: _column(metric, len(rows.image)) for name, metric in _named(panels, of_image)},
        **{f"empty_map{_suffix(panels, panel)}": _emptiness(panel, len(rows.image)) for panel in panels},
    }
    return pd.DataFrame(columns | {f"p_{name}": probability[:, i] for i, name in enumerate(data.classes)})


def _chosen(rows: _Rows, classes: Sequence[str], probability: Array) -> dict[str, Array]:
    """What the model says where it has to choose one class."""
    names, top = np.array(classes), probability.argmax(1)
    return {
        "label": names[rows.label],
        "prediction": names[top],
        "correct": (top == rows.label).astype(int),
        "confidence": probability.max(1),
    }


def _found(rows: _Rows, classes: Sequence[str], probability: Array) -> dict[str, Array]:
    """What it says of a class that the image has: that it sees it, or nothing."""
    own = probability[np.arange(len(rows.label)), rows.label.clip(0)]
    label = np.where(rows.label < 0, "", np.array(classes)[rows.label.clip(0)])
    correct = (own > 0.5) & (rows.label >= 0)
    return {
        "label": label,
        "prediction": np.where(correct, label, ""),
        "correct": correct.astype(int),
        "confidence": own,
    }


def _named(panels: Sequence[_Panel], of_image: Mapping[str, PerImage]) -> Iterator[tuple[str, PerImage]]:
    """The name under which each metric's numbers are kept."""
    for panel in panels:
        for key, metric in panel.metrics.items():
            yield f"{key}{_suffix(panels, panel)}", metric
    yield from of_image.items()


def _suffix(panels: Sequence[_Panel], panel: _Panel) -> str:
    return "" if panel is panels[0] else f"@{panel.name}"


def _column(metric: PerImage, count: int) -> Array:
    """(R,) scores, NaN where there is none."""
    return _spread(*metric.scores(), count)


def _emptiness(panel: _Panel, count: int) -> Array:
    """(R,) 1 where the map is zero everywhere."""
    index, empty = torch.cat(panel.empty).unbind(1)
    return np.nan_to_num(_spread(index, empty.double(), count)).astype(int)


def _spread(index: Tensor, values: Tensor, count: int) -> Array:
    """(R, ...) values at their rows, NaN at all others."""
    spread = np.full((count, *values.shape[1:]), np.nan)
    spread[index.cpu().numpy()] = values.cpu().double().numpy()
    return spread


def _curves(
    panels: Sequence[_Panel], of_image: Mapping[str, PerImage], count: int
) -> dict[str, tuple[tuple[float, ...], Array]]:
    """By name, the places and the (R, p) curves of those metrics that draw them."""
    named = ((name, metric) for name, metric in _named(panels, of_image) if isinstance(metric, Curve))
    return {name: (metric.axis, _spread(*metric.curves(), count)) for name, metric in named}


def _write_curves(path: Path, ids: pd.Series, curves: Mapping[str, tuple[tuple[float, ...], Array]]) -> None:
    if not curves:
        path.unlink(missing_ok=True)
        return
    arrays: dict[str, Any] = {f"curve/{name}": values.astype(np.float32) for name, (_, values) in curves.items()}
    axes: dict[str, Any] = {f"axis/{name}": np.array(axis) for name, (axis, _) in curves.items()}
    with whole(path) as temporary:
        np.savez_compressed(temporary, id=ids.to_numpy(str), **arrays, **axes)


class _Gallery:
    """Images, masks and maps of a fixed subset: the same images for every audit of the same data."""

    def __init__(self, data: Source, rows: _Rows) -> None:
        order = sorted(range(len(data)), key=lambda i: hashlib.sha256(data.ids[i].encode()).digest())
        self.data = data
        shown = [row for image in sorted(order[:GALLERY]) for row in range(rows.first[image], rows.first[image + 1])]
        self.rows = {row: int(rows.image[row]) for row in shown if rows.label[row] >= 0}
        self.label, self.multi = rows.label.tolist(), rows.multi
        self.maps: dict[int, Array] = {}

    def add(self, index: Tensor, maps: Tensor) -> None:
        """Keep the maps (B, *spatial) of those rows (B,) that are shown."""
        for row, one in zip(index.tolist(), maps.cpu(), strict=True):
            if row in self.rows:
                # A float16 cannot hold maps of magnitude 1e-8: keep each map's shape, and zero maps zero.
                self.maps[row] = (one / one.max().clamp(min=torch.finfo(one.dtype).tiny)).numpy().astype(np.float16)

    def write(self, path: Path) -> None:
        """Write the images with their masks and maps."""
        shown = [self._plane(row, image) for row, image in self.rows.items()]
        with whole(path) as temporary:
            np.savez_compressed(
                temporary,
                id=np.array(
                    [row_id(self.data, image, self.label[row], self.multi) for row, image in self.rows.items()]
                ),
                image=np.stack([np.broadcast_to(image, (*image.shape[:2], 3)) for image, _, _ in shown]),
                mask=np.stack([mask for _, mask, _ in shown]).astype(np.uint8),
                has_mask=self.data.has_mask[list(self.rows.values())],
                map=np.stack([map for _, _, map in shown]),
            )

    def _plane(self, row: int, index: int) -> tuple[Array, Array, Array]:
        """Image, mask and map of a row; of a volume or several views those of the slice with most evidence."""
        image, mask = self.data.read(index)
        mask = mask[self.label[row]] if mask.ndim == image.ndim else mask
        map = self.maps[row]
        if image.ndim == 3:
            return image, mask, map
        evidence = mask.reshape(len(mask), -1).sum(1)
        at = int(evidence.argmax()) if np.ptp(evidence) else len(image) // 2
        return image[at], mask[at], map[at * len(map) // len(image)]


def row_id(data: Source, image: int, label: int, multi: bool) -> str:
    """What a row is called: its image, and of several classes the one it is about."""
    return f"{data.ids[image]}#{data.classes[label]}" if multi and label >= 0 else str(data.ids[image])
