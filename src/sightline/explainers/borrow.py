"""What running another library's code on a pass takes: a model it may change, its options, a check of its map."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sightline.errors import SightlineError, did_you_mean
from sightline.explainers.arguments import reduced
from sightline.explainers.rerun import untouched
from sightline.passes import Pass, logits_of
from sightline.seeds import reseed

Options = Mapping[str, Any] | tuple[tuple[str, Any], ...]


@contextmanager
def lent(run: Pass, seed: int, *, weights: bool = True) -> Iterator[Tensor]:
    """A copy of the image, for a block that may do to the model and the random states what it likes."""
    state = np.random.get_state()
    with untouched(run.model, weights=weights), torch.enable_grad():
        try:
            np.random.seed(seed % 2**32)
            reseed(seed, run.image.device)
            yield run.image.detach().clone()
        finally:
            np.random.set_state(state)


@contextmanager
def blaming(library: str, who: object) -> Iterator[None]:
    """A block that calls `library` for `who`.

    Raises:
        SightlineError: for whatever goes wrong inside; the message tells whose doing it is.
    """
    try:
        with warnings.catch_warnings():
            # That it sets hooks and removes them is no news: nothing of it is left anyway.
            warnings.filterwarnings("ignore", r"\s*Setting .*hooks")
            yield
    except SightlineError:
        raise
    except Exception as error:
        hint = " There are no gradients in inference mode." if torch.is_inference_mode_enabled() else ""
        raise SightlineError(f"{who!r} failed inside {library}: {type(error).__name__}: {error}.{hint}") from error


class _Logits(nn.Module):
    """The model, with its logits alone as output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return logits_of(self.model(image))


def plain(model: nn.Module) -> nn.Module:
    """The model as libraries take it: logits for output, no in-place activations. For a block that `lent` it.

    Raises:
        SightlineError: it is scripted.
    """
    for part in model.modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise SightlineError("the model is scripted, which hides its layers: give it as it was before torch.jit.")
        if "inplace" in vars(part):
            vars(part)["inplace"] = False
    return _Logits(model)


def refuse(differentiable: bool, who: object) -> None:
    """No differentiable maps from other libraries.

    Raises:
        SightlineError: one was asked for.
    """
    if differentiable:
        raise SightlineError(
            f"{who!r} cannot be part of a loss: its maps carry no graph, or a wrong one. Use an explainer of "
            "sightline's own, or Custom with a function that is differentiable."
        )


_OURS = {"self", "model", "forward_func", "layer", "inputs", "target", "composite", "canonizers", "attr_output"}


def divided(who: Any, *takers: Callable[..., Any] | None) -> list[dict[str, Any]]:
    """The options of `who`, each for the first of `takers` that has an argument of that name.

    Raises:
        SightlineError: none has.
    """
    known = [inspect.signature(taker).parameters.keys() - _OURS if taker else set() for taker in takers]
    shares: list[dict[str, Any]] = [{} for _ in takers]
    for key, value in who.options:
        share = next((share for names, share in zip(known, shares, strict=True) if key in names), None)
        if share is None:
            raise SightlineError(f"{who!r} takes no option {key!r}. {did_you_mean(key, sorted(set().union(*known)))}")
        share[key] = value
    return shares


def frozen(who: Any) -> tuple[tuple[str, Any], ...]:
    """The options of `who` as pairs in alphabetical order, with tuples for lists: hashable, comparable, printable.

    Raises:
        SightlineError: they cannot be.
    """
    try:
        pairs = tuple(sorted((str(key), _tuples(value)) for key, value in dict(who.options).items()))
        hash(pairs)
    except (TypeError, ValueError) as error:
        raise SightlineError(
            f"{type(who).__name__}(options={who.options!r}): expected names and values that can be hashed, "
            f"such as numbers, strings and lists of them ({error})."
        ) from error
    return pairs


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def tensor(values: Any, who: object) -> Tensor:
    """What came back, if it is a tensor.

    Raises:
        SightlineError: it is not.
    """
    if not isinstance(values, Tensor):
        raise SightlineError(f"{who!r} returned {type(values).__name__}: expected one tensor.")
    return values


def as_map(values: Tensor, run: Pass, who: Any) -> Tensor:
    """A map (B, *spatial), or values with channels, as `who` reduces them.

    Raises:
        SightlineError: the shape is neither's, or a value is not finite.
    """
    axes = values.ndim - run.image.ndim
    if axes not in (0, -1) or values.shape[: run.channel] != run.image.shape[: run.channel]:
        raise SightlineError(
            f"{who!r} returned shape {tuple(values.shape)} for images of {tuple(run.image.shape)}: expected a map "
            "(B, *spatial), or the same with channels."
        )
    if not bool(values.isfinite().all()):
        raise SightlineError(f"{who!r} returned values that are not finite.")
    return values if axes else reduced(values, who.reduce, run.channel)
