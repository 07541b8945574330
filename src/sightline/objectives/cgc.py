"""CGC: the map of a transformed image is the transformed map of the image, and not that of any other image."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.errors import SightlineError
from sightline.explainers import GradCAM
from sightline.maps import normalize, resize
from sightline.objectives.base import Objective, classification_loss, nonnegative
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.types import Batch
from sightline.views import Crop

Anchor = Literal["orig", "aug"]
View = Literal["xe", "aug"]


def cgc_loss(maps: Tensor, augmented: Tensor, crop: Crop, tau: float = 0.5, anchor: Anchor = "orig") -> Tensor:
    """Contrastive Grad-CAM consistency of each image with its own transformed view, against the other images' views.

    With u the L2-normalised, flattened map, T the crop, g the map: the paper's anchor is ``a_i = u(T_i g(x_i))``, its
    positive ``p_i = u(g(T_i x_i))``, its negatives ``p_j``, j != i, and the loss
    ``-log [exp(<a_i, p_i>/tau) / sum_j exp(<a_i, p_j>/tau)]`` (CGC, section 3.1). The authors' code anchors at p_i
    instead: positive a_i, negatives p_j.

    Args:
        maps: (B, *spatial) maps g(x) of the images, at any resolution.
        augmented: (B, *spatial) maps g(T x) of the transformed images.
        crop: the transformation T.
        tau: temperature, above 0.
        anchor: "orig" as in the paper, "aug" as in the authors' code.

    Returns:
        (B,) losses; log B when all maps are alike, 0 for a batch of one.
    """
    size = crop.size
    # T is linear and keeps constants, so cutting commutes with `normalize`; both maps are scaled before they are cut.
    anchors, views = (
        F.normalize(m.flatten(1))
        for m in (crop.apply(normalize(resize(maps, size))), normalize(resize(augmented, size)))
    )
    if anchor == "orig":
        similarity = anchors @ views.T
    else:
        own = torch.eye(len(views), dtype=torch.bool, device=views.device)
        similarity = torch.where(own, anchors @ views.T, views @ views.T)
    return F.cross_entropy(similarity / tau, torch.arange(len(views), device=views.device), reduction="none")


class CGC(Objective):
    """Contrastive Grad-CAM consistency (Pillai et al., CVPR 2022). Needs no masks and no labels. Term: "cgc".

    Both maps are element-wise Grad-CAMs of the image's own top prediction. Beside `CE()` the preset "paper" costs two
    forwards. The preset "official" follows the authors' code: the anchor is the transformed image's map, and
    cross-entropies on a second crop ("cgc_ce_xe") and on the transformed image ("cgc_ce_aug") join that of `CE()`. It
    then sees three labelled views a step: compare it with a baseline that sees as many.

    Args:
        preset: "paper" or "official"; fills in whatever of `anchor` and `ce_on` is not given.
        weight: lambda; the papers use 0.25 to 1.
        tau: temperature.
        layer: where the maps live; None lets `find_layer` choose.
        anchor: "orig" or "aug", see `cgc_loss`.
        ce_on: views that get a cross-entropy beside the image itself: "xe" (another crop), "aug" (the transformed
            image).
        scale, ratio: of the random resized crop, as in torchvision.
        flip_bug: mirror only half of the images whose map is mirrored, as the authors' data loader does.
    """

    def __init__(
        self,
        preset: Literal["paper", "official"] = "paper",
        weight: Weight = 1.0,
        tau: float = 0.5,
        layer: str | None = None,
        anchor: Anchor | None = None,
        ce_on: Sequence[View] | None = None,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip_bug: bool = False,
    ) -> None:
        super().__init__()
        if not tau > 0:
            raise SightlineError(f"tau is {tau}: expected a temperature above 0; the paper uses 0.5.")
        official = preset == "official"
        self.anchor: Anchor = anchor or ("aug" if official else "orig")
        self.ce_on = tuple(ce_on) if ce_on is not None else (("xe", "aug") if official else ())
        self.weights = nonnegative(cgc=weight, **{f"cgc_ce_{view}": 1.0 for view in self.ce_on})
        self.explainers = (GradCAM(layer, elementwise=True),)
        self.tau, self.scale, self.ratio, self.flip_bug = tau, scale, ratio, flip_bug

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        generator, (explainer,) = step.random("cgc"), self.explainers
        run, crop = step.run(batch.image), self._crop(batch.image, generator)
        target = run.target()
        view = self._mirror(crop, generator).apply(batch.image)
        step.run(view, self.explainers)
        maps, augmented = (step.explain(explainer, image, target) for image in (batch.image, view))
        terms = {"cgc": cgc_loss(maps, augmented, crop, self.tau, self.anchor).mean()}
        if "xe" in self.ce_on:
            other = self._crop(batch.image, generator).apply(batch.image)
            terms["cgc_ce_xe"] = classification_loss(step.run(other, ()).logits, batch.label)
        if "aug" in self.ce_on:
            terms["cgc_ce_aug"] = classification_loss(step.run(view).logits, batch.label)
        return terms

    def _crop(self, image: Tensor, generator: torch.Generator) -> Crop:
        return Crop.sample(len(image), image.shape[2:], scale=self.scale, ratio=self.ratio, generator=generator)

    def _mirror(self, crop: Crop, generator: torch.Generator) -> Crop:
        """The crop as the image gets it: the authors' loader forgets half of the mirrorings."""
        if not self.flip_bug:
            return crop
        return replace(crop, flip=crop.flip & (torch.rand(len(crop.flip), generator=generator) < 0.5))
