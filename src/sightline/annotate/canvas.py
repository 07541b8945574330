"""The mask of one image: made of a log of operations, of which none that was acknowledged is lost."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.annotate.operations import TURNS, Operation, applied, standing
from sightline.errors import SightlineError
from sightline.files import whole
from sightline.pictures import Flags
from sightline.regions import MaskFile, Size

KEPT = 16
"""Steps that can be taken back without drawing all others again."""


class Place(NamedTuple):
    """Where the files of one image lie."""

    mask: Path
    log: Path
    """One JSON object a line, only ever added to."""
    base: Path
    """The mask that was there when the log began."""


class Canvas:
    """The mask of one image of `size` (H, W) and its log, as they lie on disk.

    Raises:
        SightlineError: a file cannot be read or written, or the mask was changed by something else than its log.
    """

    def __init__(self, place: Place, size: Size) -> None:
        self.place, self.size = place, size
        self.log, self.end = read_log(place.log)
        self.base = read_mask(place.base if self.log else place.mask, size)
        self.trail = Trail(self.base)
        self.mask = self.trail.follow(standing(self.log))
        if self.log:
            self._restore()

    @property
    def version(self) -> int:
        """Lines of the log."""
        return len(self.log)

    def add(self, operations: Iterable[Operation]) -> int:
        """Log and draw those that are not in the log yet; how many these were.

        Raises:
            SightlineError: one turns an operation that is unknown, or the files cannot be written: then nothing has
                changed.
        """
        new = fresh(operations, self.log)
        if not new:
            return 0
        mask = self.trail.follow(standing([*self.log, *new]))
        if not self.log:
            write_mask(self.place.base, self.base)
        end = append(self.place.log, self.end, new)
        try:
            write_mask(self.place.mask, mask)
        except BaseException:
            append(self.place.log, self.end, [])
            raise
        self.log, self.mask, self.end = [*self.log, *new], mask, end
        return len(new)

    def _restore(self) -> None:
        """Write the mask again if the process was killed after it had written the log."""
        path = self.place.mask
        if np.array_equal(read_mask(path, self.size), self.mask):
            return
        if path.exists() and path.stat().st_mtime_ns > self.place.log.stat().st_mtime_ns:
            raise SightlineError(
                f"{path} was changed after its last operation by another program. To go on from it, delete "
                f"{self.place.log}; to have the operations' mask again, delete {path}."
            )
        write_mask(path, self.mask)


class Trail:
    """The masks after the latest steps, so that taking one back need not draw all before it again."""

    def __init__(self, base: Flags) -> None:
        self.shape = base.shape
        self.steps: list[Operation] = []
        self.masks = {0: np.packbits(base)}

    def follow(self, steps: Sequence[Operation]) -> Flags:
        """(H, W) after these operations on the base."""
        begin = max(step for step in self.masks if step <= shared(self.steps, steps))
        masks = {step: packed for step, packed in self.masks.items() if step <= begin}
        mask = np.unpackbits(masks[begin], count=self.shape[0] * self.shape[1]).reshape(self.shape).astype(np.bool_)
        for step in range(begin, len(steps)):
            mask = applied(mask, steps[step])
            masks[step + 1] = np.packbits(mask)
            if step + 1 > KEPT:
                masks.pop(step + 1 - KEPT, None)
        self.steps, self.masks = list(steps), masks
        return mask


def shared(some: Sequence[Operation], others: Sequence[Operation]) -> int:
    """With how many equal ones both begin."""
    return next((n for n, (a, b) in enumerate(zip(some, others, strict=False)) if a != b), min(len(some), len(others)))


def fresh(operations: Iterable[Operation], log: Sequence[Operation]) -> list[Operation]:
    """Those whose id is not in the log, each once.

    Raises:
        SightlineError: an undo or redo of what was never drawn.
    """
    known = {operation.id: operation for operation in log}
    drawn = len(known)
    for operation in operations:
        turned = known.get(operation.of)
        if operation.kind in TURNS and (turned is None or turned.kind in TURNS):
            raise SightlineError(f"of: there is no operation {operation.of!r} that could be taken back here.")
        known.setdefault(operation.id, operation)
    return list(known.values())[drawn:]


# Files ----------------------------------------------------------------------------------------------------------------


def read_log(path: Path) -> tuple[list[Operation], int]:
    """The operations of a log, and how many of its bytes they take: a line cut off at its end is no operation.

    Raises:
        SightlineError: the log cannot be read, or a line that is not the last is damaged.
    """
    try:
        text = path.read_bytes() if path.exists() else b""
        end = text.rfind(b"\n") + 1
        return [_operation(json.loads(line)) for line in text[:end].splitlines()], end
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SightlineError(
            f"{path} cannot be read ({error}). It should hold one JSON object on each line. Mend the line, or delete "
            "the file to go on from the mask as it is."
        ) from error


def _operation(fields: dict[str, Any]) -> Operation:
    return Operation(**{**fields, "points": tuple((x, y) for x, y in fields.get("points", ()))})


def append(path: Path, end: int, operations: Iterable[Operation]) -> int:
    """Write operations to a log behind its first `end` bytes; its new length. Nothing stays of a failed attempt.

    Raises:
        SightlineError: it cannot be written.
    """
    lines = "".join(f"{json.dumps(operation.line(), allow_nan=False)}\n" for operation in operations).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "w+b", buffering=0) as file:
            file.truncate(end)
            file.seek(end)
            _write(file.fileno(), lines, end)
            os.fsync(file.fileno())
    except OSError as error:
        raise SightlineError(f"cannot write {path}: {error.strerror or error}. Nothing was saved.") from error
    return end + len(lines)


def _write(file: int, lines: bytes, end: int) -> None:
    """All of `lines`, or none of them."""
    left = memoryview(lines)
    try:
        while left:
            left = left[os.write(file, left) :]
    except OSError:
        os.ftruncate(file, end)
        raise


def read_mask(path: Path, size: Size) -> Flags:
    """(H, W); nothing where there is no file.

    Raises:
        SightlineError: the file is damaged, of another size, or empty.
    """
    return MaskFile(path).draw(size) if path.exists() else np.zeros(size, np.bool_)


def write_mask(path: Path, mask: Flags) -> None:
    """A mask of 0 and 255, whole or not at all; of an empty one no file.

    Raises:
        SightlineError: it cannot be written.
    """
    try:
        if not mask.any():
            path.unlink(missing_ok=True)
            return
    except OSError as error:
        raise SightlineError(f"cannot delete {path}: {error.strerror or error}.") from error
    with whole(path) as temporary:
        grey(mask).save(temporary, "png")


def grey(mask: Flags) -> Image.Image:
    """The mask as a picture of 0 and 255."""
    values: npt.NDArray[np.uint8] = mask * np.uint8(255)
    return Image.fromarray(values)
