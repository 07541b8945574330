"""Contrastive consistency of maps: those of transformed images against the transformed maps of the images."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.maps import normalize, resize
from sightline.views import Crop

Anchor = Literal["orig", "aug"]


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
    anchors, views = unit_pair(maps, augmented, crop)
    return contrast(anchors, views, views, 0, tau, anchor)


def unit_pair(maps: Tensor, augmented: Tensor, crop: Crop) -> tuple[Tensor, Tensor]:
    """The transformed maps of the images and the maps of the transformed images, (B, pixels) each, of length 1."""
    # T is linear and keeps constants, so cutting commutes with `normalize`; both maps are scaled before they are cut.
    cut = crop.apply(normalize(resize(maps, crop.size)))
    return F.normalize(cut.flatten(1)), F.normalize(normalize(resize(augmented, crop.size)).flatten(1))


def contrast(anchors: Tensor, views: Tensor, everyone: Tensor, first: int, tau: float, anchor: Anchor) -> Tensor:
    """(B,) cross-entropies of each pair against `everyone`'s views (N, pixels), among which one's own begin at `first`.

    See `cgc_loss` for the formula.
    """
    own = first + torch.arange(len(views), device=views.device)
    # Autocast would leave cosines the eight bits of bfloat16.
    with torch.autocast(anchors.device.type, enabled=False):
        if anchor == "orig":
            similarity = anchors @ everyone.T
        else:
            similarity = (views @ everyone.T).scatter(1, own.unsqueeze(1), (anchors * views).sum(1, keepdim=True))
    return F.cross_entropy(similarity / tau, own, reduction="none")
