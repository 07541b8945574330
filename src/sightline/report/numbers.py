"""Estimates and differences with their intervals, and how they are written."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from sightline.catalogue import Metric, metric

ACCURACY, F1_OVERALL, CH = map(metric, ("accuracy", "f1_overall", "ch"))


@dataclass(frozen=True)
class Estimate:
    """A value and its interval; None where it is not defined."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    group: str = ""
    left_out: int = 0
    """Images of groups too small to be the worst."""

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> Self:
        """From JSON; null is an estimate without a value."""
        of = dict(value or {})
        return cls(
            of.get("value"), of.get("low"), of.get("high"), of.get("n"), of.get("group") or "", of.get("left_out", 0)
        )


@dataclass(frozen=True)
class Difference:
    """A paired difference to the baseline, its interval and its test."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    test: str = ""
    n: int | None = None

    @classmethod
    def of(cls, value: Mapping[str, Any] | None) -> Self:
        """From JSON; null is a difference without a value."""
        of = dict(value or {})
        return cls(of.get("value"), of.get("low"), of.get("high"), of.get("p"), of.get("test") or "", of.get("n"))

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def gain(self, metric: Metric) -> "Difference":
        """Turned round where lower is better: more is better in what comes out."""
        if metric.higher:
            return self
        value, low, high = (None if end is None else -end for end in (self.value, self.high, self.low))
        return replace(self, value=value, low=low, high=high)

    def sign(self, level: float) -> int | None:
        """+1 or -1 where interval and test agree that there is a difference, 0 where not, None where undefined."""
        if self.value is None:
            return None
        clear = self.excludes_zero and (self.p is None or self.p < 1 - level)
        return int(math.copysign(1, self.value)) if clear else 0


def known(value: float | None, otherwise: float) -> float:
    """`value` where there is one."""
    return otherwise if value is None else value


def interval(estimate: Estimate, metric: Metric) -> str:
    """The bounds of an estimate; nothing where there are none.

    >>> interval(Estimate(0.31, 0.285, 0.337), ACCURACY)
    '28.5–33.7'
    """
    return "" if estimate.low is None else f"{metric.written(estimate.low)}–{metric.written(estimate.high)}"


def signed(value: float | None, metric: Metric) -> str:
    """A difference with its sign; a difference that rounds to zero has none.

    >>> signed(0.2, CH), signed(-0.01, ACCURACY), signed(-0.0001, CH)
    ('+0.200', '−1.0', '0.000')
    """
    if value is None:
        return "–"
    text = f"{metric.scale * value:+.{metric.digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def points(value: float | None, metric: Metric) -> str:
    """A difference with its sign and, where it is one of per cents, what it is counted in.

    >>> points(0.031, ACCURACY), points(0.2, CH)
    ('+3.1 points', '+0.200')
    """
    return signed(value, metric) + (" points" if metric.scale == 100 and value is not None else "")


def signed_interval(difference: Difference, metric: Metric) -> str:
    """The bounds of a difference with their signs; nothing where there are none."""
    low, high = signed(difference.low, metric), signed(difference.high, metric)
    return "" if difference.low is None else f"{low} to {high}"


def p_value(p: float | None) -> str:
    """p < 0.001, p = 0.012 or p = 0.60, never broken across lines; nothing for None."""
    if p is None:
        return ""
    text = "p < 0.001" if p < 0.001 else f"p = {p:.{2 if p >= 0.1 else 3}f}"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def percent(share: float) -> str:
    """A share such as the level of an interval.

    >>> percent(0.95), percent(0.975)
    ('95 %', '97.5 %')
    """
    return f"{100 * share:.3g} %"
