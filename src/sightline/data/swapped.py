"""Tests on other backgrounds, for any dataset with masks: an image's evidence where another image's was."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from sightline.data.base import Source
from sightline.data.habits import Integers
from sightline.data.marked import raw
from sightline.data.subset import Subset, single
from sightline.errors import SightlineError
from sightline.pictures import Flags, Pixels
from sightline.views import hidden, surrounded

BACKGROUNDS = ("same", "shifted", "swapped")

EDGE = 0.03
"""How far round another image's evidence its colours are replaced too, as a share of the short side: masks are seldom
exact, and an outline left standing would give its class away."""


class Swapped(Subset):
    """Another dataset with further splits, in which images lie on each other's backgrounds.

    Beside "test" there are "test_same", where the background comes from another image of the same class,
    "test_shifted", from any other image, and "test_swapped", from an image of another class; and the same beside "val".
    All three hold the same evidence under the same ids: that of the images that have a mask. What the three lose
    against "test" is due to pasting as well; what "test_swapped" loses against "test_same" is due to the background
    (Xiao et al., "Noise or Signal: The Role of Image Backgrounds in Object Recognition", ICLR 2021, there
    "mixed-same" and "mixed-rand"). The other image's own evidence is filled with the colours round it.

    An image's background depends on the seed, on its id and on which images there are. The group is
    "<class>/<class of the background>".

    Args:
        data: a dataset with one class per image, and masks of the images that validate or test.
        split: one of the dataset's, or "val" or "test" with "_same", "_shifted" or "_swapped" behind it.
        mask_fraction, label_fraction: of the training images; see `Folder`.
        seed: says which background an image gets.

    Raises:
        SightlineError: the dataset is multi-label or has several views, or a split has no two images to swap.
    """

    def __init__(
        self,
        data: Source,
        split: str = "train",
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        if data.views:
            raise SightlineError(f"data: {data.name} has several views of each subject; backgrounds are those of one.")
        super().__init__(data, split, mask_fraction, label_fraction, seed)

    def own_splits(self) -> tuple[str, ...]:
        tested = [split for split in ("val", "test") if split in self.data.splits]
        return (*self.data.splits, *(f"{split}_{background}" for split in tested for background in BACKGROUNDS))

    @property
    def background(self) -> str | None:
        """Where the backgrounds of `split` come from: "same", "shifted", "swapped"; None where they are the own."""
        return None if self.split in self.data.splits else self.split.rpartition("_")[2]

    def choose(self) -> dict[str, Integers]:
        if self.background is None:
            return {self.split: np.arange(len(self.part(self.split)))}
        inner = self.split.rpartition("_")[0]
        return {inner: np.flatnonzero(self.part(inner).has_mask)}

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        image, mask = super().read(index)
        if self.background is None:
            return image, mask
        behind, hole = super().read(int(self._behind[index]))
        return on_background(image, mask, behind, hole), mask

    def content(self, index: int) -> bytes:
        return super().content(index) if self.background is None else Source.content(self, index)

    def _take(self) -> None:
        super()._take()
        if self.background is None:
            return
        labels = single(self)
        draws = [raw(self.seed, name)[0] for name in self.ids]
        self._behind = np.array([self._draw(index, draw, labels) for index, draw in enumerate(draws)])
        own, behind = (np.array(self.classes)[of] for of in (labels, labels[self._behind]))
        self.groups = np.array([f"{a}/{b}" for a, b in zip(own, behind, strict=True)])

    def _draw(self, index: int, draw: int, labels: Integers) -> int:
        """The image whose background the one at `index` gets."""
        alike = labels == labels[index]
        fits = {"same": alike, "shifted": np.ones_like(alike), "swapped": ~alike}[str(self.background)]
        others = np.flatnonzero(fits & (np.arange(len(labels)) != index))
        if not len(others):
            raise SightlineError(
                f"data: {self.split!r} of {self.name} has no background for {self.ids[index]!r}: "
                "no other image of the wanted class has a mask."
            )
        return int(others[draw % len(others)])


def on_background(image: Pixels, mask: Pixels, behind: Pixels, hole: Pixels) -> Pixels:
    """The evidence of one image (*spatial, C) where another's was, whose own, `hole` (*spatial), is filled."""

    def tensor(pixels: Pixels | Flags) -> Tensor:
        return torch.from_numpy(np.moveaxis(pixels.astype(np.float32), -1, 0)).unsqueeze(0)

    wide = ndimage.binary_dilation(hole, iterations=max(1, round(EDGE * min(hole.shape))))
    filled = hidden(tensor(behind), tensor(wide[..., None]), hole.ndim)
    marked = torch.from_numpy(mask.astype(np.float32)).unsqueeze(0)
    mixed = surrounded(tensor(image), filled, marked, torch.ones(1, dtype=torch.bool))
    return np.moveaxis(mixed[0].round().byte().numpy(), 0, -1)
