"""What models said of the images: maps to show and scores to rank by, from the files `sightline explain` writes."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from sightline.annotate import ranking
from sightline.annotate.canvas import read_mask
from sightline.annotate.project import Project, label
from sightline.annotate.ranking import Array
from sightline.errors import SightlineError, did_you_mean

GRID = (64, 64)
"""Maps and masks are compared at this size: models and layers have their own."""


class Answers:
    """The maps and probabilities of one file; maps are read when they are needed.

    Raises:
        SightlineError: the file cannot be read, or was not written by `sightline explain`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reading():
            self._file = np.load(path, allow_pickle=False)
            self._explainers = [str(name) for name in self._file["explainer"]]
            self._ids = [str(name) for name in self._file["id"]]
            self._probability: Array = self._file["probability"]
            self._rows = {Path(str(name)).resolve(): row for row, name in enumerate(self._file["path"])}

    def tells(self, image: Path) -> bool:
        """Whether the model was asked about an image."""
        return image.resolve() in self._rows

    def maps(self, image: Path) -> list[Array]:
        """The raw map (h, w) of each explainer for the first class explained, summed over channels if it has any.

        Raises:
            SightlineError: it cannot be read.
        """
        row = self._rows.get(image.resolve())
        with self._reading():
            found = [] if row is None else [self._file[f"map/{self._ids[row]}/{name}"][0] for name in self._explainers]
        return [map.sum(0) if map.ndim == 3 else map for map in found]

    def probabilities(self, image: Path) -> list[Array]:
        """What the model says of an image, (classes,); nothing of one it was not asked about."""
        row = self._rows.get(image.resolve())
        return [] if row is None else [self._probability[row]]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, LookupError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise SightlineError(
                f"{self.path} holds no maps ({error}). Give a maps.npz that `sightline explain` wrote."
            ) from error


class Insight:
    """What models say of a project's images, and which image that makes the next.

    Args:
        project: the images.
        answers: of one model each.
        by: one of `ranking.RANKINGS`.

    Raises:
        SightlineError: there is no such ranking, or nothing to rank by.
    """

    def __init__(self, project: Project, answers: Sequence[Answers] = (), by: str = "order") -> None:
        if by not in ranking.RANKINGS:
            raise SightlineError(f"there is no ranking {by!r}. {did_you_mean(by, ranking.RANKINGS)}")
        self.images = [entry.image for entry in project.entries]
        self.answers, self.by = answers, by
        self.scores = self._scores(project)
        if by not in ("order", "random") and np.isnan(self.scores).all():
            raise SightlineError(
                f"nothing to rank by {by}: give --model or --maps of these images"
                + (", at least two of them." if by == "disagreement" else ".")
            )
        self.order = ranking.ranked(self.scores)

    def map(self, index: int) -> Array | None:
        """(h, w), the first there is of an image."""
        return next(iter(self._maps(index)), None)

    def has_map(self, index: int) -> bool:
        """Whether there is a map of an image."""
        return any(answers.tells(self.images[index]) for answers in self.answers)

    def _maps(self, index: int) -> list[Array]:
        return [map for answers in self.answers for map in answers.maps(self.images[index])]

    def _scores(self, project: Project) -> list[float]:
        places = range(len(self.images))
        if self.by == "random":
            return [float(score) for score in np.random.default_rng(0).random(len(places))]
        if self.by == "disagreement":
            return [ranking.disagreement([on_grid(map) for map in self._maps(index)]) for index in places]
        if self.by == "uncertainty":
            return [ranking.uncertainty([p for a in self.answers for p in a.probabilities(i)]) for i in self.images]
        if self.by == "mass":
            known = evidence(project)
            maps = [self.map(index) for index in places]
            return [np.nan if m is None else ranking.mass(on_grid(m), k) for m, k in zip(maps, known, strict=True)]
        return [np.nan for _ in places]


def evidence(project: Project) -> list[Array]:
    """On the grid the mask of each image; where it has none, the mean of its class's, of all, or nothing."""
    masks = {index: on_grid(mask(project, index)) for index in range(len(project)) if project.annotated[index]}
    labels = [label(entry) for entry in project.entries]
    means = {word: mean([m for index, m in masks.items() if labels[index] == word]) for word in set(labels)}
    usual = mean(list(masks.values()))
    nothing = np.zeros(GRID)
    return [first(masks.get(index), means[word], usual, nothing) for index, word in enumerate(labels)]


def mask(project: Project, index: int) -> Array:
    """(H, W) of zeros and ones."""
    return read_mask(project.place(index).mask, project.sizes[index]).astype(np.float32)


def mean(masks: Sequence[Array]) -> Array | None:
    """Of masks of one size; None of none."""
    return np.mean(masks, axis=0) if masks else None


def first(*arrays: Array | None) -> Array:
    """The first that is there."""
    return next(array for array in arrays if array is not None)


def on_grid(values: Array) -> Array:
    """(h, w) at the size of `GRID`: averaged where it is larger, interpolated where it is smaller."""
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize(GRID[::-1], Image.Resampling.BILINEAR), np.float64)
