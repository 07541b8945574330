"""Top-k drop: what the model loses when the map's k largest entries are taken from the image."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from sightline.arguments import one_of
from sightline.errors import SightlineError
from sightline.maps import resize
from sightline.metrics.per_image import Curve, Scores, channel_of
from sightline.metrics.steps import Curves, Predict, at_size_of, origin_of, ranked
from sightline.types import Evidence, Images, Labels, Logits, Maps

Kind = Literal["probability", "logit", "accuracy"]
Target = Literal["prediction", "label"]


@torch.no_grad()
def topk_drop(
    predict: Predict,
    image: Images,
    maps: Maps,
    k: Sequence[int] = (100, 500, 1000, 5000, 10000),
    target: Labels | None = None,
    *,
    of: Kind = "probability",
    zero: Tensor | None = None,
    logits: Logits | None = None,
    channel: int = 1,
) -> Curves:
    """``s_y(x) - s_y(x with the k largest entries of the map set to zero)``; Pillai et al., "CGC", CVPR 2022.

    Entries are in stable descending order; where a map has fewer than k, all of them go.

    Args:
        predict: images -> logits (N, classes).
        image: (B, C, *spatial); (B, views, C, *spatial) with ``channel=2``.
        maps: signed entries in the shape of the images, one for each channel; or (B, *spatial) maps, negative values
            cut off, of which ``floor(k / C)`` pixels go in all C channels. At any resolution.
        k: how many entries go.
        target: (B,) int64 class y; None for the one predicted on the intact image.
        of: s is the softmax's "probability", the "logit", or "accuracy": 1 where y is predicted, else 0.
        zero: what the network takes for 0, in a shape that broadcasts to `image`; None for 0 itself.
        logits: (B, classes) of the intact image, if they are known.
        channel: the axis of `image` that holds channels.

    Returns:
        (B, len(k)) drops; a row of NaN where the map is zero everywhere.

    Raises:
        SightlineError: the maps do not fit the images.
    """
    logits = predict(image) if logits is None else logits
    target = logits.argmax(1) if target is None else target
    whole = maps.ndim == image.ndim
    heat = resize(maps, image.shape[channel + 1 :]) if whole else at_size_of(image, maps, channel)
    place = ranked(heat) if whole else ranked(heat).unsqueeze(channel)
    counts = [min(each if whole else each // image.shape[channel], heat[0].numel()) for each in k]
    left = {n: predict(torch.where(place < n, origin_of(image, zero), image)) for n in dict.fromkeys(counts)}
    drops = [_score(logits, target, of) - _score(left[n], target, of) for n in counts]
    return torch.stack(drops, 1).masked_fill(~(heat.flatten(1).abs().amax(1, keepdim=True) > 0), torch.nan)


def _score(logits: Logits, target: Labels, of: Kind) -> Scores:
    if of == "accuracy":
        return (logits.argmax(1) == target).to(logits)
    return (logits.softmax(1) if of == "probability" else logits).gather(1, target.unsqueeze(1)).squeeze(1)


class TopKDrop(Curve):
    """Top-k drop: how much the score of a class falls without the k largest entries, for each k and its mean.

    All-zero maps are not scored. An image costs as many forwards as there are different k.

    Args:
        k: how many entries go: k of them in maps with channels, ``floor(k / C)`` pixels with their C channels in
            others.
        of: the drop of the class's "probability" or "logit", or of the "accuracy".
        target: the class is the model's "prediction" on the intact image, or the image's "label".

    Raises:
        SightlineError: an unusable argument; or labels that are not one known class each, where they are the target.
    """

    key = "topk"
    needs = ("image", "predict")

    def __init__(
        self,
        k: Sequence[int] = (100, 500, 1000, 5000, 10000),
        of: Kind = "probability",
        target: Target = "prediction",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not k or min(k) < 1 or sorted(set(k)) != list(k):
            raise SightlineError(f"TopKDrop: k={list(k)}: expected ascending numbers of entries, 1 or more.")
        self.k, self.of = tuple(k), one_of(self, "of", of, Kind)
        self.target = one_of(self, "target", target, Target)

    def curve(self, evidence: Evidence) -> Curves:
        """(B, len(k)) drops, NaN where the map is zero everywhere."""
        predict, image = cast(Predict, evidence.predict), cast(Tensor, evidence.image)
        channel = channel_of(image, evidence.mask)
        options: dict[str, Any] = {"zero": evidence.zero, "logits": evidence.logits, "channel": channel}
        return topk_drop(predict, image, evidence.map, self.k, self._class(evidence), of=self.of, **options)

    def sum_up(self, curve: Curves) -> Scores:
        """(B,) mean over k."""
        return curve.mean(1)

    @property
    def axis(self) -> tuple[float, ...]:
        """The numbers of entries."""
        return tuple(map(float, self.k))

    def _class(self, evidence: Evidence) -> Tensor | None:
        if self.target == "prediction":
            return None
        label, classes = evidence.label, evidence.logits.shape[1]
        if label.ndim > 1 or label.min() < 0 or label.max() >= classes:
            raise SightlineError(
                f"TopKDrop(target='label') needs one class per image, 0 to {classes - 1}; got labels "
                f"{label.tolist()[:8]}. Use target='prediction'."
            )
        return label
