"""CGC loss: whether the map of a transformed image is the transformed map of the image, and of no other."""

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sightline.arguments import one_of
from sightline.contrast import Anchor, cgc_loss
from sightline.errors import SightlineError
from sightline.metrics.per_image import PerImage, Scores, channel_of, first_of_each
from sightline.metrics.steps import one_size
from sightline.seeds import seeded
from sightline.types import Evidence
from sightline.views import Crop


def crops(index: Int[Tensor, " b"], size: tuple[int, ...], seed: int) -> Crop:
    """Random resized crops of images of `size`, each drawn by its image's index."""
    each = [Crop.sample(1, size, generator=seeded(seed, i)) for i in index.tolist()]
    parts = (torch.cat([getattr(crop, name) for crop in each]) for name in ("start", "extent", "flip"))
    return Crop(size, *parts)


def complete(index: Int[Tensor, " n"], group: int) -> Bool[Tensor, " n"]:
    """Which of these distinct images are of a group that is there as a whole: images 0 to group - 1, and so on."""
    _, member, count = (index // group).unique(return_inverse=True, return_counts=True)
    whole: Tensor = count[member] == group
    return whole


class CGCLoss(PerImage):
    """L_CGC on held-out images, by `sightline.objectives.cgc_loss` (Pillai et al., "CGC", CVPR 2022); lower is better.

    Images 0 to 31 by index are one group, in which each is told from 31 negatives, 32 to 63 the next, and so on,
    whatever the batches and processes are. A group that is not there as a whole is left out and counted, and so is an
    image whose own map or whose view's map is zero everywhere. With 32 images and tau = 0.5 the loss is log 32 = 3.47
    for maps that are all alike, and at least 1.65.

    An image costs one map, of its crop. What is held are the maps, at their own resolution, of those groups of which
    some images were not met yet: with several processes, or images in random order, all until the end.

    Args:
        group: how many images are told apart.
        tau: temperature, above 0.
        anchor: "orig" as in the paper, "aug" as in the authors' code.
        seed: of the crops, which are drawn by the image's index.

    Raises:
        SightlineError: an unusable argument, or images of several sizes.
    """

    key = "cgc_loss"
    higher_is_better = False
    needs = ("image", "explain")

    open_index: list[Tensor]
    open_map: list[Tensor]
    open_view: list[Tensor]

    def __init__(
        self, group: int = 32, tau: float = 0.5, anchor: Anchor = "orig", seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if group < 2 or not tau > 0 or seed < 0:
            raise SightlineError(
                f"CGCLoss: group={group}, tau={tau}, seed={seed}: expected a group of 2 images or more, a temperature "
                "above 0 and a seed of 0 or more."
            )
        self.group, self.tau, self.anchor, self.seed = group, tau, one_of(self, "anchor", anchor, Anchor), seed
        self._size: tuple[int, ...] = ()
        for name in ("open_index", "open_map", "open_view"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def score(self, evidence: Evidence) -> Scores:
        """(B,) loss of each image of a batch, which is as it were all there is; NaN where it is not defined."""
        index, maps, views = evidence.index, evidence.map, self._views(evidence)
        order = first_of_each(index)
        place = torch.searchsorted(index[order], index)
        return self._losses(index[order], maps[order], views[order])[place]

    def update(self, evidence: Evidence) -> None:
        """Take in a batch, and score the groups that it completes.

        Raises:
            SightlineError: the evidence lacks a field that this metric needs, or its images are of another size.
        """
        views = self._views(self._complete(evidence))
        self.open_index.append(evidence.index)
        self.open_map.append(evidence.map.detach())
        self.open_view.append(views)
        index, maps, views = self._held()
        whole = complete(index, self.group)
        self._keep(evidence._replace(index=index[whole]), self._losses(index[whole], maps[whole], views[whole]))
        self.open_index, self.open_map, self.open_view = ([part[~whole]] for part in (index, maps, views))

    def compute(self) -> Tensor:
        """Mean over the images whose loss is defined; NaN if there are none."""
        return self._all()[1].nanmean()

    def scores(self) -> tuple[Tensor, Tensor]:
        """(N,) index, ascending and without duplicates, and (N,) loss of every image; gathered from all processes."""
        with self.sync_context():
            return self._all()

    def reset(self) -> None:
        """Forget all scores."""
        super().reset()
        self._size = ()

    def _views(self, evidence: Evidence) -> Tensor:
        """The maps of the images' crops."""
        image, explain = cast(Tensor, evidence.image), cast(Callable[..., Tensor], evidence.explain)
        self._size = one_size(self, self._size, image.shape[channel_of(image, evidence.mask) + 1 :])
        return explain(crops(evidence.index, self._size, self.seed).apply(image)).detach()

    def _held(self) -> tuple[Tensor, Tensor, Tensor]:
        """The indices, ascending and distinct, the maps and the views' maps of the images that are not scored yet."""
        index, maps, views = (_joined(state) for state in (self.open_index, self.open_map, self.open_view))
        order = first_of_each(index)
        return index[order], maps[order], views[order]

    def _all(self) -> tuple[Tensor, Tensor]:
        """(N,) index and loss of all images, those held included."""
        if not len(self.open_index):
            return torch.empty(0), torch.empty(0)
        index, maps, views = self._held()
        value = torch.cat([_joined(self.value), self._losses(index, maps, views)])
        # An image met again after it was scored comes second, and is left out.
        index = torch.cat([_joined(self.index), index])
        order = first_of_each(index)
        return index[order], value[order]

    def _losses(self, index: Tensor, maps: Tensor, views: Tensor) -> Scores:
        """(N,) losses of distinct images in ascending order, NaN where the group is not complete."""
        value = maps.new_full((len(index),), torch.nan)
        for rows in complete(index, self.group).nonzero().view(-1, self.group):
            value[rows] = self._loss(index[rows], maps[rows], views[rows])
        return value

    def _loss(self, index: Tensor, maps: Tensor, views: Tensor) -> Scores:
        """Those of one group."""
        loss = cgc_loss(maps, views, crops(index, self._size, self.seed), self.tau, self.anchor)
        return loss.masked_fill(~((maps.flatten(1).amax(1) > 0) & (views.flatten(1).amax(1) > 0)), torch.nan)


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """A state as one tensor, which it is already while the processes are in step."""
    return state if isinstance(state, Tensor) else torch.cat(state)
