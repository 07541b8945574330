"""Other libraries' attributions, and any function, as explainers."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from types import ModuleType
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from sightline.arguments import at_least
from sightline.compat import repair_torchvision, require
from sightline.errors import SightlineError, did_you_mean
from sightline.explainers.arguments import Reduce, check_reduce, settled
from sightline.explainers.borrow import Options, as_map, blaming, divided, frozen, lent, plain, refuse, tensor
from sightline.layers import spatial
from sightline.passes import Pass, Target, module, record

Function = Callable[[nn.Module, Tensor, Tensor], Tensor]


def input_gradient(model: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    """dz/dx of the target's logit, signed and of the image's shape: what `Custom` runs unless told otherwise."""
    return record(model, image, taps=("image",)).grad(target, "image", differentiable=True)


@dataclass(frozen=True)
class Custom:
    """Any function ``f(model, image, target) -> map`` as an explainer.

    It gets the model as it is, a copy of the image and the class of each image, (B,) int64, with gradients enabled. It
    returns a map (B, *spatial) at any resolution, or values with channels where the image has them. Whatever it does
    to the model's modes, hooks, buffers and `.grad`, and to the random state, is undone.

    Args:
        function: itself, or its name as "package.module:function", which is also how it is printed.
        reduce: over channels, where the function returns any; see `Gradient`.
        seed: of torch's and NumPy's global random states while the function runs.
    """

    function: Function | str = input_gradient
    reduce: Reduce = "sum"
    seed: int = 0

    taps: ClassVar[tuple[str, ...]] = ()
    ruled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_reduce(self)
        at_least(0, self, "seed")
        object.__setattr__(self, "function", _resolved(self.function))

    def __repr__(self) -> str:
        return f"Custom(function={_named(self.function)!r}, reduce={self.reduce!r}, seed={self.seed})"

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map as the function draws it, differentiable if the function's result is.

        Raises:
            SightlineError: it returned no map, or none that a loss can be taken of although `differentiable` is set.
        """
        function = cast(Function, self.function)
        with lent(run, self.seed, weights=not differentiable) as image:
            values = tensor(function(run.model, image, run.target(target)), self)
        if differentiable and not values.requires_grad:
            raise SightlineError(f"{self!r} returned a map without a graph: it cannot be part of a loss.")
        return as_map(values if differentiable else values.detach(), run, self)


@dataclass(frozen=True)
class Captum:
    """An attribution of captum's to the image, such as "Saliency", "Occlusion" or "DeepLift".

    Its maps cannot be part of a loss: captum cuts the graph, or keeps one whose gradient is wrong.

    Args:
        method: its name in `captum.attr`.
        options: arguments of its constructor and of its `attribute`, by name. Lists become tuples.
        reduce: over channels, see `Gradient`.
        seed: of torch's and NumPy's global random states meanwhile; both are put back.
    """

    method: str = "Saliency"
    options: Options = ()
    reduce: Reduce = "sum"
    seed: int = 0

    taps: ClassVar[tuple[str, ...]] = ()
    ruled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_reduce(self)
        at_least(0, self, "seed")
        object.__setattr__(self, "options", frozen(self))

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map at the image's resolution.

        Raises:
            SightlineError: captum is not installed, has no such method or cannot explain this model with it, or
                `differentiable` is set.
        """
        refuse(differentiable, self)
        return as_map(self._attributed(run, run.target(target)), run, self)

    def _attributed(self, run: Pass, target: Tensor, **layer: nn.Module) -> Tensor:
        kind = _captum_method(self.method, layered=bool(layer))
        here, there = divided(self, kind, kind.attribute)
        with lent(run, self.seed) as image, blaming("captum", self):
            attribution = kind(plain(run.model), **layer, **here)
            return tensor(attribution.attribute(image.requires_grad_(), target=target, **there), self).detach()


@dataclass(frozen=True)
class CaptumLayer(Captum):
    """An attribution of captum's that reads a layer, such as "LayerGradCam" or "GuidedGradCam". See `Captum`.

    Args:
        method: its name in `captum.attr`.
        options: arguments of its constructor and of its `attribute`, by name. Lists become tuples.
        reduce: over the layer's channels, see `Gradient`; "LayerGradCam" sums over them by itself.
        seed: of torch's and NumPy's global random states meanwhile; both are put back.
        layer: module it reads; None lets `find_layer` choose.
    """

    method: str = "LayerGradCam"
    layer: str | None = None

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map at the layer's resolution, or the image's if that is what the method returns.

        Raises:
            SightlineError: see `Captum`; or no layer was given or found.
        """
        refuse(differentiable, self)
        values = self._attributed(run, run.target(target), layer=module(run.model, settled(self)))
        if values.shape != run.image.shape:
            values = run.per_image(spatial(values, run.size))
        return as_map(values, run, self)


@dataclass(frozen=True)
class Zennit:
    """An attribution of zennit's: layer-wise relevance propagation and its kin.

    The relevance of the target's logit starts at 1, as in zennit's own examples, whatever the logit is. The maps cannot
    be part of a loss: zennit's rules run on detached copies of the weights.

    Args:
        composite: which rules, by the name of their class in `zennit.composites`; None is the plain gradient.
        attributor: "Gradient", "SmoothGrad", "IntegratedGradients" or another class of `zennit.attribution`.
        canonizer: how the model is rewritten first, by the name of a class in `zennit.canonizers` or
            `zennit.torchvision`, such as "SequentialMergeBatchNorm" or "ResNetCanonizer".
        options: arguments of the composite and of the attributor, by name. The bounds `low` and `high` of
            "EpsilonGammaBox" are a number, or one for each channel, of what the first convolution reads: after
            the model's own normalisation.
        reduce: over channels, see `Gradient`.
        seed: of torch's and NumPy's global random states meanwhile; both are put back.
    """

    composite: str | None = "EpsilonPlusFlat"
    attributor: str = "Gradient"
    canonizer: str | None = None
    options: Options = ()
    reduce: Reduce = "sum"
    seed: int = 0

    taps: ClassVar[tuple[str, ...]] = ()
    ruled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_reduce(self)
        at_least(0, self, "seed")
        object.__setattr__(self, "options", frozen(self))

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map at the image's resolution.

        Raises:
            SightlineError: zennit is not installed, has no such class or cannot explain this model with it, or
                `differentiable` is set.
        """
        refuse(differentiable, self)
        composite, attributor, canonizer = self._classes()
        here, there = divided(self, composite, attributor)
        with lent(run, self.seed) as image, blaming("zennit", self):
            for bound in here.keys() & {"low", "high"}:
                here[bound] = torch.as_tensor(here[bound]).to(image).reshape(1, -1, *[1] * len(run.size))
            rules = composite and composite(canonizers=[canonizer()] if canonizer else [], **here)
            _, values = attributor(plain(run.model), rules, **there)(image, run.one_hot(target))
        return as_map(tensor(values, self).detach(), run, self)

    def _classes(self) -> tuple[Any, Any, Any]:
        """The classes of zennit's that were named; None where none was."""
        repair_torchvision()
        zennit = require("zennit", "zennit")
        return (
            self._class(self.composite, zennit.core.Composite, zennit.composites),
            self._class(self.attributor, zennit.attribution.Attributor, zennit.attribution),
            self._class(self.canonizer, zennit.canonizers.Canonizer, zennit.canonizers, zennit.torchvision),
        )

    def _class(self, name: str | None, base: type, *homes: ModuleType) -> Any:
        if name is None:
            return None
        known = {key: kind for home in homes for key, kind in vars(home).items() if _derived(kind, base)}
        if name not in known:
            raise SightlineError(
                f"{self!r}: zennit has no {base.__name__.lower()} {name!r}. {did_you_mean(name, known)}"
            )
        return known[name]


def _captum_method(name: str, layered: bool) -> Any:
    attr = require("captum", "captum.attr")
    kinds = {key: kind for key, kind in vars(attr).items() if _derived(kind, attr.Attribution) and _of_class(kind)}
    known = [key for key, kind in kinds.items() if layered == ("layer" in inspect.signature(kind).parameters)]
    if name in known:
        return kinds[name]
    if name in kinds:
        raise SightlineError(f"{name} {'reads no layer: Captum' if layered else 'reads a layer: CaptumLayer'} runs it.")
    raise SightlineError(f"captum has no method {name!r} that explains a class. {did_you_mean(name, known)}")


def _of_class(kind: Any) -> bool:
    """Whether an attribution is of one class's logit to an image: not of a neuron, a token or another attribution."""
    attribute = getattr(kind, "attribute", None)
    return attribute is not None and {"inputs", "target"} <= inspect.signature(attribute).parameters.keys()


def _derived(kind: Any, base: type) -> bool:
    return inspect.isclass(kind) and issubclass(kind, base) and kind is not base


def _resolved(function: Any) -> Function:
    found = _imported(function) if isinstance(function, str) else function
    if not callable(found):
        raise SightlineError(f"Custom(function={function!r}): expected f(model, image, target), or its name.")
    return cast(Function, found)


def _imported(name: str) -> Any:
    home, _, attribute = name.partition(":")
    try:
        return attrgetter(attribute)(import_module(home))
    except (ImportError, AttributeError, ValueError) as error:
        raise SightlineError(
            f"Custom(function={name!r}): expected the name of a function as package.module:function ({error})."
        ) from error


def _named(function: Any) -> str:
    try:
        return f"{function.__module__}:{function.__qualname__}"
    except AttributeError:
        return repr(function)
