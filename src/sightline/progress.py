"""Progress bars."""

from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress_bar(items: Iterable[T] | None = None, desc: str | None = None, **options: Any) -> "tqdm[T]":
    """`tqdm` as a command shows it: gone when it is full, and absent where no terminal watches."""
    return tqdm(items, desc, leave=False, disable=None, **options)
