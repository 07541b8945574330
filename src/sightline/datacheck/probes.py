"""Linear probes: how well a part of an image, or a fact about its file, tells the class by itself."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from sightline.pictures import Flags
from sightline.stats import Interval, bootstrap
from sightline.stats.statistics import Rows
from sightline.stats.values import Array

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

FOLDS = 5
PERMUTATIONS = 999
RESAMPLES = 500
FEWEST = 10
"""Training images of a class, and without it, that it takes for the class to be probed."""


def trainable(labels: Flags, several: bool) -> Flags:
    """(K,) which classes have training images enough, of their (n, K) labels."""
    size = labels.sum(0)
    beside = len(labels) - size
    return np.asarray((size >= FEWEST) & ((beside >= FEWEST) | (not several)))


@dataclass(frozen=True)
class Task:
    """Which labels are to be told, and how."""

    labels: Flags
    """(N, K), one True in each row unless `several`."""
    several: bool
    cluster: Integers
    """(N,) images of one number are drawn together: copies, and slices of one patient."""
    fold: Integers
    """(N,) which part of the cross-validation holds an image out; see `folds`."""
    train: Flags
    """(N,) what the probes are fitted to, by cross-validation."""
    splits: Sequence[str]
    """(N,) the split of each; probes fitted to all of `train` are scored on the others as well."""
    seed: int

    @property
    def chance(self) -> float:
        """Balanced accuracy of whoever guesses."""
        return 0.5 if self.several else 1 / self.labels.shape[1]

    @property
    def enough(self) -> bool:
        """Whether there is something to tell."""
        return len(self.labels.T) >= (1 if self.several else 2)

    def of(self, some: Flags) -> "tuple[Task, Flags]":
        """The same of `some` of the images, (N,), and which these are: of classes with images enough to train on."""
        classes = trainable(self.labels[self.train & some], self.several)
        some = some if self.several else some & self.labels[:, classes].any(1)
        known = {name: getattr(self, name)[some] for name in ("cluster", "fold", "train")}
        splits = list(compress(self.splits, some))
        return replace(self, labels=self.labels[some][:, classes], splits=splits, **known), some


@dataclass(frozen=True)
class Probe:
    """Balanced accuracy of one probe."""

    name: str
    score: Interval
    """Cross-validated in the training split, with a bootstrap interval over clusters."""
    p: float
    """By permuting the labels against the answers."""
    elsewhere: Mapping[str, float | None]
    """The other splits."""
    chance: float
    """Balanced accuracy of whoever guesses."""

    @property
    def lift(self) -> float:
        """The share of what there is to gain over chance: 0 at chance, 1 where every answer is right."""
        return ((self.score.value or 0.0) - self.chance) / (1 - self.chance)

    @property
    def surely(self) -> float:
        """The lift at the interval's lower end."""
        return ((self.score.low or 0.0) - self.chance) / (1 - self.chance)


def probe(name: str, features: Floats, task: Task) -> Probe:
    """Fit and score one probe; what is the same in all images scores chance."""
    varies = np.ptp(features[task.train], axis=0) > 1e-9
    if not varies.any():
        flat = Interval(task.chance, task.chance, task.chance, int(task.train.sum()), 0.95)
        return Probe(name, flat, 1.0, {}, task.chance)
    features = features[:, varies]
    answers = cross_validated(features, task, task.fold)
    labels, cluster = task.labels[task.train], task.cluster[task.train]
    return Probe(
        name,
        interval(labels, answers, cluster, task.several, task.seed),
        permuted(labels, answers, task.several, task.seed),
        _elsewhere(features, task),
        task.chance,
    )


def cross_validated(features: Floats, task: Task, fold: Integers) -> Flags:
    """(n, K) answers on the training split, each from a probe that did not see the image's fold, (N,)."""
    x, labels, fold = features[task.train], task.labels[task.train], fold[task.train]
    answers = np.zeros_like(labels)
    for held in np.unique(fold):
        answers[fold == held] = _answers(x[fold != held], labels[fold != held], x[fold == held], task.several)
    return answers


def folds(labels: Flags, cluster: Integers, seed: int) -> Integers:
    """(N,) fold of each image, 0..4, no cluster torn; stratified by class, of several classes by the first.

    Fewer folds where there are fewer clusters, of which there must be two.
    """
    fold = np.zeros(len(labels), np.int64)
    folding = StratifiedGroupKFold(min(FOLDS, len(np.unique(cluster))), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class of fewer images than folds
        for number, (_, held) in enumerate(folding.split(labels, labels.argmax(1), cluster)):
            fold[held] = number
    return fold


def _answers(x: Floats, labels: Flags, unseen: Floats, several: bool) -> Flags:
    """(m, K) of features (m, F), by one multinomial regression, or by one regression for each class."""
    answers = np.zeros((len(unseen), labels.shape[1]), np.bool_)
    scaler = StandardScaler().fit(x)
    x, unseen = scaler.transform(x), scaler.transform(unseen)
    if not several:
        answers[np.arange(len(unseen)), _fitted(x, labels.argmax(1), unseen)] = True
        return answers
    for k, truth in enumerate(labels.T):
        answers[:, k] = _fitted(x, truth.astype(np.int64), unseen) == 1
    return answers


def _fitted(x: Floats, y: Integers, unseen: Floats) -> Integers:
    if np.ptp(y) == 0:
        return np.full(len(unseen), y[0])
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(model.fit(x, y).predict(unseen))


def balanced(labels: Flags, answers: Flags, several: bool) -> float:
    """Mean over classes of the share of their images, or also of the other images if `several`, answered rightly."""
    return float(recalls(_counts(labels, answers, several)[None], np.zeros((1, 1), np.int64))[0])


def interval(labels: Flags, answers: Flags, cluster: Integers, several: bool, seed: int) -> Interval:
    """Balanced accuracy with the bootstrap interval in which clusters are drawn."""
    of_image = np.stack(_parts(labels, answers, several), 1).astype(np.float32)
    number = np.unique(cluster, return_inverse=True)[1]
    data = np.zeros((number.max() + 1, *of_image.shape[1:]), np.float32)
    np.add.at(data, number, of_image)
    return bootstrap(data, recalls, resamples=RESAMPLES, seed=seed)


def recalls(data: Array, rows: Rows) -> Array:
    """(m,) mean over classes of hits / images over each selection of rows; data (n, 2, classes) holds both."""
    weight = np.stack([np.bincount(row, minlength=len(data)) for row in rows]).astype(np.float32)
    hits, images = np.moveaxis(np.tensordot(weight, data, 1), 1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.nanmean(np.where(images > 0, hits / images, np.nan), 1))


def permuted(labels: Flags, answers: Flags, several: bool, seed: int) -> float:
    """p of the balanced accuracy if labels had nothing to do with answers: the share of permutations as good."""
    draw = np.random.default_rng(seed)
    parts, share = answers.astype(np.float32), labels / np.maximum(labels.sum(0), 1)
    if several:
        share = share - ~labels / np.maximum((~labels).sum(0), 1)
    found = float((share * parts).sum())
    orders = (draw.permutation(len(labels)) for _ in range(PERMUTATIONS))
    at_least = sum(float((share[order] * parts).sum()) >= found - 1e-9 for order in orders)
    return (1 + at_least) / (1 + PERMUTATIONS)


def _parts(labels: Flags, answers: Flags, several: bool) -> tuple[Flags, Flags]:
    """(n, C) hits and (n, C) what there was to hit."""
    if not several:
        return labels & answers, labels
    return np.concatenate([labels & answers, ~labels & ~answers], 1), np.concatenate([labels, ~labels], 1)


def _counts(labels: Flags, answers: Flags, several: bool) -> Floats:
    return np.stack([part.sum(0) for part in _parts(labels, answers, several)]).astype(np.float64)


def _elsewhere(features: Floats, task: Task) -> dict[str, float | None]:
    rest = ~task.train
    if not rest.any():
        return {}
    answers = _answers(features[task.train], task.labels[task.train], features[rest], task.several)
    splits, labels = np.asarray(task.splits)[rest], task.labels[rest]
    each = {str(name): splits == name for name in dict.fromkeys(splits)}
    return {name: balanced(labels[of], answers[of], task.several) for name, of in each.items()}
