"""What goes together: classes, groups, splits and kinds of files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import numpy.typing as npt
from scipy import stats

from sightline.stats import Interval
from sightline.stats.resampling import percentiles

Counts = npt.NDArray[np.int64]

RESAMPLES, LEVEL = 500, 0.95

FEW = 30
"""Images from which, on average, a group is no patient but a hospital."""


@dataclass(frozen=True)
class Table:
    """How often two words occur together."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: Counts
    """(rows, columns)."""
    v: Interval
    """Cramér's V with its bootstrap interval: 0 where they have nothing to do with each other, 1 where one tells the
    other; None where either has one value only."""
    p: float
    """Of the chi-squared test."""


def together(first: Sequence[str], second: Sequence[str], seed: int) -> Table:
    """The contingency table of two words per image."""
    rows, a = np.unique(np.asarray(first, np.str_), return_inverse=True)
    columns, b = np.unique(np.asarray(second, np.str_), return_inverse=True)
    counts = np.bincount(a * len(columns) + b, minlength=len(rows) * len(columns)).reshape(len(rows), len(columns))
    p = float(stats.chi2_contingency(counts).pvalue) if min(counts.shape) > 1 else 1.0
    return Table(tuple(map(str, rows)), tuple(map(str, columns)), counts, association(counts, seed), p)


def association(counts: Counts, seed: int) -> Interval:
    """Cramér's V of a contingency table with its bootstrap interval; None where a row or column stands alone.

    Drawing images again and counting them is drawing the table's cells from a multinomial distribution.
    """
    n, value = int(counts.sum()), cramers_v(counts)
    if not isfinite(value):
        return Interval(None, None, None, n, LEVEL)
    drawn = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, RESAMPLES).reshape(-1, *counts.shape)
    return Interval(value, *percentiles(np.array([cramers_v(table) for table in drawn]), LEVEL), n, LEVEL)


def cramers_v(counts: Counts) -> float:
    """Cramér's V of a table (r, c), corrected for the bias of small samples (Bergsma 2013); NaN if it has one line.

    ``V = sqrt(max(0, phi2 - (r-1)(c-1)/(n-1)) / min(r' - 1, c' - 1))`` with ``phi2 = chi2 / n``,
    ``r' = r - (r-1)^2 / (n-1)``, and c' likewise.
    """
    observed = counts[counts.any(1)][:, counts.any(0)]
    (r, c), n = observed.shape, observed.sum()
    if min(r, c) < 2 or n < 3:
        return float("nan")
    expected = observed.sum(1, keepdims=True) * observed.sum(0) / n
    phi2 = (((observed - expected) ** 2) / expected).sum() / n
    corrected = max(0.0, phi2 - (r - 1) * (c - 1) / (n - 1))
    smaller = min(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1
    return float(np.sqrt(min(1.0, corrected / smaller))) if smaller > 0 else float("nan")


def attribute(group: str, labels: Sequence[str]) -> str:
    """A group without the class in front of it: "3/coffee" of class 3 is "coffee".

    >>> attribute("3/coffee", ["3"]), attribute("hospital A", ["sick"])
    ('coffee', 'hospital A')
    """
    return next((group[len(label) + 1 :] for label in labels if group.startswith(f"{label}/")), group)


def are_individuals(groups: Sequence[str], splits: Sequence[str]) -> bool:
    """Whether groups look like patients or series, of which none may be on both sides, not like hospitals.

    They do where most groups keep to one split, or where a group has fewer than `FEW` images on average; none do not.
    """
    size, spread = Counter(groups), Counter(group for group, _ in set(zip(groups, splits, strict=True)))
    apart = len(set(splits)) > 1 and 2 * sum(count == 1 for count in spread.values()) >= len(size)
    return bool(size) and (apart or len(groups) < FEW * len(size))
