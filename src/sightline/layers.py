"""Where a class activation map lives in a network: the last activation that still knows where things are."""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain, dropwhile
from math import gcd, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sightline.errors import SightlineError
from sightline.passes import Call, evaluating, rank, trace, uncompiled
from sightline.seeds import redrawn

_POOLING = re.compile(r"Pool(ing)?(\dd)?(Same)?$", re.IGNORECASE)
_MAX_PREFIX = 16  # class, distillation and register tokens together
_USUAL_PREFIX = 5  # the most of them in use
_MAX_SKEW = 2  # a feature map's strides along height and width differ by less
_TAIL = 16  # layers whose gradients are taken first, in one go; few networks need the others'


def spatial(activation: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """View an activation as (B, C, *spatial): channels first, channels last, or prefix tokens plus a grid.

    With `size`, the layout is the one whose strides along height and width agree. Without, images are taken to be
    square: equal axes ahead of a longer one are channels last (Swin), and three axes are tokens that make a square
    (ViT). Prefix tokens are dropped.

    Args:
        activation: (B, C, *spatial), (B, *spatial, C) or (B, prefix + cells, C).
        size: of the image: (H, W) or (D, H, W), without views.

    Raises:
        SightlineError: the activation has no more than one position, or does not tell where in the image they are.
    """
    shape = tuple(activation.shape)
    out = _laid_out(activation, None if size is None else tuple(size)) if len(shape) > 2 else activation
    if prod(out.shape[2:]) < 2:
        raise SightlineError(f"an activation of shape {shape} has no spatial positions to explain.")
    if out.ndim - 2 != (max(2, len(shape) - 2) if size is None else len(size)):
        image = "a square image" if size is None else f"an image of {_times(size)}"
        raise SightlineError(
            f"an activation of shape {shape} does not tell where in {image} its positions are. Pass another layer=."
        )
    return out


class Candidate(NamedTuple):
    """A layer whose output has positions."""

    name: str
    shape: tuple[int, ...]
    """(C, *spatial) of its output for one image or view of the probe; (C, tokens) where `told` is False."""
    usable: bool
    """Whether the top logit's gradient reaches more than one of the positions."""
    told: bool
    """Whether the output tells where in the image they are."""


def find_layer(model: nn.Module, size: int | Sequence[int] = 224) -> str:
    """The name of the layer to explain: the last spatial activation whose every position the classifier can read.

    One probe in evaluation mode; then the modules backwards in call order: the first whose output is spatial, is not
    a pooling layer's, and whose gradient from the top logit reaches more than one position. On token layouts the
    leaves of type `nn.Linear` are passed over (timm's ViT: `blocks.11.norm1`). Weight matrices that are all zero, such
    as a fresh head's, are random in the probe.

    Args:
        model: left as it was: mode, weights, gradients and random state.
        size: side of the square probe, or its (H, W) or (D, H, W); (views, H, W) for several views in 2-D layers.

    Raises:
        SightlineError: no layer qualifies, or the last does not tell where its positions are: the message names
            layers to pass. Or the probe cannot run at this size, or the model is TorchScript.
    """
    found, seen = candidates(model, size), []
    for candidate in found:
        if candidate.usable and candidate.told:
            return candidate.name
        seen.append(candidate)
        if candidate.usable:
            break
    raise _nothing_found([*seen, *found])


def candidates(model: nn.Module, size: int | Sequence[int] = 224) -> Iterator[Candidate]:
    """Every layer `find_layer` considers, last first, with what it found there: one forward, at most two gradients.

    Layers whose positions cannot be told are left out, but for one that would have been chosen. If none passes a
    gradient on, they are looked at once more with the model's weights drawn anew: training may have left it dead.
    """
    found, ahead = _candidates(model, size), []
    for candidate in found:
        ahead.append(candidate)
        if candidate.usable:
            break
    else:
        with suppress(TypeError, RuntimeError):  # a model that cannot be copied or begun anew
            ahead = list(_candidates(redrawn(model, 0), size))
    yield from chain(ahead, found)


def _candidates(model: nn.Module, size: int | Sequence[int]) -> Iterator[Candidate]:
    image, top, calls = _probed(model, size)
    axes = rank(model)
    batch, inside = prod(image.shape[: -axes - 1]), tuple(image.shape[-axes:])
    settled = False
    for call, grad in _with_gradients(top, list(_positioned(calls, batch, inside))[::-1]):
        out = _by_position(call.output, batch, inside)
        told = out.ndim == axes + 2 and _skew(out, inside) < _MAX_SKEW
        usable = grad is not None and _positions_read(_by_position(grad, batch, inside)) > 1
        if told or (usable and not settled):
            yield Candidate(call.name, tuple(out.shape[1:]), usable, told)
        settled |= usable


def probe(model: nn.Module, size: int | Sequence[int], channels: int | None = None) -> Tensor:
    """A fixed random (2, C, *spatial) batch that fits the first convolution of `model`; three channels if none.

    A `size` with one entry more than the convolution has axes begins with the views: (2, views, C, *spatial).

    Raises:
        SightlineError: `size` has any other number of entries.
    """
    axes = rank(model)
    sides = [size] * axes if isinstance(size, int) else list(size)
    if len(sides) not in (axes, axes + 1):
        raise SightlineError(
            f"size {tuple(sides)} has {len(sides)} entries: expected {axes}, the axes of the model's first "
            f"convolution, or {axes + 1} with the number of views first."
        )
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)), None)
    channels = channels or (convolution.in_channels if convolution else 3)
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    shape = [2, *sides[:-axes], channels, *sides[-axes:]]
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(weight)


def _nothing_found(seen: Sequence[Candidate]) -> SightlineError:
    unclear = next((c for c in seen if c.usable and not c.told), None)
    near = [f"{c.name} ({_times(c.shape)})" for c in seen if c.told and (c.usable or not unclear)][:5]
    why = (
        f"the output of {unclear.name} ({_times(unclear.shape)}) does not tell where in the image its positions are"
        if unclear
        else "the top logit's gradient is zero at all layers with positions"
        if near
        else "no layer's output has positions"
    )
    what = (
        f"Pass layer=, such as {', '.join(near)}"
        if near
        else "Choose an explainer that needs no layer=, such as Gradient"
    )
    return SightlineError(f"no layer can be chosen: {why}. {what}.")


def _probed(model: nn.Module, size: int | Sequence[int]) -> tuple[Tensor, Tensor, list[Call]]:
    """The probe, the sum of its images' top logits, and what each module returned."""
    image = probe(model, size)
    try:
        return image, *_run(model, image)
    except SightlineError:
        # Some networks (TResNet) make more channels of an image's three ahead of their first convolution.
        with suppress(SightlineError):
            image = probe(model, size, channels=3)
            return image, *_run(model, image)
        raise


def _run(model: nn.Module, image: Tensor) -> tuple[Tensor, list[Call]]:
    script = next((name for name, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)), None)
    if script is not None:
        raise SightlineError(
            f"{f'layer {script!r}' if script else 'the model'} is TorchScript, which does not show its activations. "
            "Pass the module it was made from."
        )
    try:
        with torch.inference_mode(False), evaluating(model), uncompiled():
            # The outer clone is no leaf: the model may begin with an in-place operation.
            inputs = image.clone().requires_grad_().clone()
            logits, calls = functional_call(_Traced(model), _awakened(model), (inputs,))
            return logits.amax(1).sum(), calls
    except SightlineError:
        raise
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        raise SightlineError(
            f"the model cannot run on a probe of shape {tuple(image.shape)}: {str(error) or type(error).__name__}. "
            "Pass the size it was built for."
        ) from error


class _Traced(nn.Module):
    """`trace` as a module, which is what `functional_call` takes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, list[Call]]:
        return trace(self.model, image)


def _awakened(model: nn.Module) -> dict[str, Tensor]:
    """Random values for the weight matrices that are all zero, which let no gradient pass."""
    generator = torch.Generator().manual_seed(0)
    return {
        f"model.{name}": (0.02 * torch.randn(p.shape, generator=generator)).to(p)
        for name, p in model.named_parameters()
        if p.ndim > 1 and p.is_floating_point() and not p.any()
    }


def _positioned(calls: Sequence[Call], batch: int, size: tuple[int, ...]) -> Iterator[Call]:
    """The calls whose outputs have positions; not those of pooling layers, nor the image itself."""
    pooled = {id(call.output) for call in calls if _POOLING.search(type(call.module).__name__)}
    last = {call.name: call for call in calls}  # of a reused module, `record` keeps the last output
    # What comes ahead of the first weights, such as a normalisation, is the image still.
    own = dropwhile(lambda call: not any(True for _ in call.module.parameters()), calls)
    for call in _maps_and_tokens(own, batch, len(size)):
        if (
            call is last[call.name]
            and id(call.output) not in pooled
            and prod(_by_position(call.output, batch, size).shape[2:]) > 1
        ):
            yield call


def _maps_and_tokens(calls: Iterable[Call], batch: int, axes: int) -> Iterator[Call]:
    """The calls that return feature maps or tokens; not attention's queries, keys, values and weights."""
    lengths: deque[int] = deque(maxlen=3)
    for call in calls:
        out = call.output
        if out.ndim == 3 and axes > 1 and batch in out.shape[:2]:
            lengths.append(out.shape[0] * out.shape[1] // batch)
            if not isinstance(call.module, nn.Linear):
                yield call
        # Tokens split among heads, (B, heads, tokens, width), have four axes too.
        elif out.ndim == axes + 2 and len(out) == batch and not set(lengths) & set(out.shape[2:]):
            yield call


def _with_gradients(top: Tensor, calls: Sequence[Call]) -> Iterator[tuple[Call, Tensor | None]]:
    for some in (calls[:_TAIL], calls[_TAIL:]):
        live = [call.output for call in some if top.requires_grad and call.output.requires_grad]
        grads = torch.autograd.grad(top, live, retain_graph=True, allow_unused=True) if live else ()
        of = dict(zip(map(id, live), grads, strict=True))
        yield from ((call, of.get(id(call.output))) for call in some)


def _by_position(activation: Tensor, batch: int, size: tuple[int, ...]) -> Tensor:
    """As `_laid_out`; (tokens, B, C), which nothing but the probe tells from a batch, as (B, C, tokens)."""
    return _laid_out(activation, size) if len(activation) == batch else activation.permute(1, 2, 0)


def _positions_read(grad: Tensor) -> int:
    """How many positions have a gradient, in the image where they are fewest."""
    return int(grad.abs().amax(1).flatten(1).count_nonzero(1).min())


def _laid_out(activation: Tensor, size: tuple[int, ...] | None) -> Tensor:
    """(B, C, *cells); (B, C, tokens) where tokens do not tell their grid."""
    if activation.ndim == 3 and (size is None or len(size) > 1):
        fold = _fold(activation.shape[1], size or (1, 1))
        channels = activation.transpose(1, 2)
        return channels[:, :, fold[0] :].unflatten(2, fold[1]) if fold else channels
    last = activation.movedim(-1, 1)
    if size is None:
        channels_last = len(set(last.shape[2:])) == 1 and last.shape[1] > last.shape[2]
    else:
        channels_last = _skew(last, size) < _skew(activation, size)
    return last if channels_last else activation


def _skew(activation: Tensor, size: tuple[int, ...]) -> float:
    """How many times larger one stride is than the other, along height and width of (B, C, *cells)."""
    strides = [pixels / cells for pixels, cells in zip(size[-2:], activation.shape[2:][-2:], strict=False)]
    return max(strides) / min(strides)


@lru_cache(1024)
def _fold(tokens: int, size: tuple[int, ...]) -> tuple[int, tuple[int, ...]] | None:
    """How many of the tokens are prefix, and the grid that the others make; None where that cannot be told."""
    for prefix in range(min(_MAX_PREFIX, tokens)):
        if cells := _to_scale(tokens - prefix, size):
            return prefix, cells
    grids = _grids(size)
    fits = [(prefix, cells) for prefix in range(_USUAL_PREFIX + 1) for cells in grids if prod(cells) == tokens - prefix]
    return fits[0] if len(fits) == 1 else None


def _to_scale(count: int, size: tuple[int, ...]) -> tuple[int, ...] | None:
    """The grid of `count` cells in exactly the proportions of a rectangle or a cube."""
    if len(size) > 2 and len(set(size)) > 1:
        return None  # along time, a video has a stride of its own
    scale = (count / prod(size)) ** (1 / len(size))
    cells = tuple(round(pixels * scale) for pixels in size)
    exact = all(n * size[0] == pixels * cells[0] for n, pixels in zip(cells, size, strict=True))
    return cells if exact and prod(cells) == count else None


def _grids(size: tuple[int, ...]) -> set[tuple[int, ...]]:
    """What a stride cuts an image into: of (H, W) rounded down or up, of (D, H, W) whole, with any stride along D."""
    *depth, height, width = size
    if depth:
        strides = _divisors(gcd(height, width))
        return {(d, height // s, width // s) for d in _divisors(depth[0]) for s in strides}
    whole = range(1, min(height, width) + 1)
    return {(height // s, width // s) for s in whole} | {(-(-height // s), -(-width // s)) for s in whole}


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _times(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))
