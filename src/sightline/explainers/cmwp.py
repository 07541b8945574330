"""Excitation backprop (MWP) and its contrastive form (CMWP): where the winning evidence comes from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from sightline.explainers import rules
from sightline.explainers.arguments import settled
from sightline.layers import spatial
from sightline.ops import Op
from sightline.passes import Pass, Target

# Where two branches cancel, a sum is 0 and so are their shares of it, almost.
_SUM_EPS = 1e-12


@dataclass(frozen=True)
class MWP:
    """Excitation backprop (Zhang et al., IJCV 2018, eq. 6): marginal winning probability at a layer.

    A unit of probability starts at the target and is shared out in proportion to the positive contributions,
    ``P_in = x * W^{+T} (P / (W^+ x))``, at convolutions, fully connected layers and average pools. Norms pass it on,
    sums share it in proportion, and the rest is its gradient. The map is its sum over channels.

    Args:
        layer: module at whose output the map is drawn; None lets `find_layer` choose.
    """

    layer: str | None = None

    ruled: ClassVar[bool] = True

    @property
    def taps(self) -> tuple[str, ...]:
        return () if self.layer is None else (self.layer,)

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map at the layer's resolution; non-negative behind a ReLU."""
        arrived = run.grad(target, settled(self), rules=excite, differentiable=differentiable)
        return run.per_image(spatial(arrived, run.size).sum(1))


@dataclass(frozen=True)
class CMWP:
    """Contrastive excitation backprop (Zhang et al., IJCV 2018, section 3.3): for the target, not against it.

    What the target excites, minus what its negated weights excite. Both start at the last layer with weights and are
    subtracted at its input, or at `contrast`; the difference goes on to `layer` as in `MWP`, where it is summed over
    channels and rectified.

    Args:
        layer: module at whose output the map is drawn; None lets `find_layer` choose.
        contrast: module at whose output the two are subtracted; None is the input of the last layer with weights.
    """

    layer: str | None = None
    contrast: str | None = None

    ruled: ClassVar[bool] = True

    @property
    def taps(self) -> tuple[str, ...]:
        return tuple(name for name in (self.layer, self.contrast) if name is not None)

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map at the layer's resolution, non-negative."""
        last = next((op for op in reversed(run.ops) if op.kind == "linear"), None)
        middle = run.tap(self.contrast) if self.contrast is not None else run.logits if last is None else last.x
        source, seed = run.tap(settled(self)), run.one_hot(target)

        def pull(start: Tensor, end: Tensor, seed: Tensor, sign: int = 1) -> Tensor:
            rules = partial(excite, last=last, sign=sign)
            return run.pull(start, (end,), seed, rules=rules, differentiable=differentiable)[0]

        contrast = pull(run.logits, middle, seed) - pull(run.logits, middle, seed, -1)
        arrived = pull(middle, source, contrast)
        return run.per_image(spatial(arrived, run.size).sum(1).relu())


def excite(op: Op, arrived: Tensor, last: Op | None = None, sign: int = 1) -> Sequence[Tensor | None] | None:
    """The rules of excitation backprop; the weight of `last` is taken times `sign`."""
    match op.kind:
        case "linear" | "pool":
            return [rules.excitation(op, arrived, sign if op is last else 1)]
        case "norm":
            return [arrived, *[None] * (len(op.inputs) - 1)]
        case "sum":
            return rules.share(op, arrived, _SUM_EPS)
        case "affine":
            return [rules.pass_on(op, arrived)]
        case "product":
            return rules.through_gate(op, arrived, _SUM_EPS)
        case "unknown":
            raise rules.no_rule(op)
    return None
