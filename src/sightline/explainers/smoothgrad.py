"""SmoothGrad: the gradient averaged over noisy copies of the image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sightline.arguments import at_least, number
from sightline.explainers.arguments import Reduce, check_reduce, reduced
from sightline.explainers.rerun import weighted_gradients
from sightline.passes import Pass, Target


@dataclass(frozen=True)
class SmoothGrad:
    """``mean_s dz/dx`` at ``x + sigma * n_s`` with standard normal ``n_s`` (Smilkov et al., 2017).

    sigma is `noise` times the image's own range, its largest value less its smallest. Every image of a batch gets the
    same draws, so its map does not depend on its neighbours. The class explained is settled on the clean image.

    The model runs `samples` more times in whatever mode it is in, and is left as it was. In training mode BatchNorm
    normalises by the statistics of the noisy batch; the maps then depend on `batch_size`.

    Args:
        samples: noisy copies.
        noise: sigma over the image's range; the paper finds 0.1 to 0.2 best.
        squared: average the squares of the gradient (SmoothGrad-Squared).
        reduce: over channels, see `Gradient`; after the average.
        seed: of the noise.
        batch_size: about how many images run at once; unless given, the pass's own batch, or half a megapixel of images
            if that is more and the model is not training.
    """

    samples: int = 25
    noise: float = 0.1
    squared: bool = False
    reduce: Reduce = "sum"
    seed: int = 0
    batch_size: int | None = None

    taps: ClassVar[tuple[str, ...]] = ()
    ruled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_reduce(self)
        at_least(1, self, "samples", "batch_size")
        at_least(0, self, "seed")
        number(self, "noise", self.noise, 0)

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map at the image's resolution, signed under "sum"; non-negative if squared."""
        image, generator = run.image.detach(), torch.Generator().manual_seed(self.seed)
        sigma = self.noise * value_range(image)
        mean = weighted_gradients(
            run, run.target(target), (image + sigma * _normal(image, generator) for _ in range(self.samples)),
            [1 / self.samples] * self.samples, squared=self.squared, batch_size=self.batch_size,
            differentiable=differentiable,
        )  # fmt: skip
        return reduced(mean, self.reduce, run.channel)


def value_range(images: Tensor) -> Tensor:
    """Largest less smallest value of each image, (B, 1, ...)."""
    flat = images.flatten(1)
    return (flat.amax(1) - flat.amin(1)).view(-1, *[1] * (images.ndim - 1))


def _normal(images: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn in float32 on the CPU: the same noise at any precision, on any device.
    return torch.randn(images.shape[1:], generator=generator, dtype=torch.float32).to(images)
