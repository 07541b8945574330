"""What a forward is made of: operations, each of which can answer with another backward than its derivative."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sightline.errors import SightlineError


@dataclass(eq=False, slots=True)
class Op:
    """One operation of a recorded forward on something that depends on the image.

    What only moves or selects values (reshape, concatenation, padding, maximum) is none: its gradient is its rule.
    """

    kind: str
    """"linear": convolution, fully connected, product with a weight; "norm"; "activation": element by element;
    "pool": fixed weighted sums, such as averages and resizing; "affine": scaled or shifted by a constant;
    "sum" and "product" of activations; "unknown"."""
    name: str
    """The function's own."""
    inputs: tuple[Tensor, ...]
    """What depends on the image. A norm right behind a linear operation has that operation's input as its second."""
    z: Tensor
    """The result."""
    run: Callable[..., Tensor] | None = None
    """The operation on another input; a linear one also takes a weight and a bias."""
    weight: Tensor | None = None
    bias: Tensor | None = None
    transpose: Callable[[Tensor, Tensor | None], Tensor] | None = None
    """From what arrives at the result to the input; of a linear operation given a weight, of a product its gate."""
    statistics: Callable[[], tuple[Tensor, Tensor]] | None = None
    """Of a norm: mean and standard deviation, in shapes that broadcast to the input's."""
    constant: bool = False
    """Of a norm: whether these are fixed numbers."""
    source: "Op | None" = None
    """Of a norm right behind a linear operation: that operation."""
    signal: int | None = None
    """Of a product: the input that is passed on while the other is its gate; None if that cannot be told."""

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.inputs[0]

    def merged(self) -> "Op":
        """A norm and the linear operation ahead of it as one linear operation, with the statistics held constant."""
        assert self.source is not None
        weight, bias = self.source.weight, self.source.bias
        assert weight is not None
        shift, scale = (value.flatten() for value in self.scaling())
        weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
        return replace(self.source, z=self.z, weight=weight, bias=shift if bias is None else bias * scale + shift)

    def scaling(self) -> tuple[Tensor, Tensor]:
        """Of a norm: shift and scale, ``z = x * scale + shift``."""
        assert self.statistics is not None
        mean, deviation = self.statistics()
        scale = 1 / deviation if self.weight is None else self.weight / deviation
        shift = -mean * scale
        return (shift if self.bias is None else shift + self.bias), scale


Rule = Callable[[Op, Tensor], Sequence[Tensor | None] | None]
"""From an operation and what arrived at its result to what goes to each of its inputs; None is the gradient."""


def explicit(op: Op, arrived: Tensor) -> list[Tensor | None] | None:
    """The gradient of a convolution as the transposed convolution it is; None for all else, which is their gradient.

    Only where it is to be differentiated again, as autograd's double backward of a convolution takes up to four times
    as long, more so for images laid out channels last; and where there is a quicker way to the image.
    """
    if op.transpose is None or not op.name.startswith("conv"):
        return None
    if not torch.is_grad_enabled() and not few_channels(op.x.shape, op.z.shape):
        return None
    return [op.transpose(arrived, op.weight)]


def few_channels(size: torch.Size, made: torch.Size) -> bool:
    """Whether a convolution of inputs of `size` with results of the size `made` goes from an image to coarser cells."""
    return size[1] <= 4 and math.prod(size[2:]) > math.prod(made[2:])


def transposed(function: Callable[[Tensor], Tensor], x: Tensor, arrived: Tensor) -> Tensor:
    """The transpose of a linear `function` applied to what arrived at its result; `x` says where and in what shape."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        z = function(x)
    return torch.autograd.grad(z, x, arrived, create_graph=torch.is_grad_enabled())[0]


class Switch:
    """The rule in force at the nodes of one pass; none: the ordinary gradient."""

    rule: Rule | None = None

    @contextmanager
    def set(self, rule: Rule | None) -> Iterator[None]:
        before, self.rule = self.rule, rule
        try:
            yield
        finally:
            self.rule = before


class _Node(torch.autograd.Function):
    """Stands behind an operation. What arrives goes on to its result, or through a rule straight to its inputs."""

    @staticmethod
    def forward(ctx: Any, switch: Switch, op: Op, z: Tensor, *inputs: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.switch, ctx.op = switch, op
        ctx.versions = [tensor._version for tensor in (z, *inputs)]
        return z.detach()  # the same memory under another history: a copy at each layer would cost a tenth of the pass

    @staticmethod
    def backward(ctx: Any, arrived: Tensor | None) -> tuple[Any, ...]:
        op: Op = ctx.op
        rule = None if arrived is None else ctx.switch.rule
        if rule is None or (sent := rule(op, arrived)) is None:
            return (None, None, arrived, *[None] * len(op.inputs))
        if ctx.versions != [tensor._version for tensor in (op.z, *op.inputs)]:
            raise SightlineError(f"{op.name}: its input or result was overwritten in place later in the forward pass.")
        return (None, None, None, *sent)


def node(switch: Switch, op: Op) -> Tensor:
    """The result of `op`, with the switch's rule ahead of its history."""
    out: Tensor = _Node.apply(switch, op, op.z, *op.inputs)  # type: ignore[no-untyped-call]
    return out
