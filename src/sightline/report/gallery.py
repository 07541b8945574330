"""The same images side by side across runs, those on which the runs differ most first."""

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import SightlineError
from sightline.report import pictures
from sightline.report.read import Audit, Split
from sightline.scores import read_scores

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Answer:
    """What one run said about one image."""

    label: str
    prediction: str
    correct: bool
    confidence: float
    """Probability of the predicted class."""
    truth: float | None
    """Probability of the label's class; None where the scores have no column for it."""
    ch: float | None
    empty_map: bool
    group: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Answer":
        """From one row of scores.csv."""
        label, group = str(row["label"]), row["group"]
        return cls(
            label=label,
            prediction=str(row["prediction"]),
            correct=bool(row["correct"]),
            confidence=float(row["confidence"]),
            truth=_number(row.get(f"p_{label}")),
            ch=_number(row["ch"]),
            empty_map=bool(row["empty_map"]),
            group=group if isinstance(group, str) else "",
        )


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


@dataclass(frozen=True)
class Gallery:
    """The rows shown, of how many images at hand, and how many of those the runs answer differently."""

    rows: Sequence[Row]
    at_hand: int
    differing: int
    even_map: float | None
    """Mean share of the image that the mask covers: the CH of an even map. None without masks."""


def gallery(split: Split, count: int) -> Gallery:
    """The `count` images of the split's galleries on which the runs differ most.

    Raises:
        SightlineError: a gallery or its scores are missing, damaged or of different images.
    """
    arrays = {run: read_gallery(audit) for run, audit in split.audits.items()}
    answers = {run: read_answers(audit, arrays[run]["id"]) for run, audit in split.audits.items()}
    shared = set.intersection(*(set(of_run) for of_run in answers.values()))
    ordered = order({id: [answers[run][id] for run in answers] for id in shared})
    rows = [_row(id, arrays, answers) for id in ordered[:count]]
    differing = sum(len({of_run[id].correct for of_run in answers.values()}) > 1 for id in ordered)
    return Gallery(rows, len(ordered), differing, _even_map(next(iter(arrays.values()))))


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


def read_gallery(audit: Audit) -> Arrays:
    """The arrays of gallery.npz, see `sightline audit`.

    Raises:
        SightlineError: the file is missing, damaged or lacks an array.
    """
    path = _path(audit)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in ("id", "image", "mask", "has_mask", "map")}
    except FileNotFoundError as error:
        raise SightlineError(f"{path} does not exist. Run `sightline audit` again: it writes this file.") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SightlineError(f"cannot read {path}: {error}. Run `sightline audit` again.") from error


def read_answers(audit: Audit, ids: npt.NDArray[Any]) -> dict[str, Answer]:
    """The answers about the images `ids`, by id.

    Raises:
        SightlineError: the scores are missing, or know nothing of one of the images.
    """
    scores = read_scores(audit.folder)
    wanted = set(map(str, ids))
    known = scores[scores["id"].isin(list(wanted))]
    if unknown := wanted - set(known["id"]):
        raise SightlineError(
            f"{_path(audit)} holds image {min(unknown)!r}, which the scores beside it do not. "
            "The files come from different audits: run `sightline audit` again."
        )
    rows = (dict(zip(known.columns, row, strict=True)) for row in known.itertuples(index=False))
    return {str(row["id"]): Answer.of(row) for row in rows}


def _path(audit: Audit) -> Path:
    return audit.folder / "gallery.npz"


def _row(id: str, arrays: Mapping[str, Arrays], answers: Mapping[str, Mapping[str, Answer]]) -> Row:
    first = next(iter(arrays))
    image, mask, _ = _of(arrays[first], id)
    answer = answers[first][id]
    outline = " with the outline of its mask" if mask is not None else ", which has no mask"
    alt = f"Image {id}, label {answer.label}{outline}."
    return Row(
        id, answer, pictures.plain(image, mask), alt, [_view(run, id, arrays[run], answers[run][id]) for run in arrays]
    )


def _view(run: str, id: str, arrays: Arrays, answer: Answer) -> View:
    picture = pictures.overlay(*(_of(arrays, id)[i] for i in (0, 2, 1)))
    share = "" if answer.ch is None else f" {100 * answer.ch:.0f} % of it lies on the evidence."
    verdict = "correct" if answer.correct else f"wrong, the label is {answer.label}"
    alt = (
        f"Map of {run} on image {id}.{' The map is empty.' if answer.empty_map else share} "
        f"It predicts {answer.prediction} with {100 * answer.confidence:.0f} % confidence: {verdict}."
    )
    return View(run, answer, picture, alt)


def _of(arrays: Arrays, id: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, npt.NDArray[Any]]:
    """Image, mask (None where there is none) and map of one image."""
    at = int(np.flatnonzero(arrays["id"].astype(str) == id)[0])
    return arrays["image"][at], arrays["mask"][at] if arrays["has_mask"][at] else None, arrays["map"][at]


def _even_map(arrays: Arrays) -> float | None:
    masks = arrays["mask"][arrays["has_mask"].astype(bool)]
    return float(masks.mean()) if len(masks) else None


def _number(value: Any) -> float | None:
    return None if value is None or value == "" or math.isnan(float(value)) else float(value)
