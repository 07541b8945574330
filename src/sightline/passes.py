"""One forward pass, remembered: its logits and the activations that were asked for. The only hooks in the house."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sightline.errors import SightlineError, did_you_mean

Target = Tensor | int | Callable[[Tensor], Tensor] | None
Hook = Callable[[nn.Module, Any, Any], Tensor | None]


@dataclass(frozen=True, eq=False)
class Pass:
    """What one forward computed. Explainers are functions of it; nothing here runs the model again."""

    model: nn.Module
    image: Tensor
    """(B, C, *spatial), as given."""
    logits: Tensor
    """(B, classes), before any softmax."""
    taps: Mapping[str, Tensor]
    """Activations by module name, as the module returned them: later in-place operations cannot reach them."""

    def tap(self, name: str) -> Tensor:
        """The activation recorded at module `name`.

        Raises:
            SightlineError: the pass was recorded without this tap.
        """
        if name not in self.taps:
            raise SightlineError(
                f"this pass has no tap {name!r}. {did_you_mean(name, self.taps)} Pass taps=({name!r},)."
            )
        return self.taps[name]

    def target(self, target: Target = None) -> Tensor:
        """(B,) int64 class per image: None is the top prediction, an int serves all, a callable gets the logits.

        Raises:
            SightlineError: a class outside [0, classes), or not one class per image.
        """
        count, classes = self.logits.shape
        if callable(target):
            target = target(self.logits.detach())
        if target is None:
            return self.logits.detach().argmax(1)
        target = torch.as_tensor(target, device=self.logits.device)
        target = target.expand(count) if target.ndim == 0 else target
        if target.shape != (count,) or target.is_floating_point():
            raise SightlineError(
                f"target has shape {tuple(target.shape)} and type {target.dtype}: "
                f"expected one integer class for each of {count} images, an int, None or a callable."
            )
        if bool(((target < 0) | (target >= classes)).any()):
            raise SightlineError(f"target {target.tolist()} is out of range: the model has classes 0 to {classes - 1}.")
        return target.long()

    def grad(self, target: Target, wrt: str, *, seed: Tensor | None = None, differentiable: bool = False) -> Tensor:
        """d(sum over images of the target's logit) / d(`wrt`), where `wrt` is a tap or "image".

        Args:
            target: the class explained, see `Pass.target`.
            wrt: a tap's name, or "image" if the recorded image requires grad.
            seed: (B, classes) weights of the logits, instead of the target's one-hot row.
            differentiable: keep the graph, so that a loss on the result reaches the weights.

        Returns:
            A tensor of the shape of the tap; zeros where the logit does not depend on it.

        Raises:
            SightlineError: the pass was recorded without gradients, or in inference mode.
        """
        source = self.image if wrt == "image" else self.tap(wrt)
        if not self.logits.requires_grad or not source.requires_grad:
            raise SightlineError(
                f"no gradient can be taken with respect to {wrt!r}: the pass was recorded under torch.no_grad or "
                "inference mode, or the model is frozen and the image does not require grad. Enable one of the two."
            )
        if seed is None:
            seed = torch.zeros_like(self.logits).scatter(1, self.target(target).unsqueeze(1), 1)
        (grad,) = torch.autograd.grad(
            self.logits, source, seed, create_graph=differentiable, retain_graph=True, materialize_grads=True
        )
        return grad


def record(model: nn.Module, image: Tensor, *, taps: Iterable[str] = ()) -> Pass:
    """Run `model` once on `image` and keep the outputs of the modules named in `taps`.

    Attention runs on the math kernel meanwhile: the fused ones have no double backward.

    Args:
        model: any module that returns logits (B, classes), alone or in a mapping, tuple or object with `.logits`.
        image: (B, C, *spatial) float.
        taps: names as in `model.named_modules()`.

    Raises:
        SightlineError: an unknown or unused tap, an image that is not a float batch, or an output without logits.
    """
    if image.ndim < 3 or not image.is_floating_point():
        raise SightlineError(
            f"image has shape {tuple(image.shape)} and type {image.dtype}: expected float (B, C, *spatial)."
        )
    kept: dict[str, Tensor] = {}
    taps = tuple(dict.fromkeys(taps))
    attention = sdpa_kernel(SDPBackend.MATH) if taps and torch.is_grad_enabled() else nullcontext()
    with _hooked(model, {name: _keep(name, kept) for name in taps}), attention:
        logits = logits_of(model(image))
    missing = set(taps) - set(kept)
    if missing:
        raise SightlineError(f"layer {min(missing)!r} exists but did not run in the forward pass. Choose another.")
    return Pass(model, image, logits, kept)


def logits_of(output: Any) -> Tensor:
    """The (B, classes) tensor in whatever a classifier returned.

    Raises:
        SightlineError: there is none.
    """
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values()), None))
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, Sequence) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise SightlineError(f"the model returned {shape}: expected logits of shape (B, classes).")
    return output


def module(model: nn.Module, name: str) -> nn.Module:
    """The submodule called `name`.

    Raises:
        SightlineError: there is none; the message suggests the nearest names.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name not in modules:
        raise SightlineError(f"the model has no layer {name!r}. {did_you_mean(name, filter(None, modules))}")
    return modules[name]


@dataclass(frozen=True, eq=False)
class Call:
    """One module's part in a traced forward."""

    name: str
    module: nn.Module
    output: Tensor


def trace(model: nn.Module, image: Tensor) -> tuple[Tensor, list[Call]]:
    """Run `model` once; return its logits and every module's tensor output, in the order in which they finished."""
    calls: list[Call] = []

    def note(name: str) -> Hook:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                calls.append(Call(name, module, output))

        return hook

    with _hooked(model, {name: note(name) for name, _ in model.named_modules() if name}):
        return logits_of(model(image)), calls


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with gradients enabled, inside the block; every module's own mode again afterwards."""
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for m in training:
            m.training = True


@contextmanager
def _hooked(model: nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    handles = [module(model, name).register_forward_hook(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep(name: str, kept: dict[str, Tensor]) -> Hook:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise SightlineError(
                f"layer {name!r} returns {type(output).__name__}, not a tensor. Choose a layer inside it."
            )
        if name in kept:
            warnings.warn(f"layer {name!r} ran more than once in one forward; its last output is used.", stacklevel=2)
        kept[name] = output
        # The network goes on with a copy: an in-place ReLU behind a convolution would otherwise overwrite what was
        # recorded, silently. The copy costs less than a hundredth of a forward.
        return output.clone()

    return hook
