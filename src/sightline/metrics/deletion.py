"""Deletion: how soon the model loses its answer as the map's brightest pixels go."""

from typing import Any

import torch
from torch import Tensor

from sightline.metrics.steps import Curves, Predict, Stepwise, at_size_of, origin_of, probability, replaced
from sightline.types import Images, Labels, Logits, Maps


@torch.no_grad()
def deletion(
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
    """The class's probability as pixels of an image become `zero`, the map's brightest first.

    ``softmax(f(where(r < i s, zero, image)))[target]``, in the terms of `insertion` (Petsiuk, Das and Saenko, "RISE",
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
    heat, end = at_size_of(image, maps, channel), origin_of(image, zero).expand_as(image)
    between = map(predict, replaced(image, end, heat, step, channel))
    return probability([logits, *between, predict(end)], logits.argmax(1) if target is None else target, heat)


class Deletion(Stepwise):
    """Deletion: the mean area under `deletion`'s curves, 0 to 1, lower is better. All-zero maps are not scored.

    An image costs n forwards: 28 at 224 x 224.

    Args:
        step: pixels in a step; None for eight rows.
        of: the class that is "prediction" on the intact image, as in RISE, or the "target" that the map explains.

    Raises:
        SightlineError: an unusable argument, images of several sizes, or no target where it is asked for.
    """

    key = "deletion"
    higher_is_better = False

    def draw(self, *args: Any, **options: Any) -> Curves:
        """See `deletion`."""
        return deletion(*args, **options)
