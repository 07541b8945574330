"""The brain tumour dataset of J. Cheng, as figshare holds it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.compat import require
from sightline.data.archive import Archive
from sightline.data.base import Size
from sightline.errors import SightlineError
from sightline.listing import Entry
from sightline.pictures import Flags
from sightline.progress import progress_bar
from sightline.published import matlab, required, whole_groups
from sightline.regions import AsBox, Region

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
"""Of the patients of each class."""

FOLDS = 5


@dataclass(frozen=True)
class Tumour:
    """The outline a radiologist drew, kept in the file of its slice."""

    path: Path

    def draw(self, size: tuple[int, int]) -> Flags:
        marked = np.asarray(field(self.path, "tumorMask").T, np.bool_)
        if marked.shape != size or not marked.any():
            raise SightlineError(f"{self.path}: its tumorMask is empty, or not as large as its image.")
        return marked

    def content(self) -> bytes:
        return b"tumorMask"  # its bytes are among those of the image's file


class BrainMRI(Archive):
    """3064 slices of 233 patients with a meningioma, a glioma or a pituitary tumour, each with the tumour's outline.

    T1-weighted with contrast, scaled so that the brightest pixel of a slice is white:

        brainTumorDataPublic_1-766/1.mat ...        (MATLAB 7.3, that is HDF5; in one folder or in several)
        cvind.mat

    J. Cheng, "brain tumor dataset", figshare, doi:10.6084/m9.figshare.1512427; Cheng et al., "Enhanced Performance of
    Brain Tumor Classification via Tumor Region Augmentation and Partition", PLoS ONE 2015.

    The group is the patient. Ids are "cheng_0001" to "cheng_3064".

    Args:
        root: see `Archive`.
        split: "train", "val" or "test".
        evidence: the "tumour" or its "box".
        fold: 1 to 5, the authors' fold in cvind.mat to test on; the next one is "val", the others train. Without it the
            patients of each class are divided 70/10/20, always the same way, so that no patient is in two splits.
        size, channels, mask_fraction, label_fraction, seed, verify: see `Folder`.
    """

    name = "Brain MRI"
    home = "the four zip files and cvind.mat of https://doi.org/10.6084/m9.figshare.1512427"
    NAMES = ("meningioma", "glioma", "pituitary")

    def __init__(
        self,
        root: str = "brain_tumor_dataset",
        split: str = "train",
        evidence: Literal["tumour", "box"] = "tumour",
        fold: int | None = None,
        size: Size = 128,
        channels: int = 1,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        self.evidence = evidence
        self.fold = fold
        super().__init__(root, split, size, channels, mask_fraction, label_fraction, seed, verify)

    def listed(self, folder: Path) -> list[Entry]:
        files = numbered(folder, self.home)
        entries = [self._entry(path) for path in progress_bar(files, desc="reading labels")]
        if self.fold is None:
            return whole_groups(entries, SHARES)
        return as_folds(entries, folds(folder / "cvind.mat", self.home), self.fold)

    def named(self, folder: Path) -> tuple[str, ...]:
        return self.NAMES

    def picture(self, entry: Entry) -> Image.Image:
        tones = np.asarray(field(entry.image, "image").T, np.float32).clip(0)
        return Image.fromarray((tones * (255 / (tones.max() or 1))).round().astype(np.uint8))

    def _entry(self, path: Path) -> Entry:
        label, patient = label_and_patient(path)
        if not 1 <= label <= len(self.NAMES):
            raise SightlineError(f"{path}: cjdata/label is {label}, expected 1 to {len(self.NAMES)}.")
        tumour: Region = Tumour(path)
        region = AsBox(tumour) if self.evidence == "box" else tumour
        return Entry(f"cheng_{int(path.stem):04d}", self.NAMES[label - 1], "", patient, path, region)


def numbered(folder: Path, home: str) -> list[Path]:
    """1.mat, 2.mat, ... in `folder` or folders in it.

    Raises:
        SightlineError: there are none, or a number is missing.
    """
    files = {int(path.stem): path for path in folder.rglob("*.mat") if path.stem.isdecimal()}
    for number in range(1, max(files, default=1) + 1):
        if number not in files:
            required(folder / f"{number}.mat", home)
    return [files[number] for number in sorted(files)]


def label_and_patient(path: Path) -> tuple[int, str]:
    """What a slice shows, 1 to 3, and of whom."""
    with opened(path) as file:
        return int(file["cjdata/label"][0, 0]), "".join(map(chr, np.ravel(file["cjdata/PID"])))


def field(path: Path, name: str) -> npt.NDArray[Any]:
    """A field of `cjdata`, its axes in the reverse of MATLAB's order."""
    with opened(path) as file:
        return np.asarray(file["cjdata"][name])


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file.

    Raises:
        SightlineError: the file is none, is damaged, or lacks what is asked of it.
    """
    try:
        with require("medical", "h5py").File(path) as file:
            yield file
    except (OSError, KeyError) as error:
        raise SightlineError(
            f"{path} cannot be read as MATLAB 7.3, that is HDF5 ({error}). Download it anew."
        ) from error


def folds(path: Path, home: str) -> npt.NDArray[np.int64]:
    """The authors' fold of each slice, 1 to 5."""
    if not require("medical", "h5py").is_hdf5(required(path, home)):
        return np.asarray(matlab(path, home, "cvind"), np.int64).ravel()
    with opened(path) as file:
        return np.asarray(file["cvind"], np.int64).ravel()


def as_folds(entries: list[Entry], folds: npt.NDArray[np.int64], test: int) -> list[Entry]:
    """`entries` with the split that their fold means.

    Raises:
        SightlineError: there is no fold `test`, or not one fold for each entry.
    """
    if not 1 <= test <= FOLDS:
        raise SightlineError(f"fold is {test}: expected 1 to {FOLDS}.")
    if len(folds) != len(entries):
        raise SightlineError(f"cvind.mat has {len(folds)} folds for {len(entries)} slices. Download all of them.")
    names = {test: "test", test % FOLDS + 1: "val"}
    return [entry._replace(split=names.get(int(fold), "train")) for entry, fold in zip(entries, folds, strict=True)]
