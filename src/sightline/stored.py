"""Maps on disk: one row per audited map, in half precision, found again by what they were made of."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib import format as npy
from torch import Tensor, nn

from sightline.errors import SightlineError
from sightline.files import write_json


def fingerprint(model: nn.Module, *seen: object) -> str:
    """SHA-256 over a model's modules as it prints them, its weights and buffers, and what else there is to tell apart.

    The pool is among the modules, and the normalisation among the buffers, but neither among the weights.
    """
    told = re.sub(r" at 0x\w+", "", repr((model, seen)))
    digest = hashlib.sha256(told.encode())
    for name, value in chain(model.named_parameters(), model.named_buffers()):
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Stored:
    """The maps of one explainer, model and dataset: read if they are there, else written as they are made.

    Each map is kept divided by its largest magnitude, which is kept beside it: a float16 cannot hold a map of 1e-8.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder, self.rows = folder, rows
        self.kept = {name: _open(folder / f"{name}.npy", rows) for name in ("maps", "scale")} if folder.exists() else {}
        self.temporary = folder.with_name(f".{folder.name}.{os.getpid()}")

    def get(self, row: Tensor) -> Tensor | None:
        """(B, *spatial) float32 maps of these rows; None if they are not there yet."""
        if not self.kept:
            return None
        maps, scale = (torch.from_numpy(values[row.cpu().numpy()].astype(np.float32)) for values in self.kept.values())
        return maps * scale.view(-1, *[1] * (maps.ndim - 1))

    def at(self, rows: npt.NDArray[np.int_]) -> npt.NDArray[np.floating]:
        """(n, *spatial) float16 maps of these rows, each divided by its largest magnitude."""
        return np.asarray(self.kept["maps"][rows])

    def put(self, row: Tensor, maps: Tensor) -> Tensor:
        """Keep (B, *spatial) maps as these rows; return them as `get` will, so that a later audit finds the same."""
        values = maps.detach().float().cpu()
        scale = values.flatten(1).abs().amax(1)
        per_map = scale.view(-1, *[1] * (values.ndim - 1))
        shape = (values / per_map.clamp(min=torch.finfo(values.dtype).tiny)).numpy().astype(np.float16)
        self._write("maps", row, shape)
        self._write("scale", row, scale.numpy())
        return torch.from_numpy(shape.astype(np.float32)) * per_map

    def finish(self, made_of: Mapping[str, Any]) -> None:
        """Rename what was written, now that it is whole."""
        if self.temporary.exists():
            write_json(self.temporary / "made_of.json", made_of)
            os.replace(self.temporary, self.folder)

    def _write(self, name: str, row: Tensor, values: npt.NDArray[Any]) -> None:
        # Ordinary writes: a memory-mapped file would answer a full disk by killing the process.
        self.temporary.mkdir(parents=True, exist_ok=True)
        path = self.temporary / f"{name}.npy"
        with path.open("r+b" if path.exists() else "w+b") as file:
            header = {"descr": npy.dtype_to_descr(values.dtype), "fortran_order": False}
            npy.write_array_header_1_0(file, header | {"shape": (self.rows, *values.shape[1:])})
            begin = file.tell()
            for at, value in zip(row.tolist(), values, strict=True):
                file.seek(begin + at * value.nbytes)
                file.write(value.tobytes())


def _open(path: Path, rows: int) -> npt.NDArray[Any]:
    try:
        values: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SightlineError(f"cannot read {path}: {error}. Delete the folder {path.parent}.") from error
    if len(values) != rows:
        raise SightlineError(f"{path} holds {len(values)} maps, not {rows}. Delete the folder {path.parent}.")
    return values


def _place(root: Path, made_of: Mapping[str, Any]) -> Path:
    key = hashlib.sha256(repr(sorted(made_of.items())).encode()).hexdigest()[:16]
    return root / f"{str(made_of['explainer']).partition('(')[0]}-{key}"


def maps_at(root: Path, made_of: Mapping[str, Any], rows: int) -> Stored:
    """The maps below `root` that an audit kept; `made_of` as in `stored`.

    Raises:
        SightlineError: there are none, or they cannot be read.
    """
    found = Stored(_place(root, made_of), rows)
    if not found.kept:
        raise SightlineError(f"{root} holds no maps of {made_of['explainer']} made with these weights and data.")
    return found


@contextmanager
def stored(root: Path | None, made_of: Mapping[str, Any], rows: int) -> Iterator[Stored | None]:
    """The maps made of `made_of` below `root`, in a folder of their own, <explainer>-<key>; None without a root.

    Args:
        root: a folder; what is written is there as a whole or not at all.
        made_of: all that the maps depend on, as JSON; its "explainer" names the folder.
        rows: how many maps there are.

    Raises:
        SightlineError: maps that cannot be read or written.
    """
    if root is None:
        yield None
        return
    found = Stored(_place(root, made_of), rows)
    try:
        yield found
        found.finish(made_of)
    except OSError as error:
        raise SightlineError(
            f"cannot write maps to {found.folder}: {error.strerror or error}. Check the free space and the permissions."
        ) from error
    finally:
        with suppress(OSError):
            shutil.rmtree(found.temporary)
