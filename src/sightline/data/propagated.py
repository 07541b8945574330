"""A few masks, propagated to the images that have none."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.data.base import Source, at_least
from sightline.data.segmenter import BATCH, UNet, fit, overlap, predict
from sightline.data.subset import Drawn
from sightline.errors import SightlineError
from sightline.pictures import Flags
from sightline.progress import progress_bar

FEWEST = 5
"""Annotated images without which there is nothing to learn from."""

DOUBTFUL = 0.5
"""Agreement below which a warning says so."""

log = logging.getLogger(__name__)


class Propagated(Drawn):
    """Another dataset, whose training images without a mask get one from a network that learned it from the others.

    So a few masks guide every objective that uses masks, at the price of one short training when the dataset is built.
    Every fifth annotated image is held out from it: `agreement` is the mean intersection over union of what the network
    draws on these with their masks, or of what both leave out, whichever is less. A run's `run.json` holds it, and a
    low one is warned of. An image in which the network finds nothing stays without a mask.
    Other splits are as they are, and so are masks that somebody drew.

    The masks depend on the seed and, in a few pixels, on how torch computes: its version, its number of threads.

    Args:
        data: a dataset of images with a mask for some of them, such as `Habitats(mask_fraction=0.01)`.
        steps: of the network's training, with 32 images each.
        side: longest side in pixels at which it looks at images; larger ones are shrunk to it.
        width: channels of its finest level.
        split: one of the dataset's.
        seed: of the network.

    Raises:
        SightlineError: fewer than 5 training images have a mask, or the dataset is not one of single images.
    """

    def __init__(
        self,
        data: Source,
        steps: int = 400,
        side: int = 64,
        width: int = 16,
        split: str = "train",
        seed: int = 0,
    ) -> None:
        self.steps, self.side = at_least("steps", steps, 1), at_least("side", side, 8)
        self.width = at_least("width", width, 1)
        self.agreement = float("nan")
        super().__init__(data, split, seed=seed)

    def facts(self) -> dict[str, Any]:
        own = {"masks_propagated": len(self._drawn), "agreement": round(self.agreement, 4)} if self._drawn else {}
        return super().facts() | own

    def draw(self, has_mask: Flags) -> Iterator[tuple[int, Flags]]:
        """What a network that learned from the images with a mask finds in the others."""
        known, unknown = (np.flatnonzero(flags).tolist() for flags in (has_mask, ~has_mask))
        if len(known) < FEWEST:
            raise SightlineError(
                f"data: {len(known)} training images of {self.name} have a mask, too few to learn from. "
                f"Annotate at least {FEWEST}, or raise mask_fraction."
            )
        images, masks = map(torch.stack, zip(*(self._seen(index) for index in known), strict=True))
        held = torch.arange(len(known)) % 5 == 4
        net = fit(images[~held], masks[~held], self.steps, self.width, self.seed)
        self.agreement = float(overlap(predict(net, images[held]), masks[held]).mean())
        for start in progress_bar(range(0, len(unknown), BATCH), desc="drawing masks"):
            yield from self._found(net, unknown[start : start + BATCH])
        if self.agreement < DOUBTFUL:
            log.warning(
                "%s: the masks drawn on held-out images agree with their own to %.2f only (intersection over union). "
                "Annotate more images, or raise steps or side.",
                self.name, self.agreement,
            )  # fmt: skip

    def _found(self, net: UNet, indices: Sequence[int]) -> Iterator[tuple[int, Flags]]:
        """What the network draws on some images."""
        drawn = predict(net, torch.stack([self._seen(index)[0] for index in indices])).float()
        full = F.interpolate(drawn, self.size, mode="bilinear") > 0.5
        yield from zip(indices, full.numpy(), strict=True)

    def _seen(self, index: int) -> tuple[Tensor, Tensor]:
        """An image (C, h, w) and its masks (K, h, w), uint8, as large as the network sees them."""
        image, mask = map(torch.tensor, super().read(index))  # copies: decoded images may be read-only
        scale = min(1.0, self.side / max(self.size))
        size = [max(8, round(side * scale)) for side in self.size]
        masks = mask.view(-1, *self.size)
        return (
            F.interpolate(image.movedim(-1, 0).unsqueeze(0).float(), size, mode="bilinear", antialias=True)[0].byte(),
            (F.interpolate(masks.unsqueeze(0).float(), size, mode="area")[0] >= 0.5).byte(),
        )
