"""GMP: a global maximum in place of the global average a network ends in (Pillai and Pirsiavash, AAAI 2021)."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sightline.errors import SightlineError
from sightline.layers import probe
from sightline.passes import Call, evaluating, logits_of, rank, trace

_REFUSALS = (RuntimeError, AssertionError, ValueError, TypeError, IndexError, SightlineError)
_MAXIMA: dict[type[nn.Module], Callable[[int], nn.Module]] = {
    nn.AdaptiveAvgPool1d: nn.AdaptiveMaxPool1d,
    nn.AdaptiveAvgPool2d: nn.AdaptiveMaxPool2d,
    nn.AdaptiveAvgPool3d: nn.AdaptiveMaxPool3d,
}


class GlobalMaxPool(nn.Module):
    """The maximum over all positions, of (B, C, *spatial), (B, *spatial, C) or (B, tokens, C); ties go to the first.

    Args:
        axes: those of positions, side by side.
        keep: whether they remain, with one position each.
        prefix: class tokens ahead of the positions, which pass as they are.
    """

    def __init__(self, axes: Sequence[int], keep: bool = True, prefix: int = 0) -> None:
        super().__init__()
        self.axes, self.keep, self.prefix = tuple(axes), keep, prefix

    def forward(self, x: Tensor) -> Tensor:
        first, last = self.axes[0], self.axes[-1]
        tokens, cells = x.split((self.prefix, x.shape[first] - self.prefix), first)
        peak: Tensor = cells.flatten(first, last).max(first).values
        for _ in self.axes if self.keep else ():
            peak = peak.unsqueeze(first)
        return torch.cat((tokens, peak), first) if self.prefix else peak

    def extra_repr(self) -> str:
        return f"axes={self.axes}, keep={self.keep}, prefix={self.prefix}"


class _Average(NamedTuple):
    x: Tensor
    axes: tuple[int, ...]
    result: Tensor


class _Averages(TorchFunctionMode):
    """Notes every average over all positions, wherever it is called; the n-th is answered with another result."""

    def __init__(self, n: int = 0, answer: Callable[[_Average], Tensor] | None = None) -> None:
        super().__init__()
        self.seen: list[_Average] = []
        self.n, self.answer = n, answer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        axes = _averaged_axes(getattr(func, "__name__", ""), args, kwargs or {})
        if axes and result.numel() * prod(args[0].shape[axis] for axis in axes) == args[0].numel() > result.numel():
            self.seen.append(_Average(args[0], axes, result))
            if self.answer and len(self.seen) == self.n:
                return self.answer(self.seen[-1])
        return result


def _averaged_axes(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """The axes of positions that a call averages over; none if it leaves others than those of images and channels."""
    if not args or not isinstance(args[0], Tensor):
        return ()
    axes: tuple[int, ...] = ()
    if name == "mean":
        given = kwargs.get("dim", args[1] if len(args) > 1 else ())
        given = [given] if isinstance(given, int) else given or ()
        axes = tuple(sorted(axis % args[0].ndim for axis in given))
    elif re.fullmatch(r"(adaptive_)?avg_pool\dd", name):
        axes = tuple(range(2, args[0].ndim))
    return axes if args[0].ndim - len(axes) == 2 and 0 not in axes else ()


def swap_pool(net: nn.Module, pool: str, spec: str, arguments: Mapping[str, Any], channels: int | None) -> None:
    """Make the global average that the logits are computed from a maximum; see that it was done."""
    if pool not in ("avg", "max"):
        raise SightlineError(f"pool is {pool!r}: expected 'max', 'avg' or None.")
    with evaluating(net), torch.no_grad(), _stirred(net):
        image, calls, averages = _last_average(net, spec, arguments, channels)
        if pool == "avg":
            return
        average = averages[-1]
        with _Averages(len(averages), lambda a: a.x.amax(a.axes, keepdim=a.result.ndim == a.x.ndim)):
            expected = logits_of(net(image))
        _put_maximum(net, calls, average)
        try:
            swapped = _alike(logits_of(net(image)), expected)
        except _REFUSALS:
            swapped = False
        if not swapped:
            raise SightlineError(
                f"{spec}: its global average is part of a function that cannot be given a maximum instead. Leave pool "
                "out, or give the network a pool that is a module."
            )


def _last_average(
    net: nn.Module, spec: str, arguments: Mapping[str, Any], channels: int | None
) -> tuple[Tensor, list[Call], list[_Average]]:
    """A probe at a size that `net` takes, its module calls and averages, of which the last is all the logits see."""
    problem = ""
    for size in _likely_sizes(net, arguments):
        try:
            image = probe(net, size, channels)
            with _Averages() as averages:
                _, calls = trace(net, image)
            with _Averages(len(averages.seen), lambda a: torch.zeros_like(a.result)):
                blind = logits_of(net(image))
        except _REFUSALS as error:
            problem = problem or f" On images of {size} it failed: {error}."
            continue
        if averages.seen and _alike(blind[0], blind[1]):
            return image, calls, averages.seen
    raise SightlineError(
        f"{spec} has no global average pool that all of its logits come from, as networks with class tokens, flattened "
        f"maps or attention pooling have none. Leave pool out.{problem}"
    )


def _likely_sizes(net: nn.Module, arguments: Mapping[str, Any]) -> list[Any]:
    """Sizes of images that `net` may run on, the cheapest first."""
    if rank(net) > 2:
        return [32, 64, 96]
    named = [arguments[key] for key in ("img_size", "image_size", "input_size", "size") if key in arguments]
    configured = (getattr(net, "default_cfg", None) or {}).get("input_size", (224, 224))[-2:]  # timm's
    return [64, *named, configured]


def _put_maximum(net: nn.Module, calls: Sequence[Call], average: _Average) -> None:
    """Replace the module that averages; of a function, make what comes ahead of it constant by a maximum."""
    passed_on = (call for call in calls if call.output is average.result)  # by the pool, and by dropout behind it
    pool = next((c for c in passed_on if not any(True for _ in c.module.parameters()) and _averages(c, average)), None)
    if pool is not None:
        maximum = _MAXIMA.get(type(pool.module))
        keep = average.result.ndim == average.x.ndim
        net.set_submodule(pool.name, maximum(1) if maximum else GlobalMaxPool(average.axes, keep))
        parent = net.get_submodule(pool.name.rpartition(".")[0])
        if hasattr(parent, "pool_type"):
            setattr(parent, "pool_type", "max")  # noqa: B010 - no module's but timm's
        return
    # The average of one position is that position, and activations in between commute with the maximum.
    ahead = next((c for c in reversed(calls) if _holds(c.output, average)), None)
    if ahead is None:
        return
    first = average.axes[0]
    peak = GlobalMaxPool(average.axes, prefix=ahead.output.shape[first] - average.x.shape[first])
    if isinstance(ahead.module, nn.Sequential):
        ahead.module.append(peak)
    else:
        net.set_submodule(ahead.name, nn.Sequential(ahead.module, peak))


def _averages(call: Call, average: _Average) -> bool:
    """Whether it is the call's module that averages."""
    try:
        result = call.module(average.x)
    except _REFUSALS:
        return False
    return isinstance(result, Tensor) and torch.equal(result, average.result)


def _holds(output: Tensor, average: _Average) -> bool:
    """Whether `output` has the averaged tensor's shape, but for class tokens ahead of its positions."""
    shape, wanted = list(output.shape), list(average.x.shape)
    if len(average.axes) == 1 and len(shape) == len(wanted) and shape[average.axes[0]] > wanted[average.axes[0]]:
        shape[average.axes[0]] = wanted[average.axes[0]]
    return shape == wanted


def _alike(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max())


@contextmanager
def _stirred(net: nn.Module) -> Iterator[None]:
    """Inside the block all weights are random and let signals pass: a fresh network's logits hardly see its image."""
    generator = torch.Generator().manual_seed(0)
    parameters = dict(net.named_parameters())
    kept = {name: p.data for name, p in parameters.items()}
    for name, p in parameters.items():
        drawn = torch.randn(p.shape, generator=generator)
        scale = (2 * len(p) / p.numel()) ** 0.5 if p.ndim > 1 else 0.1
        p.data = (drawn * scale + float(p.ndim == 1 and name.endswith("weight"))).to(p)
    try:
        yield
    finally:
        for name, p in parameters.items():
            p.data = kept[name]
