"""What every metric shares: one score for each image, kept by the image's index."""

import inspect
import logging
from abc import abstractmethod
from collections.abc import Callable
from itertools import count
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sightline.compat import repair_torchvision
from sightline.errors import SightlineError
from sightline.maps import resize
from sightline.types import Evidence, Images, Maps, Masks, warn_of_normalised, within

repair_torchvision()
from torchmetrics import Metric  # noqa: E402
from torchmetrics.utilities import dim_zero_cat  # noqa: E402

log = logging.getLogger(__name__)

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

    key: str
    """What its numbers are called in files; an instance's own where its arguments are part of it."""
    needs: tuple[str, ...] = ()
    """The optional fields of `Evidence` that `score` reads; an instance's own likewise."""
    of_map: ClassVar[bool] = True
    """Whether the score depends on the map, and so on who drew it."""

    index: list[Tensor]  # one tensor while the processes are in step
    value: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._told = False
        self.add_state("index", default=[], dist_reduce_fx="cat")
        self.add_state("value", default=[], dist_reduce_fx="cat")
        # MetricCollection lets metrics whose states agree after the first batch share one state from then on.
        self.add_state("instance", default=torch.tensor(next(_instances)), dist_reduce_fx="max")

    @abstractmethod
    def score(self, evidence: Evidence) -> Scores:
        """(B,) score of each image; NaN where it is not defined."""

    def update(self, evidence: Evidence) -> None:
        """Score a batch.

        Raises:
            SightlineError: the evidence lacks a field that this metric needs.
        """
        self._keep(evidence, self.score(self._complete(evidence)))

    def __repr__(self) -> str:
        taken = inspect.signature(type(self)).parameters.values()
        given = (f"{p.name}={getattr(self, p.name)!r}" for p in taken if p.kind is not p.VAR_KEYWORD)
        return f"{type(self).__name__}({', '.join(given)})"

    def _complete(self, evidence: Evidence) -> Evidence:
        if missing := [name for name in self.needs if getattr(evidence, name) is None]:
            raise SightlineError(
                f"{type(self).__name__} needs Evidence.{' and Evidence.'.join(missing)}: `audit` gives them; in a loop "
                "of your own, pass them."
            )
        if evidence.image is not None and "image" in self.needs and not self.index:
            warn_of_normalised(evidence.image)
        if evidence.mask.dtype == torch.bool or bool(evidence.has_mask.all()):
            return evidence
        shown = evidence.has_mask.view(-1, *[1] * (evidence.mask.ndim - 1))
        return evidence._replace(mask=evidence.mask.where(shown, 1))

    def _keep(self, evidence: Evidence, score: Tensor) -> None:
        self.index.append(evidence.index)
        self.value.append(score.detach())

    def compute(self) -> Tensor:
        """Mean over the images whose score is defined; NaN if there are none."""
        value = self._distinct(self.value)
        if not self._told:
            self._warn_of_reused(value)
        return value.nanmean()

    def _warn_of_reused(self, value: Tensor) -> None:
        """Say so where an index comes again with another score: it was the place in a batch, not in the dataset."""
        if not len(self.index):
            return
        index = dim_zero_cat(self.index)
        first = value[index.unique(return_inverse=True)[1]]
        if not torch.allclose(first, dim_zero_cat(self.value), rtol=0.01, atol=0.01, equal_nan=True):
            self._told = True
            log.warning(
                "%s: images with the index of an earlier one have other scores, and are left out. Evidence.index is "
                "the place in the dataset, not in the batch.", type(self).__name__,
            )  # fmt: skip

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


class Curve(PerImage):
    """A metric that draws a curve for each image, and sums it up in one number. A subclass writes `curve` and `sum_up`.

    `scores` are the numbers, `curves` the curves.
    """

    points: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("points", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def curve(self, evidence: Evidence) -> Float[Tensor, "b p"]:
        """(B, p) curve of each image; NaN where it is not defined."""

    @abstractmethod
    def sum_up(self, curve: Float[Tensor, "b p"]) -> Scores:
        """(B,) the number that each curve comes to."""

    @property
    @abstractmethod
    def axis(self) -> tuple[float, ...]:
        """The p places at which the curves are known."""

    def score(self, evidence: Evidence) -> Scores:
        """(B,) what each image's curve comes to."""
        return self.sum_up(self.curve(evidence))

    def update(self, evidence: Evidence) -> None:
        """Score a batch.

        Raises:
            SightlineError: the evidence lacks a field that this metric needs.
        """
        curve = self.curve(self._complete(evidence))
        self.points.append(curve.detach())
        self._keep(evidence, self.sum_up(curve))

    def curves(self) -> tuple[Tensor, Tensor]:
        """(N,) index, as in `scores`, and (N, p) curve of every image."""
        with self.sync_context():
            return self._distinct(self.index), self._distinct(self.points)


def first_of_each(index: Int[Tensor, " n"]) -> Int[Tensor, " distinct"]:
    """The position at which each distinct value of `index` comes first, by ascending value."""
    ordered, order = index.sort(stable=True)
    return order[ordered.diff(prepend=ordered[:1] - 1) > 0]


def on_mask(maps: Maps, mask: Masks) -> Maps:
    """(B, *spatial) maps at the masks' size, see `fitted`.

    Raises:
        SightlineError: they do not fit, or a mask holds a value outside [0, 1].
    """
    heat = fitted(maps, mask)
    if mask.dtype != torch.bool:
        within(mask)
    return heat


def fitted(maps: Maps, others: Masks) -> Maps:
    """(B, *spatial) maps at the size of others of the same axes, in float32 at least, negative values cut off.

    Raises:
        SightlineError: there are not as many, or they have more or fewer axes.
    """
    if maps.ndim != others.ndim or len(maps) != len(others):
        raise SightlineError(
            f"maps of shape {tuple(maps.shape)} do not fit masks of shape {tuple(others.shape)}: expected (B, "
            "*spatial) for both, with the same B. Reduce the maps' channels first."
        )
    return resize(maps.to(torch.promote_types(maps.dtype, torch.float32)), others.shape[1:]).clamp(min=0)


def channel_of(image: Images, mask: Masks) -> int:
    """The axis of `image` that holds channels: 2 where masks are (B, views, *spatial), one for each view; else 1."""
    views = mask.ndim > 3 and image.shape[:2] + image.shape[3:] == mask.shape
    return 2 if views else 1


def drawn(index: Int[Tensor, " b"], seed: int, draw: Callable[[np.random.Generator], npt.NDArray[Any]]) -> Tensor:
    """(B, ...) what `draw` draws for each image: by its index alone, however the images are batched."""
    return torch.from_numpy(np.stack([draw(np.random.default_rng([seed, i])) for i in index.tolist()]))
