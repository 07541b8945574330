"""Loose files: images and volumes that belong to no dataset, named one by one or by their folder."""

import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.errors import SightlineError
from sightline.pictures import SUFFIXES, image_files, open_picture, resized

VOLUMES = (".npy", ".npz")

Array = npt.NDArray[Any]


def gather(paths: Sequence[str | Path], volumes: bool = False) -> list[Path]:
    """The files, in the order given; a folder stands for the images, or the volumes, in it, by name.

    Raises:
        SightlineError: there are no paths, one does not exist, or a folder holds none.
    """
    if not paths:
        raise SightlineError("paths is empty: name at least one file or folder.")
    return [file for path in paths for file in _files(Path(path), volumes)]


def distinct(paths: Sequence[Path]) -> list[str]:
    """A name for each file, no two alike even where case is not told apart.

    The stem; with the folder's name in front where files share a stem; with a number behind where they share both.

    >>> distinct([Path("a/x.png"), Path("b/x.png"), Path("b/y.png")])
    ['a-x', 'b-x', 'y']
    """
    stems = Counter(path.stem.casefold() for path in paths)
    full = [p.stem if stems[p.stem.casefold()] == 1 else f"{p.absolute().parent.name}-{p.stem}" for p in paths]
    taken: set[str] = set()
    return [_free(name, taken) for name in full]


def read_picture(path: Path, size: tuple[int, int], channels: int) -> Array:
    """(C, H, W) uint8 as `Folder` reads it: turned by its EXIF orientation, resized without regard to its aspect.

    Raises:
        SightlineError: the file is no image, is damaged, or has more than 8 bits per channel.
    """
    if path.suffix.lower() in VOLUMES:
        raise SightlineError(f"{path} is an array, but the model takes images. Give it {', '.join(SUFFIXES)}.")
    return np.moveaxis(resized(open_picture(path), size, channels), -1, 0)


def read_volume(path: Path, channels: int) -> Array:
    """(C, D, H, W), uint8 or float32 in [0, 1], from an array ((C,) D, H, W) in .npy or alone in an .npz.

    Raises:
        SightlineError: the file is damaged or holds more than one array, or one of another shape, type or range.
    """
    volume = _load(path)
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


def _files(path: Path, volumes: bool) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise SightlineError(f"{path} does not exist. Name an image or a folder of images.")
        return [path]
    list_files: Callable[[Path], list[Path]] = _volume_files if volumes else image_files
    if not (found := list_files(path)):
        raise SightlineError(
            f"{path} holds no file ending in {', '.join(VOLUMES if volumes else SUFFIXES)}; folders in it are not "
            "searched. Name another, or the files themselves."
        )
    return found


def _volume_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in VOLUMES and not p.name.startswith("."))


def _free(name: str, taken: set[str]) -> str:
    free, count = name, 1
    while free.casefold() in taken:
        count += 1
        free = f"{name}-{count}"
    taken.add(free.casefold())
    return free


def _load(path: Path) -> Array:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded as arrays:
            (only,) = arrays.values()
            return np.asarray(only)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SightlineError(f"cannot read {path} as one array: {error}. Save it with numpy.save.") from error
