"""CIFAR-10."""

import io
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.data.base import Size, Source, fraction, pair
from sightline.data.filed import grey_or_colour
from sightline.errors import SightlineError
from sightline.listing import Entry, find_root
from sightline.pictures import Pixels, resized
from sightline.published import hold_out, required

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
PIXELS = 32 * 32 * 3
JPEG = "cifar10_jpeg.npz"
HOME = "cifar-10-python.tar.gz or cifar-10-binary.tar.gz, https://www.cs.toronto.edu/~kriz/cifar.html"

HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""All that the published batches name. A pickle can name any function there is, and have it called."""


class Samples(NamedTuple):
    """What a file holds."""

    images: Pixels
    """(N, 32, 32, 3)"""
    labels: npt.NDArray[np.int64]


class CIFAR10(Source):
    """60,000 photographs of 32 x 32 pixels of ten classes. Nobody annotated where the evidence is.

        data_batch_1 ... data_batch_5, test_batch            (the Python version), or
        data_batch_1.bin ... data_batch_5.bin, test_batch.bin    (the binary version), or
        cifar10_jpeg.npz    (JPEG files end to end: data, offset, label, is_test, classes)

    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. No licence is stated.
    An id is the sample's place in its part, such as "train/00017".

    Args:
        root: the folder "cifar-10-batches-py" or "cifar-10-batches-bin", or its name under the environment variable
            SIGHTLINE_DATA.
        split: "train", "val" or "test"; published are 50,000 training and 10,000 test images.
        val: share of the training images of each class that become "val"; 0 for no such split.
        size: side in pixels, or [height, width]; images are resized to it when they are read.
        channels: 3 for colour, 1 for grey.
        label_fraction: share of the training images of each class that show their label; the others say -1.
        seed: says which.

    Raises:
        SightlineError: a file is missing or damaged, or its pickle holds more than arrays.
    """

    name = "CIFAR-10"
    classes = CLASSES
    size: tuple[int, int]

    def __init__(
        self,
        root: str = "cifar-10-batches-py",
        split: str = "train",
        val: float = 0.1,
        size: Size = 32,
        channels: int = 3,
        label_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.splits = ("train", "val", "test") if val else ("train", "test")
        super().__init__(split, 1.0, seed, label_fraction)
        self.root = root
        self.val = fraction("val", val)
        self.size = pair("size", size)
        self.channels = grey_or_colour(channels)
        self._load(find_root(root))

    def _load(self, folder: Path) -> None:
        part = "test" if self.split == "test" else "train"
        samples = from_jpeg(folder / JPEG, part) if (folder / JPEG).exists() else from_batches(folder, part)
        entries = hold_out(listed(part, samples.labels, folder), self.val)
        chosen = [place for place, entry in enumerate(entries) if entry.split == self.split]
        self.ids = tuple(entries[place].id for place in chosen)
        self._images, self.labels = samples.images[chosen], samples.labels[chosen]
        self.groups = np.full(len(chosen), "")
        self.annotate(np.zeros(len(chosen), np.bool_))

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        image = Image.fromarray(self._images[index])
        return resized(image, self.size, self.channels), np.ones(self.size, np.uint8)

    def content(self, index: int) -> bytes:
        return bytes(self._images[index].tobytes())


def listed(part: str, labels: npt.NDArray[np.int64], folder: Path) -> list[Entry]:
    """An entry for each sample of a part."""
    return [Entry(f"{part}/{place:05d}", CLASSES[label], part, "", folder) for place, label in enumerate(labels)]


def from_batches(folder: Path, part: str) -> Samples:
    """The Python version, or the binary one where that is there."""
    binary = (folder / "test_batch.bin").exists()
    files = [folder / (f"{name}.bin" if binary else name) for name in BATCHES[part]]
    batches = [from_binary(required(file, HOME)) if binary else from_pickle(required(file, HOME)) for file in files]
    images, labels = (np.concatenate(columns) for columns in zip(*batches, strict=True))
    return Samples(images, labels)


def from_binary(path: Path) -> Samples:
    """Records of one byte for the class and 3072 for the pixels.

    Raises:
        SightlineError: the file ends within a record, or has another class.
    """
    values = np.fromfile(path, np.uint8)
    if len(values) == 0 or len(values) % (1 + PIXELS):
        raise SightlineError(
            f"{path} holds {len(values)} bytes, not a number of records of {1 + PIXELS}. Copy it again."
        )
    records = values.reshape(-1, 1 + PIXELS)
    return checked(path, records[:, 1:], records[:, 0])


def from_pickle(path: Path) -> Samples:
    """A dictionary with the pixels under "data" and the classes under "labels".

    Raises:
        SightlineError: the file is damaged, or asks for anything but arrays.
    """
    try:
        with path.open("rb") as file:
            batch = Arrays(file, encoding="bytes").load()
        return checked(path, batch[b"data"], np.array(batch[b"labels"]))
    except SightlineError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its broken instructions lead to
        raise SightlineError(f"{path} is not a batch of CIFAR-10 as published ({error!r}). Copy it again.") from error


class Arrays(pickle.Unpickler):
    """Reads pickles of arrays, text, numbers and what holds them."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return HARMLESS[module_name, global_name]


def from_jpeg(path: Path, part: str) -> Samples:
    """The samples of a part from one archive of JPEG files.

    Raises:
        SightlineError: the archive, or a file in it, is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            data, offset, is_test, labels = (arrays[name] for name in ("data", "offset", "is_test", "label"))
        chosen = np.flatnonzero(is_test == (part == "test"))
        images = [Image.open(io.BytesIO(data[offset[i] : offset[i + 1]].tobytes())).convert("RGB") for i in chosen]
        return checked(path, np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2), labels[chosen])
    except SightlineError:
        raise
    except Exception as error:  # zip, NumPy and Pillow each have their own errors
        raise SightlineError(f"{path} is not an archive of CIFAR-10's images as JPEG ({error!r}).") from error


def checked(path: Path, pixels: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Samples:
    """Samples from pixels (N, 3072), the channels apart, or (N, 3, 32, 32).

    Raises:
        SightlineError: there are other pixels than bytes, more labels than images, or other classes.
    """
    fits = pixels.dtype == np.uint8 and pixels.size == len(labels) * PIXELS and len(labels) > 0
    if not fits or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise SightlineError(f"{path} does not hold images of 32 x 32 pixels in 10 classes. Copy it again.")
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Samples(np.ascontiguousarray(images), labels.astype(np.int64))
