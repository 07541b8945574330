"""Evidence in parts, for tests of metrics."""

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from sightline.metrics import PerImage
from sightline.types import Evidence

Kind = TypeVar("Kind", bound=PerImage)


def part(whole: Evidence, rows: Sequence[int] | slice) -> Evidence:
    """Some of its images."""
    return Evidence(*(field[rows] if isinstance(field, Tensor) else field for field in whole))


def scored(metric: Kind, *batches: Evidence) -> Kind:
    """`metric` after so many batches."""
    for batch in batches:
        metric.update(batch)
    return metric
