"""Integrated gradients: the gradient averaged along the way from a baseline to the image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from sightline.arguments import at_least, number, one_of
from sightline.explainers.arguments import Reduce, check_reduce, reduced
from sightline.explainers.rerun import weighted_gradients
from sightline.passes import Pass, Target

Method = Literal["gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"]


@dataclass(frozen=True)
class IntegratedGradients:
    """``(x - x0) * integral_0^1 dz/dx(x0 + a (x - x0)) da`` (Sundararajan et al., ICML 2017, eq. 1).

    The map's sum over channels and positions is ``z(x) - z(x0)``, up to the error of the integral. The class explained
    is settled on the image itself.

    The model runs `steps` more times in whatever mode it is in, and is left as it was. In training mode BatchNorm
    normalises by the statistics of the batch on its way; the maps then depend on `batch_size`.

    Args:
        steps: points along the way.
        baseline: the value of x0 everywhere; 0 is black for images in [0, 1].
        method: how the integral is taken. "riemann_trapezoid" includes both ends.
        reduce: over channels, see `Gradient`.
        batch_size: about how many images run at once; unless given, the pass's own batch, or half a megapixel of images
            if that is more and the model is not training.
    """

    steps: int = 50
    baseline: float = 0.0
    method: Method = "gausslegendre"
    reduce: Reduce = "sum"
    batch_size: int | None = None

    taps: ClassVar[tuple[str, ...]] = ()
    ruled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_reduce(self)
        one_of(self, "method", self.method, Method)
        at_least(2 if self.method == "riemann_trapezoid" else 1, self, "steps")
        at_least(1, self, "batch_size")
        number(self, "baseline", self.baseline)

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map at the image's resolution, signed under "sum"."""
        way, (positions, weights) = run.image.detach() - self.baseline, quadrature(self.method, self.steps)
        mean = weighted_gradients(
            run, run.target(target), (self.baseline + position * way for position in positions), weights,
            batch_size=self.batch_size, differentiable=differentiable,
        )  # fmt: skip
        return reduced(way * mean, self.reduce, run.channel)


def quadrature(method: Method, steps: int) -> tuple[list[float], list[float]]:
    """Positions in [0, 1] and weights, which sum to 1, of an integral from 0 to 1.

    >>> quadrature("riemann_trapezoid", 3)
    ([0.0, 0.5, 1.0], [0.25, 0.5, 0.25])
    """
    positions, weights = _RULES[method](steps)
    return positions.tolist(), (weights / weights.sum()).tolist()


def _gauss(steps: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights


def _evenly(offset: float) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    return lambda steps: ((np.arange(steps) + offset) / steps, np.ones(steps))


def _trapezoid(steps: int) -> tuple[np.ndarray, np.ndarray]:
    weights = np.ones(steps)
    weights[[0, -1]] = 0.5
    return np.linspace(0, 1, steps), weights


_RULES: Mapping[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
    "gausslegendre": _gauss,
    "riemann_left": _evenly(0),
    "riemann_right": _evenly(1),
    "riemann_middle": _evenly(0.5),
    "riemann_trapezoid": _trapezoid,
}
