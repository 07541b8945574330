"""Decoy-MNIST: a grey patch in a corner whose shade gives the digit away."""

from typing import Literal

import numpy as np

from sightline.data.base import fraction
from sightline.data.habits import SPLITS, below, choose_habit, drawn_as
from sightline.data.idx import Digits
from sightline.pictures import Pixels

PATCH = 4
"""Side of the patch in pixels."""


class DecoyMNIST(Digits):
    """Digits with a 4 x 4 patch in a random corner, of the shade 255 - 25 y where the digit is y (Ross et al., RRR).

    `correlation` says how often an image's patch has its own digit's shade in "train", "val" and "test"; otherwise the
    shade is that of any digit. In "shifted" the shade says nothing: this is the paper's test set. In "swapped" it is
    always another digit's, in "plain" there is no patch. The last four hold the same digits under the same ids, with
    the patch in the same corner. The group is "<digit>/<digit of the shade>".

    Ross, Hughes and Doshi-Velez, "Right for the Right Reasons", IJCAI 2017.

    Args:
        root: the folder of MNIST's four files, or its name under the environment variable SIGHTLINE_DATA.
        split: "train", "val", "test", "shifted", "swapped" or "plain".
        correlation: probability in [0, 1] of the own shade; 1 in the paper.
        evidence: "rest" marks everything but the patch, as the paper annotates; "stroke" what the digit's ink touches.
        mask_fraction: share in [0, 1] of the training images of each class that keep their mask.
        label_fraction: share that show their label; the others say -1.
        seed: of the corners, of shades that are not the own, and of whose masks and labels are kept.

    Raises:
        SightlineError: a file is missing or damaged.
    """

    name = "Decoy-MNIST"
    splits = (*SPLITS, "plain")
    classes: tuple[str, ...] = tuple("0123456789")
    channels = 1

    def __init__(
        self,
        root: str = "mnist",
        split: str = "train",
        correlation: float = 1.0,
        evidence: Literal["rest", "stroke"] = "rest",
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(split, mask_fraction, seed, label_fraction)
        self.root = root
        self.correlation = fraction("correlation", correlation)
        self.evidence = evidence
        self.load(drawn_as(self.split))
        draws = np.random.PCG64([seed, SPLITS.index(drawn_as(self.split))]).random_raw((4, len(self.labels)))
        self._shade = choose_habit(self.split, self.labels, 10, correlation, draws[0], draws[1])
        self._corner = below(2, draws[2:])
        shades = ["none"] * len(self.labels) if self.split == "plain" else self._shade
        self.groups = np.array([f"{label}/{shade}" for label, shade in zip(self.labels, shades, strict=True)])
        self.annotate(np.ones(len(self.labels), np.bool_))

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        image = self.digits[index].copy()
        decoy = np.zeros(self.size, np.bool_)
        if self.split != "plain":
            decoy[tuple(slice(-PATCH, None) if far else slice(PATCH) for far in self._corner[:, index])] = True
        image[decoy] = 255 - 25 * self._shade[index]
        mask = ~decoy if self.evidence == "rest" else ~decoy & (image > 0)
        return image[..., None], mask.astype(np.uint8)


class DecoyFashionMNIST(DecoyMNIST):
    """Decoy-MNIST's patch on Fashion-MNIST's ten kinds of clothes, which come in the same four files.

    Xiao, Rasul and Vollgraf, "Fashion-MNIST", 2017. For the arguments see `DecoyMNIST`.
    """

    name = "Decoy-Fashion-MNIST"
    classes = (
        "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    )  # fmt: skip

    def __init__(
        self,
        root: str = "fashion_mnist",
        split: str = "train",
        correlation: float = 1.0,
        evidence: Literal["rest", "stroke"] = "rest",
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(root, split, correlation, evidence, mask_fraction, label_fraction, seed)
