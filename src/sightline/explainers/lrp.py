"""Layer-wise relevance propagation: the logit shared out, layer by layer, to what it was made from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import ClassVar

import torch
from torch import Tensor

from sightline.arguments import number, one_of
from sightline.errors import SightlineError, did_you_mean
from sightline.explainers import rules
from sightline.explainers.arguments import Reduce, check_reduce, reduced
from sightline.ops import Op
from sightline.passes import Pass, Target

COMPOSITES: dict[str, tuple[str, str, str]] = {
    "zero": ("zero", "zero", "zero"),
    "epsilon": ("epsilon", "epsilon", "epsilon"),
    "gamma": ("gamma", "gamma", "gamma"),
    "alpha_beta": ("alpha_beta", "alpha_beta", "epsilon"),
    "zbox": ("zbox", "epsilon", "epsilon"),
    "epsilon_plus": ("zplus", "zplus", "epsilon"),
    "epsilon_alpha_beta_box": ("zbox", "alpha_beta", "epsilon"),
    "epsilon_gamma_box": ("zbox", "gamma", "epsilon"),
}
"""By name, the rules of the first layer, of other convolutions and of fully connected layers."""

_RULES = ("zero", "epsilon", "gamma", "alpha_beta", "zplus", "zbox")


@dataclass(frozen=True)
class LRP:
    """Layer-wise relevance propagation (Bach et al., PLoS ONE 2015; rules and composites: Montavon et al., 2019).

    Relevance starts as the target's logit and goes back through rules, see `sightline.explainers.rules`. BatchNorm is
    merged into the convolution ahead of it, exactly; another norm, or one by itself, is a layer of its own with its
    statistics constant. Activations pass relevance on, sums and average pools share it in proportion, and so do
    concatenations; of a product the signal gets all and the gate nothing. Constant shifts and scales pass it on, so
    that the map of a model which normalises is that of the normalised image.

    With "epsilon" everywhere it is, up to eps, input times gradient in networks of ReLU. As a loss on an untrained
    network epsilon explodes where a result is close to 0: use `relative`, "gamma" or "epsilon_plus" to train.

    Args:
        composite: which rule goes where: "zero", "epsilon", "gamma", "alpha_beta", "zbox", "epsilon_plus",
            "epsilon_alpha_beta_box" or "epsilon_gamma_box"; see `COMPOSITES`.
        first, conv, dense: another rule for the first layer, for other convolutions, for fully connected layers:
            "zero", "epsilon", "gamma", "alpha_beta", "zplus", "zbox" (first only).
        eps: of every stabiliser; LRP-0 has none in layers, and this in pools, sums and norms.
        relative: eps counts in root mean squares of each layer's result for each image.
        gamma: of the gamma rule.
        alpha, beta: of the alpha-beta rule; ``alpha - beta = 1`` conserves relevance.
        low, high: bounds of the image's values for z-box, one number or one for each channel.
        reduce: over channels: "sum", "abs_sum", "max_abs", or None, which keeps maps of the image's shape.
    """

    composite: str = "epsilon"
    first: str | None = None
    conv: str | None = None
    dense: str | None = None
    eps: float = rules.EPS
    relative: bool = False
    gamma: float = 0.25
    alpha: float = 2.0
    beta: float = 1.0
    low: float | tuple[float, ...] = 0.0
    high: float | tuple[float, ...] = 1.0
    reduce: Reduce = "sum"

    taps: ClassVar[tuple[str, ...]] = ("image",)
    ruled: ClassVar[bool] = True
    once: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_reduce(self)
        for name in ("eps", "gamma", "alpha", "beta"):
            number(self, name, getattr(self, name), low=0)
        one_of(self, "composite", self.composite, tuple(COMPOSITES))
        for place in ("first", "conv", "dense"):
            known = _RULES if place == "first" else _RULES[:-1]
            if (rule := getattr(self, place)) is not None and rule not in known:
                raise SightlineError(f"LRP({place}={rule!r}). {did_you_mean(str(rule), known)}")

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map at the image's resolution, signed under "sum".

        Raises:
            SightlineError: bounds of another number of channels, or an operation that has no rule.
        """
        with torch.set_grad_enabled(differentiable):
            seed = run.one_hot(target) * run.logits
            ends = [_at_first_layer(run, bound) for bound in (self.low, self.high)]
            bounds = torch.minimum(*ends), torch.maximum(*ends)  # a negative scale turns them round
        rule = partial(self._rule, first=_first(run.ops), bounds=bounds)
        relevance = run.grad(target, "image", rules=rule, seed=seed, differentiable=differentiable)
        return reduced(relevance, self.reduce, run.channel)

    def _rule(self, op: Op, arrived: Tensor, first: Op | None, bounds: Sequence[Tensor]) -> Sequence[Tensor | None]:
        if op.kind == "norm" and op.source is not None:
            return [None, self._layer(op.merged(), arrived, op.source is first, bounds)]
        match op.kind:
            case "linear":
                return [self._layer(op, arrived, op is first, bounds)]
            case "norm":
                return [rules.through_norm(op, arrived, self._eps(op))]
            case "pool":
                return [rules.epsilon(op, arrived, self._eps(op))]
            case "sum":
                return rules.share(op, arrived, self._eps(op))
            case "product":
                return rules.through_gate(op, arrived, self._eps(op))
            case "activation" | "affine":
                return [rules.pass_on(op, arrived)]
        raise rules.no_rule(op)

    def _layer(self, op: Op, arrived: Tensor, first: bool, bounds: Sequence[Tensor]) -> Tensor:
        of_first, of_conv, of_dense = COMPOSITES[self.composite]
        name = (self.conv or of_conv) if op.name.startswith("conv") else (self.dense or of_dense)
        if first:
            name = self.first or (name if of_first == of_conv else of_first)
        eps = self._eps(op)
        known: dict[str, Callable[[], Tensor]] = {
            "zero": lambda: rules.epsilon(op, arrived, 0.0),
            "epsilon": lambda: rules.epsilon(op, arrived, eps),
            "gamma": lambda: rules.gamma(op, arrived, self.gamma, eps),
            "alpha_beta": lambda: rules.alpha_beta(op, arrived, self.alpha, self.beta, eps),
            "zplus": lambda: rules.zplus(op, arrived, eps),
            "zbox": lambda: rules.zbox(op, arrived, *_of_input(bounds, op.x), eps),
        }
        return known[name]()

    def _eps(self, op: Op) -> float | Tensor:
        if not self.relative:
            return self.eps
        size: Tensor = op.z.square().mean(tuple(range(1, op.z.ndim)), keepdim=True).sqrt()
        return size.mul(self.eps).add(torch.finfo(size.dtype).tiny ** 0.5)


def _first(ops: Sequence[Op]) -> Op | None:
    return next((op for op in ops if op.kind == "linear"), None)


def _at_first_layer(run: Pass, bound: float | tuple[float, ...]) -> Tensor:
    """A bound of one image, behind a normalisation inside the model; (1, C, *spatial)."""
    image, channels = run.image[:1].flatten(0, run.channel - 1)[:1], run.image.shape[run.channel]
    values = image.new_tensor(bound).expand(-1 if isinstance(bound, tuple) else channels)
    if len(values) != channels:
        raise SightlineError(f"low and high have {len(values)} values for images of {channels} channels.")
    values = values.view(*[1] * run.channel, -1, *[1] * len(run.size))
    for op in takewhile(lambda op: op.kind == "affine", run.ops):
        assert op.run is not None
        values = op.run(values)
    return values.flatten(0, run.channel - 1)[:1].expand_as(image)


def _of_input(bounds: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The bounds as bounds of x, which is the image or a view of it."""
    low, high = bounds
    if x[:1].numel() != low.numel():
        raise SightlineError(f"z-box has bounds of {low.numel()} values for a first layer of {x[:1].numel()}.")
    return low.reshape(x[:1].shape), high.reshape(x[:1].shape)
