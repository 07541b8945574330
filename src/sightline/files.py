"""Files that are either whole or absent: everything is written to a temporary name, then renamed."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sightline.errors import SightlineError

LEFT = re.compile(r"\..+\.\d+(\.\w+)?")
"""What temporary files are called."""


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` once the block has ended without an error.

    Raises:
        SightlineError: the folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    # The suffix stays last: writers such as numpy and pandas choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise unwritten(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def sweep(folder: str | Path) -> None:
    """Delete what `whole` has left below a folder because its process was killed; nobody may be writing there."""
    for path in Path(folder).rglob(".*"):
        if LEFT.fullmatch(path.name):
            path.unlink()


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `path`; rename it to `path` once the block has ended without an error.

    Raises:
        SightlineError: `path` exists, cannot be written, or the disk is full.
    """
    path = Path(path)
    if path.exists():
        raise SightlineError(f"{path} exists. Name another folder, or remove this one first.")
    temporary = path.with_name(f".{path.name}~{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise unwritten(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unwritten(path: Path, error: OSError) -> SightlineError:
    """What to say of a path that cannot be written."""
    return SightlineError(
        f"cannot write {path}: {error.strerror or error}. Check the folder's permissions and the free space."
    )


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. NaN is refused: write None."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def bytes_in(path: Path) -> bytes:
    """What a file, or all files right in a folder, hold."""
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return b"".join(file.read_bytes() for file in files)


def relative(path: str | Path, folder: str | Path) -> str:
    """`path` as seen from `folder`: what holds it speaks of no machine, and both can be moved together."""
    return Path(os.path.relpath(path, folder)).as_posix()


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        SightlineError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise SightlineError(f"{path} does not exist.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise SightlineError(f"cannot read {path} as JSON: {error}.") from error
