"""What every metric shares: one score for each image, kept by the image's index."""

from abc import abstractmethod
from itertools import count
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sightline.compat import repair_torchvision
from sightline.errors import SightlineError
from sightline.maps import resize
from sightline.types import Evidence, Maps, Masks

repair_torchvision()
from torchmetrics import Metric  # noqa: E402
from torchmetrics.utilities import dim_zero_cat  # noqa: E402

Scores = Float[Tensor, " b"]
_instances = count()


class PerImage(Metric):
    """A metric that is a mean over images. A subclass writes `score`, around a pure function.

    Scores are kept with the index of their image: the duplicates with which a distributed sampler pads its last batch
    count once, and the result does not depend on how the images were batched. NaN marks an image whose score is not
    defined (no mask, an all-zero map): the mean leaves it out and `undefined` counts it.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    index: list[Tensor]  # one tensor while the processes are in step
    value: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("index", default=[], dist_reduce_fx="cat")
        self.add_state("value", default=[], dist_reduce_fx="cat")
        # MetricCollection lets metrics whose states agree after the first batch share one state from then on.
        self.add_state("instance", default=torch.tensor(next(_instances)), dist_reduce_fx="max")

    @abstractmethod
    def score(self, evidence: Evidence) -> Scores:
        """(B,) score of each image; NaN where it is not defined."""

    def update(self, evidence: Evidence) -> None:
        """Score a batch."""
        self.index.append(evidence.index)
        self.value.append(self.score(evidence).detach())

    def compute(self) -> Tensor:
        """Mean over the images whose score is defined; NaN if there are none."""
        return self._distinct(self.value).nanmean()

    def scores(self) -> tuple[Tensor, Tensor]:
        """(N,) index, ascending and without duplicates, and (N,) score of every image; gathered from all processes."""
        with self.sync_context():
            return self._distinct(self.index), self._distinct(self.value)

    def undefined(self) -> int:
        """The number of images whose score is not defined; over all processes."""
        return int(self.scores()[1].isnan().sum())

    def _distinct(self, state: list[Tensor] | Tensor) -> Tensor:
        """(N,) a state's first entry for each image, by ascending index."""
        return dim_zero_cat(state)[first_of_each(dim_zero_cat(self.index))] if len(state) else torch.empty(0)


def first_of_each(index: Int[Tensor, " n"]) -> Int[Tensor, " distinct"]:
    """The position at which each distinct value of `index` comes first, by ascending value."""
    ordered, order = index.sort(stable=True)
    return order[ordered.diff(prepend=ordered[:1] - 1) > 0]


def on_mask(maps: Maps, mask: Masks) -> Maps:
    """(B, *spatial) maps at the masks' size, in float32 at least, negative values cut off.

    Raises:
        SightlineError: the maps have more or fewer axes than the masks.
    """
    if maps.ndim != mask.ndim:
        raise SightlineError(
            f"maps of shape {tuple(maps.shape)} do not fit masks of shape {tuple(mask.shape)}: expected (B, *spatial) "
            "for both. Reduce the maps' channels first."
        )
    return resize(maps.to(torch.promote_types(maps.dtype, torch.float32)), mask.shape[1:]).clamp(min=0)
