"""The same images side by side across runs, those on which the runs differ most first."""

import math
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from sightline.errors import SightlineError
from sightline.report import pictures
from sightline.report.read import Audit, Split
from sightline.scores import read_scores

Decided = Mapping[tuple[str, str], int]
"""(label, prediction) -> how many images."""


class Scene(NamedTuple):
    """One image of a gallery.npz."""

    image: npt.NDArray[np.uint8]
    """(H, W, 3)."""
    mask: npt.NDArray[np.uint8] | None
    """(H, W) of 0 and 1; None where nobody annotated."""
    map: npt.NDArray[np.floating[Any]]
    """(h, w), not negative."""


@dataclass(frozen=True)
class Answer:
    """What one run said about one image."""

    label: str
    prediction: str
    correct: bool
    confidence: float
    """Probability of the predicted class; of the label's, where an image may have several."""
    truth: float | None
    """Probability of the label's class; None where the scores have no column for it."""
    ch: float | None
    empty_map: bool
    group: str
    several: bool = False
    """Whether an image may have several labels, and this is about one of them."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """From one row of scores.csv."""
        label = row["label"]
        return cls(
            label=label,
            prediction=row["prediction"],
            correct=bool(row["correct"]),
            confidence=float(row["confidence"]),
            truth=_number(row.get(f"p_{label}")),
            ch=_number(row.get("ch")),
            empty_map=bool(row["empty_map"]),
            group=row["group"],
            several="image" in row,
        )

    @property
    def said(self) -> str:
        """What the model says of the image."""
        sure = f"{100 * self.confidence:.0f} %"
        if not self.several:
            return f"predicts {self.prediction} with {sure} confidence"
        return f"finds {self.label} with {sure}" if self.correct else f"does not find {self.label}, {sure}"


class Scored(NamedTuple):
    """What a run's scores tell."""

    answers: Mapping[str, Answer]
    decided: Decided


@dataclass(frozen=True)
class View:
    """One run's picture and answer."""

    run: str
    answer: Answer
    picture: str
    alt: str


@dataclass(frozen=True)
class Row:
    """One image: its picture, and each run's view of it."""

    id: str
    answer: Answer
    picture: str
    alt: str
    views: Sequence[View]
    top: float
    """What is drawn brightest in all of its maps, in multiples of an even map; 0 if all are empty."""
    size: tuple[int, int]
    """(width, height) of the image."""


@dataclass(frozen=True)
class Gallery:
    """The rows shown, of how many images at hand, and how many of those the runs answer differently."""

    rows: Sequence[Row]
    at_hand: int
    differing: int
    even_map: float | None
    """Mean share of the image that the mask covers: the CH of an even map. None without masks."""
    decided: Mapping[str, Decided]
    """By run, over all images of the split."""


def gallery(split: Split, count: int, side: int = pictures.SIDE) -> Gallery:
    """The `count` images of the split's galleries on which the runs differ most, at most `side` pixels wide and high.

    Raises:
        SightlineError: a gallery or its scores are missing, damaged or of different images.
    """
    scenes = {run: read_gallery(audit) for run, audit in split.audits.items()}
    scored = {run: read_scored(audit, scenes[run]) for run, audit in split.audits.items()}
    answers = {run: one.answers for run, one in scored.items()}
    shared = set.intersection(*map(set, answers.values()))
    by_image = {id: {run: of_run[id] for run, of_run in answers.items()} for id in shared}
    ordered = order({id: list(of_runs.values()) for id, of_runs in by_image.items()})
    rows = [_row(id, {run: of_run[id] for run, of_run in scenes.items()}, by_image[id], side) for id in ordered[:count]]
    differing = sum(len({answer.correct for answer in of_runs.values()}) > 1 for of_runs in by_image.values())
    decided = {run: one.decided for run, one in scored.items()}
    return Gallery(rows, len(shared), differing, _even_map(scenes[split.baseline].values()), decided)


def order(answers: Mapping[str, Sequence[Answer]]) -> list[str]:
    """Image ids, those first that some runs answer correctly and others not, then by how far the runs lie apart.

    That distance is the spread (largest minus smallest) of the probability of the true class plus the spread of CH.
    A single run has no spread: its wrong answers come first, then those with the lowest probability of the true class.
    """

    def key(id: str) -> tuple[bool, float, str]:
        views = answers[id]
        if len(views) == 1:
            return views[0].correct, views[0].truth or 0.0, id
        apart = _spread([view.truth for view in views]) + _spread([view.ch for view in views])
        return len({view.correct for view in views}) == 1, -apart, id

    return sorted(answers, key=key)


def _spread(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return max(known) - min(known) if known else 0.0


def read_gallery(audit: Audit) -> dict[str, Scene]:
    """The images of gallery.npz by id.

    Raises:
        SightlineError: the file is missing, damaged or lacks an array.
    """
    path = audit.folder / "gallery.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, images, masks, has_mask, maps = (file[name] for name in ("id", "image", "mask", "has_mask", "map"))
    except FileNotFoundError as error:
        raise SightlineError(f"{path} does not exist. Run `sightline audit` again: it writes this file.") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SightlineError(f"cannot read {path}: {error}. Run `sightline audit` again.") from error
    kept = (mask if known else None for mask, known in zip(masks, has_mask, strict=True))
    return dict(zip(map(str, ids), map(Scene, images, kept, maps), strict=True))


def read_scored(audit: Audit, ids: Collection[str]) -> Scored:
    """The answers about the images `ids`, and how often each label got each prediction.

    Raises:
        SightlineError: the scores are missing, or know nothing of one of the images.
    """
    scores = read_scores(audit.folder)
    known = scores[scores["id"].isin(list(ids))]
    if unknown := set(ids) - set(known["id"]):
        raise SightlineError(
            f"{audit.folder / 'gallery.npz'} holds image {min(unknown)!r}, which the scores beside it do not. "
            "The files come from different audits: run `sightline audit` again."
        )
    rows = (dict(zip(known.columns, row, strict=True)) for row in known.itertuples(index=False, name=None))
    answers = {row["id"]: Answer.of(row) for row in rows}
    return Scored(answers, Counter(zip(scores["label"], scores["prediction"], strict=True)))


def _row(id: str, scenes: Mapping[str, Scene], answers: Mapping[str, Answer], side: int) -> Row:
    """One image; `scenes` and `answers` by run. One scale serves all maps."""
    scene, answer = next(iter(scenes.values())), next(iter(answers.values()))
    outline = ", which has no mask" if scene.mask is None else " with the outline of its mask"
    top = max(float(_against_even(scene.map).max()) for scene in scenes.values())
    views = [_view(run, id, scenes[run], answers[run], top, side) for run in scenes]
    alt = f"Image {id}, label {answer.label}{outline}."
    height, width, _ = scene.image.shape
    picture = pictures.plain(scene.image, scene.mask, side)
    return Row(id, answer, picture, alt, views, top, (width, height))


def _view(run: str, id: str, scene: Scene, answer: Answer, top: float, side: int) -> View:
    share = "" if answer.ch is None else f" {100 * answer.ch:.0f} % of it lies on the evidence."
    verdict = "correct" if answer.correct else f"wrong, the label is {answer.label}"
    alt = (
        f"Map of {run} on image {id}.{' The map is empty.' if answer.empty_map else share} It {answer.said}: {verdict}."
    )
    # By the logarithm: linearly, a map that spreads could not be seen beside one that lies on a point.
    drawn = np.log1p(_against_even(scene.map))
    return View(run, answer, pictures.overlay(scene.image, drawn, scene.mask, math.log1p(top), side), alt)


def _against_even(map: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """The map in multiples of one that spreads evenly; an empty map stays empty."""
    known = map.astype(np.float64)
    return known / (known.mean() or 1)


def _even_map(scenes: Collection[Scene]) -> float | None:
    masks = [float(scene.mask.mean()) for scene in scenes if scene.mask is not None]
    return sum(masks) / len(masks) if masks else None


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
