"""The embedded benchmark: real handwritten digits on real photographs, each digit with a habitat of its own."""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.data.base import Size, Source, at_least, fraction, pair
from sightline.data.habits import SPLITS, Integers, below, choose_habit, drawn_as
from sightline.errors import SightlineError, did_you_mean
from sightline.pictures import Pixels

Tones = npt.NDArray[np.int32]

DIGITS = tuple("0123456789")
EVERY = np.arange(len(DIGITS))

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
"""The habitats of the digits 0, 1, ..., 9 and their files inside the scikit-image package."""

FRAMES = {"retina": (210, 210, 1200, 1200), "coins": (0, 0, 360, 303)}
"""Boxes (left, upper, right, lower) that cut off what is no photograph: the black round the eye, a white margin."""

VIEW = 3
"""Short side of a photograph, in crops: crops vary, and what they show is still recognised."""

BRIGHT = (255, 255, 255), (255, 226, 64), (130, 236, 255), (255, 178, 220), (190, 255, 120), (255, 204, 128)
DARK = (10, 10, 10), (16, 24, 96), (96, 8, 28), (6, 62, 30), (66, 12, 84), (72, 38, 8)
INKS = np.array(BRIGHT + DARK, np.int32)
"""Inks (RGB). Drawn without a look at the digit or its habitat: ink gives nothing away."""

CONTRAST = 110
"""Least distance, of 255, between the luminance of the ink and the mean of the photograph around the digit."""

STROKE = (95, 160)
"""Digit intensities (0..240) between which the ink goes from absent to opaque: an edge of about one pixel."""

TEST, VAL = 30, 20
"""Source digits of each class in the test and the validation split; the others train."""


class Scene(NamedTuple):
    """What is random about one image: its habitat and the crop's place; the digit's side, place and ink."""

    habitat: int
    flip: int
    top: int
    left: int
    side: int
    y: int
    x: int
    ink: int

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns the digit is drawn into."""
        return slice(self.y, self.y + self.side), slice(self.x, self.x + self.side)


class Habitats(Source):
    """Ten handwritten digits to be told apart on ten photographs, where the photograph tends to give the digit away.

    `correlation` says how often an image lies in its class's own habitat in "train", "val" and "test". In "shifted"
    the habitat says nothing, in "swapped" it always belongs to another class. "test", "shifted" and "swapped"
    hold the same drawn digits: the same id is the same digit, ink, size and place in another habitat.

    The mask is every pixel the ink touches; outside it an image is photograph and nothing else. The group is
    "<digit>/<habitat>". No two of "train", "val" and "test" share a source digit. The photographs are the same
    everywhere: the benchmark asks what a model decides on, not whether it recognises new photographs.

    Args:
        split: "train", "val", "test", "shifted" or "swapped".
        correlation: probability in [0, 1] of the own habitat; otherwise the habitat is uniform over all ten, so that 0
            makes the two independent.
        size: side of the images in pixels, or [height, width]; 24 to 96.
        per_digit: images made from each source digit.
        mask_fraction: share in [0, 1] of the training images of each class that keep their mask.
        label_fraction: share that show their label; the others say -1.
        seed: seed of everything random but the assignment of source digits to splits, which is fixed.
        only: take these digits alone, such as ["0", "8"], and no habitats but theirs; null for all.

    Raises:
        SightlineError: an argument out of range, or `only` names what is no digit.
    """

    name = "Habitats"
    splits = SPLITS
    classes: tuple[str, ...]
    size: tuple[int, int]
    channels = 3

    def __init__(
        self,
        split: str = "train",
        correlation: float = 0.8,
        size: Size = 48,
        per_digit: int = 4,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        only: list[str] | None = None,
    ) -> None:
        super().__init__(split, mask_fraction, seed, label_fraction)
        self.only = only
        self.classes = chosen(only)
        self.correlation = fraction("correlation", correlation)
        self.size = drawable(pair("size", size))
        self.per_digit = at_least("per_digit", per_digit, 1)
        self._draw()

    def _draw(self) -> None:
        digits, targets = source_digits()
        own = np.array(self.classes, np.int64)
        origin = np.repeat(members(self.split, own), self.per_digit)
        self.labels = np.searchsorted(own, targets[origin])
        self.ids = tuple(f"{digit:04d}-{copy % self.per_digit}" for copy, digit in enumerate(origin))
        plan = list(scenes(self.split, self.labels, self.correlation, self.size, self.seed, own))
        habitats = np.array(list(PHOTOGRAPHS))[[scene.habitat for scene in plan]]
        names = np.array(self.classes)[self.labels]
        self.groups = np.array([f"{name}/{habitat}" for name, habitat in zip(names, habitats, strict=True)])
        painted = [paint(digits[digit], scene, self.size) for digit, scene in zip(origin, plan, strict=True)]
        self._images, self._masks = (np.stack(part) for part in zip(*painted, strict=True))
        self.annotate(np.ones(len(origin), np.bool_))

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        return self._images[index], self._masks[index]


def chosen(only: list[str] | None) -> tuple[str, ...]:
    """The digits `only` names, ascending; all for None.

    Raises:
        SightlineError: one of them is no digit.
    """
    for name in only or ():
        if name not in DIGITS:
            raise SightlineError(f"only: there is no digit {name!r}. {did_you_mean(name, DIGITS)}")
    return tuple(sorted(set(only or DIGITS)))


def drawable(size: tuple[int, int]) -> tuple[int, int]:
    """`size` if digits can be read at it and the photographs are large enough for it.

    Raises:
        SightlineError: a side is not between 24 and 96.
    """
    if not all(24 <= side <= 96 for side in size):
        raise SightlineError(f"size must lie between 24 and 96 pixels, not {size}.")
    return size


@cache
def source_digits() -> tuple[Pixels, Integers]:
    """All 1797 digits (N, 10, 10) in 0..240 with a margin of one pixel, and what they show (N,)."""
    from sklearn.datasets import load_digits  # takes a second, and only this dataset needs it

    digits = load_digits()
    return np.pad(digits.images.astype(np.uint8) * 15, ((0, 0), (1, 1), (1, 1))), digits.target.astype(np.int64)


@cache
def photographs(size: tuple[int, int]) -> tuple[Pixels, ...]:
    """The ten photographs (H, W, 3), reduced so that a crop of `size` shows one third of them."""
    return tuple(photograph(habitat, VIEW * max(size)) for habitat in PHOTOGRAPHS)


def photograph(habitat: str, short_side: int) -> Pixels:
    """One habitat's photograph in RGB (H, W, 3), framed and reduced to `short_side`."""
    # Read as a plain file: skimage.data's own functions may download.
    with (files("skimage") / "data" / PHOTOGRAPHS[habitat]).open("rb") as file:
        image = Image.open(file).convert("RGB")
    image = image.crop(FRAMES.get(habitat, (0, 0, *image.size)))
    scale = short_side / min(image.size)
    return np.asarray(image.resize([round(side * scale) for side in image.size], Image.Resampling.BOX))


def members(split: str, own: Integers = EVERY) -> Integers:
    """Which source digits that show one of `own` belong to a split, ascending."""
    targets = source_digits()[1]
    order = np.argsort(np.random.PCG64(0).random_raw(len(targets)), kind="stable")
    part = {"test": slice(0, TEST), "val": slice(TEST, TEST + VAL), "train": slice(TEST + VAL, None)}[drawn_as(split)]
    return np.sort(np.concatenate([order[targets[order] == digit][part] for digit in own]))


def scenes(
    split: str, labels: Integers, correlation: float, size: tuple[int, int], seed: int, own: Integers = EVERY
) -> Iterator[Scene]:
    """One scene per label; the habitats are those of the digits `own` (classes,).

    Raw PCG64 output and whole-number arithmetic: NumPy keeps these the same on every machine and in every version.
    """
    stream = Habitats.splits.index(drawn_as(split))
    draws = np.random.PCG64([seed, stream]).random_raw((9, len(labels)))
    habitat = own[choose_habit(split, labels, len(own), correlation, draws[0], draws[1])]
    shapes = np.array([photo.shape[:2] for photo in photographs(size)])[habitat]
    side = min(size) // 2 + below(min(size) // 4 + 1, draws[2])
    columns = (
        habitat,
        below(2, draws[3]),
        below(shapes[:, 0] - size[0] + 1, draws[4]),
        below(shapes[:, 1] - size[1] + 1, draws[5]),
        side,
        below(size[0] - side + 1, draws[6]),
        below(size[1] - side + 1, draws[7]),
        below(len(INKS), draws[8]),
    )
    return map(Scene._make, np.stack(columns, axis=1).tolist())


def paint(digit: Pixels, scene: Scene, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """One image (H, W, 3) and its mask (H, W): the digit in ink on a crop of the scene's photograph."""
    alpha = opacity(digit, scene, size)
    ink = INKS[scene.ink]
    photo = expose(crop(scene, size), ink, scene.place)
    image = (photo * (255 - alpha[..., None]) + ink * alpha[..., None] + 127) // 255
    return image.astype(np.uint8), (alpha > 0).astype(np.uint8)


def opacity(digit: Pixels, scene: Scene, size: tuple[int, int]) -> Tones:
    """The smoothly enlarged digit at its place: 0 where the photograph shows, 255 where only ink does. (H, W)."""
    large = Image.fromarray(digit).resize((scene.side, scene.side), Image.Resampling.BICUBIC)
    low, high = STROKE
    alpha = np.zeros(size, np.int32)
    alpha[scene.place] = ((np.asarray(large, np.int32) - low) * 255 // (high - low)).clip(0, 255)
    return alpha


def crop(scene: Scene, size: tuple[int, int]) -> Tones:
    """The part of the photograph the scene shows (H, W, 3)."""
    photo = photographs(size)[scene.habitat][scene.top : scene.top + size[0], scene.left : scene.left + size[1]]
    return photo[:, :: -1 if scene.flip else 1].astype(np.int32)


def expose(photo: Tones, ink: Tones, place: tuple[slice, slice]) -> Tones:
    """The photograph darkened for a bright ink, lightened for a dark one, as far as the contrast at `place` needs.

    The photograph gives way because the ink must not: an ink chosen to suit its habitat would give the class away.
    """
    if luminance(ink) < 128:
        return 255 - expose(255 - photo, 255 - ink, place)
    around = luminance(photo[place])
    mean = max(int(around.sum()) // around.size, 1)
    return photo * min(256, 256 * int(luminance(ink) - CONTRAST) // mean) >> 8


def luminance(rgb: Tones) -> Tones:
    """Rec. 601 luma of (..., 3) in 0..255, in whole numbers."""
    return np.asarray((77 * rgb[..., 0] + 150 * rgb[..., 1] + 29 * rgb[..., 2]) >> 8)
