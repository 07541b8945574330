"""Further passes of a model that must leave no trace on it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from sightline.errors import SightlineError
from sightline.passes import Pass, record


@contextmanager
def untouched(model: nn.Module, *, weights: bool = False) -> Iterator[None]:
    """Whatever the block does to `model` is undone: to modes, hooks, attributes, buffers and torch's random state.

    Modules that are training stay so inside: BatchNorm normalises by the statistics of the batch it is given, and
    moves copies of its running ones. Passes made before and inside can still be differentiated afterwards.

    Args:
        model: any.
        weights: put copies in the weights' place, too, for a block that may change them or their `.grad`.

    Raises:
        SightlineError: part of the model is scripted and training: its buffers cannot be replaced.
    """
    before = [(vars(m), _contents(m)) for m in model.modules()]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            _use_copies(model, weights)
            yield
        finally:
            for attributes, contents in before:
                _restore(attributes, contents)


def _contents(module: nn.Module) -> dict[str, tuple[Any, dict[Any, Any] | None]]:
    """Each attribute; of a dict (parameters, buffers, children, hooks) the entries, too."""
    return {name: (value, dict(value) if isinstance(value, dict) else None) for name, value in vars(module).items()}


def _restore(attributes: dict[str, Any], contents: dict[str, tuple[Any, dict[Any, Any] | None]]) -> None:
    attributes.clear()
    for name, (value, entries) in contents.items():
        if entries is not None:
            value.clear()
            value.update(entries)
        attributes[name] = value


def _use_copies(model: nn.Module, weights: bool) -> None:
    # Copies, not the old values written back afterwards: autograd would take that for a change of what it had saved.
    copies: dict[Tensor, Tensor] = {}
    for module in model.modules():
        scripted = isinstance(module, torch.jit.ScriptModule)
        if scripted and module.training:
            raise SightlineError("a scripted model in training mode learns from every pass: call model.eval() first.")
        if (module.training or weights) and not scripted:
            _replace(module._buffers, copies)
        if weights and not scripted:
            _replace(module._parameters, copies)


def _replace(tensors: dict[str, Any], copies: dict[Tensor, Tensor]) -> None:
    for name, old in tensors.items():
        if old is not None:
            if old not in copies:
                copies[old] = _copy(old)
            tensors[name] = copies[old]


def _copy(tensor: Tensor) -> Tensor:
    fresh = tensor.detach().clone()
    return nn.Parameter(fresh, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fresh


def weighted_gradients(
    run: Pass,
    target: Tensor,
    points: Iterable[Tensor],
    weights: Sequence[float],
    *,
    squared: bool = False,
    batch_size: int | None = None,
    differentiable: bool = False,
) -> Tensor:
    """``sum_s weights[s] * dz/dx`` at ``x = points[s]``, z the target's logit.

    Args:
        run: the pass whose model runs again.
        target: (B,) class per image.
        points: of the shape of `run.image`, taken as they are needed.
        weights: one for each point.
        squared: square each gradient first.
        batch_size: about how many images run at once; unless given, see `_at_once`.
        differentiable: keep the graph, of every pass.

    Returns:
        A tensor of the image's shape, float32 at least.
    """
    total = torch.zeros_like(run.image, dtype=torch.promote_types(run.image.dtype, torch.float32))
    with untouched(run.model), torch.enable_grad():
        gradients = _gradients(run, target, points, batch_size or _at_once(run), differentiable)
        for weight, gradient in zip(weights, gradients, strict=True):
            total = total + weight * (gradient.to(total) ** 2 if squared else gradient)
    return total


def _at_once(run: Pass) -> int:
    """As many images as make half a megapixel, which uses a processor well, and at least the pass's own batch.

    In training mode just that batch: BatchNorm shall see one point of each image, as in the pass itself.
    """
    count, positions = len(run.image), run.image[0].select(run.channel - 1, 0).numel()
    return count if run.model.training else max(count, 2**19 // positions)


def _gradients(
    run: Pass, target: Tensor, points: Iterable[Tensor], batch_size: int, differentiable: bool
) -> Iterator[Tensor]:
    """The gradient at each point in turn, from passes of several points, or of parts of one."""
    points, count = iter(points), len(run.image)
    while group := list(islice(points, max(1, batch_size // count))):
        images, targets = torch.cat(group).split(batch_size), target.repeat(len(group)).split(batch_size)
        parts = [_gradient(run.model, x, t, differentiable) for x, t in zip(images, targets, strict=True)]
        yield from torch.cat(parts).split(count)


def _gradient(model: nn.Module, images: Tensor, target: Tensor, differentiable: bool) -> Tensor:
    run = record(model, images, taps=("image",), differentiable=differentiable, once=not differentiable)
    return run.grad(target, "image", differentiable=differentiable)
