"""Where small copies of published data sets are registered: one function per data set of files."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image


class Tree(NamedTuple):
    """How to lay a data set out."""

    build: Callable[[Path], dict[str, Any]]
    """Writes its files into an empty folder and returns the constructor's arguments but for `size`."""
    needs: str
    """A file, relative to that folder, that no sample can be listed or read without."""


TREES: dict[str, Tree] = {}
"""By the name of the class."""


def tree(name: str, needs: str) -> Callable[[Callable[[Path], dict[str, Any]]], Callable[[Path], dict[str, Any]]]:
    """Register a function that lays out the data set `name`."""

    def register(build: Callable[[Path], dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
        TREES[name] = Tree(build, needs)
        return build

    return register


def noise(seed: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    """(H, W, 3) that no two seeds share."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def rectangle(value: int = 255, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    """(H, W), `value` in rows 5 to 14 and columns 10 to 19."""
    mask = np.zeros(size, np.uint8)
    mask[5:15, 10:20] = value
    return mask


def save(path: Path, pixels: np.ndarray) -> None:
    """Write an image and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write(path: Path, text: str) -> None:
    """Write a text and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_idx(path: Path, values: np.ndarray) -> None:
    """Unsigned bytes in the format of MNIST's files, packed if the name ends in .gz."""
    content = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
