"""Image files: what is read of them, and what is refused."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, ImageOps

from sightline.errors import SightlineError

Pixels = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Pillow's modes of more than 8 bits, which it would clip, not scale, to 8."""

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations of images that lie on their side."""

LARGEST = 100_000_000
"""Pixels of the largest image that is decoded: a file of some KiB can claim more than memory holds."""


_before: list[tuple[bool, int | None]] = []
_lock = threading.Lock()


def subfolders(folder: Path) -> list[Path]:
    """Folders in `folder` by name, hidden ones left out."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """Images in `folder` by name, hidden ones left out."""
    images = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted(images, key=lambda path: path.name)  # a word is compared many times faster than a path


def open_picture(path: Path, turned: bool = True) -> Image.Image:
    """The decoded image, if 8 bits say all it holds; `turned` as its EXIF orientation says, or as it is stored.

    Raises:
        SightlineError: the file is no image, damaged, or has more bits per channel.
    """
    image = open_image(path, turned=turned)
    if image.mode in DEEP:
        raise SightlineError(f"{path} has more than 8 bits per channel. Scale it to 8 and save it again.")
    return image


def resized(image: Image.Image, size: tuple[int, int], channels: int) -> Pixels:
    """(H, W, C) at `size`, in grey or colour."""
    small = image.convert("L" if channels == 1 else "RGB").resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(small).reshape(*size, channels)


def open_image(path: Path, file: BytesIO | None = None, turned: bool = True) -> Image.Image:
    """The decoded image, turned as its EXIF orientation says; read from `file` if that is not at `path`.

    Raises:
        SightlineError: the file is no image, damaged, or has more than `LARGEST` pixels.
    """
    with reading(path), Image.open(file or path) as image:
        refuse_huge(path, image.size)
        image.load()
        return ImageOps.exif_transpose(image) if turned else image


def size_of(path: Path) -> tuple[int, int]:
    """(H, W) of what `open_image` decodes, from the file's header where that tells.

    Raises:
        SightlineError: the file is no image, or has more than `LARGEST` pixels.
    """
    with reading(path), Image.open(path) as image:
        refuse_huge(path, image.size)
        width, height = image.size
        return (width, height) if image.getexif().get(ExifTags.Base.Orientation, 1) in SIDEWAYS else (height, width)


def refuse_huge(path: Path, size: tuple[int, int]) -> None:
    """Refuse (W, H) of more than `LARGEST` pixels, before they are decoded."""
    if size[0] * size[1] > LARGEST:
        raise SightlineError(
            f"{path} is {size[0]} x {size[1]} pixels, more than {LARGEST // 1_000_000} megapixels. "
            "Cut it into tiles or reduce it."
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of a damaged file which one it is."""
    try:
        with strictly():
            yield
    except SightlineError:
        raise
    except Exception as error:  # every decoder has its own way to say that a file is damaged
        raise SightlineError(f"{path} cannot be read as an image ({error}). Replace it or leave it out.") from error


@contextmanager
def strictly() -> Iterator[None]:
    """Have Pillow raise on a truncated file even if other code told it to fill the rest with grey.

    Its own limit on pixels gives way to `LARGEST`. Of several threads the last one out gives back what the first found.
    """
    with _lock:
        _before.append((ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS))
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, None
    try:
        yield
    finally:
        with _lock:
            before = _before.pop()
            if not _before:
                ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


def shrink(mask: Flags, size: tuple[int, int]) -> Pixels:
    """`mask` at `size`: ones where the covered share of a pixel is at least half of the largest such share."""
    share = Image.fromarray(mask.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)
    covered = np.asarray(share)
    return np.asarray(covered >= covered.max() / 2, np.uint8)
