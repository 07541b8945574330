"""Insertion: how soon the model finds its answer again as the map's brightest pixels come back."""

from typing import Any

import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from sightline.maps import separable
from sightline.metrics.steps import Curves, Predict, Stepwise, at_size_of, origin_of, probability, replaced
from sightline.types import Images, Labels, Logits, Maps

KERNEL = torch.from_numpy(gaussian_filter1d([0.0] * 5 + [1.0] + [0.0] * 5, 5.0, mode="reflect", truncate=4.0))
"""RISE's blur along one axis: an impulse on 11 pixels, smoothed; mirrored at their ends, it comes out almost flat."""


@torch.no_grad()
def insertion(
    predict: Predict,
    image: Images,
    maps: Maps,
    target: Labels | None = None,
    *,
    step: int | None = None,
    zero: Tensor | None = None,
    logits: Logits | None = None,
    channel: int = 1,
) -> Curves:
    """The class's probability as pixels come back into a blurred image, the map's brightest first.

    With r the place of a pixel in the map's stable descending order, s the step and i = 0 ... n, where
    ``n = ceil(pixels / s)``: ``softmax(f(where(r < i s, image, blurred)))[target]`` (Petsiuk, Das and Saenko, "RISE",
    BMVC 2018).

    Args:
        predict: images -> logits (N, classes).
        image: (B, C, *spatial); (B, views, C, *spatial) with ``channel=2``.
        maps: (B, *spatial) or (B, views, *spatial) maps at any resolution; resized to the image's size.
        target: (B,) int64 class; None for the one predicted on the intact image.
        step: pixels in a step; None for eight rows: 1792 at 224 x 224, eight rows of every slice of a volume.
        zero: what the network takes for 0, in a shape that broadcasts to `image`; None for 0 itself.
        logits: (B, classes) of the intact image, if they are known.
        channel: the axis of `image` that holds channels.

    Returns:
        (B, n + 1) probabilities; a row of NaN where the map has no positive value.

    Raises:
        SightlineError: the maps do not fit the images, or a step below 1.
    """
    logits = predict(image) if logits is None else logits
    heat, begin = at_size_of(image, maps, channel), blurred(image, zero, channel)
    between = map(predict, replaced(begin, image, heat, step, channel))
    return probability([predict(begin), *between, logits], logits.argmax(1) if target is None else target, heat)


def blurred(image: Images, zero: Tensor | None = None, channel: int = 1) -> Images:
    """RISE's blur: `KERNEL` along every spatial axis of ``image - zero``, padded with zeros."""
    origin = origin_of(image, zero)
    return separable(image - origin, [_band(length).to(image) for length in image.shape[channel + 1 :]]) + origin


def _band(length: int) -> Float[Tensor, "1 length length"]:
    """The matrix that convolves an axis of `length` with `KERNEL`."""
    reach = len(KERNEL) // 2
    offset = torch.arange(length) - torch.arange(length).unsqueeze(1)
    return KERNEL[(offset + reach).clamp(0, 2 * reach)].where(offset.abs() <= reach, 0).unsqueeze(0)


class Insertion(Stepwise):
    """Insertion: the mean area under `insertion`'s curves, 0 to 1. All-zero maps are not scored.

    An image costs n forwards: 28 at 224 x 224.

    Args:
        step: pixels in a step; None for eight rows.
        of: the class that is "prediction" on the intact image, as in RISE, or the "target" that the map explains.

    Raises:
        SightlineError: an unusable argument, images of several sizes, or no target where it is asked for.
    """

    key = "insertion"

    def draw(self, *args: Any, **options: Any) -> Curves:
        """See `insertion`."""
        return insertion(*args, **options)
