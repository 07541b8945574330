"""Loose files: images and volumes that belong to no dataset, named one by one or by their folder."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import SightlineError
from sightline.pictures import SUFFIXES, image_files, open_picture, resized
from sightline.volumes import (
    ARRAYS,
    DICOM,
    SCANS,
    Grid,
    Reading,
    read_array,
    read_dicom_picture,
    read_scan,
    scans,
    stem,
    suffix,
)

Array = npt.NDArray[Any]


def gather(paths: Sequence[str | Path], volumes: bool = False) -> list[Path]:
    """The files, in the order given; a folder stands for the images, or the volumes, in it, by name.

    The images of a dataset's folder are those of all its classes. A volume may be a folder itself, with the slices of a
    DICOM series or a stack of pictures.

    Raises:
        SightlineError: there are no paths, one does not exist, or a folder holds none.
    """
    if not paths:
        raise SightlineError("paths is empty: name at least one file or folder.")
    list_files = _volumes if volumes else _images
    return [file for path in paths for file in _files(Path(path), list_files)]


def distinct(paths: Sequence[Path]) -> list[str]:
    """A name for each file, no two alike even where case is not told apart.

    The stem; with the folder's name in front where files share a stem; with a number behind where they share both.

    >>> distinct([Path("a/x.png"), Path("b/x.png"), Path("b/y.png")])
    ['a-x', 'b-x', 'y']
    """
    stems = Counter(stem(path).casefold() for path in paths)
    full = [stem(p) if stems[stem(p).casefold()] == 1 else f"{p.absolute().parent.name}-{stem(p)}" for p in paths]
    taken: set[str] = set()
    return [_free(name, taken) for name in full]


def read_picture(path: Path, size: tuple[int, int], channels: int) -> Array:
    """(C, H, W) uint8 as `Folder` reads it: turned by its EXIF orientation, resized without regard to its aspect.

    A DICOM file is brought to 8 bits by its own window.

    Raises:
        SightlineError: the file is no image, is damaged, or has more than 8 bits per channel.
    """
    if suffix(path) in SCANS:
        raise SightlineError(
            f"{path} is an array, but the model takes images. Give it {', '.join(SUFFIXES)}, or one DICOM file."
        )
    image = read_dicom_picture(path) if suffix(path) in DICOM else open_picture(path)
    return np.moveaxis(resized(image, size, channels), -1, 0)


def read_voxels(path: Path, channels: int, reading: Reading | None = None) -> tuple[Array, Grid | None]:
    """(C, D, H, W), uint8 or float32 in [0, 1], and where its voxels lie in the patient, if the file says so.

    Args:
        path: a scan, see `sightline.volumes.read_scan`.
        channels: the scan is repeated in each.
        reading: how it is scaled and resampled; None takes arrays as `read_volume` does, and scans as `Reading()`.

    Raises:
        SightlineError: see `sightline.volumes.read_scan`.
    """
    if reading is None and suffix(path) in ARRAYS:
        return read_volume(path, channels), None
    scan = read_scan(path)
    return np.repeat((reading or Reading())(scan)[None], channels, 0), scan.grid


def read_volume(path: Path, channels: int) -> Array:
    """(C, D, H, W), uint8 or float32 in [0, 1], from an array ((C,) D, H, W) in .npy or alone in an .npz.

    Raises:
        SightlineError: the file is damaged or holds more than one array, or one of another shape, type or range.
    """
    volume = read_array(path)
    volume = volume[None] if volume.ndim == 3 else volume
    if volume.ndim != 4 or len(volume) != channels or volume.size == 0:
        raise SightlineError(
            f"{path} has shape {volume.shape}: the model takes volumes (D, H, W) of {channels} channel(s), "
            "the axis of channels, if there is one, in front."
        )
    if volume.dtype == np.uint8:
        return volume
    if volume.dtype.kind != "f" or not (np.min(volume) >= 0 and np.max(volume) <= 1):
        raise SightlineError(f"{path} is {volume.dtype}: expected uint8, or floating point within [0, 1] without NaN.")
    return volume.astype(np.float32)


def _files(path: Path, list_files: Callable[[Path], list[Path]]) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise SightlineError(f"{path} does not exist. Name an image or a folder of images.")
        return [path]
    return list_files(path)


def _images(folder: Path) -> list[Path]:
    classes = sorted(path for path in folder.glob("images/*") if path.is_dir())  # a dataset, as in docs/data.md
    found = image_files(folder) or [image for each in classes for image in image_files(each)]
    if not found:
        raise _nothing(folder, SUFFIXES)
    return found


def _volumes(folder: Path) -> list[Path]:
    if found := scans(folder):
        return found
    if not any(path.is_file() for path in folder.iterdir()):
        raise _nothing(folder, SCANS)
    return [folder]


def _nothing(folder: Path, suffixes: Sequence[str]) -> SightlineError:
    return SightlineError(
        f"{folder} holds no file ending in {', '.join(suffixes)}; folders in it are not searched. Name another, or the "
        "files themselves."
    )


def _free(name: str, taken: set[str]) -> str:
    free, count = name, 1
    while free.casefold() in taken:
        count += 1
        free = f"{name}-{count}"
    taken.add(free.casefold())
    return free
