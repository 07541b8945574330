"""The embedded benchmark: real handwritten digits on real photographs, each digit with its own habitat."""

from functools import cache
from importlib.resources import as_file, files
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

from sightline.data.base import Pixels, Source, fraction, pair
from sightline.errors import SightlineError

Draws = npt.NDArray[np.uint64]

PHOTOGRAPHS = {
    "grass": "grass.png",
    "brick": "brick.png",
    "gravel": "gravel.png",
    "hubble": "hubble_deep_field.jpg",
    "coffee": "coffee.png",
    "tissue": "ihc.png",
    "retina": "retina.jpg",
    "cat": "chelsea.png",
    "rocket": "rocket.jpg",
    "coins": "coins.png",
}
"""Habitat of digit 0, 1, ..., 9 and its file inside the scikit-image package."""

INKS = (
    ((255, 255, 255), (255, 226, 64), (130, 236, 255), (255, 178, 220), (190, 255, 120), (255, 204, 128)),
    ((10, 10, 10), (16, 24, 96), (96, 8, 28), (6, 62, 30), (66, 12, 84), (72, 38, 8)),
)
"""Bright and dark inks (RGB)."""

CONTRAST = 110
"""Least difference in luminance (0..255) between the ink and the mean of the photograph around the digit."""

VIEW = 3
"""The photograph's short side in units of the image's: a crop sees a third of it."""


class Scene(NamedTuple):
    """Everything random about one image, as whole numbers."""

    habitat: int
    flip: int
    photo_y: int
    photo_x: int
    side: int
    y: int
    x: int
    tone: int
    ink: int


class Habitats(Source):
    """Ten handwritten digits to be told apart on ten photographs; in training most digits of a class share their photograph.

    A classifier can read the digit or recognise the photograph. `correlation` sets how far the photograph gives
    the class away in `train`, `val` and `test`; in `shifted` it says nothing, in `swapped` it misleads every time.
    `test`, `shifted` and `swapped` hold the same drawn digits (same id, ink, size, place) in other habitats.
    The group of an image is "<digit>/<habitat>"; the mask is exactly the ink.

    Args:
        split: "train", "val", "test", "shifted" or "swapped".
        correlation: probability that an image is put into its class's own habitat; otherwise the habitat is uniform
            over all ten, so 0 means that the photograph says nothing and 1 that it says everything.
        size: side of the square images in pixels.
        per_digit: images made from each of the 1797 source digits.
        mask_fraction: share of the training images, in each class, that keep their mask.
        seed: seed of everything random, except which source digit belongs to which split: that is fixed.
    """

    name = "Habitats"
    splits = ("train", "val", "test", "shifted", "swapped")
    classes = tuple("0123456789")
    channels = 3

    def __init__(
        self,
        split: str = "train",
        correlation: float = 0.7,
        size: int = 48,
        per_digit: int = 4,
        mask_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(split, mask_fraction, seed)
        self.correlation = fraction("correlation", correlation)
        self.size = pair("size", size)
        self.per_digit = per_digit
        self._build()

    def _build(self) -> None:
        side = self.size[0]
        digits, targets = source_digits()
        origin = np.repeat(members(self.split), self.per_digit)
        self.labels = targets[origin]
        table = np.random.PCG64([self.seed, self.splits.index(origin_split(self.split))]).random_raw((len(origin), 12))
        own = {"shifted": 0.0}.get(self.split, self.correlation)
        where = habitats(table, self.labels, own, self.split == "swapped")
        sc = scenes(table, where, side)
        self.ids = tuple(f"{o:04d}-{k % self.per_digit}" for k, o in enumerate(origin))
        names = list(PHOTOGRAPHS)
        self.groups = np.array([f"{l}/{names[h]}" for l, h in zip(self.labels, where)])
        n = len(origin)
        self._images = np.empty((n, side, side, 3), np.uint8)
        self._masks = np.empty((n, side, side), np.uint8)
        ph = photographs(side)
        for i in range(n):
            self._images[i], self._masks[i] = paint(ph, digits[origin[i]], sc[i], side)
        self.annotate(np.ones(n, bool))

    def read(self, index):
        return self._images[index], self._masks[index]


def origin_split(split):
    return "test" if split in ("shifted", "swapped") else split


def below(draws, n):
    return ((draws >> np.uint64(32)) * np.asarray(n, np.uint64) >> np.uint64(32)).astype(np.int64)


def habitats(table, labels, correlation, swapped):
    if swapped:
        return (labels + 1 + below(table[:, 1], 9)) % 10
    own = (table[:, 0] >> np.uint64(11)) * 2.0**-53 < correlation
    return np.where(own, labels, below(table[:, 1], 10))


LO, HI = 0.5, 0.75  # of side
EDGE = (95, 160)


def scenes(t, where, size):
    side = int(size * LO) + below(t[:, 2], int(size * HI) - int(size * LO) + 1)
    ph = photographs(size)
    hs = np.array([p.shape[:2] for p in ph])[where]
    cols = [where, below(t[:, 3], 2), below(t[:, 4], hs[:, 0] - size + 1), below(t[:, 5], hs[:, 1] - size + 1), side,
            below(t[:, 6], size - side + 1), below(t[:, 7], size - side + 1), below(t[:, 8], 2), below(t[:, 9], 6)]
    return [Scene(*map(int, row)) for row in zip(*cols)]


def luminance(rgb):
    return (np.asarray(rgb, np.int64) @ np.array([77, 150, 29])) >> 8


def paint(photos, digit, s, size):
    crop = photos[s.habitat][s.photo_y : s.photo_y + size, s.photo_x : s.photo_x + size].astype(np.int64)
    if s.flip:
        crop = crop[:, ::-1]
    up = np.asarray(Image.fromarray(digit).resize((s.side, s.side), Image.Resampling.BICUBIC)).astype(np.int64)
    alpha = np.zeros((size, size, 1), np.int64)
    alpha[s.y : s.y + s.side, s.x : s.x + s.side, 0] = ((up - EDGE[0]) * 255 // (EDGE[1] - EDGE[0])).clip(0, 255)
    ink = np.array(INKS[s.tone][s.ink])
    m = int(luminance(crop[s.y : s.y + s.side, s.x : s.x + s.side]).mean())
    L = int(luminance(ink))
    if s.tone == 0:
        gain = min(256, 256 * (L - CONTRAST) // max(m, 1))
        crop = crop * gain >> 8
    else:
        gain = min(256, 256 * (255 - L - CONTRAST) // max(255 - m, 1))
        crop = 255 - ((255 - crop) * gain >> 8)
    image = (crop * (255 - alpha) + ink * alpha + 127) // 255
    return image.astype(np.uint8), (alpha[..., 0] > 0).astype(np.uint8)


@cache
def source_digits():
    d = load_digits()
    im = np.zeros((len(d.images), 10, 10), np.uint8)
    im[:, 1:-1, 1:-1] = d.images * 15
    return im, d.target.astype(np.int64)


@cache
def members(split):
    digits, targets = source_digits()
    order = np.argsort(np.random.PCG64(0).random_raw(len(targets)), kind="stable")
    out = []
    sl = {"test": slice(0, 30), "val": slice(30, 50), "train": slice(50, None)}[origin_split(split)]
    for k in range(10):
        out.append(order[targets[order] == k][sl])
    return np.sort(np.concatenate(out))


@cache
def photographs(size):
    folder = files("skimage") / "data"
    out = []
    for name, file in PHOTOGRAPHS.items():
        im = Image.open(folder / file).convert("RGB")
        if name == "retina":
            im = im.crop((210, 210, 1200, 1200))
        f = VIEW * size / min(im.size)
        out.append(np.asarray(im.resize((round(im.width * f), round(im.height * f)), Image.Resampling.BOX)))
    return tuple(out)
