"""RRR, right for the right reasons: outside the evidence the explanation is to vanish."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sightline.explainers import Explainer
from sightline.maps import resize
from sightline.objectives.base import Objective, evidence, nonnegative, single_label
from sightline.objectives.localisation import label_map, mean_of_guided, peak_scaled
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.passes import Pass, Target
from sightline.types import Batch


@dataclass(frozen=True)
class LogProbabilities:
    """The gradient ``d/dx sum_k log p_k`` of all classes' log-probabilities, (B, C, *spatial); it has no target."""

    taps: ClassVar[tuple[str, ...]] = ("image",)
    ruled: ClassVar[bool] = False

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        # sum_k log softmax(z)_k = sum_k z_k - K logsumexp(z), whose gradient in z is this.
        seed = 1 - run.logits.shape[1] * run.logits.softmax(1)
        return run.grad(None, "image", seed=seed.to(run.logits.dtype), differentiable=differentiable)


def right_reasons_loss(values: Tensor, mask: Tensor) -> Tensor:
    """``sum ((1 - A) * v)^2`` over the entries of each image, (B,).

    Args:
        values: (B, ...) what is to vanish outside the evidence.
        mask: of a shape that broadcasts to it, in [0, 1]; the annotation A, 1 = evidence.
    """
    return ((1 - mask) * values).square().flatten(1).sum(1)


class RRR(Objective):
    """A penalty on whatever explains the decision outside the evidence. Term: "rrr".

    Without an explainer, the paper's (Ross, Hughes and Doshi-Velez, IJCAI 2017): the sum over all pixels and channels
    outside the evidence of ``(d/dx sum_k log p_k)^2``, with x in [0, 1] and before the model's own normalisation. Its
    size depends on the network, the number of classes and the image: from far below 1 to thousands. The paper advises a
    weight that brings it to the size of the cross-entropy: train an epoch with a weight near 0 and divide the two
    terms. `Balanced(1)` presses ever harder as the term shrinks, and on Habitats ended at a constant answer.

    With an explainer, the square of its map of the label, divided by its largest absolute value: the mean over pixels,
    in [0, 1]. With `GradCAM()` it follows Schramowski et al. (Nature Machine Intelligence 2020), with input-level maps
    Rao et al. (ICCV 2023), whose code adds up the pixels instead.

    Both are means over the batch, in which images without a mask or a label count 0.

    Args:
        weight: factor in the loss; 1 fits the form with an explainer.
        explainer: whose map of the label is to vanish outside the evidence; None penalises log-probabilities.
    """

    needs = ("masks",)
    teaches = False

    def __init__(self, weight: Weight = 1.0, explainer: Explainer | None = None) -> None:
        super().__init__()
        self.weights = nonnegative(rrr=weight)
        self.explainers = (explainer or LogProbabilities(),)

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        (explainer,) = self.explainers
        of = _gradients if isinstance(explainer, LogProbabilities) else _maps
        return {"rrr": mean_of_guided(of(step, batch, explainer), batch)}


def _gradients(step: Step, batch: Batch, explainer: Explainer) -> Tensor:
    gradients = step.explain(explainer, batch.image, single_label(step, batch, "RRR"))
    return right_reasons_loss(gradients, evidence(step, batch, "RRR").unsqueeze(step.run(batch.image).channel))


def _maps(step: Step, batch: Batch, explainer: Explainer) -> Tensor:
    maps, mask = label_map(step, batch, explainer, "RRR")
    return right_reasons_loss(resize(peak_scaled(maps), mask.shape[1:]), mask) / mask[0].numel()
