"""Where a class activation map lives in a network: the last activation that still knows where things are."""

import re
from collections.abc import Iterator, Sequence
from itertools import dropwhile
from math import isqrt, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sightline.errors import SightlineError
from sightline.passes import Call, evaluating, trace

_POOLING = re.compile(r"Pool(ing)?(\dd)?$", re.IGNORECASE)
_MAX_PREFIX = 16  # class, distillation and register tokens together; the largest in use is 5


def spatial(activation: Tensor) -> Tensor:
    """View an activation as (B, C, *spatial): channels first, channels last, or prefix tokens plus a square.

    Channels-last outputs (Swin) are told by equal axes ahead of a longer one, tokens (ViT) by having three axes; both
    are taken to be square, and prefix tokens are dropped.

    Raises:
        SightlineError: the activation has no more than one position.
    """
    out = _channels_first(activation)
    if out is None or prod(out.shape[2:]) < 2:
        raise SightlineError(f"an activation of shape {tuple(activation.shape)} has no spatial positions to explain.")
    return out


def _channels_first(activation: Tensor) -> Tensor | None:
    if activation.ndim == 3:
        return _unfold_tokens(activation)
    if activation.ndim not in (4, 5):
        return None
    last = activation.shape[-1]
    if len(set(activation.shape[1:-1])) == 1 and last > activation.shape[1]:
        return activation.movedim(-1, 1)
    return activation


def _unfold_tokens(tokens: Tensor) -> Tensor | None:
    count = tokens.shape[1]
    for prefix in range(min(_MAX_PREFIX, count)):
        side = isqrt(count - prefix)
        if side * side == count - prefix:
            square: Tensor = tokens[:, prefix:].transpose(1, 2).unflatten(2, (side, side))
            return square
    return None


class Candidate(NamedTuple):
    """A layer whose output has positions."""

    name: str
    shape: tuple[int, ...]
    """(C, *spatial) of its output for the probe."""
    usable: bool
    """Whether the top logit's gradient reaches more than one of the positions."""


def find_layer(model: nn.Module, size: int | Sequence[int] = 224) -> str:
    """The name of the layer to explain: the last spatial activation whose every position the classifier can read.

    One probe in evaluation mode; then the modules backwards in call order: the first whose output is spatial, is not
    a pooling layer's, and whose gradient from the top logit reaches more than one position. On token layouts the
    leaves of type `nn.Linear` are passed over (timm's ViT: `blocks.11.norm1`).

    Args:
        model: left as it was: mode, gradients and random state.
        size: side of the square probe, or its (H, W) or (D, H, W).

    Raises:
        SightlineError: no layer qualifies, or the probe cannot run at this size.
    """
    for candidate in candidates(model, size):
        if candidate.usable:
            return candidate.name
    raise SightlineError(
        "no layer with spatial positions reaches the top logit: the model has none, or its gradient is zero everywhere "
        "(a zero-initialised head?). Pass layer=, one of the names that `sightline layers` prints."
    )


def candidates(model: nn.Module, size: int | Sequence[int] = 224) -> Iterator[Candidate]:
    """Every layer `find_layer` considers, last first, with what it found there."""
    with evaluating(model):
        image = probe(model, size).requires_grad_()
        try:
            logits, calls = trace(model, image)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise SightlineError(
                f"the model cannot run on a probe of shape {tuple(image.shape)}: {error}. "
                "Pass the size it was built for."
            ) from error
    top = logits.amax(1).sum()
    pooled = {id(call.output) for call in calls if _POOLING.search(type(call.module).__name__)}
    # What comes ahead of the first weights, such as a normalisation, is the image still.
    for call in reversed(list(dropwhile(lambda call: not any(True for _ in call.module.parameters()), calls))):
        if id(call.output) not in pooled and _is_spatial(call, image.shape[2:]):
            yield Candidate(call.name, tuple(spatial(call.output).shape[1:]), _reaches(top, call.output))


def probe(model: nn.Module, size: int | Sequence[int]) -> Tensor:
    """A fixed random (2, C, *spatial) batch that fits the first convolution of `model`; three channels if none."""
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)), None)
    channels = convolution.in_channels if convolution else 3
    axes = len(convolution.kernel_size) if convolution else 2
    sides = [size] * axes if isinstance(size, int) else list(size)
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.rand(2, channels, *sides, generator=torch.Generator().manual_seed(0)).to(weight)


def _is_spatial(call: Call, size: Sequence[int]) -> bool:
    out = _channels_first(call.output)
    if out is None or out.ndim - 2 != len(size) or prod(out.shape[2:]) < 2:
        return False
    # Tokens of an image that is not square do not say how many of them make a row.
    if call.output.ndim == 3 and (isinstance(call.module, nn.Linear) or len(set(size)) > 1):
        return False
    # Attention's (B, heads, tokens, width) has four axes too, but not the image's proportions.
    strides = [pixels / cells for pixels, cells in zip(size, out.shape[2:], strict=True)]
    return max(strides) < 2 * min(strides)


def _reaches(top: Tensor, activation: Tensor) -> bool:
    grads: tuple[Tensor | None, ...] = torch.autograd.grad(top, activation, retain_graph=True, allow_unused=True)
    if (grad := grads[0]) is None:
        return False
    reached = spatial(grad).abs().amax(1).flatten(1).count_nonzero(1)
    return int(reached.min()) > 1
