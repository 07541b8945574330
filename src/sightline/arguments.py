"""Checks of what explainers, objectives and metrics are constructed with."""

from math import inf, isfinite
from typing import Any, TypeVar, get_args

from sightline.errors import SightlineError, did_you_mean

T = TypeVar("T")


def one_of(who: object, name: str, value: T, choices: Any) -> T:
    """`value`, if it is one of `choices`: a Literal or a sequence.

    Raises:
        SightlineError: it is not; the message names `who`, an object or a word, the argument and the choices.
    """
    choices = get_args(choices) or choices
    if value not in choices:
        raise SightlineError(f"{_called(who, name, value)}. {did_you_mean(str(value), map(str, choices))}")
    return value


def number(who: object, name: str, value: Any, low: float = -inf, high: float = inf) -> float:
    """`value`, if it is a finite number from `low` to `high`.

    Raises:
        SightlineError: it is not; the message names `who` and the argument.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or not low <= value <= high:
        span = (f" from {low:g}" if isfinite(low) else "") + (f" to {high:g}" if isfinite(high) else "")
        raise SightlineError(f"{_called(who, name, value)}: expected a finite number{span}.")
    return value


def at_least(minimum: int, who: object, *names: str) -> None:
    """Each of the attributes `names` is an integer from `minimum` up, or None where that is its default.

    Raises:
        SightlineError: it is not; the message names `who` and the argument.
    """
    for name in names:
        value, default = getattr(who, name), getattr(type(who), name)
        if value is default is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise SightlineError(f"{_called(who, name, value)}: expected an integer from {minimum} up.")


def _called(who: object, name: str, value: object) -> str:
    return f"{who if isinstance(who, str) else type(who).__name__}({name}={value!r})"
