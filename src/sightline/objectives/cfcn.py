"""CFCN: feature maps are to lie inside the few masks that people drew."""

from typing import Literal

import torch
from torch import Tensor

from sightline.explainers import GradCAM
from sightline.layers import spatial
from sightline.maps import resize, resize_transposed
from sightline.objectives.base import Objective, evidence, nonnegative, single_label
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.types import Batch

Dead = Literal["literal", "ignore"]


def causal_focus_loss(maps: Tensor, mask: Tensor, eps: float = 1e-8, dead: Dead = "literal") -> Tensor:
    """``1 - (1/F) sum_f [sum(A * M_f) / (sum M_f + eps)]`` for each image; CFCN eq. 1, and eq. 2 where F = 1.

    Args:
        maps: (B, F, *spatial) non-negative maps M.
        mask: (B, *spatial) in [0, 1], the annotation A. If it is of another size, M stands for the maps resized to it.
        eps: keeps an all-zero map finite.
        dead: an all-zero map counts as wholly outside ("literal", the formula) or as no loss ("ignore").

    Returns:
        (B,) in [0, 1]: the mean share of the maps' mass that lies outside the mask.
    """
    # Both sums are linear in the maps: pulling two masks down to the maps gives what hundreds of maps resized up would.
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    pulled = [resize_transposed(m.to(maps), maps.shape[2:]).flatten(1) for m in (mask, torch.ones_like(mask))]
    with torch.autocast(maps.device.type, enabled=False):
        inside, mass = (maps.flatten(2) @ torch.stack(pulled, 2)).unbind(2)
    inside = inside / (mass + eps)
    if dead == "ignore":
        inside = torch.where(mass > 0, inside, 1)
    return 1 - inside.mean(1)


class CFCN(Objective):
    """Causally focused training on partly annotated data. Term: "cfcn", in [0, 1]; images without a mask count 0.

    Variant F pulls every feature map of the layer into the mask (eq. 1). Variant C pulls only the map of the image's
    own class (eq. 2): the element-wise Grad-CAM of the label, which on the paper's network (`sightline:cfcn_c`, class
    maps averaged into logits) is that class's map, and which gives the same loss a meaning on any other network.

    Args:
        variant: "F" or "C".
        weight: the paper's alpha; 1 to 3 there.
        layer: whose maps; None lets `find_layer` choose.
        resize: bring "maps" up to the masks' size or "masks" down to the maps'; linear either way.
        dead: see `causal_focus_loss`.
    """

    def __init__(
        self,
        variant: Literal["F", "C"] = "C",
        weight: Weight = 1.0,
        layer: str | None = None,
        resize: Literal["maps", "masks"] = "maps",
        dead: Dead = "literal",
    ) -> None:
        super().__init__()
        self.weights = nonnegative(cfcn=weight)
        self.explainers = (GradCAM(layer, elementwise=True),)
        self.variant, self.resize, self.dead = variant, resize, dead

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        maps, mask = self._maps(step, batch), evidence(step, batch, "CFCN")
        if self.resize == "masks":
            mask = resize(mask, maps.shape[2:])
        per_image = causal_focus_loss(maps, mask, dead=self.dead)
        return {"cfcn": (per_image * batch.has_mask).mean()}

    def _maps(self, step: Step, batch: Batch) -> Tensor:
        """(B, F, *spatial) non-negative maps: all of the layer's, or the one of the label."""
        (explainer,) = self.explainers
        if self.variant == "F":
            return spatial(step.run(batch.image).tap(*explainer.taps)).relu()
        return step.explain(explainer, batch.image, single_label(step, batch, "CFCN-C")).unsqueeze(1)
