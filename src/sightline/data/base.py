"""What every dataset shares: one object per split, samples that are a `Batch`, an identity for each of them."""

import hashlib
import inspect
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sightline.errors import SightlineError, did_you_mean
from sightline.listing import SPELLINGS
from sightline.pictures import Flags, Pixels
from sightline.types import Batch
from sightline.volumes import Reading

Size = int | tuple[int, int]
Cuboid = int | tuple[int, int, int]


class Source(Dataset[Batch]):
    """A labelled image dataset, constructed for one split; `source[i]` is a `Batch` without its first axis.

    A subclass stores its constructor arguments under their own names, calls `Source.__init__` first, sets the
    attributes below, calls `annotate` with which images have a mask, and defines `read`. Its name, classes and
    splits can be class attributes.

    Attributes:
        name: what reports call the dataset.
        splits: the splits `on` accepts.
        classes: class names; a label is an index into them.
        ids: one stable string per sample, unique within the split.
        labels: (N,) int64, what is true of every sample, or (N, classes) of zeros and ones where a sample may have
            several classes; samples that hide theirs say -1, see `has_label`.
        groups: (N,) str, empty where a sample belongs to none; may be left out.
        has_mask: (N,) bool, which samples show their mask.
        has_label: (N,) bool, which samples show their label.
        size: (H, W) of every sample, (D, H, W) of volumes, (views, H, W) of several views.
        channels: 1 or 3.
        views: whether the first of three axes counts views of one subject, of which each is an image.
        reading: how scans become samples; None where samples are images.
    """

    name: str
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.str_]
    has_mask: Flags
    has_label: Flags
    size: tuple[int, ...]
    channels: int
    views: bool = False
    reading: Reading | None = None

    def __init__(self, split: str, mask_fraction: float, seed: int, label_fraction: float = 1.0) -> None:
        self.split = known_split(split, self.splits)
        self.mask_fraction = fraction("mask_fraction", mask_fraction)
        self.label_fraction = fraction("label_fraction", label_fraction)
        self.seed = at_least("seed", seed, 0)

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Image (*spatial, C) in 0..255 and mask of zeros and ones, ones where nobody annotated.

        The mask is (*spatial), or (classes, *spatial) where each class has evidence of its own.
        """
        raise NotImplementedError

    def _read(self, index: int) -> tuple[Pixels, Pixels]:
        """What `read` gives.

        Raises:
            SightlineError: it has another form than `read` promises.
        """
        image, mask = map(np.asarray, self.read(index))
        where, size = f"{self.name}/{self.split}/{self.ids[index]}: read() gives", tuple(self.size)
        if image.shape != (*size, self.channels):
            raise SightlineError(f"{where} an image of shape {image.shape}: expected {(*size, self.channels)}.")
        if mask.shape not in (size, (len(self.classes), *size)):
            raise SightlineError(
                f"{where} a mask of shape {mask.shape}: expected {size}, or one for each class; ones for no mask."
            )
        if image.dtype.kind == "f" and 0 < image.max() <= 1:
            raise SightlineError(f"{where} values from 0 to {image.max():.2g}: expected 0 to 255.")
        return image, mask

    def content(self, index: int) -> bytes:
        """The bytes `hash` identifies a sample by."""
        image, mask = self._read(index)
        return image.tobytes() + mask.tobytes()

    def annotate(self, has_mask: Flags, has_label: Flags | None = None) -> None:
        """Say which samples have a mask; in the training split only `mask_fraction` of each class keep theirs.

        Of the labels there, by default one for every sample, `label_fraction` are shown; equal fractions of both fall
        on the same samples.
        """
        self.labels = np.asarray(self.labels)
        if not hasattr(self, "groups"):
            self.groups = np.full(len(has_mask), "")
        masks, labels = (self.mask_fraction, self.label_fraction) if self.split == "train" else (1.0, 1.0)
        self.has_mask = thin(has_mask, self.labels, masks, self.seed)
        self.has_label = thin(
            np.ones_like(has_mask) if has_label is None else has_label, self.labels, labels, self.seed
        )

    def on(self, split: str) -> Self:
        """The same dataset with the same arguments on another split."""
        return type(self)(**self._arguments() | {"split": split})

    def hash(self) -> str:
        """SHA-256 over ids, labels, groups and the content of every image and mask: equal means the same data."""
        digest = hashlib.sha256()
        for index, (name, label, group) in enumerate(zip(self.ids, self.labels, self.groups, strict=True)):
            digest.update(f"{name}\0{label}\0{group}\0".encode())
            digest.update(self.content(index))
        return digest.hexdigest()

    def facts(self) -> dict[str, Any]:
        """What a run's record should say of the data beside their name, hash and number; by default nothing."""
        return {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Batch:
        """Image (C, *spatial) float32 in [0, 1]; label and index int64; mask float32 of 0 and 1; has_mask bool.

        Of several views the image is (views, C, H, W). Of a multi-label dataset the label is (classes,) float32. It is
        -1 where it is not shown.
        """
        index = range(len(self))[index]
        image, mask = self._read(index)
        shown = bool(self.has_mask[index])
        return Batch(
            image=torch.from_numpy(np.moveaxis(image, -1, int(self.views)).astype(np.float32) / 255),
            label=self._label(index),
            mask=torch.from_numpy(mask.astype(np.float32) if shown else np.ones(mask.shape, np.float32)),
            has_mask=torch.tensor(shown),
            index=torch.tensor(index),
        )

    def _label(self, index: int) -> Tensor:
        label = torch.as_tensor(self.labels[index])
        label = label if label.ndim == 0 else label.float()
        return label if self.has_label[index] else torch.full_like(label, -1)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._arguments().items())
        return f"{type(self).__name__}({arguments})"

    def _arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}


def known_split(split: str, splits: tuple[str, ...]) -> str:
    """`split` in the spelling the dataset uses; "valid" and "validation" both mean "val".

    Raises:
        SightlineError: the dataset has no such split.
    """
    spelt = SPELLINGS.get(split, split)
    if spelt not in splits:
        raise SightlineError(f"split: there is no {split!r} here. {did_you_mean(spelt, splits)}")
    return spelt


def fraction(name: str, value: float) -> float:
    """`value` if it lies in [0, 1].

    Raises:
        SightlineError: it does not; the message names the argument.
    """
    if not 0 <= value <= 1:
        raise SightlineError(f"{name} must lie between 0 and 1, not {value}.")
    return value


def at_least(name: str, value: int, low: int) -> int:
    """`value` if it is not below `low`.

    Raises:
        SightlineError: it is; the message names the argument.
    """
    if value < low:
        raise SightlineError(f"{name} must be at least {low}, not {value}.")
    return value


def pair(name: str, size: Size) -> tuple[int, int]:
    """(H, W) from one number or from both.

    Raises:
        SightlineError: a side is below 1; the message names the argument.
    """
    height, width = (size, size) if isinstance(size, int) else size
    return at_least(name, height, 1), at_least(name, width, 1)


def triple(name: str, size: Cuboid) -> tuple[int, int, int]:
    """(D, H, W) from one number or from all three.

    Raises:
        SightlineError: a side is below 1; the message names the argument.
    """
    depth, height, width = (size, size, size) if isinstance(size, int) else size
    return at_least(name, depth, 1), at_least(name, height, 1), at_least(name, width, 1)


def thin(has: Flags, labels: npt.NDArray[np.int64], share: float, seed: int) -> Flags:
    """Keep `share` of the True entries, in whole images; a larger share keeps what a smaller keeps.

    Of single labels (N,) each class keeps its share, of (N, classes) all images together do.
    """
    kept = np.zeros_like(has)
    labels = labels if labels.ndim == 1 else np.zeros(len(labels), np.int64)
    order = np.argsort(np.random.PCG64([seed, 1]).random_raw(len(labels)), kind="stable")
    for label in np.unique(labels):
        candidates = order[(labels[order] == label) & has[order]]
        kept[candidates[: round(share * len(candidates))]] = True
    return kept
