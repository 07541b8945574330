"""Coloured MNIST: the ink's colour gives the digit away."""

import numpy as np
import numpy.typing as npt

from sightline.data.base import fraction
from sightline.data.habits import SPLITS, Integers, choose_habit, drawn_as, uniform
from sightline.data.idx import Digits
from sightline.pictures import Pixels

INKS = np.array(
    [(255, 0, 0), (241, 134, 0), (202, 227, 0), (71, 213, 0), (0, 199, 44), (0, 184, 143), (0, 114, 170), (0, 17, 156),
     (63, 0, 142), (128, 0, 128)], np.int64,
)  # fmt: skip
"""Ten hues evenly spaced from red to purple (RGB), as dark as purple is in the end."""

RED, GREEN = (255, 0, 0), (0, 255, 0)


class ColorMNIST(Digits):
    """Digits in ten colours, in training each in its own (Li and Vasconcelos, REPAIR; Rieger et al., CDEP).

    `correlation` says how often a digit has its own colour in "train", "val" and "test"; otherwise the colour is any
    digit's. In "shifted" the colour says nothing, in "swapped" it is always another digit's, in "reversed" the digit
    y has the colour of 9 - y: this is CDEP's test set. The last four hold the same digits under the same ids. The
    group is "<digit>/<digit of the colour>".

    The mask is what the ink touches: the colour lies on the evidence itself, so no mask can tell a model to leave it.

    Li and Vasconcelos, "REPAIR: Removing Representation Bias by Dataset Resampling", CVPR 2019. Rieger et al.,
    "Interpretations are useful: penalizing explanations to align neural networks with prior knowledge", ICML 2020.

    Args:
        root: the folder of MNIST's four files, or its name under the environment variable SIGHTLINE_DATA.
        split: "train", "val", "test", "shifted", "swapped" or "reversed".
        correlation: probability in [0, 1] of the own colour; 1 in CDEP.
        mask_fraction: share in [0, 1] of the training images of each class that keep their mask.
        label_fraction: share that show their label; the others say -1.
        seed: of colours that are not the own, and of whose masks and labels are kept.

    Raises:
        SightlineError: a file is missing or damaged.
    """

    name = "ColorMNIST"
    splits = (*SPLITS, "reversed")
    classes = tuple("0123456789")
    channels = 3

    def __init__(
        self,
        root: str = "mnist",
        split: str = "train",
        correlation: float = 1.0,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(split, mask_fraction, seed, label_fraction)
        self.root = root
        self.correlation = fraction("correlation", correlation)
        self.load(drawn_as(self.split))
        draws = np.random.PCG64([seed, SPLITS.index(drawn_as(self.split))]).random_raw((2, len(self.labels)))
        own = choose_habit(self.split, self.labels, 10, correlation, *draws)
        self._color = 9 - self.labels if self.split == "reversed" else own
        self.groups = np.array([f"{label}/{color}" for label, color in zip(self.labels, self._color, strict=True)])
        self.annotate(np.ones(len(self.labels), np.bool_))

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        return inked(self.digits[index], INKS[self._color[index]])


class TwoColorMNIST(Digits):
    """Small digits (0 to 4) against large ones in two colours, with labels of which a quarter are wrong (IRM).

    The label is flipped with probability `noise`, and the colour, red for small and green for large, follows the
    flipped label: it is another with a probability of 0.2 in training images of even number and 0.1 in those of odd
    number (the paper's two environments), so that in training the colour predicts the label better than the shape
    does. "val" and "test" are like the training images. In "shifted" the probability is 0.5: the colour says nothing.
    In "swapped" it is 0.9: this is the paper's third environment. The last three hold the same digits, under the same
    ids and labels. The group is "<class>/<colour>", the mask what the ink touches.

    The paper's images are 14 x 14 of two channels, and its last environment holds the training images from number
    50,000 on. Here they are 28 x 28 of three, "swapped" holds the test images, and the first 55,000 train.

    Arjovsky et al., "Invariant Risk Minimization", 2019.

    Args:
        root: the folder of MNIST's four files, or its name under the environment variable SIGHTLINE_DATA.
        split: "train", "val", "test", "shifted" or "swapped".
        noise: probability in [0, 1] that a label is wrong; 0.25 in the paper.
        mask_fraction: share in [0, 1] of the training images of each class that keep their mask.
        label_fraction: share that show their label; the others say -1.
        seed: of labels and colours, and of whose masks and labels are kept.

    Raises:
        SightlineError: a file is missing or damaged.
    """

    name = "Colored MNIST (two colours)"
    splits = SPLITS
    classes = ("small", "large")
    channels = 3

    def __init__(
        self,
        root: str = "mnist",
        split: str = "train",
        noise: float = 0.25,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(split, mask_fraction, seed, label_fraction)
        self.root = root
        self.noise = fraction("noise", noise)
        self.load(drawn_as(self.split))
        flips, other = np.random.PCG64([seed, SPLITS.index(drawn_as(self.split))]).random_raw((2, len(self.labels)))
        self.labels = self.labels // 5 ^ (uniform(flips) < noise)
        self._color = self.labels ^ (uniform(other) < self._rarity())
        inks = np.array(["red", "green"])[self._color]
        self.groups = np.array([f"{self.classes[y]}/{ink}" for y, ink in zip(self.labels, inks, strict=True)])
        self.annotate(np.ones(len(self.labels), np.bool_))

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        return inked(self.digits[index], np.array((RED, GREEN)[self._color[index]]))

    def _rarity(self) -> npt.NDArray[np.float64]:
        """(N,) probability that an image has the other class's colour."""
        if self.split in ("shifted", "swapped"):
            return np.full(len(self.labels), {"shifted": 0.5, "swapped": 0.9}[self.split])
        return np.where(np.arange(len(self.labels)) % 2, 0.1, 0.2)


def inked(digit: Pixels, ink: Integers) -> tuple[Pixels, Pixels]:
    """The digit (H, W) in an ink (3,) on black: image (H, W, 3), and mask (H, W) of what the ink touches."""
    image = (digit[..., None].astype(np.int64) * ink + 127) // 255
    return image.astype(np.uint8), (digit > 0).astype(np.uint8)
