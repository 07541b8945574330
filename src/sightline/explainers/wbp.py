"""WBP: the weights of all layers multiplied back from the logit to the image."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor

from sightline.arguments import one_of
from sightline.explainers.arguments import Reduce, check_reduce, reduced
from sightline.explainers.rules import linearised
from sightline.functions import RECTIFIERS
from sightline.ops import Op
from sightline.passes import Pass, Target


@dataclass(frozen=True)
class WBP:
    """Weight back propagation (the saliency map of PPI, eq. 6-10 and Table 1): ``x * W~``.

    ``W~`` is the product of all layers as the linear maps they are at this image: convolutions and fully connected
    layers by their transposed weights, activations by their secant ``g(v)/v``, norms by weight / deviation with their
    statistics held constant, pools by sharing out or by returning to the largest entry, gates (squeeze-excite,
    attention weights) as constants. Biases count only in so far as they move what the others are.

    In a network of linear layers, BatchNorm in evaluation mode, ReLU and pools, W~ is the gradient, and WBP is input
    times gradient. Elsewhere it is not: activations such as SiLU and GELU, LayerNorm and BatchNorm in training mode
    differ, and W~ comes from replacing their backward in the one pass there is.

    x is what the first layer sees: of a model that normalises its images (`sightline.load_model`), the normalised one.

    Args:
        engine: "autograd" takes the plain gradient, "surrogate" replaces backward steps; "auto" chooses by what the
            pass has run.
        detach: in a second derivative hold secants, deviations and gates constant, as the paper does in training.
            Otherwise a loss on the map has its exact gradient.
        reduce: over channels, "sum" (keeps ``sum s = z`` in networks without biases), "abs_sum", "max_abs"; None keeps
            maps of the image's shape, which is what PPI's masks act on.
    """

    engine: Literal["auto", "autograd", "surrogate"] = "auto"
    detach: bool = False
    reduce: Reduce = "sum"

    taps: ClassVar[tuple[str, ...]] = ("image",)
    once: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of(self, "engine", self.engine, ("auto", "autograd", "surrogate"))
        check_reduce(self)

    @property
    def ruled(self) -> bool:
        return self.engine != "autograd"

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map at the image's resolution, signed under "sum".

        Raises:
            SightlineError: the network has a step that is no linear map of its input; the message names it.
        """
        exact = bool(run.ops) and all(map(linear_as_it_stands, run.ops))
        plain = self.engine == "autograd" or (self.engine == "auto" and exact)
        rules = None if plain else partial(linearised, detach=self.detach)
        weights = run.grad(target, "image", rules=rules, differentiable=differentiable)
        return reduced((run.image.detach() - run.zero) * weights, self.reduce, run.channel)


def linear_as_it_stands(op: Op) -> bool:
    """Whether the gradient of `op` is its rule in WBP."""
    if op.kind == "activation":
        return op.name in RECTIFIERS
    return op.constant if op.kind == "norm" else op.kind not in ("product", "unknown")
