"""Outside: features beside the evidence are to be silent, at every depth."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.arguments import one_of
from sightline.errors import SightlineError, did_you_mean
from sightline.layers import candidates
from sightline.objectives.base import Objective, evidence, layer_maps, nonnegative
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.types import Batch

POOLED = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
"""By the image's axes."""


def energy_share(features: Tensor, mask: Tensor, eps: float = 1e-5) -> Tensor:
    """Of the mean of ``|F|^2`` where the mask is 0 and where it is 1, the share of the first: ``E_0 / (E_0 + E_1)``.

    Features that are larger or smaller everywhere have the same share, so that its gradient has no part along which
    a network falls silent.

    Args:
        features: (B, C, *spatial) F.
        mask: (B, *spatial) of zeros and ones.
        eps: the least that the denominator can be.

    Returns:
        (B,) in [0, 1]; 0 where the mask is 1 everywhere, or nowhere.
    """
    energy, inside = features.square().mean(1).flatten(1), mask.flatten(1)
    outside, within = ((energy * part).sum(1) / part.sum(1).clamp(min=1) for part in (1 - inside, inside))
    return outside / (outside + within).clamp(min=eps) * inside.any(1)


class Outside(Objective):
    """The energy of features outside of the evidence, at several depths at once. Term: "outside".

    ``mean over layers l of  E_l(outside) / (E_l(outside) + E_l(inside))``, with E the mean of the squared features over
    positions and channels. A cell of a layer is inside if any of its pixels is evidence. At the last layer alone, a
    penalty leaves cells on the object that have seen what surrounds it; here the early layers are silent there too, so
    that there is little to be seen. Its kin is the activation difference of Viviano et al. (ICLR 2021), which compares
    the features of an image with those of the masked image. Images without a mask count 0.

    Args:
        weight: factor in the loss, and the most that the term can be. The more, the further the decision follows, until
            accuracy suffers; a network that ends in an average bears less of it.
        layers: whose outputs: names, or "activations", every activation that is a module of `torch.nn`; of one that a
            network uses several times, the last use. None takes the last layer of each resolution.

    Raises:
        SightlineError: `layers` is another word; from `bind`, there is no such layer, or none to take.
    """

    needs = ("masks",)
    teaches = False

    def __init__(self, weight: Weight = 10.0, layers: Literal["activations"] | Sequence[str] | None = None) -> None:
        super().__init__()
        self.weights = nonnegative(outside=weight)
        self.layers = layers
        if isinstance(layers, str):
            one_of(self, "layers", self.layers, ("activations",))

    def bind(self, model: nn.Module, size: int | Sequence[int]) -> None:
        """Settle on `layers`."""
        modules = dict(model.named_modules())
        if self.layers is None:
            self.layers = last_of_each_resolution(model, size)
        elif self.layers == "activations":
            told = [candidate.name for candidate in candidates(model, size) if candidate.told]
            self.layers = [name for name in told if is_activation(modules[name])]
        for name in self.layers:
            if name not in modules:
                raise SightlineError(f"Outside(layers={list(self.layers)}): {did_you_mean(name, modules)}")
        if not self.layers:
            raise SightlineError("Outside: no layer's output tells where its positions lie. Pass layers=.")

    @property
    def taps(self) -> tuple[str, ...]:
        return tuple(self.layers or ())

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        run, mask = step.run(batch.image), evidence(step, batch, "Outside")
        pooled, shares = POOLED[len(run.size)], []
        for name in self.taps:
            maps = layer_maps(run, name)
            shares.append(energy_share(maps, pooled(mask, maps.shape[-len(run.size) :])))
        return {"outside": (torch.stack(shares).mean(0) * batch.has_mask).mean()}


def is_activation(module: nn.Module) -> bool:
    """Whether a module is one of torch's activations; subclasses of them, and other libraries' own, are not."""
    return type(module).__module__ == nn.ReLU.__module__ and not isinstance(module, nn.MultiheadAttention)


def last_of_each_resolution(model: nn.Module, size: int | Sequence[int]) -> list[str]:
    """Of the layers whose outputs have positions, the last at each number of them; the last of all ahead."""
    found: dict[tuple[int, ...], str] = {}
    for candidate in candidates(model, size):
        if candidate.told:
            found.setdefault(candidate.shape[1:], candidate.name)
    return list(found.values())
