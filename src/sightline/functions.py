"""Torch functions by name: which operation a call is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import sqrt
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.ops import Op, few_channels, transposed

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)

# How a value may enter a product: as what is passed on, as either, or as what decides how much of the other passes.
SIGNAL, ACTIVATED, GATE = range(3)


class Seen(NamedTuple):
    """What is known of a tensor. It is kept, so that its id is not taken twice."""

    tensor: Tensor
    role: int | None
    """How it may enter a product; None if it is made of weights alone."""
    maker: Op | None = None
    """The operation whose result it is."""


class Call:
    """One call of a torch function: what it is given, and which of that depends on the image."""

    def __init__(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], seen: Mapping[int, Seen]) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        self.name: str = getattr(func, "__name__", "?")
        self.tensors = tensors_in(args) + tensors_in(kwargs.values()) if kwargs else tensors_in(args)
        self.signals: list[Tensor] = []
        self.roles: dict[int, int] = {}
        self.unseen = False
        for tensor in self.tensors:
            if (fact := seen.get(id(tensor))) is None:
                # A result of code that no torch function shows, such as a custom autograd function.
                self.unseen |= tensor.requires_grad and not tensor.is_leaf
            elif fact.role is not None:
                self.signals.append(tensor)
                self.roles[id(tensor)] = fact.role
        self.source = seen[id(self.signals[0])].maker if self.signals else None

    def passed_on(self) -> int | None:
        """The role of what only moves or copies them. The second of `expand_as` lends no more than its shape."""
        return self.role(self.tensors[0]) if self.name.endswith("_as") else min(self.roles.values())

    def role(self, value: Any) -> int | None:
        """How `value` may enter a product; None for what does not depend on the image."""
        return self.roles.get(id(value))

    def __call__(self) -> Any:
        return self.func(*self.args, **self.kwargs)

    def named(self, names: str) -> dict[str, Any]:
        """The arguments by name, those given by position in the order of `names`."""
        return {**dict(zip(names.split(), self.args, strict=False)), **self.kwargs}

    def on(self, *values: Tensor) -> Any:
        """The same call with `values` instead of what depends on the image, in order."""
        return self.with_tensors(dict(zip(map(id, self.signals), values, strict=True)))

    def with_tensors(self, places: Mapping[int, Tensor]) -> Any:
        """The same call with other tensors, by the id of those they stand for."""
        args = mapped(lambda value: places.get(id(value), value), tuple(self.args))
        kwargs = {k: mapped(lambda value: places.get(id(value), value), v) for k, v in self.kwargs.items()}
        return self.func(*args, **kwargs)


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """Every tensor among the values, and in lists and tuples among them, at any depth."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_in(value)
    return found


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The function of a value, or of everything in a list or a tuple, at any depth."""
    if type(value) in (list, tuple):
        return type(value)(mapped(function, one) for one in value)
    return function(value)


Fields = Mapping[str, Any]


def unknown(call: Call) -> Fields:
    """What no rule fits; as a factor it counts as a gate."""
    return {"kind": "unknown", "inputs": tuple(call.signals), "role": GATE}


def _convolution(call: Call) -> Fields:
    given = call.named("input weight bias stride padding dilation groups")
    x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
    if call.role(weight) is not None:  # a kernel made from the image decides how the rest is passed on
        return _gated(call, 0) if call.role(x) is not None else unknown(call)
    run = partial(_convolved, call.func, given)
    back = partial(convolution_transposed, x.shape, run=run, **given)
    return {"kind": "linear", "inputs": (x,), "run": run, "weight": weight, "bias": bias, "transpose": back}


def _convolved(
    function: Any, given: Mapping[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    out: Tensor = function(x, weight, bias, **given)
    return out


def convolution_transposed(
    shape: torch.Size,
    arrived: Tensor,
    weight: Tensor,
    run: Callable[..., Tensor],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """The transpose of a convolution of inputs of `shape`: every entry goes back to the cells it was made from."""
    axes = weight.ndim - 2
    if isinstance(padding, str):
        return transposed(lambda x: run(x, weight), arrived.new_zeros(shape), arrived)
    stride, padding, dilation = (_each(value, axes) for value in (stride, padding, dilation))
    batched = arrived.ndim == weight.ndim
    if batched and few_channels(shape, arrived.shape) and groups == max(dilation) == 1 and not torch.is_grad_enabled():
        return by_phases(arrived, weight, shape[-axes:], stride, padding)
    # Strides that do not divide the input leave cells at its end which no output has seen.
    left = [
        n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
        for n, m, s, p, d, k in zip(
            shape[-axes:], arrived.shape[-axes:], stride, padding, dilation, weight.shape[2:], strict=True
        )
    ]
    return _TRANSPOSED[axes - 1](arrived, weight, None, stride, padding, left, groups, dilation)


def by_phases(
    arrived: Tensor, weight: Tensor, size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """The transpose of a strided convolution of inputs of `size`, as one convolution that makes all phases at once.

    With ``n + p = s q + r`` the input's cell n gets ``sum_t arrived[q - t] w[s t + r]``: for each of the s phases r an
    ordinary convolution of what arrived. For an image's few channels it takes half the time of the transposed one; its
    own second derivative takes longer.
    """
    axes, channels = len(size), weight.shape[1]
    taps = [-(-k // s) for k, s in zip(weight.shape[2:], stride, strict=True)]
    cells = [(n - 1 + p) // s + 1 for n, p, s in zip(size, padding, stride, strict=True)]
    missing = [side for t, s, k in zip(taps, stride, weight.shape[2:], strict=True) for side in (t * s - k, 0)]
    phased = F.pad(weight, missing[::-1]).unflatten(-1, (taps[-1], stride[-1]))
    for axis in range(axes - 2, -1, -1):
        phased = phased.unflatten(2 + axis, (taps[axis], stride[axis]))
    steps, phases = range(2, 2 * axes + 2, 2), range(3, 2 * axes + 2, 2)
    kernel = phased.permute(1, *phases, 0, *steps).flip([*range(axes + 2, 2 * axes + 2)]).flatten(0, axes)
    around = [side for c, m, t in zip(cells, arrived.shape[2:], taps, strict=True) for side in (c - m, t - 1)]
    found: Tensor = _CONVOLUTIONS[axes - 1](F.pad(arrived, around[::-1]), kernel).unflatten(1, (channels, *stride))
    found = found.permute(0, 1, *(place for axis in range(2, axes + 2) for place in (axis + axes, axis)))
    found = found.reshape(len(found), channels, *(c * s for c, s in zip(cells, stride, strict=True)))
    for axis, (p, n) in enumerate(zip(padding, size, strict=True), 2):
        found = found.narrow(axis, p, n)
    return found


def _transposed_convolution(call: Call) -> Fields:
    given = call.named("input weight bias stride padding output_padding groups dilation")
    x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
    if call.role(weight) is not None:
        return unknown(call)
    run = partial(_convolved, call.func, given)

    def back(arrived: Tensor, weight: Tensor) -> Tensor:
        return transposed(lambda x: run(x, weight), x, arrived)

    return {"kind": "linear", "inputs": (x,), "run": run, "weight": weight, "bias": bias, "transpose": back}


def _each(value: Any, axes: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * axes if len(values) == 1 else values


def _linear(call: Call) -> Fields:
    given = call.named("input weight bias")
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    if call.role(weight) is not None:
        return _gated(call, 0) if call.role(x) is not None else unknown(call)
    return _fully_connected(x, weight, bias)


def _fully_connected(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Fields:
    return {
        "kind": "linear", "inputs": (x,), "run": F.linear, "weight": weight, "bias": bias,
        "transpose": lambda arrived, weight: arrived @ weight,
    }  # fmt: skip


def _contraction(call: Call) -> Fields:
    """A product that sums over an axis: with a weight it is a linear layer, with another activation it has a gate."""
    if len(call.signals) == 2:
        fields = dict(_gated(call, _signal(call)))
        a, b = call.signals
        if "signal" in fields and call.name in ("matmul", "bmm", "__matmul__") and a.ndim == b.ndim > 1:
            fields["transpose"] = (
                (lambda arrived, gate: (arrived @ gate.mT).sum_to_size(a.shape)) if fields["signal"] == 0
                else (lambda arrived, gate: (gate.mT @ arrived).sum_to_size(b.shape))
            )  # fmt: skip
        return fields
    operands = [tensor for tensor in call.tensors if tensor.ndim and tensor is not call.signals[0]]
    if len(call.signals) != 1 or len(operands) != 1:
        return unknown(call)
    x, weight = call.signals[0], operands[0]
    if call.name in ("matmul", "mm", "__matmul__") and call.tensors[0] is x and weight.ndim == 2:
        return _fully_connected(x, weight.mT)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        places = {id(call.signals[0]): x, id(operands[0]): weight}
        out: Tensor = call.with_tensors(places)
        return out

    return {
        "kind": "linear", "inputs": (x,), "run": run, "weight": weight,
        "transpose": lambda arrived, weight: transposed(lambda x: run(x, weight), x, arrived),
    }  # fmt: skip


def _signal(call: Call) -> int | None:
    """Which of two factors is passed on: the other has just come through a saturating function, or an activation."""
    first, second = (call.roles[id(signal)] for signal in call.signals)
    return None if first == second else int(first > second)


def _gated(call: Call, signal: int | None) -> Fields:
    if signal is None or len(call.signals) != 2:
        return {"kind": "product", "inputs": tuple(call.signals), "role": GATE if _all_gates(call) else SIGNAL}
    x = call.signals[signal]

    def transpose(arrived: Tensor, gate: Tensor) -> Tensor:
        return transposed(lambda x: call.on(x, gate) if signal == 0 else call.on(gate, x), x, arrived)

    return {
        "kind": "product", "inputs": tuple(call.signals), "signal": signal, "transpose": transpose,
        "role": call.role(x),
    }  # fmt: skip


def _all_gates(call: Call) -> bool:
    return all(call.role(signal) == GATE for signal in call.signals)


def _multiplication(call: Call) -> Fields:
    if len(call.signals) == 1:
        return _affine(call)
    fields = dict(_gated(call, _signal(call)))
    if fields.get("signal") is not None:
        x = call.signals[fields["signal"]]
        fields["transpose"] = lambda arrived, gate: (arrived * gate).sum_to_size(x.shape)
    return fields


def _division(call: Call) -> Fields:
    if len(call.signals) == 1 and call.tensors[0] is call.signals[0] and call.name != "__rtruediv__":
        return _affine(call)
    return _gated(call, 0) if len(call.signals) == 2 else unknown(call)


def _addition(call: Call) -> Fields:
    if len(call.signals) == 1:
        return _affine(call)
    role = min(call.role(signal) or 0 for signal in call.signals)
    return {"kind": "sum", "inputs": tuple(call.signals), "role": role}


def _affine(call: Call) -> Fields:
    (x,) = call.signals
    return {"kind": "affine", "inputs": (x,), "run": call.on, "role": call.role(x)}


def _dropout(call: Call) -> Fields | None:
    return _affine(call) if call.named("input p training").get("training", True) else None


def _moving(_call: Call) -> None:
    """What moves, copies or selects values is no operation: its gradient is its rule."""


def _pool(call: Call) -> Fields:
    if len(call.signals) != 1:
        return _gated(call, 0)
    (x,) = call.signals
    return {
        "kind": "pool", "inputs": (x,), "run": call.on, "role": call.role(x),
        "transpose": lambda arrived, _: transposed(call.on, x, arrived),
    }  # fmt: skip


def _activation(call: Call) -> Fields:
    if len(call.signals) != 1:
        return unknown(call)
    return {"kind": "activation", "inputs": tuple(call.signals), "run": call.on,
            "role": GATE if call.name in SATURATING else ACTIVATED}  # fmt: skip


def _batch_norm(call: Call) -> Fields:
    inner = call.func in (torch.batch_norm, torch.instance_norm)  # which torch.nn.functional calls otherwise
    order = "weight bias running_mean running_var" if inner else "running_mean running_var weight bias"
    given = call.named(f"input {order} training momentum eps")
    x, axes = given["input"], [0, *range(2, given["input"].ndim)]
    # Read before the call changes them.
    fixed = not (given.get("training", False) or given.get("use_input_stats", False))

    def statistics() -> tuple[Tensor, Tensor]:
        if fixed:
            mean, variance = (_across(given[name], x) for name in ("running_mean", "running_var"))
        else:
            variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return mean, (variance + given.get("eps", 1e-5)).sqrt()

    fields = _norm(call, given, statistics) | {"constant": fixed}
    source = call.source
    if source is not None and source.kind == "linear" and _mergeable(source):
        fields |= {"source": source, "inputs": (x, source.x)}
    return fields


def _mergeable(source: Op) -> bool:
    return source.name in ("conv1d", "conv2d", "conv3d") or (source.name == "linear" and source.z.ndim == 2)


def _across(vector: Tensor, x: Tensor) -> Tensor:
    """A vector over channels, in a shape that broadcasts to (B, C, ...)."""
    return vector.view(1, -1, *[1] * (x.ndim - 2))


def _norm(call: Call, given: Fields, statistics: Callable[[], tuple[Tensor, Tensor]]) -> dict[str, Any]:
    x, weight, bias = given["input"], given.get("weight"), given.get("bias")
    if weight is not None and call.name != "layer_norm" and call.name != "rms_norm":
        weight, bias = _across(weight, x), None if bias is None else _across(bias, x)
    if len(call.signals) != 1:
        return dict(unknown(call))
    return {"kind": "norm", "inputs": (x,), "weight": weight, "bias": bias, "statistics": statistics}


def _layer_norm(call: Call) -> Fields:
    given = call.named("input normalized_shape weight bias eps")
    x, axes = given["input"], tuple(range(-len(given["normalized_shape"]), 0))

    def statistics() -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return mean, (variance + given.get("eps", 1e-5)).sqrt()

    return _norm(call, given, statistics)


def _rms_norm(call: Call) -> Fields:
    given = call.named("input normalized_shape weight eps")
    x, axes = given["input"], tuple(range(-len(given["normalized_shape"]), 0))
    eps = given.get("eps") or torch.finfo(x.dtype).eps

    def statistics() -> tuple[Tensor, Tensor]:
        return x.new_zeros(()), (x.square().mean(axes, keepdim=True) + eps).sqrt()

    return _norm(call, given, statistics)


def _group_norm(call: Call) -> Fields:
    given = call.named("input num_groups weight bias eps")
    return _norm(call, given, _grouped(given["input"], given["num_groups"], given.get("eps", 1e-5)))


def _instance_norm(call: Call) -> Fields:
    inner = call.func is torch.instance_norm
    order = "weight bias running_mean running_var" if inner else "running_mean running_var weight bias"
    given = call.named(f"input {order} use_input_stats momentum eps")
    if not given.get("use_input_stats", True):
        return _batch_norm(call)
    return _norm(call, given, _grouped(given["input"], given["input"].shape[1], given.get("eps", 1e-5)))


def _grouped(x: Tensor, groups: int, eps: float) -> Callable[[], tuple[Tensor, Tensor]]:
    def statistics() -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(x.unflatten(1, (groups, -1)).flatten(2), 2, correction=0)
        mean, deviation = (v.repeat_interleave(x.shape[1] // groups, 1) for v in (mean, (variance + eps).sqrt()))
        shape = (*mean.shape, *[1] * (x.ndim - 2))
        return mean.view(shape), deviation.view(shape)

    return statistics


def _normalize(call: Call) -> Fields:
    given = call.named("input p dim eps")
    x = given["input"]

    def statistics() -> tuple[Tensor, Tensor]:
        length = torch.linalg.vector_norm(x, given.get("p", 2.0), given.get("dim", 1), keepdim=True)
        return x.new_zeros(()), length.clamp_min(given.get("eps", 1e-12))

    return _norm(call, given, statistics)


# What is written in terms of other functions; called with the recorder watching. None: take the call as it stands.


def _subtraction(call: Call) -> Any:
    if len(call.signals) < 2:
        return None
    a, b = reversed(call.tensors) if call.name in ("__rsub__", "rsub") else call.tensors
    return a + (-call.kwargs.get("alpha", 1)) * b


def _scaled_addition(call: Call) -> Any:
    if len(call.signals) < 2 or (alpha := call.kwargs.get("alpha", 1)) == 1:
        return None
    a, b = call.tensors
    return a + alpha * b


def _multiply_add(call: Call) -> Any:
    given = call.named("input tensor1 tensor2 value")
    return given["input"] + given.get("value", 1) * given["tensor1"] * given["tensor2"]


def _attention(call: Call) -> Any:
    given = call.named("query key value attn_mask dropout_p is_causal scale enable_gqa")
    query, key, value, mask = given["query"], given["key"], given["value"], given.get("attn_mask")
    if given.get("enable_gqa", False):
        return None
    scores = query @ key.transpose(-2, -1) * (given.get("scale") or 1 / sqrt(query.shape[-1]))
    if given.get("is_causal", False):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None and mask.dtype != torch.bool:
        scores, mask = scores + mask, None
    if mask is not None:  # a query that may look nowhere reads nothing
        blind = ~mask.any(-1, keepdim=True)
        scores = scores.masked_fill(~(mask | blind), -torch.inf)
    weights, probability = scores.softmax(-1), given.get("dropout_p", 0.0)
    weights = weights if mask is None else weights.masked_fill(blind, 0)
    return F.dropout(weights, probability, training=probability > 0) @ value


def _multi_head_attention(call: Call) -> Any:
    given = call.named(
        "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn "
        "dropout_p out_proj_weight out_proj_bias training key_padding_mask need_weights attn_mask"
    )
    extras = ("bias_k", "bias_v", "key_padding_mask", "need_weights", "attn_mask", "use_separate_proj_weight")
    if any(given.get(name) is not None and given[name] is not False for name in (*extras, "add_zero_attn")):
        return None
    if given["query"].ndim != 3:
        return None
    weights = given["in_proj_weight"].chunk(3)
    biases = (None,) * 3 if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)
    query, key, value = (
        F.linear(given[name], weight, bias).unflatten(-1, (given["num_heads"], -1)).permute(1, 2, 0, 3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True)
    )  # (length, batch, width) to (batch, heads, length, width of a head)
    out = F.scaled_dot_product_attention(query, key, value, dropout_p=given["dropout_p"] if given["training"] else 0.0)
    return F.linear(out.permute(2, 0, 1, 3).flatten(-2), given["out_proj_weight"], given["out_proj_bias"]), None


COMPOSED: Mapping[str, Callable[[Call], Any]] = {
    "sub": _subtraction,
    "subtract": _subtraction,
    "__sub__": _subtraction,
    "__rsub__": _subtraction,
    "rsub": _subtraction,
    "add": _scaled_addition,
    "addcmul": _multiply_add,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head_attention,
}
"""Functions written in terms of others, which are then recorded in their stead."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


RECTIFIERS = _names("relu leaky_relu prelu abs")
"""Activations with ``g(a v) = a g(v)`` for all a > 0: their derivative is their secant through zero."""

SATURATING = _names("sigmoid hardsigmoid tanh softsign erf")
"""Activations between two bounds: as a factor, a gate."""

_READERS: Mapping[Callable[[Call], Fields | None], frozenset[str]] = {
    _convolution: _names("conv1d conv2d conv3d"),
    _transposed_convolution: _names("conv_transpose1d conv_transpose2d conv_transpose3d"),
    _linear: _names("linear"),
    _contraction: _names("matmul mm bmm __matmul__ __rmatmul__ einsum"),
    _batch_norm: _names("batch_norm"),
    _layer_norm: _names("layer_norm"),
    _rms_norm: _names("rms_norm"),
    _group_norm: _names("group_norm"),
    _instance_norm: _names("instance_norm"),
    _normalize: _names("normalize"),
    _activation: RECTIFIERS
    | SATURATING
    | _names(
        "relu6 hardtanh elu celu selu gelu silu mish softplus logsigmoid log_sigmoid hardswish threshold _threshold "
        "rrelu hardshrink softshrink tanhshrink clamp clamp_min clamp_max clip square pow __pow__"
    ),
    _pool: _names(
        "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d mean sum cumsum "
        "interpolate upsample fold grid_sample"
    ),
    _addition: _names("add __add__ __radd__ sub subtract __sub__ __rsub__ rsub"),
    _multiplication: _names("mul multiply __mul__ __rmul__"),
    _division: _names("div divide true_divide __truediv__"),
    _affine: _names("neg negative __neg__ positive"),
    _dropout: _names("dropout dropout1d dropout2d dropout3d"),
    # Max-pools call themselves "fn". What returns no floating point tensor, such as a size, needs no place here.
    _moving: _names(
        "__get__ __getitem__ __setitem__ view view_as reshape reshape_as flatten unflatten ravel squeeze unsqueeze "
        "permute transpose t swapaxes swapdims movedim moveaxis expand expand_as broadcast_to repeat "
        "repeat_interleave tile roll flip rot90 contiguous clone to type type_as float double half bfloat16 cpu cuda "
        "detach requires_grad_ identity cat concat concatenate stack hstack vstack dstack split split_with_sizes "
        "chunk tensor_split unbind narrow select index_select gather take take_along_dim masked_select masked_fill "
        "where diagonal tril triu as_strided unfold pad pixel_shuffle pixel_unshuffle channel_shuffle fn max_pool1d "
        "max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d median nanmedian kthvalue "
        "mode cummax cummin amax amin max min maximum minimum topk sort new_zeros new_ones new_empty new_full "
        "zeros_like ones_like empty_like full_like rand_like randn_like max_pool1d_with_indices "
        "max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d_with_indices "
        "adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices"
    ),
}
COPIES = _names("clone contiguous identity")
"""Functions whose result is what they are given."""

READERS = {name: reader for reader, names in _READERS.items() for name in names}
"""By a function's name, how its call is read; any other is unknown."""
