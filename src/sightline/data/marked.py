"""Markers pasted into images: a ruler, a letter of film, a scanner's frame, a patch, each with a class it goes with."""

from collections.abc import Mapping
from functools import cache
from hashlib import sha256

import numpy as np

from sightline.data.base import Source, fraction
from sightline.data.habits import SPLITS, Integers, below, choose_habit, drawn_as
from sightline.data.subset import Subset, single
from sightline.errors import SightlineError, did_you_mean
from sightline.pictures import Flags, Pixels

MARKERS = ("none", "ruler", "left", "right", "frame", "patch")

LETTERS = {
    "left": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
    "right": ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"),
}
"""The letters that say on a radiograph which side is which: five columns, seven rows."""


class Marked(Subset):
    """Another dataset with markers pasted into its images, each of which tends to go with a class.

    `correlation` says how often an image has the marker of its class in "train", "val" and "test"; otherwise its
    marker is any of those in use, "none" among them if a class has none. In "shifted" the marker says nothing, in
    "swapped" it is always one of another class, in "clean" there are none. The last four hold the same images, those of
    the dataset's "test", under the same ids. The group is "<class>/<marker>".

    Markers are white, or black where the image is bright. They lie in the corner where they meet least of the evidence,
    and no pixel of the evidence changes. Letters of film give hospitals away (Zech et al., PLoS Medicine 2018), rulers
    malignant moles (Narla et al., Journal of Investigative Dermatology 2018).

    Args:
        data: a dataset with one class per image and splits "train", "val" and "test".
        markers: for some classes the marker that goes with it: "ruler", "left" (the letter L), "right" (R), "frame" or
            "patch". The others have "none".
        correlation: probability in [0, 1] of the marker of the class.
        split: "train", "val", "test", "shifted", "swapped" or "clean".
        mask_fraction, label_fraction: of the training images; see `Folder`.
        seed: with an image's id, of its marker and where it lies.

    Raises:
        SightlineError: an unknown class or marker, one marker for all classes, or a dataset of another kind.
    """

    def __init__(
        self,
        data: Source,
        markers: dict[str, str],
        correlation: float = 0.9,
        split: str = "train",
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        if len(data.size) != 2 or min(data.size) < 16:
            raise SightlineError(f"data: markers need images of 16 x 16 pixels or more; {data.name} has {data.size}.")
        self.markers = markers
        self.correlation = fraction("correlation", correlation)
        self._own = markers_of(data, markers)
        super().__init__(data, split, mask_fraction, label_fraction, seed)

    def own_splits(self) -> tuple[str, ...]:
        return *SPLITS, "clean"

    def choose(self) -> dict[str, Integers]:
        inner = drawn_as(self.split)
        return {inner: np.arange(len(self.part(inner)))}

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        image, mask = super().read(index)
        return paste(image, mask, self._shown[index], int(self._place[index])), mask

    def content(self, index: int) -> bytes:
        return Source.content(self, index)  # of what is shown, not of the files

    def _take(self) -> None:
        super()._take()
        draws = np.array([raw(self.seed, name) for name in self.ids], np.uint64).T
        kinds = list(dict.fromkeys(self._own))
        own = np.array([kinds.index(marker) for marker in self._own])[single(self)]
        habit = choose_habit(self.split, own, len(kinds), self.correlation, draws[0], draws[1])
        self._shown = ["none"] * len(self) if self.split == "clean" else [kinds[kind] for kind in habit]
        self._place = below(4, draws[2])
        self.groups = np.array([f"{self.classes[y]}/{m}" for y, m in zip(self.labels, self._shown, strict=True)])


def markers_of(data: Source, markers: Mapping[str, str]) -> tuple[str, ...]:
    """The marker of each class of a dataset.

    Raises:
        SightlineError: an unknown class or marker, or the same one for all.
    """
    for label, marker in markers.items():
        for what, word, known in (("class", label, data.classes), ("marker", marker, MARKERS)):
            if word not in known:
                raise SightlineError(f"markers: there is no {what} {word!r}. {did_you_mean(word, known)}")
    own = tuple(markers.get(label, "none") for label in data.classes)
    if len(set(own)) == 1:
        raise SightlineError(f"markers: every class has {own[0]!r}, so it gives none away. Give one class another.")
    return own


def raw(seed: int, name: str) -> tuple[int, ...]:
    """Three raw 64-bit draws that depend on the seed and an image's id alone."""
    digest = sha256(f"{seed}\0{name}".encode()).digest()
    return tuple(int.from_bytes(digest[i : i + 8], "big") for i in (0, 8, 16))


def paste(image: Pixels, mask: Pixels, marker: str, place: int) -> Pixels:
    """The image (H, W, C) with a marker in the corner where it covers least of the evidence.

    Args:
        image: it stays as it is.
        mask: (H, W), 1 where the evidence is; ones everywhere mean that nobody annotated.
        marker: one of `MARKERS`.
        place: 0..3, where to prefer to paste it.
    """
    if marker == "none":
        return image
    evidence = (mask > 0) & ~mask.all()
    turned = [place_at(marker, mask.shape, (place + turn) % 4) for turn in range(4)]
    where = min(turned, key=lambda shape: int((shape & evidence).sum())) & ~evidence
    covered = image[where]
    pasted = image.copy()
    pasted[where] = 230 if 2 * int(covered.sum()) < 255 * covered.size else 25
    return pasted


@cache
def place_at(marker: str, size: tuple[int, int], corner: int) -> Flags:
    """Where a marker lies in an image of `size` (H, W): in the corner 0, 1, 2 or 3, a frame all round."""
    gap = max(1, min(size) // 32)
    inside = slice(gap, -gap)
    if marker == "frame":
        where = np.ones(size, np.bool_)
        where[inside, inside] = False
        return where
    where, shape = np.zeros(size, np.bool_), stencil(marker, min(size))
    rows = slice(shape.shape[0]) if corner < 2 else slice(-shape.shape[0], None)
    columns = slice(shape.shape[1]) if corner % 2 == 0 else slice(-shape.shape[1], None)
    where[inside, inside][rows, columns] = shape
    return where


def stencil(marker: str, side: int) -> Flags:
    """The marker itself, (h, w), for images of this shorter side."""
    if marker == "patch":
        return np.ones((max(2, side // 8),) * 2, np.bool_)
    if marker == "ruler":
        return ruler(side // 2, max(3, side // 12))
    letter = np.array([[pixel == "#" for pixel in row] for row in LETTERS[marker]])
    return np.kron(letter, np.ones((max(1, side // 40),) * 2, np.bool_))


def ruler(length: int, height: int) -> Flags:
    """(height, length): a line with a tick at every fourth column, every fifth of them a long one."""
    shape = np.zeros((height, length), np.bool_)
    shape[0] = True
    shape[: height // 2 + 1, ::4] = True
    shape[:, ::20] = True
    return shape
