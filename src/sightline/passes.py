"""One forward pass, remembered: its logits and the activations that were asked for. The only hooks in the house."""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase

from sightline.errors import SightlineError, did_you_mean
from sightline.ops import Op, Rule, Switch, explicit
from sightline.recorder import Recorder

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

    ops: tuple[Op, ...] = ()
    """Of a ruled pass: its operations on what depends on the image, in the order in which they ran."""
    switch: Switch = field(default_factory=Switch)
    differentiable: bool = True
    """Whether a loss may be taken of its maps; see `record`."""
    once: bool = False
    """Whether the first gradient taken of it gives up its graph; see `record`."""

    @property
    def channel(self) -> int:
        """The axis of `image` that holds channels: 1, or 2 for multi-view images (B, views, C, *spatial)."""
        return max(1, self.image.ndim - 1 - rank(self.model))

    @property
    def size(self) -> tuple[int, ...]:
        """The spatial size of the image, without views."""
        return tuple(self.image.shape[self.channel + 1 :])

    @property
    def zero(self) -> Tensor:
        """What the network takes for 0, to subtract from `image`: the mean its own `normalise` subtracts, else 0."""
        mean = getattr(getattr(self.model, "normalise", None), "mean", None)
        if not isinstance(mean, Tensor):
            return self.image.new_zeros(())
        return mean.view(-1, *[1] * len(self.size)).to(self.image)

    def per_image(self, maps: Tensor) -> Tensor:
        """Maps (B, *spatial) as they are; those of single views, (B * views, ...), as (B, views, ...)."""
        return maps.unflatten(0, (len(self.image), -1)) if self.channel == 2 else maps

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
        try:
            target = torch.as_tensor(target, device=self.logits.device)
        except TypeError as error:  # a name
            raise SightlineError(
                f"target={target!r}: a pass knows classes by number. Pass the class's index."
            ) from error
        target = target.expand(count) if target.ndim == 0 else target
        if target.shape != (count,) or target.is_floating_point():
            raise SightlineError(
                f"target has shape {tuple(target.shape)} and type {target.dtype}: "
                f"expected one integer class for each of {count} images, an int, None or a callable. "
                "Where an image has several labels, explain one at a time."
            )
        if bool(((target < 0) | (target >= classes)).any()):
            raise SightlineError(f"target {target.tolist()} is out of range: the model has classes 0 to {classes - 1}.")
        return target.long()

    def grad(
        self,
        target: Target,
        wrt: str,
        *,
        rules: Rule | None = None,
        seed: Tensor | None = None,
        differentiable: bool = False,
    ) -> Tensor:
        """d(sum over images of the target's logit) / d(`wrt`), where `wrt` is a tap or "image".

        Args:
            target: the class explained, see `Pass.target`.
            wrt: a tap's name, or "image" if the recorded image requires grad.
            rules: what operations answer instead of their derivative; the pass must be ruled.
            seed: (B, classes) weights of the logits, instead of the target's one-hot row.
            differentiable: keep the graph, so that a loss on the result reaches the weights.

        Returns:
            A tensor of the shape of the tap; zeros where the logit does not depend on it.

        Raises:
            SightlineError: the pass was recorded without gradients, in inference mode, or without rules.
        """
        source = self.image if wrt == "image" else self.tap(wrt)
        seed = self.one_hot(target) if seed is None else seed
        return self.pull(self.logits, (source,), seed, rules=rules, differentiable=differentiable)[0]

    def allow(self, differentiable: bool) -> None:
        """Raise if a loss is to be taken of this pass although it was recorded for none."""
        if differentiable and not self.differentiable:
            raise SightlineError(
                "this pass was recorded with differentiable=False, so no loss can be taken of its maps. Record without."
            )

    def need_ops(self) -> None:
        """Raise if this pass knows no operations."""
        if not self.ops and self.logits.requires_grad:
            raise SightlineError("this pass knows no operations to apply rules to: record(..., ruled=True).")

    def one_hot(self, target: Target = None) -> Tensor:
        """(B, classes) with 1 at each image's target."""
        return torch.zeros_like(self.logits).scatter(1, self.target(target).unsqueeze(1), 1)

    def pull(
        self,
        output: Tensor,
        sources: Sequence[Tensor],
        seed: Tensor,
        *,
        rules: Rule | None = None,
        differentiable: bool = False,
    ) -> tuple[Tensor, ...]:
        """What arrives at each of `sources` when `seed` starts at `output`; see `Pass.grad`."""
        if not output.requires_grad or not all(source.requires_grad for source in sources):
            raise SightlineError(
                "no gradient can be taken: the pass was recorded under torch.no_grad or inference mode, or the model "
                "is quantised, or the image does not require grad. Record the plain model with gradients enabled; "
                'taps=("image",) makes the image require grad.'
            )
        self.allow(differentiable)
        if rules is not None:
            self.need_ops()
        elif self.ops and differentiable:
            rules = explicit
        with self.switch.set(rules):
            return torch.autograd.grad(
                output, sources, seed, create_graph=differentiable, retain_graph=not self.once, materialize_grads=True
            )


def record(
    model: nn.Module,
    image: Tensor,
    *,
    taps: Iterable[str] = (),
    ruled: bool | None = False,
    differentiable: bool = True,
    once: bool = False,
) -> Pass:
    """Run `model` once on `image` and keep the outputs of the modules named in `taps`.

    Args:
        model: any module that returns logits (B, classes), alone or in a mapping, tuple or object with `.logits`.
        image: (B, C, *spatial) float, or (B, views, C, *spatial) if the model takes several views.
        taps: names as in `model.named_modules()`; "image" asks for gradients of the image itself, and detaches it
            from whatever came before.
        ruled: make a node of every operation, so that `Pass.grad(rules=...)` can replace its backward; None if that
            can be done, which makes second derivatives of the image's gradient cheaper.
        differentiable: whether a loss may be taken of this pass and its maps. If not, nothing ahead of the first tap
            enters the graph, and attention may run on fused kernels, which have no double backward.
        once: give up the graph while the first gradient is taken of it: less memory and time, where no other follows.

    Raises:
        SightlineError: an unknown or unused tap, an image that is not a float batch or not finite, an output without
            logits, or a ruled pass of a model whose operations cannot be seen.
    """
    _check(model, image)
    if image.is_inference() and not torch.is_inference_mode_enabled():
        image = image.clone()
    kept: dict[str, Tensor] = {}
    names = dict.fromkeys(taps)
    grads = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    late = grads and not differentiable and "image" not in names
    if "image" in names:
        del names["image"]
        image = image.detach().requires_grad_(grads)
    with ExitStack() as stack:
        recorder = Recorder(image) if ruled is not False and grads else None
        stack.enter_context(_hooked(model, {name: _keep(name, kept, late, recorder) for name in names}))
        if late:
            stack.enter_context(torch.no_grad())
        if names or recorder is not None:
            stack.enter_context(uncompiled())
        if grads and differentiable:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        logits = logits_of(model(image)) if recorder is None else _watched(recorder, model, image)
    missing = set(names) - set(kept)
    if missing:
        raise SightlineError(f"layer {min(missing)!r} exists but did not run in the forward pass. Choose another.")
    if recorder is not None and not recorder.depends(logits):
        if ruled:
            raise SightlineError(
                "the model's operations cannot be seen: it runs a scripted module or a custom autograd function on the "
                "way to its logits. Rules need the plain PyTorch model; Gradient and GradCAM do not."
            )
        recorder = None
    if recorder is None:
        return Pass(model, image, logits, kept, differentiable=differentiable, once=once)
    return Pass(model, image, logits, kept, tuple(recorder.ops), recorder.switch, differentiable, once)


def view_size(model: nn.Module, image: Tensor) -> tuple[int, ...]:
    """The size of `image` (B, C, *spatial) for `model`, (*spatial); (views, *spatial) of (B, views, C, *spatial).

    Raises:
        SightlineError: it is not a float batch, or not finite.
    """
    _check(model, image)
    shape, axes = tuple(image.shape), rank(model)
    return (*shape[1 : -axes - 1], *shape[-axes:])


def _check(model: nn.Module, image: Tensor) -> None:
    axes = rank(model)
    if image.ndim - axes not in (2, 3) or not image.is_floating_point():
        raise SightlineError(
            f"image has shape {tuple(image.shape)} and type {image.dtype}: expected float (B, C, *spatial) with {axes} "
            "spatial axes for this model, or (B, views, C, *spatial)."
        )
    if not bool(image.isfinite().all()):
        bad = (~image.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise SightlineError(f"image {bad} of the batch holds NaN or infinite values: mend or leave out those images.")
    if any(parameter.is_inference() for parameter in model.parameters()) and torch.is_grad_enabled():
        raise SightlineError(
            "the model's weights were made in inference mode, so nothing can be differentiated. Build or load the "
            "model outside torch.inference_mode(), or pass copy.deepcopy(model) made outside it."
        )


def _watched(recorder: Recorder, model: nn.Module, image: Tensor) -> Tensor:
    # Relevance is a quotient of small numbers: bfloat16's eight bits are not enough for it.
    with recorder, torch.autocast(image.device.type, enabled=False):
        output = model(image)
    return cast(Tensor, recorder.latest(logits_of(output)))


def rank(model: nn.Module) -> int:
    """Number of spatial axes `model` works on: those of its first convolution, 2 if it has none."""
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)), None)
    return len(convolution.kernel_size) if convolution else 2


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
    return _modules(model, (name,))[name]


def _modules(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    known: dict[str, nn.Module] = dict(model.named_modules())
    for name in names:
        if isinstance(name, nn.Module):
            own = next((repr(key) for key, module in known.items() if module is name), "not in this model")
            raise SightlineError(f"a layer goes by its name, which of this {type(name).__name__} is {own}.")
        if name not in known:
            raise SightlineError(f"the model has no layer {name!r}. {did_you_mean(name, filter(None, known))}")
    return {name: known[name] for name in names}


@dataclass(frozen=True, eq=False)
class Call:
    """One module's part in a traced forward."""

    name: str
    module: nn.Module
    output: Tensor


def trace(model: nn.Module, image: Tensor) -> tuple[Tensor, list[Call]]:
    """Run `model` once; return its logits and every module's tensor output, in the order in which they finished."""
    calls: list[Call] = []

    with _hooked(model, {name: partial(_note, calls, name) for name, _ in model.named_modules() if name}):
        return logits_of(model(image)), calls


def _note(calls: list[Call], name: str, module: nn.Module, _inputs: Any, output: Any) -> None:
    if isinstance(output, Tensor):
        calls.append(Call(name, module, output))


def uncompiled() -> AbstractContextManager[Any]:
    """A block in which compiled modules run as they were written, so that their hooks and functions are seen."""
    # Importing the compiler takes seconds; where anything was compiled, that is done.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


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
def keeping_statistics(model: nn.Module) -> Iterator[None]:
    """Inside the block, norms in training mode use their batch's statistics but learn no running ones from it."""
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    learnt = [(norm.running_mean, norm.running_var) for norm in norms]
    for norm in norms:
        # InstanceNorm does not heed the flag: it learns where there is something to learn into.
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    try:
        yield
    finally:
        for norm, (mean, var) in zip(norms, learnt, strict=True):
            norm.track_running_stats, norm.running_mean, norm.running_var = True, mean, var


@contextmanager
def _hooked(model: nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    modules = _modules(model, hooks)
    handles = [modules[name].register_forward_hook(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep(name: str, kept: dict[str, Tensor], late: bool, recorder: Recorder | None) -> Hook:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise SightlineError(
                f"layer {name!r} returns {type(output).__name__}, not a tensor. Choose a layer inside it."
            )
        if name in kept:
            warnings.warn(f"layer {name!r} ran more than once in one forward; its last output is used.", stacklevel=2)
        if recorder is not None:
            output = recorder.latest(output)
        if late:
            torch.set_grad_enabled(True)  # until the pass is over
        if torch.is_grad_enabled() and not output.requires_grad and output.is_floating_point():
            output = output.detach().requires_grad_()  # of frozen weights: what follows can be differentiated still
            if recorder is not None:
                recorder.follow(output)
        kept[name] = output
        # The network goes on with a copy: an in-place ReLU behind a convolution would otherwise overwrite what was
        # recorded, silently. The copy costs less than a hundredth of a forward.
        copy: Tensor = output.clone()
        return copy

    return hook
