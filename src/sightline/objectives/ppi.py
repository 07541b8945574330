"""PPI: without what its saliency points at, an image is to lose its class; without another's, to keep it."""

from collections.abc import Sequence
from math import inf, log
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.arguments import number, one_of
from sightline.errors import SightlineError
from sightline.explainers import WBP, Explainer
from sightline.maps import (
    Scale,
    adaptive_threshold,
    hard_box,
    hard_points,
    rescaled,
    resize,
    soft_mask,
    top_k_threshold,
)
from sightline.objectives.base import Objective, filling, labelled, nonnegative, single_label
from sightline.objectives.ranks import pooled
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.passes import Target
from sightline.types import Batch

Contrast = Literal["capped", "one_vs_others", "uncapped"]

# The masks, and what k is where nobody says.
_MASKS = {"soft": 0, "soft_adaptive": 7, "soft_topk": 1000, "hard_point": 7, "hard_box": 7}
_EMPTY = 1e-6


def contrast_loss(logits: Tensor, label: Tensor, contrast: Contrast = "capped") -> Tensor:
    """``l(x, not y)`` (PPI, eq. 3): how much of its class each of (B, classes) `logits` still shows.

    Args:
        logits: of images without their saliency.
        label: (B,) classes they are to lose.
        contrast: ``-min(CE, log M)`` with M classes, in [-log M, 0], which is content once the image is at chance;
            ``-log(1 - p)`` of the label's probability p ("one_vs_others"), from 0 up; or the paper's ``-CE``
            ("uncapped"), which has no lower bound.

    Returns:
        (B,) losses.
    """
    # Under autocast logits may come in bfloat16, too coarse for what is logged.
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
    own = label.unsqueeze(1)
    if contrast == "one_vs_others":
        return -log_p.scatter(1, own, -inf).logsumexp(1)
    kept = log_p.gather(1, own).squeeze(1)
    return kept.clamp(min=-log(logits.shape[1])) if contrast == "capped" else kept


def partners(known: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """(B,) another image for each: those that are `known` (B,) trade in a random ring; the rest keep themselves."""
    partner = torch.arange(len(known), device=known.device)
    ring = partner[known]
    shift = int(torch.randint(1, max(len(ring), 2), (), generator=generator))
    partner[known] = ring.roll(-shift)
    return partner


class PPI(Objective):
    """Proactive pseudo-intervention (Wang et al., 2020, eq. 1-5). Terms: "ppi_con", "ppi_reg" and "ppi_ad".

    A mask T in [0, 1] is made of the saliency s of the label, and what it covers is removed:
    ``x* = x - T (x - fill)``. "ppi_con" asks that x* lose its class, "ppi_reg" that s be small, and "ppi_ad" that
    ``x' = x - T_j (x - fill)``, masked by the saliency of another image j of the batch, keep it. Beside CE this is the
    paper's loss. All are means over the images that count: unlabelled ones never do, images whose mask is empty (its
    mean below 1e-6) not in "ppi_con", and an image that is the only one with a label not in "ppi_ad". "ppi_empty", the
    share of labelled images whose mask is empty, is only logged.

    Masks (thesis, 2.6.2), from s as it is or rescaled to s':
        soft: ``sigmoid(omega (s' - sigma))``.
        soft_adaptive: the same with ``sigma = mean s' + k std s'`` of each image, if that is below the maximum.
        soft_topk: the same with sigma the k-th largest entry of s'. The paper takes k = 1000 for CUB, of any explainer.
        hard_point: 1 where ``s > k std s``.
        hard_box: the box around these points, pooled over channels: centre of mass and 1.2 deviations of their
            coordinates to either side, rounded outwards; of each view by itself.
    Standard deviations are those of the population of an image's entries. An image without positive saliency has an
    empty adaptive, top-k or hard mask.

    Saliency of the image's shape masks each entry. Maps without channels, such as Grad-CAM, are resized to the image
    and stand for every channel, so that k of "soft_topk" counts entries, not pixels, of any map.

    Args:
        explainer: whose saliency; None is the paper's, ``WBP(detach=True, reduce=None)``. The paper compares
            `Gradient`, `GradCAM` and `LRP`.
        mask: see above.
        w1: weight of "ppi_con"; the paper takes 1 to 10, and for CUB 100 from epoch 20 on. The number 0 leaves a term
            out, and its forward with it.
        w2: weight of "ppi_reg".
        w3: weight of "ppi_ad".
        contrast: see `contrast_loss`. "one_vs_others" suits two classes, where it is the flipped label's CE.
        differentiable: gradients reach the weights through soft masks too. Hard masks are constants.
        sigma: the soft mask's threshold.
        omega: its sharpness, above 0.
        k: of the masks that have one; None is 1000 for "soft_topk" and 7 elsewhere.
        scale: s', see `sightline.maps.rescaled`: by the largest positive entry unless said otherwise.
        reg: the mean of ``|s'|`` over entries ("mean"), the sum of ``|s|`` ("raw_sum"), the mean of T ("mask"), or
            the mean of ``|s'|`` over the maps of every class ("all_classes", one backward for each).
        ad_target: x' is masked by the saliency of image j for its "own" label, or, as eq. 4 is printed, for the "same"
            label as that of x, which costs one more backward.
        ad_detach: hold that mask constant.
        fill: what replaces what is removed, in [0, 1], one value or one for each channel; None is what the network
            takes for 0, the mean of its own normalisation.
        bn_update: whether normalisation layers learn running statistics from "clean" images only, or from "all".
        signed: hard masks take positive saliency only; False takes ``|s|``.
        weighted: the box's centre and deviations weigh points by their saliency.

    Raises:
        SightlineError: an argument that is out of range or without effect, or no term left.
    """

    def __init__(
        self,
        explainer: Explainer | None = None,
        mask: Literal["soft", "soft_adaptive", "soft_topk", "hard_point", "hard_box"] = "soft",
        w1: Weight = 1.0,
        w2: Weight = 0.1,
        w3: Weight = 1.0,
        contrast: Contrast = "capped",
        differentiable: bool = True,
        sigma: float = 0.25,
        omega: float = 100.0,
        k: float | None = None,
        scale: Scale = "max",
        reg: Literal["mean", "raw_sum", "mask", "all_classes"] = "mean",
        ad_target: Literal["own", "same"] = "own",
        ad_detach: bool = True,
        fill: float | Sequence[float] | None = None,
        bn_update: Literal["clean", "all"] = "clean",
        signed: bool = True,
        weighted: bool = False,
    ) -> None:
        super().__init__()
        weights = {"ppi_con": w1, "ppi_reg": w2, "ppi_ad": w3}
        self.weights = nonnegative(**{name: weight for name, weight in weights.items() if weight != 0})
        self.teaches = "ppi_ad" in self.weights
        self.explainers = (explainer or WBP(detach=True, reduce=None),)
        self.mask, self.contrast, self.differentiable, self.scale, self.reg = mask, contrast, differentiable, scale, reg
        self.sigma, self.omega, self.k = sigma, omega, _MASKS.get(mask, 0) if k is None else k
        self.ad_target, self.ad_detach, self.fill, self.bn_update = ad_target, ad_detach, fill, bn_update
        self.signed, self.weighted = signed, weighted
        self._check()
        self._check_together()

    def _check(self) -> None:
        one_of(self, "mask", self.mask, tuple(_MASKS))
        one_of(self, "contrast", self.contrast, ("capped", "one_vs_others", "uncapped"))
        one_of(self, "scale", self.scale, ("max", "abs_max", "minmax", "none"))
        one_of(self, "reg", self.reg, ("mean", "raw_sum", "mask", "all_classes"))
        one_of(self, "ad_target", self.ad_target, ("own", "same"))
        one_of(self, "bn_update", self.bn_update, ("clean", "all"))
        number(self, "sigma", self.sigma)
        number(self, "omega", self.omega, 1e-6)
        number(self, "k", self.k, 0)

    def _check_together(self) -> None:
        soft, whole = self.mask.startswith("soft"), self.k >= 1 and self.k % 1 == 0
        finite = self.fill is None or bool(torch.tensor(self.fill).isfinite().all())
        trained = self._moves or "ppi_reg" not in self.weights
        for right, problem in (
            (self.weights, "w1, w2 and w3 are 0, and no term is left"),
            (self.mask != "soft" or self.k == 0, 'mask="soft" has no k; its threshold is sigma'),
            (self.mask != "soft_topk" or whole, f"soft_topk takes k entries, a whole number from 1 up, not {self.k:g}"),
            (self.signed or not soft, "signed=False is for hard masks"),
            (self.mask == "hard_box" or not self.weighted, 'weighted=True is for mask="hard_box"'),
            (self.reg != "mask" or trained, 'reg="mask" of a constant mask trains nothing; choose a soft, moving one'),
            (finite, f"fill is {self.fill!r}, not finite"),
        ):
            if not right:
                raise SightlineError(f"PPI: {problem}.")

    @property
    def _moves(self) -> bool:
        """Whether gradients reach the weights through the mask."""
        return self.differentiable and self.mask.startswith("soft")

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        label, known = single_label(step, batch, "PPI"), labelled(batch.label)
        maps = self._maps(step, batch, label, self._moves or "ppi_reg" in self.weights)
        mask = self._mask(maps, step.run(batch.image).channel)
        empty = mask.detach().flatten(1).mean(1) < _EMPTY
        terms = {"ppi_empty": _mean(empty, known)}
        if "ppi_con" in self.weights:
            losses = contrast_loss(self._without(step, batch, mask), label, self.contrast)
            terms["ppi_con"] = _mean(losses, known & ~empty)
        if "ppi_reg" in self.weights:
            terms["ppi_reg"] = _mean(self._size(step, batch, maps, mask), known)
        if "ppi_ad" in self.weights:
            terms["ppi_ad"] = self._adversarial(step, batch, mask, partners(known, step.random("ppi")))
        return terms

    def _adversarial(self, step: Step, batch: Batch, mask: Tensor, partner: Tensor) -> Tensor:
        """The cross-entropy of images without what the masks of their partners cover."""
        label = single_label(step, batch, "PPI")
        if self.ad_target == "same":
            on_partner = torch.empty_like(label).scatter(0, partner, label)
            maps = self._maps(step, batch, on_partner, self._moves and not self.ad_detach)
            mask = self._mask(maps, step.run(batch.image).channel)
        foreign = mask[partner].detach() if self.ad_detach else mask[partner]
        losses = F.cross_entropy(self._without(step, batch, foreign), label, reduction="none")
        return _mean(losses, partner != torch.arange(len(partner), device=partner.device))

    def _maps(self, step: Step, batch: Batch, target: Target, differentiable: bool) -> Tensor:
        """Saliency in the shape of the image; bfloat16 would be too coarse to compare its entries."""
        run = step.run(batch.image)
        maps = step.explain(self.explainers[0], batch.image, target, differentiable=differentiable)
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        if maps.ndim < batch.image.ndim:
            maps = resize(maps, run.size).unsqueeze(run.channel).expand_as(batch.image)
        return maps

    def _mask(self, maps: Tensor, channel: int) -> Tensor:
        if self.mask.startswith("hard"):
            return self._hard_mask(maps.detach(), channel).to(maps)
        saliency = rescaled(maps if self.differentiable else maps.detach(), self.scale)
        if self.mask == "soft":
            return soft_mask(saliency, self.sigma, self.omega)
        constant = saliency.detach()
        adaptive = self.mask == "soft_adaptive"
        sigma = adaptive_threshold(constant, self.k) if adaptive else top_k_threshold(constant, int(self.k))
        # With the threshold at 0, the sigmoid would take half of everything that the map leaves out.
        return soft_mask(saliency, sigma, self.omega).where((saliency > 0) | (sigma > 0), 0)

    def _hard_mask(self, maps: Tensor, channel: int) -> Tensor:
        points = hard_points(maps, self.k, self.signed)
        if self.mask == "hard_point":
            return points
        weights = (points * maps.abs() if self.weighted else points.to(maps)).sum(channel)
        # Several views of an image are as many images here.
        box = hard_box(weights.flatten(0, channel - 1)).view_as(weights)
        return box.unsqueeze(channel).expand_as(maps)

    def _size(self, step: Step, batch: Batch, maps: Tensor, mask: Tensor) -> Tensor:
        """(B,) how large the saliency of each image is."""
        if self.reg == "raw_sum":
            return maps.abs().flatten(1).sum(1)
        if self.reg == "mask":
            return mask.flatten(1).mean(1)
        classes = range(step.run(batch.image).logits.shape[1])
        drawn = [maps] if self.reg == "mean" else [self._maps(step, batch, each, True) for each in classes]
        return torch.stack([rescaled(each, self.scale).abs().flatten(1).mean(1) for each in drawn]).mean(0)

    def _without(self, step: Step, batch: Batch, mask: Tensor) -> Tensor:
        """The logits of the images without what the mask covers."""
        fill = filling(step.run(batch.image), self.fill, "PPI")
        masked = batch.image - mask.to(batch.image) * (batch.image - fill)
        return step.run(masked, (), update=self.bn_update == "all").logits


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of (B,) values over all processes' images `counted`; 0, still attached, if there are none."""
    count = counted.sum()
    return pooled(values.where(counted, 0).sum() / count.clamp(min=1), count)
