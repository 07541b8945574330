"""What many explainers share: the reduction over channels, and the layer that was settled."""

from typing import Literal

from torch import Tensor

from sightline.arguments import one_of
from sightline.errors import SightlineError

Reduce = Literal["sum", "abs_sum", "max_abs"] | None


def reduced(values: Tensor, how: Reduce, axis: int) -> Tensor:
    """Values without their channels, which lie on `axis`: their sum, sum of absolute values or largest absolute value.

    None returns them as they are.
    """
    if how is None:
        return values
    if how == "sum":
        return values.sum(axis)
    return values.abs().sum(axis) if how == "abs_sum" else values.abs().amax(axis)


def check_reduce(explainer: object) -> None:
    """The argument `reduce` is one that `reduced` knows.

    Raises:
        SightlineError: it is not.
    """
    one_of(explainer, "reduce", getattr(explainer, "reduce"), (None, "sum", "abs_sum", "max_abs"))  # noqa: B009


def settled(explainer: object) -> str:
    """The argument `layer`, which `bind` has settled.

    Raises:
        SightlineError: it is None still.
    """
    if (layer := getattr(explainer, "layer")) is None:  # noqa: B009 - not every explainer has one
        raise SightlineError(f"{type(explainer).__name__} has no layer yet: bind(explainer, model, size) finds one.")
    return str(layer)
