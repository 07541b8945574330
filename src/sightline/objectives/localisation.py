"""Localisation losses: the map of the label is to lie on the evidence (Energy), or to be the evidence (L1)."""

from torch import Tensor

from sightline.errors import SightlineError
from sightline.explainers import Explainer, GradCAM
from sightline.maps import per_map, resize
from sightline.objectives.base import Objective, evidence, nonnegative, single_label
from sightline.objectives.cfcn import causal_focus_loss
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.types import Batch


def localisation_l1(maps: Tensor, mask: Tensor) -> Tensor:
    """``mean |M+ / max M+ - A|`` over the pixels of each image, with M+ the positive part of its map M.

    Args:
        maps: (B, *spatial) maps of any sign, scaled at their own resolution, then resized to the mask.
        mask: (B, *spatial) in [0, 1], the annotation A.

    Returns:
        (B,) in [0, 1]. An all-zero map stays one.
    """
    return (resize(peak_scaled(maps.relu()), mask.shape[1:]) - mask).abs().flatten(1).mean(1)


def peak_scaled(maps: Tensor, eps: float = 1e-8) -> Tensor:
    """``m / max(max |m|, eps)`` for each of (B, *spatial) maps; the maximum is differentiated too."""
    return maps / per_map(maps.abs().flatten(1).amax(1).clamp(min=eps), maps)


def label_map(step: Step, batch: Batch, explainer: Explainer, who: str) -> tuple[Tensor, Tensor]:
    """The (B, *spatial) map of each image's label, and its evidence.

    Raises:
        SightlineError: the batch is multi-label, or the explainer keeps channels.
    """
    maps = step.explain(explainer, batch.image, single_label(step, batch, who))
    mask = evidence(step, batch, who)
    if maps.ndim != mask.ndim:
        raise SightlineError(
            f"{who}: {explainer!r} draws maps of shape {tuple(maps.shape)} for masks of shape {tuple(mask.shape)}: "
            'expected one value per pixel, such as with reduce="sum".'
        )
    return maps, mask


def mean_of_guided(per_image: Tensor, batch: Batch) -> Tensor:
    """The mean of (B,) losses over the batch, in which images without a mask or a label count 0."""
    return (per_image * (batch.has_mask & (batch.label >= 0))).mean()


class Energy(Objective):
    """The share of the label's positive map that lies outside the evidence. Term: "energy", in [0, 1].

    ``1 - sum(M+ * A) / sum M+``: one minus the energy-based pointing game (Rao et al., ICCV 2023). It is eq. 2 of CFCN
    on whatever map you like: `CFCN("C")` is `Energy` of the element-wise Grad-CAM. Inside the mask the map may do as
    it likes. A map that is zero everywhere counts 1, as in the authors' code. Images without a mask or a label count
    0 in the mean over the batch.

    Args:
        weight: factor in the loss.
        explainer: whose map of the label, at the layer or at the image; signed maps count by their positive part.
            None is `GradCAM()`.
    """

    needs = ("masks",)
    teaches = False

    def __init__(self, weight: Weight = 1.0, explainer: Explainer | None = None) -> None:
        super().__init__()
        self.weights = nonnegative(energy=weight)
        self.explainers = (explainer or GradCAM(),)

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        maps, mask = label_map(step, batch, self.explainers[0], "Energy")
        return {"energy": mean_of_guided(causal_focus_loss(maps.relu().unsqueeze(1), mask), batch)}


class L1(Objective):
    """The distance of the label's positive map, scaled to a maximum of 1, from the mask. Term: "l1", in [0, 1].

    ``mean |M+ / max M+ - A|`` over pixels, as Rao et al. (ICCV 2023) compare it, after Gao et al. (GRADIA, 2022). It
    asks the map to fill the mask evenly, and so works best with masks that are close to the object. Images without a
    mask or a label count 0 in the mean over the batch; the authors' code adds them up instead.

    Args:
        weight: factor in the loss.
        explainer: whose map of the label, at the layer or at the image; signed maps count by their positive part.
            None is `GradCAM()`.
    """

    needs = ("masks",)
    teaches = False

    def __init__(self, weight: Weight = 1.0, explainer: Explainer | None = None) -> None:
        super().__init__()
        self.weights = nonnegative(l1=weight)
        self.explainers = (explainer or GradCAM(),)

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        return {"l1": mean_of_guided(localisation_l1(*label_map(step, batch, self.explainers[0], "L1")), batch)}
