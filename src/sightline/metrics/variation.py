"""Flips and stability: what another background or another light does to the decision and to the map."""

from abc import abstractmethod
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sightline.arguments import one_of
from sightline.errors import SightlineError
from sightline.metrics.per_image import Curve, Scores, channel_of
from sightline.types import Evidence, Images, Maps
from sightline.views import surrounded

Under = Literal["background", "brightness"]
BRIGHTNESS = (0.5, 0.75, 1.25, 1.5)
"""What images are multiplied by."""


def cosine(a: Maps, b: Maps) -> Scores:
    """``<a, b> / (|a| |b|)`` of each pair of maps.

    Args:
        a: (B, *spatial).
        b: likewise, at the same resolution.

    Returns:
        (B,) in [0, 1] for non-negative maps, free of their scales; NaN where either is all zero.

    Raises:
        SightlineError: maps of different shapes.
    """
    if a.shape != b.shape:
        raise SightlineError(f"cannot compare maps of shapes {tuple(a.shape)} and {tuple(b.shape)}: resize them first.")
    return (_unit(a) * _unit(b)).sum(1).clamp(-1, 1)


def _unit(maps: Maps) -> Tensor:
    """(B, n) each map at length 1; NaN where it is all zero."""
    flat = maps.flatten(1).to(torch.promote_types(maps.dtype, torch.float32))
    # The squares of small values would be 0.
    flat = flat / flat.abs().amax(1, keepdim=True)
    unit: Tensor = flat / flat.norm(dim=1, keepdim=True)
    return unit


def brightened(image: Images, factor: float) -> Images:
    """``clip(factor * image, 0, 1)``."""
    return (factor * image).clamp(0, 1)


class Variation(Curve):
    """What a change of the images does, one place of the curve for each change. A subclass writes `effect`.

    "background" puts the evidence of an image into the surroundings of another one, of another class, which is drawn by
    the image's index; images without a mask are not scored. "brightness" multiplies the image by 0.5, 0.75, 1.25 and
    1.5, clipped to [0, 1]. The two changes are those of "Causally focused convolutional networks" (2022), fig. 9.

    Args:
        under: "background" or "brightness"; becomes part of the key.

    Raises:
        SightlineError: an unknown `under`.
    """

    def __init__(self, under: Under = "background", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.under = one_of(self, "under", under, Under)
        self.key = f"{type(self).key}_{under}"
        self.needs = (*type(self).needs, *(("others",) if under == "background" else ()))

    @property
    def axis(self) -> tuple[float, ...]:
        """The factors of the brightness; 1 for the one background."""
        return BRIGHTNESS if self.under == "brightness" else (1.0,)

    @abstractmethod
    def effect(self, evidence: Evidence, altered: Images) -> Scores:
        """(B,) what the altered images change."""

    def curve(self, evidence: Evidence) -> Float[Tensor, "b p"]:
        """(B, p) the effect of each change."""
        assert evidence.image is not None
        if self.under == "brightness":
            images = (brightened(evidence.image, factor) for factor in BRIGHTNESS)
            return torch.stack([self.effect(evidence, altered) for altered in images], 1)
        found = self.effect(evidence, _elsewhere(evidence)).masked_fill(~evidence.has_mask, torch.nan)
        return found.unsqueeze(1)

    def sum_up(self, curve: Float[Tensor, "b p"]) -> Scores:
        """(B,) mean over the changes; NaN if one of them is."""
        return curve.mean(1)


def _elsewhere(evidence: Evidence) -> Images:
    """The evidence of each image in the surroundings of the first of its others."""
    assert evidence.image is not None
    assert evidence.others is not None
    channel = channel_of(evidence.image, evidence.mask)
    return surrounded(evidence.image, evidence.others[:, 0], evidence.mask, evidence.has_mask, channel)


class FlipRate(Variation):
    """The share of images whose prediction changes with the background, or with the brightness; less is better.

    See `Variation` for the changes. The label plays no part: a wrong prediction that stays is no flip.

    Args:
        under: "background" or "brightness".

    Raises:
        SightlineError: an unknown `under`.
    """

    key = "flips"
    needs = ("image", "predict")
    of_map = False
    higher_is_better = False

    def effect(self, evidence: Evidence, altered: Images) -> Scores:
        """(B,) 1 where the prediction is another, else 0."""
        assert evidence.predict is not None
        with torch.no_grad():
            return (evidence.predict(altered).argmax(1) != evidence.logits.argmax(1)).float()


class MapStability(Variation):
    """The cosine similarity of the maps before and after the background, or the brightness, changed.

    See `Variation` for the changes, and `cosine`. Both maps are of the same class, at their own resolution; images for
    which either is all zero are not scored.

    Args:
        under: "background" or "brightness".

    Raises:
        SightlineError: an unknown `under`.
    """

    key = "stability"
    needs = ("image", "explain")

    def effect(self, evidence: Evidence, altered: Images) -> Scores:
        """(B,) in [0, 1]."""
        assert evidence.explain is not None
        return cosine(evidence.map, evidence.explain(altered).detach().to(evidence.map))
