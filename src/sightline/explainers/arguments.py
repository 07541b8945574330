"""What explainers are constructed with: the checks, and the reduction over channels that many share."""

from collections.abc import Sequence
from math import inf, isfinite
from typing import Any, Literal

from torch import Tensor

from sightline.errors import SightlineError, did_you_mean

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
    one_of((None, "sum", "abs_sum", "max_abs"), explainer, "reduce")


def one_of(choices: Sequence[Any], explainer: object, name: str) -> None:
    """The argument `name` is one of `choices`.

    Raises:
        SightlineError: it is not; the message names the explainer, the argument and the choices.
    """
    if (value := getattr(explainer, name)) not in choices:
        raise SightlineError(f"{_called(explainer, name)}. {did_you_mean(str(value), map(str, choices))}")


def at_least(minimum: int, explainer: object, *names: str) -> None:
    """Each of the arguments `names` is an integer from `minimum` up, or None where that is its default.

    Raises:
        SightlineError: it is not; the message names the explainer and the argument.
    """
    for name in names:
        value, default = getattr(explainer, name), getattr(type(explainer), name)
        if value is default is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise SightlineError(f"{_called(explainer, name)}: expected an integer from {minimum} up.")


def number(explainer: object, name: str, low: float = -inf, high: float = inf) -> None:
    """The argument `name` is a finite number from `low` to `high`.

    Raises:
        SightlineError: it is not; the message names the explainer and the argument.
    """
    value = getattr(explainer, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or not low <= value <= high:
        span = (f" from {low:g}" if isfinite(low) else "") + (f" to {high:g}" if isfinite(high) else "")
        raise SightlineError(f"{_called(explainer, name)}: expected a finite number{span}.")


def settled(explainer: object) -> str:
    """The argument `layer`, which `bind` has settled.

    Raises:
        SightlineError: it is None still.
    """
    if (layer := getattr(explainer, "layer")) is None:  # noqa: B009 - not every explainer has one
        raise SightlineError(f"{type(explainer).__name__} has no layer yet: bind(explainer, model, size) finds one.")
    return str(layer)


def _called(explainer: object, name: str) -> str:
    return f"{type(explainer).__name__}({name}={getattr(explainer, name)!r})"
