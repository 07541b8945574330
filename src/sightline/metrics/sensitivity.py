"""Sensitivity: how far a map moves when noise that nobody sees is added to its image."""

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor

from sightline.errors import SightlineError
from sightline.metrics.per_image import PerImage, Scores
from sightline.seeds import seeded
from sightline.types import Evidence, Images, Maps


def max_sensitivity(
    explain: Callable[[Tensor], Tensor],
    image: Images,
    maps: Maps,
    index: Int[Tensor, " b"],
    *,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
) -> Scores:
    """``max over d of |g(x + d) - g(x)| / |g(x)|``, with d uniform in [-radius, radius] for each value of the image.

    The norms are Euclidean; x + d is cut to [0, 1] (Yeh et al., "On the (in)fidelity and sensitivity of explanations",
    NeurIPS 2019, whose maximum over the whole ball is estimated by `samples` draws, as they do).

    Args:
        explain: images -> maps (B, *spatial), g.
        image: (B, C, *spatial) in [0, 1], or with several views.
        maps: (B, *spatial) maps g(x), at the resolution of `explain`.
        index: (B,) identities of the images, which the noise is drawn by.
        radius: of the noise, as a share of the range of the image's values.
        samples: how many draws.
        seed: of the noise.

    Returns:
        (B,) 0 or more, free of the maps' scale; NaN where the map is zero everywhere.
    """
    generators = [seeded(seed, i) for i in index.tolist()]
    moved = [_length(explain(_shaken(image, generators, radius)) - maps) for _ in range(samples)]
    return (torch.stack(moved).amax(0) / _length(maps)).masked_fill(~(_length(maps) > 0), torch.nan)


def _length(maps: Tensor) -> Scores:
    length: Tensor = maps.flatten(1).norm(dim=1)
    return length


def _shaken(image: Images, generators: list[torch.Generator], radius: float) -> Images:
    noise = torch.stack([torch.rand(image.shape[1:], generator=generator) for generator in generators])
    return (image + radius * (2 * noise.to(image) - 1)).clamp(0, 1)


class MaxSensitivity(PerImage):
    """Max-sensitivity: the mean over images of `max_sensitivity`; lower is better. All-zero maps are not scored.

    An image costs as many maps as there are samples.

    Args:
        radius: of the noise, as a share of the range of the image's values.
        samples: how many draws.
        seed: of the noise, which is drawn by the image's index.

    Raises:
        SightlineError: an unusable argument.
    """

    key = "sensitivity"
    higher_is_better = False
    needs = ("image", "explain")

    def __init__(self, radius: float = 0.02, samples: int = 10, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < radius <= 1 or samples < 1 or seed < 0:
            raise SightlineError(
                f"MaxSensitivity: radius={radius}, samples={samples}, seed={seed}: expected a radius above 0 and at "
                "most 1, at least one sample and a seed of 0 or more."
            )
        self.radius, self.samples, self.seed = radius, samples, seed

    def score(self, evidence: Evidence) -> Scores:
        """(B,) sensitivity of each map, NaN where it is zero everywhere."""
        image, explain = cast(Tensor, evidence.image), cast(Callable[[Tensor], Tensor], evidence.explain)
        options: dict[str, Any] = {"radius": self.radius, "samples": self.samples, "seed": self.seed}
        return max_sensitivity(explain, image, evidence.map, evidence.index, **options)
