"""CFCN: feature maps are to lie inside the few masks that people drew."""

from typing import Literal

import torch
from torch import Tensor

from sightline.arguments import one_of
from sightline.explainers import GradCAM
from sightline.maps import resize, resize_transposed
from sightline.objectives.base import Objective, evidence, labelled, layer_maps, nonnegative, single_label
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.types import Batch

Dead = Literal["literal", "ignore"]


def causal_focus_loss(
    maps: Tensor, mask: Tensor, eps: float = 1e-8, dead: Dead = "literal", present: Tensor | None = None
) -> Tensor:
    """``1 - (1/F) sum_f [sum(A_f * M_f) / (sum M_f + eps)]`` for each image.

    CFCN eq. 1 where all maps share a mask, eq. 2 where F = 1, eq. 3 where the maps are those of the classes and each
    has its own mask.

    Args:
        maps: (B, F, *spatial) non-negative maps M.
        mask: (B, *spatial) in [0, 1], the annotation A, or (B, F, *spatial), one for each map. If it is of another
            size, M stands for the maps resized to it.
        eps: keeps an all-zero map finite.
        dead: an all-zero map counts as wholly outside ("literal", the formula) or as no loss ("ignore").
        present: (B, F) bool, the maps the mean is taken over; an image without any counts 0. None for all.

    Returns:
        (B,) in [0, 1]: the mean share of the maps' mass that lies outside the mask.
    """
    if mask.ndim == maps.ndim:
        outside = _outside(maps.flatten(0, 1).unsqueeze(1), mask.flatten(0, 1), eps, dead).view(maps.shape[:2])
    else:
        outside = _outside(maps, mask, eps, dead)
    if present is None:
        return outside.mean(1)
    return (outside * present).sum(1) / present.sum(1).clamp(min=1)


def _outside(maps: Tensor, mask: Tensor, eps: float, dead: Dead) -> Tensor:
    """(B, F) share of each map's mass that lies outside its image's mask (B, *spatial)."""
    # Both sums are linear in the maps: pulling two masks down to the maps gives what hundreds of maps resized up would.
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    pulled = [resize_transposed(m.to(maps), maps.shape[2:]).flatten(1) for m in (mask, torch.ones_like(mask))]
    with torch.autocast(maps.device.type, enabled=False):
        inside, mass = (maps.flatten(2) @ torch.stack(pulled, 2)).unbind(2)
    outside = 1 - inside / (mass + eps)
    return outside.where(mass > 0, 0) if dead == "ignore" else outside


class CFCN(Objective):
    """Causally focused training on partly annotated data. Term: "cfcn", in [0, 1]; images without a mask count 0.

    Variant F pulls every feature map of the layer into the mask (eq. 1). Variant C pulls only the map of the image's
    own class (eq. 2): the element-wise Grad-CAM of the label, which on the paper's network (`sightline:cfcn_c`, class
    maps averaged into logits) is that class's map, and which gives the same loss a meaning on any other network.
    Images labelled -1 count 0 there.

    With labels (B, classes), variant C pulls the map of each class an image has into that class's mask (eq. 3), and
    variant F all maps into the union of those masks. Masks are (B, classes, *spatial), or (B, *spatial) for all classes
    of an image alike.

    Args:
        variant: "F" or "C".
        weight: the paper's alpha; 1 to 3 there.
        layer: whose maps; None lets `find_layer` choose.
        resize: bring "maps" up to the masks' size or "masks" down to the maps'; linear either way.
        dead: see `causal_focus_loss`.
        absent: classes an image does not have are left out of eq. 3 ("ignore"), or each count 1, a constant, as its
            empty mask makes of the formula ("literal").

    Raises:
        SightlineError: an unknown choice, or a weight that is none.
    """

    needs = ("masks",)
    teaches = False

    def __init__(
        self,
        variant: Literal["F", "C"] = "C",
        weight: Weight = 1.0,
        layer: str | None = None,
        resize: Literal["maps", "masks"] = "maps",
        dead: Dead = "literal",
        absent: Literal["ignore", "literal"] = "ignore",
    ) -> None:
        super().__init__()
        self.weights = nonnegative(cfcn=weight)
        self.explainers = (GradCAM(layer, elementwise=True),)
        self.variant, self.resize, self.dead, self.absent = variant, resize, dead, absent
        one_of(self, "variant", self.variant, ("F", "C"))
        one_of(self, "resize", self.resize, ("maps", "masks"))
        one_of(self, "dead", self.dead, ("literal", "ignore"))
        one_of(self, "absent", self.absent, ("ignore", "literal"))

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        if self.variant == "F":
            per_image = self._loss(layer_maps(step.run(batch.image), *self.taps).relu(), _union(step, batch))
        elif batch.label.ndim == 1:
            (explainer,) = self.explainers
            own = step.explain(explainer, batch.image, single_label(step, batch, "CFCN"))
            per_image = self._loss(own.unsqueeze(1), evidence(step, batch, "CFCN"))
        else:
            per_image = self._each_class(step, batch)
        return {"cfcn": (per_image * self._guided(batch)).mean()}

    def _guided(self, batch: Batch) -> Tensor:
        """(B,) bool: an image with a mask and, where it has to be known of which class, a label."""
        if self.variant == "F" and batch.mask.ndim < batch.image.ndim:
            return batch.has_mask
        return batch.has_mask & labelled(batch.label)

    def _each_class(self, step: Step, batch: Batch) -> Tensor:
        """(B,) losses of eq. 3."""
        present = (batch.label > 0) & batch.has_mask.unsqueeze(1)
        most = int(present.sum(1).amax())
        per_image = self._present(step, batch, present, most) if most else step.run(batch.image).logits.sum(1) * 0
        if self.absent == "literal":
            per_image = 1 - present.to(per_image).mean(1) * (1 - per_image)
        return per_image

    def _present(self, step: Step, batch: Batch, present: Tensor, most: int) -> Tensor:
        """(B,) means over the classes that are `present` (B, classes), `most` in any image."""
        (explainer,) = self.explainers
        # The k-th class of every image is explained in one go: as many maps as the richest image has classes.
        classes = present.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        maps = [step.explain(explainer, batch.image, target) for target in classes.unbind(1)]
        mask = batch.mask
        if mask.ndim == batch.image.ndim:
            mask = mask[torch.arange(len(mask), device=mask.device).unsqueeze(1), classes]
        return self._loss(torch.stack(maps, 1), mask, present.gather(1, classes))

    def _loss(self, maps: Tensor, mask: Tensor, present: Tensor | None = None) -> Tensor:
        mask = resize(mask, maps.shape[2:]) if self.resize == "masks" else mask
        return causal_focus_loss(maps, mask, dead=self.dead, present=present)


def _union(step: Step, batch: Batch) -> Tensor:
    """(B, *spatial) mask of whatever classes an image has."""
    if batch.label.ndim == 1 or batch.mask.ndim < batch.image.ndim:
        return evidence(step, batch, "CFCN")
    present = (batch.label > 0).view(*batch.label.shape, *[1] * (batch.mask.ndim - 2))
    return (batch.mask * present).amax(1)
