"""Backward rules as plain functions: what an operation answers instead of its derivative.

Each takes an operation and what arrived at its result, and returns what goes to its input. They are made of
differentiable functions of the operation's inputs and weights, so that a map drawn by them can be differentiated again.

In all of them x is the input, W the weight and b the bias of ``z = W x + b``; a superscript + or - is the positive or
negative part, so ``W = W^+ + W^-``; and ``st(z) = z + eps sign(z)`` with ``sign(0) = 1`` keeps divisions finite.
"""

import torch
from torch import Tensor

from sightline.errors import SightlineError
from sightline.functions import RECTIFIERS
from sightline.ops import Op, explicit

EPS = 1e-6


def stabilised(z: Tensor, eps: float | Tensor = EPS) -> Tensor:
    """``z + eps sign(z)``, where the sign of 0 is 1."""
    return z + torch.copysign(torch.as_tensor(eps, dtype=z.dtype, device=z.device), z)


def epsilon(op: Op, relevance: Tensor, eps: float | Tensor = EPS) -> Tensor:
    """LRP-epsilon (Bach et al., PLoS ONE 2015, eq. 58): ``x * W^T (R / st(z))``; eps = 0 is LRP-0."""
    return op.x * _back(op, _ratio(relevance, op.z, eps), op.weight)


def gamma(op: Op, relevance: Tensor, gamma: float = 0.25, eps: float | Tensor = EPS) -> Tensor:
    """LRP-gamma (Montavon et al., 2019), for inputs of either sign as Andeol et al. (2021) generalise it.

    Where z > 0, positive contributions count ``1 + gamma`` times:
    ``R_ij ~ x_i^+ (W + gamma W^+)_ij + x_i^- (W + gamma W^-)_ij``, divided by their sum with the bias; where z < 0,
    negative contributions do.
    """
    assert op.weight is not None
    more, less = (op.weight + gamma * part for part in _parts(op.weight))
    bias = (None, None) if op.bias is None else tuple(op.bias + gamma * part for part in _parts(op.bias))
    upper = _ratio(torch.where(op.z > 0, relevance, 0), _signed(op, more, less, bias[0]), eps)
    lower = _ratio(torch.where(op.z < 0, relevance, 0), _signed(op, less, more, bias[1]), eps)
    positive, negative = _halves(op.x)
    out = positive * (_back(op, upper, more) + _back(op, lower, less))
    if negative is not None:
        out = out + negative * (_back(op, upper, less) + _back(op, lower, more))
    return out


def alpha_beta(op: Op, relevance: Tensor, alpha: float = 2.0, beta: float = 1.0, eps: float | Tensor = EPS) -> Tensor:
    """LRP-alpha-beta (Bach et al., 2015, eq. 60): shares of the positive contributions minus those of the negative.

    ``alpha (x^+ * W^{+T} + x^- * W^{-T}) (R / st(Z^+)) - beta (x^+ * W^{-T} + x^- * W^{+T}) (R / st(Z^-))``, with
    ``Z^+ = W^+ x^+ + W^- x^- + b^+`` and ``Z^- = W^- x^+ + W^+ x^- + b^-``.
    """
    assert op.weight is not None
    plus, minus = _parts(op.weight)
    bias = (None, None) if op.bias is None else _parts(op.bias)
    excite = alpha * _ratio(relevance, _signed(op, plus, minus, bias[0]), eps)
    positive, negative = _halves(op.x)
    out = positive * _back(op, excite, plus)
    if negative is not None:
        out = out + negative * _back(op, excite, minus)
    if beta:
        inhibit = beta * _ratio(relevance, _signed(op, minus, plus, bias[1]), eps)
        out = out - positive * _back(op, inhibit, minus)
        if negative is not None:
            out = out - negative * _back(op, inhibit, plus)
    return out


def zplus(op: Op, relevance: Tensor, eps: float | Tensor = EPS) -> Tensor:
    """The z+ rule (Montavon et al., Pattern Recognition 2017): alpha-beta with alpha = 1 and beta = 0."""
    return alpha_beta(op, relevance, 1.0, 0.0, eps)


def zbox(op: Op, relevance: Tensor, low: Tensor, high: Tensor, eps: float | Tensor = EPS) -> Tensor:
    """The z-box rule (Montavon et al., 2017), for inputs known to lie in [low, high].

    ``x * W^T q - low * W^{+T} q - high * W^{-T} q`` with
    ``q = R / st(z - (W^+ low + b^+) - (W^- high + b^-))``.

    Args:
        op: a linear operation.
        relevance: of the shape of its result.
        low, high: bounds, in shapes that broadcast to one input, (1, C, *spatial).
        eps: of the stabiliser.
    """
    assert op.weight is not None
    assert op.run is not None
    plus, minus = _parts(op.weight)
    bias = (None, None) if op.bias is None else _parts(op.bias)
    low, high = (bound.expand_as(op.x[:1]) for bound in (low, high))
    floor = op.run(low, plus, bias[0]) + op.run(high, minus, bias[1])
    quotient = _ratio(relevance, op.z - floor, eps)
    return (op.x - low) * _back(op, quotient, plus) + (op.x - high) * _back(op, quotient, minus)


def excitation(op: Op, arrived: Tensor, sign: int = 1) -> Tensor:
    """Excitation backprop (Zhang et al., IJCV 2018, eq. 6): ``x * W^{+T} (P / (W^+ x))``, without the bias.

    The division gets 1e-20, as in the public implementation. With `sign` -1 the weight is negated first.
    """
    if op.weight is None:
        return op.x * _back(op, arrived / (op.z + 1e-20), None)
    assert op.run is not None
    weight = (sign * op.weight).relu()
    return op.x * _back(op, arrived / (op.run(op.x, weight) + 1e-20), weight)


def share(op: Op, arrived: Tensor, eps: float | Tensor = EPS) -> list[Tensor]:
    """To each term of a sum in proportion, ``x_i / st(z) * R``."""
    ratio = _ratio(arrived, op.z, eps)
    return [(x * ratio).sum_to_size(x.shape) for x in op.inputs]


def pass_on(op: Op, arrived: Tensor) -> Tensor:
    """All that arrived, unchanged; summed up where the input was broadcast."""
    return arrived.sum_to_size(op.x.shape)


def through_norm(op: Op, relevance: Tensor, eps: float | Tensor = EPS) -> Tensor:
    """LRP-epsilon of a norm by itself, with its statistics constant: ``x scale * R / st(z)``."""
    return op.x * op.scaling()[1] * _ratio(relevance, op.z, eps)


def through_gate(op: Op, relevance: Tensor, eps: float | Tensor = EPS) -> list[Tensor | None]:
    """LRP-epsilon of a product whose gate is constant: all of the relevance goes to the signal."""
    x = op.inputs[signal_of(op)]
    return to_signal(op, x * gated(op, _ratio(relevance, op.z, eps)))


def linearised(op: Op, arrived: Tensor, detach: bool = False) -> list[Tensor | None] | None:
    """WBP's rules: each operation as the linear map that it is at this input (Table 1 of the PPI paper).

    Activations multiply by their secant ``(g(v) - g(0)) / v``, norms by weight / deviation with their statistics held
    constant, products by their gate. Everything else is linear as it stands, and its gradient is its rule.

    Args:
        op: any operation.
        arrived: of the shape of its result.
        detach: hold secants, deviations and gates constant in a second derivative, too.

    Raises:
        SightlineError: an operation that is no linear map of one of its inputs.
    """
    if op.kind == "activation" and op.name not in RECTIFIERS:
        return [arrived * _constant(secant(op), detach)]
    if op.kind == "norm" and not op.constant:
        scale = _constant(1 / _deviation(op), detach)
        return [arrived * (scale if op.weight is None else scale * op.weight), *[None] * (len(op.inputs) - 1)]
    if op.kind == "product":
        return to_signal(op, gated(op, arrived, detach))
    if op.kind == "unknown":
        raise no_rule(op)
    return explicit(op, arrived)


def secant(op: Op) -> Tensor:
    """``(g(v) - g(0)) / v`` of an activation, and its limit g'(0) where v = 0; taken by value, with its own gradient.

    g(0) is dropped as biases are: a multiplier cannot carry it.
    """
    at_zero, limit = _at_zero(op, op.x.new_zeros([1] * op.x.ndim))
    if at_zero.numel() > 1:  # a function of its own for each channel
        at_zero, limit = _at_zero(op, torch.zeros_like(op.x))
    shifted = bool(at_zero.any())
    # The difference of two rounded values, divided by next to nothing, is noise.
    near = op.x.abs() <= (torch.finfo(op.x.dtype).eps ** 0.5 if shifted else 0)
    rise = op.z - at_zero if shifted else op.z
    if not bool(near.any()):
        return rise / op.x
    return torch.where(near, limit, rise / op.x.masked_fill(near, 1))


def _at_zero(op: Op, zero: Tensor) -> tuple[Tensor, Tensor]:
    """g(0) and g'(0)."""
    assert op.run is not None
    with torch.enable_grad():
        value = op.run(zero.requires_grad_())
        (slope,) = torch.autograd.grad(value.sum(), zero)
    return value.detach(), slope


def gated(op: Op, arrived: Tensor, detach: bool = False) -> Tensor:
    """What arrived at a product, back through its gate."""
    gate = _constant(op.inputs[1 - signal_of(op)], detach)
    assert op.transpose is not None
    return op.transpose(arrived, gate)


def to_signal(op: Op, value: Tensor) -> list[Tensor | None]:
    """`value` to the signal of a product, nothing to its gate."""
    return [value if i == op.signal else None for i in range(len(op.inputs))]


def signal_of(op: Op) -> int:
    """Which input of a product is passed on.

    Raises:
        SightlineError: that cannot be told.
    """
    if op.signal is None:
        raise no_rule(op)
    return op.signal


def no_rule(op: Op) -> SightlineError:
    """The error for an operation that has no rule."""
    shapes = " and ".join(str(tuple(x.shape)) for x in op.inputs)
    why = "neither factor is known to be a gate" if op.kind == "product" else "it is not linear in its input"
    return SightlineError(
        f"no backward rule fits torch function {op.name!r} of shapes {shapes}: {why}. "
        "Use an explainer without rules for this model, such as Gradient, IntegratedGradients or GradCAM."
    )


def _deviation(op: Op) -> Tensor:
    assert op.statistics is not None
    return op.statistics()[1]


def _constant(value: Tensor, detach: bool) -> Tensor:
    return value.detach() if detach else value


def _ratio(relevance: Tensor, z: Tensor, eps: float | Tensor) -> Tensor:
    if isinstance(eps, float) and eps == 0:  # LRP-0: nothing arrives where z = 0
        return torch.where(z == 0, 0, relevance / torch.where(z == 0, 1, z))
    return relevance / stabilised(z, eps)


def _back(op: Op, arrived: Tensor, weight: Tensor | None) -> Tensor:
    assert op.transpose is not None
    return op.transpose(arrived, weight)


def _parts(value: Tensor) -> tuple[Tensor, Tensor]:
    return value.clamp(min=0), value.clamp(max=0)


def _halves(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The positive part of x and its negative part, or None for that if there is none, as behind a ReLU."""
    return (x, None) if bool((x >= 0).all()) else _parts(x)


def _signed(op: Op, plus: Tensor, minus: Tensor, bias: Tensor | None) -> Tensor:
    """``plus x^+ + minus x^- + bias``."""
    assert op.run is not None
    positive, negative = _halves(op.x)
    out = op.run(positive, plus, bias)
    return out if negative is None else out + op.run(negative, minus)
