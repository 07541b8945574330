"""What is computed of a selection of images: of all of them, or of each bootstrap sample at once."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sightline.stats.values import Array

Rows = npt.NDArray[np.int64]
Statistic = Callable[[Array, Rows], Array]
"""(n, ...) data, (m, n) row numbers -> (m,) the statistic of each selection of rows; NaN where it is not defined."""


def means(data: Array, rows: Rows) -> Array:
    """(m,) means of (n,) data over each selection of rows; the default statistic."""
    return np.asarray(data[rows].mean(-1))


def pooled_means(data: Array, rows: Rows) -> Array:
    """(m,) means over all scores of each selection of images, which may have several.

    Args:
        data: (n, 2): the sum of an image's scores, and their number.
        rows: (m, k).
    """
    total, count = np.moveaxis(data[rows].sum(1), -1, 0)
    return _ratio(total, count)


def macro_f1(data: Array, rows: Rows) -> Array:
    """(m,) macro-F1 over each selection of rows.

    The mean over classes of ``F1 = 2 TP / (labels + predictions)``, 0 without a true positive; classes that occur
    neither as a label nor as a prediction are left out.

    Args:
        data: (n, 2) int class numbers: label, prediction.
        rows: (m, k).
    """
    label, prediction = np.moveaxis(data[rows], -1, 0)
    classes = int(data.max()) + 1
    hits = _counts(np.where(label == prediction, label, classes), classes + 1)[:, :classes]
    return _mean_defined(_ratio(2 * hits, _counts(label, classes) + _counts(prediction, classes)))


def macro_auroc(data: Array, rows: Rows) -> Array:
    """(m,) macro one-versus-rest AUROC over each selection of rows.

    The mean over classes of ``P(score of a positive > score of a negative) + P(equal) / 2``; classes without a positive
    or without a negative are left out.

    Args:
        data: (n, 1 + classes): label as a class number, then one score per class.
        rows: (m, k).
    """
    # Images lie along the first axis: it is sorted and summed over, in long contiguous rows.
    weight, label = np.ascontiguousarray(_counts(rows, len(data)).T, np.int32), data[:, 0]
    return _mean_defined(np.stack([_auroc(weight, label == k, score) for k, score in enumerate(data[:, 1:].T)], 1))


def f1_per_class(data: Array, rows: Rows) -> Array:
    """(m,) mean over all classes of ``F1 = 2 TP / (labels + predictions)``, 0 without a true positive.

    Args:
        data: (n, 2 classes) of 0 and 1: the labels, then the predictions.
        rows: (m, k).
    """
    hits, marked = _decisions(data, rows)
    return np.asarray(np.nan_to_num(_ratio(2 * hits, marked)).mean(1))


def f1_overall(data: Array, rows: Rows) -> Array:
    """(m,) F1 of the decisions about all classes together; `data` as in `f1_per_class`."""
    hits, marked = _decisions(data, rows)
    return _ratio(2 * hits.sum(1), marked.sum(1))


def multilabel_auroc(data: Array, rows: Rows) -> Array:
    """(m,) mean AUROC of the classes, see `macro_auroc`.

    Args:
        data: (n, 2 classes): labels of 0 and 1, then scores.
        rows: (m, k).
    """
    weight = np.ascontiguousarray(_counts(rows, len(data)).T, np.int32)
    label, scores = np.split(data, 2, 1)
    pairs = zip(label.T == 1, scores.T, strict=True)
    return _mean_defined(np.stack([_auroc(weight, positive, score) for positive, score in pairs], 1))


def worst_group(data: Array, rows: Rows) -> Array:
    """(m,) accuracy of the group answered worst, over each selection of rows; groups without a row are left out.

    Args:
        data: (n, 2) int: right (1) or wrong (0), group number.
        rows: (m, k).
    """
    correct, group = np.moveaxis(data[rows], -1, 0)
    groups = int(data[:, 1].max()) + 1
    hits = _counts(np.where(correct == 1, group, groups), groups + 1)[:, :groups]
    return np.asarray(np.nanmin(_ratio(hits, _counts(group, groups)), 1))


def _decisions(data: Array, rows: Rows) -> tuple[Array, Array]:
    """(m, classes) true positives, and labels plus predictions."""
    weight, (label, prediction) = _counts(rows, len(data)).astype(float), np.split(data.astype(float), 2, 1)
    return weight @ (label * prediction), weight @ (label + prediction)


def _counts(numbers: Array, most: int) -> Array:
    """(m, most): how often each number below `most` occurs in each row of (m, k)."""
    m = len(numbers)
    return np.bincount((numbers + most * np.arange(m)[:, None]).ravel(), minlength=m * most).reshape(m, most)


def _auroc(weight: Array, positive: Array, score: Array) -> Array:
    """(m,) AUROC where image i occurs weight[i] times, (n, m)."""
    negative = np.flatnonzero(~positive)[np.argsort(score[~positive])]
    below = np.zeros((len(negative) + 1, weight.shape[1]), np.int32)
    np.cumsum(weight[negative], 0, out=below[1:])
    first, last = (np.searchsorted(score[negative], score[positive], side) for side in ("left", "right"))
    pairs = (weight[positive] * (below[first] + below[last])).sum(0) / 2
    return _ratio(pairs, weight[positive].sum(0) * below[-1].astype(np.int64))


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole, NaN where whole is 0."""
    out = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=out, where=whole != 0)
    return out


def _mean_defined(values: Array) -> Array:
    """(m,) mean over the second axis, NaN left out."""
    return _ratio(np.nansum(values, 1), (~np.isnan(values)).sum(1))
