"""SPG: do points drawn from a map lie on the evidence?"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sightline.arguments import one_of
from sightline.errors import SightlineError
from sightline.metrics.content import Zero, content_heatmap
from sightline.metrics.distance import checked_margin, near
from sightline.metrics.per_image import PerImage, Scores, drawn, on_mask
from sightline.types import Evidence, Maps, Masks


def stochastic_pointing_game(
    maps: Maps,
    mask: Masks,
    margin: float = 15.0,
    points: int | None = 100,
    index: Int[Tensor, " b"] | None = None,
    seed: int = 0,
    zero: Zero = "skip",
) -> Scores:
    """Share of `points`, drawn from ``map / sum(map)``, that lie on the mask dilated by an open disc.

    Pillai and Pirsiavash 2021, "Stochastic Pointing Game"; the points are drawn with replacement. Its expectation is
    the mass of the normalised map within the dilated mask, and that is what `points=None` asks for.

    Args:
        maps: (B, *spatial) maps at any resolution, in 1, 2 or 3 dimensions; resized to the masks' size, negative values
            cut off.
        mask: (B, *spatial) in [0, 1]; pixels above 0.5 are evidence.
        margin: in pixels of the masks, see `pointing_game`.
        points: how many are drawn; None for the exact expectation.
        index: (B,) identity of each image, 0 or more, which with `seed` decides its draws; where it is left out, its
            place in the batch.
        seed: 0 or more.
        zero: an all-zero map is not scored ("skip": NaN), scored as the expectation of a uniform map ("uniform") or as
            a miss ("zero").

    Returns:
        (B,) in [0, 1], free of the maps' scale.

    Raises:
        SightlineError: the maps do not fit the masks.
    """
    index = torch.arange(len(maps)) if index is None else index
    draws = None if points is None else _draws(index, (1, points), seed)
    return _rates(maps, mask, margin, draws, zero).squeeze(1)


def _draws(index: Int[Tensor, " b"], size: tuple[int, int], seed: int) -> Float[Tensor, "b runs points"]:
    """Uniform numbers in [0, 1), each image's own."""
    return drawn(index, seed, lambda draws: draws.random(size))


def _rates(
    maps: Maps, mask: Masks, margin: float, draws: Float[Tensor, "b runs points"] | None, zero: Zero
) -> Float[Tensor, "b runs"]:
    """The share of each run's points that hit; the exact one where nothing is drawn."""
    heat, inside = on_mask(maps, mask), near(mask, margin)
    exact = content_heatmap(heat, inside.to(heat), zero).unsqueeze(1)
    if draws is None:
        return exact
    total = heat.flatten(1).sum(1, keepdim=True)
    point = _points(heat.flatten(1), draws.to(heat.device).flatten(1))
    hit = inside.flatten(1).gather(1, point).view(draws.shape).to(heat)
    return torch.where((total > 0) & total.isfinite(), hit.mean(2), exact)


def _points(heat: Float[Tensor, "b pixels"], draws: Float[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """The pixel that each draw falls on: the first whose cumulative share of the map exceeds it."""
    mass = heat.double().cumsum(1)
    # The last share is exactly 1, which no draw reaches, unless the map is empty.
    return torch.searchsorted(mass / mass[:, -1:], draws, right=True).clamp(max=heat.shape[1] - 1)


class StochasticPointingGame(PerImage):
    """SPG: the mean share of points drawn from the maps that lie on the evidence, or within a margin of it.

    Images without a mask are not scored. An image's draws depend on its index and the seed alone.

    Args:
        margin: in pixels of the masks.
        points: drawn from each map in each run; None for the exact expectation.
        runs: how often the game is played. An image's score is the mean over the runs, `run_means` tells them apart;
            the paper prints mean and deviation of 5.
        seed: of the draws, 0 or more.
        zero: "skip", "uniform" or "zero", see `stochastic_pointing_game`.

    Raises:
        SightlineError: an unusable argument.
    """

    key = "spg"
    rates: list[Tensor]

    def __init__(
        self,
        margin: float = 15.0,
        points: int | None = 100,
        runs: int = 1,
        seed: int = 0,
        zero: Zero = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (points is not None and points < 1) or runs < 1 or seed < 0 or (points is None and runs > 1):
            raise SightlineError(
                f"StochasticPointingGame: points={points}, runs={runs}, seed={seed}. Expected 1 or more points in 1 or "
                "more runs and a seed of 0 or more; or points=None, which is exact, in 1 run."
            )
        self.margin = checked_margin("StochasticPointingGame", margin)
        self.points, self.runs, self.seed = points, runs, seed
        self.zero = one_of(self, "zero", zero, Zero)
        self.add_state("rates", default=[], dist_reduce_fx="cat")

    def score(self, evidence: Evidence) -> Scores:
        """(B,) share of hits over all runs, NaN where it is not defined."""
        return self._played(evidence).mean(1)

    def update(self, evidence: Evidence) -> None:
        """Score a batch."""
        rates = self._played(self._complete(evidence))
        self.rates.append(rates.detach())
        self._keep(evidence, rates.mean(1))

    def run_means(self) -> Float[Tensor, " runs"]:
        """The mean over the images for each run; its standard deviation is the spread that the paper prints."""
        with self.sync_context():
            return self._distinct(self.rates).nanmean(0)

    def _played(self, evidence: Evidence) -> Float[Tensor, "b runs"]:
        draws = None if self.points is None else _draws(evidence.index, (self.runs, self.points), self.seed)
        rates = _rates(evidence.map, evidence.mask, self.margin, draws, self.zero)
        return rates.masked_fill(~evidence.has_mask.unsqueeze(1), torch.nan)
