"""What an explainer is, how it finds its layer, and the one-liner around both."""

from collections.abc import Sequence
from dataclasses import replace
from inspect import getattr_static
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from torch import Tensor, nn

from sightline.errors import SightlineError
from sightline.layers import find_layer
from sightline.passes import Pass, Target, evaluating, module, record, view_size


@runtime_checkable
class Explainer(Protocol):
    """A frozen dataclass: hashable, comparable, printable, constructible from YAML.

    One that takes a single gradient of its pass may say so, ``once = True``: the pass then need not keep its graph.
    """

    @property
    def taps(self) -> tuple[str, ...]:
        """The activations its pass must have recorded; "image" stands for gradients of the image itself."""

    @property
    def ruled(self) -> bool:
        """Whether its pass must have been recorded with `ruled=True`."""

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map of `target`, raw, at the explainer's own resolution.

        With `differentiable`, a loss on the map reaches the model's weights; without, the map carries no graph.
        """


E = TypeVar("E", bound=Explainer)


def bind(explainer: E, model: nn.Module, size: int | Sequence[int] = 224) -> E:
    """The explainer with `layer=None` resolved by `find_layer`, or with its layer's name checked.

    Args:
        explainer: any.
        model: the classifier.
        size: of the images: side, (H, W) or (D, H, W); (views, H, W) for several views of each image.

    Raises:
        SightlineError: that is no explainer, the named layer does not exist, or none can be found.
    """
    if not _is_explainer(explainer):
        raise SightlineError(
            f"expected an explainer such as GradCAM(), got {explainer!r}: an instance, not its class or name. A "
            "function of yours becomes one as Custom(function)."
        )
    if not hasattr(explainer, "layer"):
        return explainer
    if explainer.layer is None:
        return cast(E, replace(cast(Any, explainer), layer=find_layer(model, size)))
    module(model, explainer.layer)
    return explainer


def _is_explainer(given: object) -> bool:
    # Statically: `taps` may be a property that needs the layer.
    return callable(given) and not isinstance(given, type) and getattr_static(given, "taps", None) is not None


def explain(model: nn.Module, image: Tensor, target: Target = None, explainer: Explainer | None = None) -> Tensor:
    """Where does `model` look? One map per image, in evaluation mode.

    Args:
        model: any classifier; its mode, gradients and hooks are afterwards as they were.
        image: (B, C, *spatial) float, as the model takes it, or (B, views, C, *spatial).
        target: the class explained: None for the top prediction, an int, one int per image, or a callable of logits.
        explainer: Grad-CAM at the layer `find_layer` chooses, unless another is given. Bind it once
            (`bind(explainer, model, size)`) when you call this often: finding the layer costs another pass.

    Returns:
        (B, *spatial) raw maps at the explainer's resolution; `sightline.maps.resize` brings them to the image's.

    Raises:
        SightlineError: a bad image, target or layer; the message says which.
    """
    from sightline.explainers.gradcam import GradCAM

    with evaluating(model):
        return mapped(bind(explainer or GradCAM(), model, view_size(model, image)), model, image, target)


def mapped(explainer: Explainer, model: nn.Module, image: Tensor, target: Target = None) -> Tensor:
    """The map of a bound explainer, from a pass of its own, in whatever mode the model is."""
    # Most take one gradient of their pass; whoever takes more, or does not say, needs the graph to stay.
    once = getattr(explainer, "once", False)
    run = record(model, image, taps=explainer.taps, ruled=explainer.ruled, differentiable=False, once=once)
    return explainer(run, target)
