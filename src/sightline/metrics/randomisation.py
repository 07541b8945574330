"""The sanity check: does a map change when the model's weights become random?"""

import copy
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sightline.errors import SightlineError
from sightline.metrics.per_image import Curve, Scores
from sightline.metrics.steps import Curves
from sightline.passes import evaluating, trace
from sightline.seeds import redrawn
from sightline.types import Evidence, Maps


def spearman(maps: Maps, others: Maps) -> Scores:
    """Rank correlation of each map with its other: ``cov(r, r') / (std(r) std(r'))`` of their ranks.

    Args:
        maps, others: (B, *spatial) at one resolution. Equal values share the mean of their ranks.

    Returns:
        (B,) in [-1, 1], free of the maps' scales; 0 where one of the two is the same everywhere. NaN where `maps` is
        zero everywhere, or `others` is not finite.
    """
    ranks, other = (_centred_ranks(each.flatten(1)) for each in (maps, others))
    both, length = (ranks * other).sum(1), ranks.norm(dim=1) * other.norm(dim=1)
    known = (maps.flatten(1).abs().amax(1) > 0) & others.flatten(1).isfinite().all(1)
    return torch.where(length > 0, both / length, 0).to(maps).masked_fill(~known, torch.nan)


def _centred_ranks(values: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Ranks, less the mean of all."""
    ordered = values.sort(1).values.contiguous()
    below, upto = (torch.searchsorted(ordered, values.contiguous(), right=right) for right in (False, True))
    return (below + upto - values.shape[1]).double() / 2


def randomised(model: nn.Module, image: Tensor, depths: int = 5, seed: int = 0) -> list[nn.Module]:
    """Copies of a model, of which the layers from the logits down are random: 1 / depths of them, 2 / depths, ... all.

    Layers are the modules with weights of their own, in the order in which they run; once random, a layer is the same
    in all further copies. One that has `reset_parameters` starts as it would before training; the weights of others
    are shuffled.

    Args:
        model: left as it is. The copies share with it what is not random, and one another's random weights.
        image: (1, C, *spatial) any image, for the order.
        depths: how many copies.
        seed: of the weights.

    Returns:
        `depths` models, the last wholly random.
    """
    layers, random = _layers(model, image), redrawn(model, seed)
    return [_mixed(model, random, layers[: ceil(len(layers) * depth / depths)]) for depth in range(1, depths + 1)]


def _layers(model: nn.Module, image: Tensor) -> list[str]:
    """Names of the modules with weights of their own, those nearest to the logits first."""
    with evaluating(model), torch.no_grad():
        place = {call.name: place for place, call in enumerate(trace(model, image)[1])}
    own = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    if not own:
        raise SightlineError(f"Randomisation: {type(model).__name__} has no weights that could be made random.")
    return sorted(own, key=lambda name: _place(place, name))[::-1]


def _place(known: Mapping[str, int], name: str) -> int:
    """When a module ran: with the module around it where it was not seen to run by itself; the whole model first."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return known.get(name, -1)


def _mixed(model: nn.Module, random: nn.Module, layers: Sequence[str]) -> nn.Module:
    """A copy with the weights of the one, in these layers those of the other; statistics are nobody else's."""
    given: dict[int, Tensor] = {id(weight): weight for weight in model.parameters()}
    for name in layers:
        ours, theirs = model.get_submodule(name), random.get_submodule(name)
        given |= zip(map(id, ours.parameters(recurse=False)), theirs.parameters(recurse=False), strict=True)
        statistics = (buffer.clone() for buffer in theirs.buffers(recurse=False))
        given |= zip(map(id, ours.buffers(recurse=False)), statistics, strict=True)
    return copy.deepcopy(model, given)


class Randomisation(Curve):
    """The sanity check: how much a map is still like itself when the model's weights are random; lower is better.

    The curve is the `spearman` correlation of the map with the one that the same explainer draws of `randomised`
    models, from the logits down (cascading randomisation: Adebayo et al., "Sanity checks for saliency maps", NeurIPS
    2018); its mean is the score. An explainer that scores high draws much the same whatever the model has learnt.
    All-zero maps are not scored; one of a random model that is the same everywhere counts as not alike, 0.

    An image costs as many maps as there are depths. The random models are made once and hold one set of weights in
    all; they are made anew for another model and after `reset`, and are not copied with the metric.

    Args:
        depths: how many random models: of 1 / depths of the layers, 2 / depths, ... all.
        seed: of the weights.

    Raises:
        SightlineError: an unusable argument, or a model without weights.
    """

    key = "sanity"
    higher_is_better = False
    needs = ("image", "explain", "model")

    def __init__(self, depths: int = 5, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if depths < 1 or seed < 0:
            raise SightlineError(f"Randomisation: depths={depths}, seed={seed}: expected 1 or more, and 0 or more.")
        self.depths, self.seed = depths, seed
        # In a tuple, where torch does not take them for parts of the metric.
        self._made: tuple[nn.Module, list[nn.Module]] | None = None

    def curve(self, evidence: Evidence) -> Curves:
        """(B, depths) correlations, NaN where the map is zero everywhere."""
        image, explain = cast(Tensor, evidence.image), cast(Callable[..., Tensor], evidence.explain)
        models = self._models(cast(nn.Module, evidence.model), image[:1])
        return torch.stack([spearman(evidence.map, explain(image, model=model).detach()) for model in models], 1)

    def sum_up(self, curve: Curves) -> Scores:
        """(B,) mean over depths."""
        return curve.mean(1)

    @property
    def axis(self) -> tuple[float, ...]:
        """The share of layers that are random, above 0 and up to 1."""
        return tuple(depth / self.depths for depth in range(1, self.depths + 1))

    def reset(self) -> None:
        """Forget all scores, and the random models: the weights may be others by the next time."""
        super().reset()
        self._made = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_made": None}

    def _models(self, model: nn.Module, image: Tensor) -> list[nn.Module]:
        if self._made is None or self._made[0] is not model:
            self._made = model, randomised(model, image, self.depths, self.seed)
        return self._made[1]
