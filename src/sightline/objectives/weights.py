"""Weights of terms that are no plain number: scheduled over the epochs, or balanced against another term."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from torch import Tensor

from sightline.errors import SightlineError
from sightline.objectives.ranks import mean_over_ranks


class Varying:
    """A weight that is worked out anew in every step."""

    def at(self, name: str, terms: Mapping[str, Tensor], epoch: float | None) -> float | Tensor:
        """The weight of the term `name` beside the step's detached `terms`, `epoch` epochs into training."""
        raise NotImplementedError


Weight = float | Varying


@dataclass(frozen=True)
class Scheduled(Varying):
    """A weight that changes with the epochs.

    Args:
        epochs: when, ascending; before the first the weight is `values[0]`.
        values: the weight from each of `epochs` on; as many.
        ramp: go in straight lines between them, instead of in steps: `Scheduled([0, 5], [0, 1], ramp=True)` warms up.

    Raises:
        SightlineError: `epochs` does not ascend, `values` has another length, or a value is no weight.
    """

    epochs: Sequence[float]
    values: Sequence[float]
    ramp: bool = False

    def __post_init__(self) -> None:
        if not self.epochs or len(self.epochs) != len(self.values):
            raise SightlineError(f"{self}: expected as many values as epochs, and at least one of each.")
        if not all(earlier < later for earlier, later in zip(self.epochs, self.epochs[1:], strict=False)):
            raise SightlineError(f"{self}: expected epochs that ascend.")
        for value in self.values:
            finite("values", value)

    def at(self, name: str, terms: Mapping[str, Tensor], epoch: float | None) -> float:
        """The weight `epoch` epochs, or parts of epochs, into training.

        Raises:
            SightlineError: the training loop has not said how far it is.
        """
        if epoch is None:
            raise SightlineError(
                f"the weight of {name!r} is scheduled, but nobody says which epoch it is: "
                "set guided.epoch in your training loop before each epoch (or each step, in parts of an epoch)."
            )
        i = bisect_right(self.epochs, epoch)
        if i in (0, len(self.epochs)) or not self.ramp:
            return self.values[max(i - 1, 0)]
        (begin, end), (before, after) = self.epochs[i - 1 : i + 1], self.values[i - 1 : i + 1]
        return before + (after - before) * (epoch - begin) / (end - begin)


@dataclass(frozen=True)
class Balanced(Varying):
    """A weight that keeps a term at a share of another's size: ``ratio * |other| / |term|``, both held constant.

    A term of 0 gets weight 0. Over several processes the sizes are their means.

    Args:
        ratio: the share.
        to: the other term.

    Raises:
        SightlineError: `ratio` is negative or not finite.
    """

    ratio: float = 1.0
    to: str = "ce"

    def __post_init__(self) -> None:
        finite("ratio", self.ratio)

    def at(self, name: str, terms: Mapping[str, Tensor], epoch: float | None) -> Tensor:
        if self.to not in terms:
            raise SightlineError(f"{self} of {name!r}: this step has no such term, only {', '.join(terms)}.")
        own, other = mean_over_ranks(terms[name].abs()), mean_over_ranks(terms[self.to].abs())
        return (self.ratio * other / own).where(own > 0, 0)


def finite(name: str, value: float) -> float:
    """`value`, if it is a finite number that is not negative.

    Raises:
        SightlineError: it is not.
    """
    if not 0 <= value < inf:
        raise SightlineError(f"the weight of {name!r} is {value}: expected a finite number that is not negative.")
    return value
