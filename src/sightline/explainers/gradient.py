"""The gradient of the target's logit with respect to the image, alone and times the image."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sightline.explainers.arguments import Reduce, check_reduce, reduced
from sightline.passes import Pass, Target


@dataclass(frozen=True)
class Gradient:
    """The gradient ``dz/dx`` of the target's logit z (Simonyan et al., ICLR 2014 workshop).

    Args:
        reduce: over channels: "sum", "abs_sum" (sum of absolute values), "max_abs" (the paper's: largest absolute
            value), or None, which keeps maps of the image's shape.
    """

    reduce: Reduce = "sum"

    taps: ClassVar[tuple[str, ...]] = ("image",)
    ruled: ClassVar[bool] = False
    once: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_reduce(self)

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map at the image's resolution, signed under "sum"."""
        return reduced(run.grad(target, "image", differentiable=differentiable), self.reduce, run.channel)


@dataclass(frozen=True)
class InputXGradient:
    """The gradient times the image, ``x * dz/dx`` (Shrikumar et al., 2016).

    x is the image as the model takes it, in [0, 1]: where the model normalises, that is part of z.

    Args:
        reduce: over channels, see `Gradient`. "sum" splits z itself in networks without biases.
    """

    reduce: Reduce = "sum"

    taps: ClassVar[tuple[str, ...]] = ("image",)
    ruled: ClassVar[bool] = False
    once: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_reduce(self)

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map at the image's resolution, signed under "sum"."""
        gradient = run.grad(target, "image", differentiable=differentiable)
        return reduced(run.image.detach() * gradient, self.reduce, run.channel)
