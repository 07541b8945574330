"""Infidelity: whether what a map puts into a square is what the square's removal costs."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sightline.errors import SightlineError
from sightline.metrics.per_image import PerImage, Scores, channel_of
from sightline.metrics.steps import Predict, at_size_of, origin_of
from sightline.seeds import seeded
from sightline.types import Evidence, Maps

Samples = Float[Tensor, "b samples"]


def infidelity(mass: Samples, drop: Samples) -> Scores:
    """``min over beta >= 0 of E[(drop - beta mass)^2] / E[drop^2]``.

    That is the infidelity of Yeh et al. ("On the (in)fidelity and sensitivity of explanations", NeurIPS 2019) with
    square removal: the perturbation I is x - zero inside a square and 0 outside; the map answers to it with its sum
    over the square, the mass, and the model with ``drop = f(x) - f(x - I)``. A map has no unit, so it gets the scale
    that suits it best. The derivative in beta vanishes at ``beta = E[mass drop] / E[mass^2]``, which leaves
    ``1 - E[mass drop]^2 / (E[mass^2] E[drop^2])``; a scale below 0 would turn the map around, so the best is then
    beta = 0, which leaves 1. Divided by E[drop^2], it is free of the logits' scale too, and by the Cauchy-Schwarz
    inequality it lies in [0, 1].

    Args:
        mass: (B, samples) the map's sum over each square, 0 or more.
        drop: (B, samples) by how much the square's removal lowers the logit.

    Returns:
        (B,) 0 where drops and masses are proportional, 1 where the masses say nothing; NaN where no square has an
        effect.
    """
    m, d = mass.double(), drop.double()  # squares of squares leave float32's range
    both, of_mass, of_drop = (m * d).mean(1).clamp(min=0), m.square().mean(1), d.square().mean(1)
    left = 1 - torch.where(of_mass == 0, 0, both.square() / (of_mass * of_drop))
    return left.clamp(min=0).masked_fill(~(of_drop > 0), torch.nan).to(mass)


def squares(
    index: Int[Tensor, " b"], size: Sequence[int], side: int, samples: int, seed: int
) -> Iterator[Bool[Tensor, "b ..."]]:
    """`samples` times a mask (B, *size) of one random square in each image, drawn by its index."""
    free = torch.tensor(size) - side + 1
    drawn = torch.stack([torch.rand(samples, len(size), generator=seeded(seed, i)) for i in index.tolist()], 1)
    for start in (drawn * free).floor():
        inside = torch.ones(len(index), *[1] * len(size), dtype=torch.bool)
        for axis, length in enumerate(size):
            offset = torch.arange(length) - start[:, axis, None]
            along = (offset >= 0) & (offset < side)
            inside = inside & along.view(-1, *(length if axis == other else 1 for other in range(len(size))))
        yield inside.to(index.device)


class Infidelity(PerImage):
    """Infidelity, by `infidelity`, of the target's logit, for random squares; lower is better.

    All-zero maps are not scored, nor are images in which no square has an effect. Squares are cubes in volumes, and lie
    at one place in all views. An image costs as many forwards as there are samples.

    Args:
        samples: how many squares.
        side: of the squares, as a share of the shortest side of the image.
        seed: of the squares, which are drawn by the image's index.

    Raises:
        SightlineError: an unusable argument, or maps that do not fit the images.
    """

    key = "infidelity"
    higher_is_better = False
    needs = ("image", "predict", "target")

    def __init__(self, samples: int = 30, side: float = 0.25, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if samples < 2 or not 0 < side <= 1 or seed < 0:
            raise SightlineError(
                f"Infidelity: samples={samples}, side={side}, seed={seed}: expected 2 squares or more, with a side "
                "above 0 and at most 1 of the image's, and a seed of 0 or more."
            )
        self.samples, self.side, self.seed = samples, side, seed

    @torch.no_grad()
    def score(self, evidence: Evidence) -> Scores:
        """(B,) infidelity of each map, NaN where it is not defined."""
        image = cast(Tensor, evidence.image)
        channel = channel_of(image, evidence.mask)
        size = image.shape[channel + 1 :]
        side = max(1, round(self.side * min(size)))
        heat = at_size_of(image, evidence.map, channel)
        masks = squares(evidence.index, size, side, self.samples, self.seed)
        answers = [(_sum_in(heat, inside), _drop_without(evidence, inside)) for inside in masks]
        mass, drop = (torch.stack(each, 1) for each in zip(*answers, strict=True))
        return infidelity(mass, drop).masked_fill(~(heat.flatten(1).amax(1) > 0), torch.nan)


def _sum_in(heat: Maps, inside: Bool[Tensor, "b ..."]) -> Scores:
    """(B,) each map's sum over its square."""
    return torch.where(_over(inside, heat), heat, 0).flatten(1).sum(1)


def _drop_without(evidence: Evidence, inside: Bool[Tensor, "b ..."]) -> Scores:
    """(B,) by how much the target's logit falls when each image loses its square."""
    image, predict = cast(Tensor, evidence.image), cast(Predict, evidence.predict)
    left = predict(torch.where(_over(inside, image), origin_of(image, evidence.zero), image))
    return (evidence.logits - left).gather(1, cast(Tensor, evidence.target).unsqueeze(1)).squeeze(1)


def _over(inside: Bool[Tensor, "b ..."], values: Tensor) -> Bool[Tensor, "b ..."]:
    """Masks (B, *spatial) in a shape that broadcasts to values with axes between."""
    return inside.view(len(inside), *[1] * (values.ndim - inside.ndim), *inside.shape[1:])
