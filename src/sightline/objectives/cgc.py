"""CGC: the map of a transformed image is the transformed map of the image, and not that of any other image."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from sightline.arguments import one_of
from sightline.contrast import Anchor, contrast, unit_pair
from sightline.errors import SightlineError, did_you_mean
from sightline.explainers import GradCAM
from sightline.objectives.base import Objective, classification_loss, nonnegative, single_label
from sightline.objectives.ranks import gathered, pooled_mean
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.types import Batch
from sightline.views import Crop

View = Literal["xe", "aug"]


def squared_gap(anchors: Tensor, views: Tensor) -> Tensor:
    """``mean over pixels of (a_i - p_i)^2`` for each pair: the paper's ablation without negatives.

    The mean is the authors' code's. It is at most 2 / pixels: it takes a weight of about that many to matter.

    Args:
        anchors, views: (B, pixels) as `unit_pair` returns them.

    Returns:
        (B,) losses.
    """
    return (anchors - views).square().mean(1)


class CGC(Objective):
    """Contrastive Grad-CAM consistency (Pillai et al., CVPR 2022). Needs no masks and no labels. Term: "cgc".

    Both maps are element-wise Grad-CAMs of the image's own top prediction. Beside `CE()` the preset "paper" costs two
    forwards. The preset "official" follows the authors' code: the anchor is the transformed image's map, and
    cross-entropies on a second crop ("cgc_ce_xe") and on the transformed image ("cgc_ce_aug") join that of `CE()`. It
    then sees three labelled views a step: compare it with a baseline that sees as many.

    Over several processes the loss is that of one process with all their images.

    Args:
        preset: "paper" or "official"; fills in whatever of `anchor` and `ce_on` is not given.
        weight: lambda; the papers use 0.25 to 1. `Scheduled([0, 5], [0, 1], ramp=True)` warms it up.
        tau: temperature.
        layer: where the maps live; None lets `find_layer` choose.
        anchor: "orig" or "aug", see `cgc_loss`.
        ce_on: views that get a cross-entropy beside the image itself: "xe" (another crop), "aug" (the transformed
            image).
        scale, ratio: of the random resized crop, as in torchvision.
        flip_bug: mirror only half of the images whose map is mirrored, as the authors' data loader does.
        gather: take the other processes' views for negatives too, not only those of one's own.
        negatives: without, the paper's ablation, see `squared_gap`; `tau` and `anchor` then mean nothing.
        on: which images get a view and this loss: "all", or those labelled -1 alone ("unlabelled").

    Raises:
        SightlineError: an unknown choice, `tau` not above 0, or a cross-entropy on the views of unlabelled images.
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
        gather: bool = True,
        negatives: bool = True,
        on: Literal["all", "unlabelled"] = "all",
    ) -> None:
        super().__init__()
        if not tau > 0:
            raise SightlineError(f"tau is {tau}: expected a temperature above 0; the paper uses 0.5.")
        self.preset, self.on = preset, on
        self.anchor: Anchor = anchor or ("aug" if preset == "official" else "orig")
        one_of(self, "preset", self.preset, ("paper", "official"))
        one_of(self, "anchor", self.anchor, ("orig", "aug"))
        one_of(self, "on", self.on, ("all", "unlabelled"))
        self.ce_on = self._classified(ce_on)
        self.teaches = bool(self.ce_on)
        self.weights = nonnegative(cgc=weight, **{f"cgc_ce_{view}": 1.0 for view in self.ce_on})
        self.explainers = (GradCAM(layer, elementwise=True),)
        self.tau, self.scale, self.ratio, self.flip_bug = tau, scale, ratio, flip_bug
        self.gather, self.negatives = gather, negatives

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        generator, (explainer,) = step.random("cgc"), self.explainers
        run, (rows, count) = step.run(batch.image), self._rows(step, batch)
        image, top = batch.image[rows], run.target()
        crop = self._crop(image, run.size, generator)
        view = self._mirror(crop, generator).apply(image)
        step.run(view, self.explainers, update=count > 0)
        maps, augmented = step.explain(explainer, batch.image, top)[rows], step.explain(explainer, view, top[rows])
        terms = {"cgc": self._loss(*(unit[:count] for unit in unit_pair(maps, augmented, crop)))}
        if "xe" in self.ce_on:
            other = self._crop(batch.image, run.size, generator).apply(batch.image)
            terms["cgc_ce_xe"] = classification_loss(step.run(other, ()).logits, batch.label)
        if "aug" in self.ce_on:
            terms["cgc_ce_aug"] = classification_loss(step.run(view).logits, batch.label)
        return terms

    def _rows(self, step: Step, batch: Batch) -> tuple[slice | Tensor, int]:
        """Which images get a view, and how many of these count."""
        if self.on == "all":
            return slice(None), len(batch.image)
        single_label(step, batch, "CGC on unlabelled images")
        hidden = batch.label < 0
        count = int(hidden.sum())
        # Others stand in uncounted where there are fewer than two: all processes of a distributed run must do the
        # same, and BatchNorm needs two values.
        return hidden.argsort(descending=True, stable=True)[: max(count, 2)], count

    def _loss(self, anchors: Tensor, views: Tensor) -> Tensor:
        if self.negatives:
            everyone, first = gathered(views) if self.gather else (views, 0)
            losses = contrast(anchors, views, everyone, first, self.tau, self.anchor)
        else:
            losses = squared_gap(anchors, views)
        return pooled_mean(losses) if self.gather else losses.sum() / max(len(losses), 1)

    def _classified(self, ce_on: Sequence[View] | None) -> tuple[View, ...]:
        """The views that get a cross-entropy; by default those of the preset that can be labelled."""
        if ce_on is None:
            default: tuple[View, ...] = ("xe", "aug") if self.on == "all" else ("xe",)
            return default if self.preset == "official" else ()
        for view in ce_on:
            if view not in ("xe", "aug"):
                raise SightlineError(f"CGC(ce_on={list(ce_on)}): {did_you_mean(view, ('xe', 'aug'))}")
        if self.on == "unlabelled" and "aug" in ce_on:
            raise SightlineError(
                f"CGC(ce_on={list(ce_on)}, on='unlabelled'): images with an 'aug' view have no label to learn. "
                "Leave 'aug' out, or pass on='all'."
            )
        return tuple(ce_on)

    def _crop(self, image: Tensor, size: Sequence[int], generator: torch.Generator) -> Crop:
        return Crop.sample(len(image), size, scale=self.scale, ratio=self.ratio, generator=generator)

    def _mirror(self, crop: Crop, generator: torch.Generator) -> Crop:
        """The crop as the image gets it: the authors' loader forgets half of the mirrorings."""
        if not self.flip_bug:
            return crop
        return replace(crop, flip=crop.flip & (torch.rand(len(crop.flip), generator=generator) < 0.5))
