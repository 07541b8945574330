"""Volumes in folders, with masks and splits."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from sightline.data.base import Cuboid, triple
from sightline.data.filed import Listed
from sightline.errors import SightlineError
from sightline.listing import (
    Entry,
    entry,
    find_root,
    name_apart,
    read_rows,
    refuse_unknown_classes,
    some,
    warn_of_rest,
)
from sightline.pictures import Pixels, subfolders
from sightline.volumes import SCANS, MaskVolume, Reading, Scan, read_scan, scans, shrink, stem


class Volumes(Listed):
    """Scans in a folder laid out like `Folder`'s, with a `splits.csv`.

    `images/<class>/<id>.nii.gz`, `.nii`, `.npy` or `.npz`, or `images/<class>/<id>/` with the files of one DICOM
    series or a stack of pictures. A mask is `masks/<class>/<id>` in the same formats, on its scan's grid, not zero
    where the evidence is; a scan may have none. Scans are turned upright (see `sightline.volumes`), scaled to [0, 1] in
    256 steps and resampled to `size`, whatever their spacing.

    Args:
        root: the folder, or its name under the environment variable SIGHTLINE_DATA.
        split: one of the splits that are there.
        size: (D, H, W) of the samples in voxels, or one number for all three.
        channels: the scan is repeated in each.
        window: (centre, width) in the scans' units that become 0 to 1, such as [40, 400] for soft tissue in a CT.
        percentiles: of each scan's own values, which become 0 and 1 where there is no window.
        mask_fraction, label_fraction, seed, verify: see `Folder`.

    Raises:
        SightlineError: the folder, `splits.csv`, a scan or a mask is missing or bad; the message says which.
    """

    reads: ClassVar[type[Reading]] = Reading

    def __init__(
        self,
        root: str,
        split: str = "train",
        size: Cuboid = 64,
        channels: int = 1,
        window: tuple[float, float] | None = None,
        percentiles: tuple[float, float] = (0.5, 99.5),
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        folder = find_root(root)
        self.root = root
        self.name = folder.resolve().name
        self.window = window
        self.percentiles = percentiles
        sides = triple("size", size)
        self.reading: Reading = self.reads(sides, window, percentiles)
        super().__init__(list_scans(folder), split, sides, channels, mask_fraction, label_fraction, seed, verify)

    def decode(self, entry: Entry) -> tuple[Pixels, Pixels]:
        """Image (D, H, W, C) and mask (D, H, W) of zeros and ones."""
        scan = read_scan(entry.image)
        image = np.repeat(self.reading(scan)[..., None], self.channels, -1)
        return image, self._mask(entry, scan)

    def _mask(self, entry: Entry, scan: Scan) -> Pixels:
        if isinstance(entry.region, MaskVolume):
            return shrink(entry.region.on(scan), self.size)
        return np.ones(self.size, np.uint8)


def list_scans(folder: Path) -> list[Entry]:
    """Every sample of every split of `splits.csv`, in its order; what it does not list is counted in a warning.

    Raises:
        SightlineError: there is no `splits.csv`, it is bad, or it lists a scan that is not there.
    """
    table = folder / "splits.csv"
    rows = read_rows(table)
    images, masks = by_name(folder / "images"), by_name(folder / "masks")
    refuse_unknown_classes(table, rows, tuple({label: None for label, _ in images}))
    refuse_missing(table, rows, images)
    drawn = {name: MaskVolume(mask) for name, mask in masks.items()}
    entries = [entry(row, images[name_of(row)], drawn.get(name_of(row))) for row in rows]
    warn_of_rest(table, "scans", len(images) - len(entries))
    warn_of_rest(table, "masks", len(masks) - sum(entry.region is not None for entry in entries))
    return name_apart(entries)


def name_of(row: dict[str, str]) -> tuple[str, str]:
    """Class and id."""
    return row["class"], row["id"]


def by_name(folder: Path) -> dict[tuple[str, str], Path]:
    """Scans of `<folder>/<class>/` by class and id.

    Raises:
        SightlineError: two have one id.
    """
    found: dict[tuple[str, str], Path] = {}
    for path in [path for label in (subfolders(folder) if folder.is_dir() else []) for path in scans(label)]:
        if other := found.get((path.parent.name, stem(path))):
            raise SightlineError(f"{path} and {other.name} have the same id. Rename or remove one.")
        found[path.parent.name, stem(path)] = path
    return found


def refuse_missing(table: Path, rows: list[dict[str, str]], images: dict[tuple[str, str], Path]) -> None:
    """Refuse rows without a scan."""
    missing = [f"images/{row['class']}/{row['id']}" for row in rows if name_of(row) not in images]
    if missing:
        raise SightlineError(
            f"{table} lists {len(missing)} scan(s) that are there neither as a folder nor with any of the suffixes "
            f"{', '.join(SCANS)}: {some(missing)}. Add the files or delete the lines."
        )
