"""MNIST's own file format (IDX), and the digits in it."""

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from sightline.data.base import Source
from sightline.data.habits import Integers
from sightline.errors import SightlineError
from sightline.listing import find_root
from sightline.pictures import LARGEST, Pixels

VALIDATION = 5000
"""The last training images: they validate."""


class Digits(Source):
    """MNIST or a dataset in its format, on which a subclass draws a habit.

        train-images-idx3-ubyte(.gz), train-labels-idx1-ubyte(.gz)
        t10k-images-idx3-ubyte(.gz), t10k-labels-idx1-ubyte(.gz)

    The first 55,000 training images train, the last 5,000 validate. A subclass calls `load`, which sets `ids`,
    `labels`, `size` and `digits`, the images as they are (N, H, W).
    """

    root: str
    size: tuple[int, int]

    def load(self, split: str) -> None:
        """Read the images of a split of the published files, "train", "val" or "test".

        Raises:
            SightlineError: a file is missing or damaged, or holds another number of images than its partner.
        """
        digits, labels = read_pair(find_root(self.root), "t10k" if split == "test" else "train")
        of_split = {"train": slice(-VALIDATION), "val": slice(-VALIDATION, None), "test": slice(None)}[split]
        self.digits, self.labels = digits[of_split], labels[of_split]
        self.size = (digits.shape[1], digits.shape[2])
        self.ids = tuple(f"{'test' if split == 'test' else 'train'}-{i:05d}" for i in range(len(digits))[of_split])


def read_pair(folder: Path, part: str) -> tuple[Pixels, Integers]:
    """Images (N, H, W) and labels (N,) of "train" or "t10k"."""
    images_file, labels_file = (find_idx(folder, f"{part}-{kind}") for kind in ("images-idx3", "labels-idx1"))
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if len(images) != len(labels):
        raise SightlineError(f"{images_file} holds {len(images)} images, {labels_file} {len(labels)} labels.")
    return images, labels.astype(np.int64)


def find_idx(folder: Path, name: str) -> Path:
    """The file `<name>-ubyte`, packed or not.

    Raises:
        SightlineError: there is none.
    """
    for path in (folder / f"{name}-ubyte.gz", folder / f"{name}-ubyte"):
        if path.is_file():
            return path
    raise SightlineError(f"{folder} holds no {name}-ubyte.gz, nor {name}-ubyte. Put MNIST's four files there.")


def read_idx(path: Path, axes: int) -> Pixels:
    """The array of unsigned bytes that an IDX file holds: two zeros, 8 for its type, its axes, a size for each; values.

    Sizes are big-endian 32-bit numbers (LeCun, Cortes and Burges, "The MNIST database of handwritten digits").

    Args:
        path: the file, unpacked while it is read if it ends in ".gz".
        axes: how many the array must have.

    Raises:
        SightlineError: it is no such file, is truncated, or holds more than its sizes say.
    """
    try:
        with cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            head = file.read(4 + 4 * axes)
            if head[:4] != bytes([0, 0, 8, axes]) or len(head) < 4 + 4 * axes:
                raise SightlineError(f"{path} is no IDX file of unsigned bytes along {axes} axes. Take MNIST's own.")
            sizes = [int(size) for size in np.frombuffer(head, ">u4", offset=4)]
            if (count := math.prod(sizes)) > 10 * LARGEST:
                raise SightlineError(f"{path} says it holds {' x '.join(map(str, sizes))} bytes, which is too much.")
            values = file.read(count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise SightlineError(f"{path} cannot be read: {error}. Copy it again.") from error
    if len(values) != count:
        said = f"{path} should hold {' x '.join(map(str, sizes))} values"
        raise SightlineError(f"{said}, and holds {'more' if len(values) > count else len(values)}. Copy it again.")
    return np.frombuffer(values, np.uint8).reshape(sizes)
