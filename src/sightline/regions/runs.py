"""Masks as run lengths, in the ways annotation tools write them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sightline.errors import SightlineError
from sightline.pictures import Flags
from sightline.regions.base import Size, Sourced

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Runs(Sourced):
    """Run lengths, in turn of pixels that are not marked and of pixels that are.

    COCO's go down the columns, as numbers or compressed into a string. CVAT's go along the rows of a box.

    Args:
        counts: the numbers, or COCO's string.
        size: (H, W) of what they describe.
        order: "columns" or "rows".
        corner: (left, top) of the box they describe; None where it is the whole image, which is then of `size`.
    """

    counts: tuple[int, ...] | str
    size: Size
    order: Literal["columns", "rows"] = "columns"
    corner: tuple[int, int] | None = None

    def draw(self, size: Size) -> Flags:
        left, top = self.corner or (0, 0)
        fits = left >= 0 and top >= 0 and left + self.size[1] <= size[1] and top + self.size[0] <= size[0]
        if not fits or (self.corner is None and self.size != size):
            raise SightlineError(
                f"{self.source}: run lengths of {self.size[1]} x {self.size[0]} pixels do not fit an image of "
                f"{size[1]} x {size[0]}. Export them again for these images."
            )
        marked = np.zeros(size, np.bool_)
        marked[top : top + self.size[0], left : left + self.size[1]] = self._decode()
        return marked

    def _decode(self) -> Flags:
        counts = self._numbers()
        if len(counts) == 0 or counts.min() < 0 or counts.sum() != self.size[0] * self.size[1]:
            raise SightlineError(
                f"{self.source}: run lengths add up to {counts.sum()}, not to {self.size[1]} x {self.size[0]} pixels. "
                "They are damaged or of another image."
            )
        if not counts[1::2].any():
            raise SightlineError(f"{self.source}: run lengths mark no pixel. Delete the annotation.")
        flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        return flat.reshape(self.size) if self.order == "rows" else flat.reshape(self.size[::-1]).T

    def _numbers(self) -> Counts:
        try:
            return decompress(self.counts) if isinstance(self.counts, str) else np.array(self.counts, np.int64)
        except (ValueError, OverflowError) as error:
            kind = "compressed run lengths" if isinstance(self.counts, str) else "run lengths"
            raise SightlineError(f"{self.source}: {kind} are damaged ({error}).") from error


@dataclass(frozen=True)
class Brush(Sourced):
    """A brush of Label Studio: packed red, green, blue and alpha of each pixel, row by row; what has alpha is marked.

    Args:
        packed: the bytes it calls `rle`.
        size: (H, W) of the image it was drawn on.
    """

    packed: bytes
    size: Size

    def draw(self, size: Size) -> Flags:
        if size != self.size:
            raise SightlineError(
                f"{self.source}: a brush of {self.size[1]} x {self.size[0]} pixels does not fit an image of "
                f"{size[1]} x {size[0]}. Give the images that were annotated."
            )
        values = unpack(self.packed, 4 * size[0] * size[1], self.source)
        marked = values.reshape(*size, 4)[..., 3] > 0
        if not marked.any():
            raise SightlineError(f"{self.source}: the brush marks no pixel. Delete the annotation.")
        return np.asarray(marked)


def run_lengths(mask: Flags, order: Literal["columns", "rows"] = "columns") -> tuple[int, ...]:
    """The run lengths of (H, W) bool; the first is of what is not marked and may be 0.

    >>> run_lengths(np.array([[False, True], [True, True]]))
    (1, 3)
    """
    flat = mask.ravel("F" if order == "columns" else "C")
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    return tuple(np.diff(edges, prepend=0, append=flat.size).tolist())


def compress(counts: Sequence[int]) -> str:
    """Run lengths as COCO's string: from the fourth on differences to the last but one, in groups of 5 bits.

    >>> compress((6, 1, 40, 4, 5, 4, 5, 4, 21))
    '61X13mN000`0'
    """
    steps = [count - (counts[place - 2] if place > 2 else 0) for place, count in enumerate(counts)]
    return "".join(chr(48 + group) for step in steps for group in groups(step))


def groups(number: int) -> Iterator[int]:
    """5 bits at a time, the lowest first, two's complement; bit 5 says that more follow."""
    while not -16 <= number < 16:
        yield number & 31 | 32
        number >>= 5
    yield number & 31


def decompress(text: str) -> Counts:
    """The run lengths in COCO's string.

    Raises:
        ValueError: it is not one.
    """
    codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("not a string that COCO's tools write, or cut off")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > 10:
        raise ValueError("a number is larger than any image")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    counts = np.add.reduceat((codes & 31) << 5 * place, starts) - np.where(codes[ends] & 16, 1 << 5 * lengths, 0)
    for first in (1, 2):
        counts[first::2] = np.cumsum(counts[first::2])
    return counts


class Block(NamedTuple):
    """What stands at one place of a brush: one value many times, or that many values."""

    repeated: bool
    length: int
    first: int
    """The bit its values begin at."""

    @property
    def end(self) -> int:
        """The bit behind its values."""
        return self.first + 8 * (1 if self.repeated else self.length)


def unpack(packed: bytes, length: int, source: str) -> npt.NDArray[np.uint8]:
    """The bytes in a packed brush.

    32 bits say how many, 5 how wide a value is, four times 4 how wide a count is; then blocks of 1 bit (whether one
    value repeats), 2 (which width of count), the count and the value or values. Widths and counts are one less
    than they mean. This is the format of @thi.ng/rle-pack.

    Raises:
        SightlineError: they are not `length` values of a byte, or end too early.
    """
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))
    if len(bits) < 53 or number(bits[:32]) != length or number(bits[32:37]) != 7:
        raise SightlineError(
            f"{source}: the brush does not hold red, green, blue and alpha of every pixel of its image. It is damaged "
            "or of another image."
        )
    parts = []
    for block in blocks(bits, length):
        values = bits[block.first : block.end]
        if len(values) < block.end - block.first:
            raise SightlineError(f"{source}: the brush ends before its last pixel. The file is damaged.")
        parts.append(np.repeat(np.packbits(values), block.length if block.repeated else 1))
    unpacked = np.concatenate(parts)
    if len(unpacked) != length:
        raise SightlineError(f"{source}: the brush ends behind its last pixel. The file is damaged.")
    return unpacked


def blocks(bits: npt.NDArray[np.uint8], length: int) -> Iterator[Block]:
    """The blocks of a packed brush, until `length` values are there or the bits end."""
    widths = [number(bits[at : at + 4]) + 1 for at in range(37, 53, 4)]
    at, done = 53, 0
    while done < length:
        width = widths[number(bits[at + 1 : at + 3])]
        count = number(bits[at + 3 : at + 3 + width]) + 1
        block = Block(bool(bits[at : at + 1].any()), count, at + 3 + width)
        yield block
        at, done = block.end, done + count


def number(bits: npt.NDArray[Any]) -> int:
    """The whole number some bits spell, the highest first; 0 where there are none."""
    return int("".join(map(str, bits.tolist())) or "0", 2)
