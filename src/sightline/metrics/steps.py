"""Pixels that give way to others in a map's order: what insertion, deletion and top-k drop share."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sightline.arguments import one_of
from sightline.errors import SightlineError
from sightline.metrics.per_image import Curve, PerImage, Scores, channel_of, fitted
from sightline.types import Evidence, Images, Labels, Logits, Maps

Of = Literal["prediction", "target"]
Predict = Callable[[Tensor], Tensor]
Curves = Float[Tensor, "b p"]


def replaced(begin: Tensor, end: Tensor, heat: Maps, step: int | None, channel: int) -> Iterator[Images]:
    """`begin` with ever more of the pixels of `end`, the brightest first; without its first and its last state."""
    place, step = ranked(heat).unsqueeze(channel), pixels_in(step, heat.shape[1:])
    for count in range(step, heat[0].numel(), step):
        yield torch.where(place < count, end, begin)


def ranked(values: Maps) -> Int[Tensor, "b ..."]:
    """The place of every value in its map's descending order, from 0; equal ones in the order of their positions."""
    order = values.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view_as(values)


def pixels_in(step: int | None, size: Sequence[int]) -> int:
    """`step`, or as many pixels as eight rows hold, those of every slice of a volume and of every view.

    Raises:
        SightlineError: a step below 1.
    """
    if step is not None and step < 1:
        raise SightlineError(f"step={step}: expected the pixels of a step, 1 or more, or None for eight rows.")
    return step or 8 * prod(size) // size[-2:][0]


def probability(logits: Sequence[Logits], target: Labels, heat: Maps) -> Curves:
    """(B, p) the class's probability in p predictions; NaN where the map has no positive value."""
    curve = torch.cat([each.softmax(1).gather(1, target.unsqueeze(1)) for each in logits], 1)
    return curve.masked_fill(~(heat.flatten(1).amax(1, keepdim=True) > 0), torch.nan)


def area(curve: Curves) -> Scores:
    """``(sum - first / 2 - last / 2) / n`` of curves (B, n + 1): the area as RISE takes it."""
    return (curve.sum(1) - (curve[:, 0] + curve[:, -1]) / 2) / (curve.shape[1] - 1)


def at_size_of(image: Images, maps: Maps, channel: int) -> Maps:
    """Maps at the size of `image` without its channels, negative values cut off.

    Raises:
        SightlineError: the maps have more or fewer axes.
    """
    return fitted(maps, image.select(channel, 0))


def origin_of(image: Images, zero: Tensor | None) -> Tensor:
    """`zero` like `image`; 0 for None."""
    return image.new_zeros(()) if zero is None else zero.to(image)


def one_size(metric: PerImage, known: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """`size`.

    Raises:
        SightlineError: it is another than the one known.
    """
    if known and tuple(known) != tuple(size):
        raise SightlineError(
            f"{type(metric).__name__}: images of size {tuple(size)} after some of size {tuple(known)}. Bring them to "
            "one size, or take one metric for each."
        )
    return tuple(size)


class Stepwise(Curve):
    """A class's probability over the share of pixels that gave way, and the area under it; see `Insertion`.

    A subclass writes `draw`.
    """

    needs = ("image", "predict")

    def __init__(self, step: int | None = None, of: Of = "prediction", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        pixels_in(step, (1,))
        self.step, self.of = step, one_of(self, "of", of, Of)
        self.needs = (*type(self).needs, *(("target",) if of == "target" else ()))
        self._size: tuple[int, ...] = ()

    @abstractmethod
    def draw(self, *args: Any, **options: Any) -> Curves:
        """(B, n + 1) curves, by the pure function."""

    def curve(self, evidence: Evidence) -> Curves:
        """(B, n + 1) probability after each step, NaN where the map is zero everywhere."""
        image = cast(Tensor, evidence.image)
        channel = channel_of(image, evidence.mask)
        self._size = one_size(self, self._size, image.select(channel, 0).shape[1:])
        options = {"step": self.step, "zero": evidence.zero, "logits": evidence.logits, "channel": channel}
        target = evidence.target if self.of == "target" else None
        return self.draw(evidence.predict, image, evidence.map, target, **options)

    def sum_up(self, curve: Curves) -> Scores:
        """(B,) area under each curve."""
        return area(curve)

    @property
    def axis(self) -> tuple[float, ...]:
        """The share of pixels that gave way, 0 to 1; empty before the first batch."""
        pixels = prod(self._size)
        return (*(at / pixels for at in range(0, pixels, pixels_in(self.step, self._size))), 1.0) if self._size else ()

    def reset(self) -> None:
        """Forget all scores."""
        super().reset()
        self._size = ()
