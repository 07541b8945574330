"""Scans: volumes in NIfTI, DICOM, NumPy's files or stacks of pictures, and where their voxels lie in the patient.

Scans with a place are turned upright: (D, H, W) runs from feet to head, from front to back and from the patient's
right to the left, so that axial slices look as radiologists look at them. The same scan is the same array in NIfTI and
in DICOM. What a file says of the patient is never written to another.
"""

import gzip
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from sightline.compat import require
from sightline.errors import SightlineError
from sightline.files import bytes_in
from sightline.pictures import Flags, Pixels, image_files, open_picture, subfolders

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]

ARRAYS = (".npy", ".npz")
NIFTI = (".nii", ".nii.gz")
SCANS = (*NIFTI, *ARRAYS)
DICOM = (".dcm", ".dicom", ".ima", "")

UPRIGHT = "LPS"
"""Where the axes W, H and D of an upright scan lead: to the left, the back and the head."""

GEOMETRY = (
    "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip
"""What of a NIfTI header says where voxels lie. The rest may speak of the patient."""

PLACED = {"SeriesInstanceUID": 1, "ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
"""What of a DICOM file says which slice it is, and how many values each has."""

UNEVEN = 0.1
"""Share by which the distance of two slices may differ from the others'."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a scan lie, as its file orders them."""

    shape: tuple[int, ...]
    """(i, j, k)."""
    affine: Affine
    """(4, 4): from voxel (i, j, k, 1) to millimetres towards the patient's right, front and head."""
    source: Any = None
    """The NIfTI image it was read from."""

    def upright(self, values: Array) -> Array:
        """(i, j, k) as (D, H, W)."""
        nibabel = _nibabel()
        return np.asarray(nibabel.apply_orientation(values, self._turn()).T)

    def filed(self, values: Array) -> Array:
        """(D, H, W) as (i, j, k): the inverse of `upright`."""
        nibabel = _nibabel()
        back = nibabel.orientations.ornt_transform(_upright(), nibabel.io_orientation(self.affine))
        return np.asarray(nibabel.apply_orientation(values.T, back))

    def upright_shape(self) -> tuple[int, ...]:
        """(D, H, W)."""
        return self.upright(np.empty(self.shape, np.bool_)).shape

    def upright_affine(self) -> Affine:
        """(4, 4): from (w, h, d, 1) of the upright scan to where `affine` leads."""
        return np.asarray(self.affine @ _nibabel().orientations.inv_ornt_aff(self._turn(), self.shape))

    def nifti(self, values: Array) -> bytes:
        """A gzipped NIfTI file of (D, H, W) float values on this grid.

        A grid that came from NIfTI gives back its affine, codes and units bit by bit.
        """
        return gzip.compress(self._image(self.filed(values).astype(np.float32)).to_bytes(), mtime=0)

    def _image(self, values: Array) -> Any:
        if self.source is None:
            image = _nibabel().Nifti1Image(values, self.affine)
            image.header.set_xyzt_units("mm")
            image.set_sform(self.affine, "scanner")
            return image
        header = type(self.source.header)()
        for field in GEOMETRY:
            header[field] = self.source.header[field]
        return type(self.source)(values, self.affine, header, dtype=np.float32)

    def _turn(self) -> Array:
        nibabel = _nibabel()
        return np.asarray(nibabel.orientations.ornt_transform(nibabel.io_orientation(self.affine), _upright()))


class Scan(NamedTuple):
    """A volume, upright if it has a place."""

    values: Floats
    """(D, H, W) finite, in the file's own units: Hounsfield units of a CT."""
    grid: Grid | None = None
    """None where the file says nothing of the patient."""
    inverted: bool = False
    """Whether small values are meant to be bright."""


@dataclass(frozen=True)
class Reading:
    """How a scan becomes what a network takes: scaled, then resampled.

    Args:
        size: (D, H, W) of the result, whatever the voxels' spacing; None for the scan's own.
        window: (centre, width) in the scan's units that become 0 to 1, such as (40, 400) for soft tissue in a CT.
        percentiles: of the scan's own values, which become 0 and 1 where there is no window.

    Raises:
        SightlineError: the width is not positive, or percentiles are not two rising numbers in [0, 100].
    """

    size: tuple[int, int, int] | None = None
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)

    def __post_init__(self) -> None:
        if self.window is not None and not self.window[1] > 0:
            raise SightlineError(f"window is {self.window}: expected (centre, width), the width above 0.")
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise SightlineError(f"percentiles are {self.percentiles}: expected two in [0, 100], the lower one first.")

    def __call__(self, scan: Scan) -> Pixels:
        """(D, H, W) in 0..255."""
        return eight_bits(self.fitted(self.scaled(scan)))

    def fitted(self, tones: Floats) -> Floats:
        """(D, H, W) at `size`."""
        return tones if self.size is None else resampled(tones, self.size)

    def scaled(self, scan: Scan) -> Floats:
        """(D, H, W) in [0, 1]; zeros where all values are one."""
        low, high = self._ends(scan.values)
        tones = np.clip((scan.values - low) / (high - low or 1), 0, 1, dtype=np.float32)
        return np.asarray(1 - tones if scan.inverted else tones)

    def _ends(self, values: Floats) -> tuple[np.float32, np.float32]:
        if self.window is None:
            low, high = np.percentile(values, self.percentiles)
        else:
            low, high = self.window[0] - self.window[1] / 2, self.window[0] + self.window[1] / 2
        return np.float32(low), np.float32(high)


@dataclass(frozen=True)
class Picking(Reading):
    """`Reading` that takes D of the scan's slices as they are, evenly spaced, instead of blending neighbours."""

    def fitted(self, tones: Floats) -> Floats:
        if self.size is None:
            return tones
        picked = tones[((np.arange(self.size[0]) + 0.5) * len(tones) / self.size[0]).astype(int)]
        return resampled(picked, self.size)


def eight_bits(tones: Floats) -> Pixels:
    """0..255 from [0, 1]."""
    return np.asarray(np.rint(255 * tones), np.uint8)


def resampled(values: Floats, size: Sequence[int], by: Image.Resampling = Image.Resampling.BILINEAR) -> Floats:
    """(D, H, W) at `size`, antialiased, each axis by itself; sides are covered whole, so spacing is not looked at."""
    planes = [np.asarray(Image.fromarray(plane).resize((size[2], size[1]), by)) for plane in values]
    flat = Image.fromarray(np.stack(planes).reshape(len(planes), -1))
    return np.asarray(flat.resize((flat.width, size[0]), by)).reshape(size)


def shrink(mask: Flags, size: Sequence[int]) -> Pixels:
    """(D, H, W) at `size`, as `sightline.pictures.shrink` reduces a mask."""
    covered = resampled(mask.astype(np.float32), size, Image.Resampling.BOX)
    return np.asarray(covered >= covered.max() / 2, np.uint8)


# Files ----------------------------------------------------------------------------------------------------------------


def suffix(path: Path) -> str:
    """The end of a file's name in small letters; ".nii.gz" is one."""
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def stem(path: Path) -> str:
    """A name without its `suffix`; a folder's name is whole."""
    return path.name if path.is_dir() else path.name[: len(path.name) - len(suffix(path))]


def scans(folder: Path) -> list[Path]:
    """Scans in a folder by name, hidden ones left out: files, and folders, which hold a series or a stack each."""
    files = [p for p in folder.iterdir() if suffix(p) in SCANS and p.is_file() and not p.name.startswith(".")]
    return sorted([*files, *subfolders(folder)])


def read_scan(path: Path) -> Scan:
    """A volume from .nii, .nii.gz, .npy or .npz, or a folder with one DICOM series or one stack of pictures.

    Raises:
        SightlineError: a file is missing, damaged or no volume, slices do not belong together, a value is not finite;
            or what reads the format is not installed.
    """
    scan = _read(path)
    if scan.values.ndim != 3 or scan.values.size == 0:
        raise SightlineError(f"{path} has shape {scan.values.shape}: expected one volume of one channel (D, H, W).")
    if bad := int((~np.isfinite(scan.values)).sum()):
        raise SightlineError(f"{path}: {bad} voxels are NaN or infinite. Say what they should be and save it again.")
    return scan


def _read(path: Path) -> Scan:
    if path.is_dir():
        return read_stack(path) if image_files(path) else read_series(path)
    if suffix(path) in NIFTI:
        return read_nifti(path)
    if suffix(path) in ARRAYS:
        return Scan(real(path, read_array(path)))
    raise SightlineError(
        f"{path} is no volume: expected {', '.join(SCANS)}, or the folder of a DICOM series or of a stack of pictures."
    )


def real(path: Path, values: Array) -> Floats:
    """`values` as float32.

    Raises:
        SightlineError: they are no real numbers.
    """
    if values.dtype.kind not in "biuf":
        raise SightlineError(f"{path} holds {values.dtype}: expected real numbers, one for each voxel.")
    return values.astype(np.float32)


def read_array(path: Path) -> Array:
    """The array in a .npy, or alone in an .npz.

    Raises:
        SightlineError: the file is damaged, holds more than one array, or something else than numbers.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded as arrays:
            (only,) = arrays.values()
            return np.asarray(only)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SightlineError(f"cannot read {path} as one array: {error}. Save it with numpy.save.") from error


def read_stack(folder: Path) -> Scan:
    """The pictures of a folder, by name, in grey.

    Raises:
        SightlineError: one is damaged, or of another size than the first.
    """
    files = image_files(folder)
    planes = [np.asarray(open_picture(path).convert("L"), np.float32) for path in files]
    for path, plane in zip(files, planes, strict=True):
        if plane.shape != planes[0].shape:
            raise SightlineError(
                f"{path} is {_times(plane.shape)} pixels, {files[0].name} {_times(planes[0].shape)}: "
                "the slices of a stack must be of one size."
            )
    return Scan(np.stack(planes))


def read_nifti(path: Path) -> Scan:
    """A NIfTI file of one volume.

    Raises:
        SightlineError: the file is missing or damaged, holds several volumes, or its affine cannot be inverted.
    """
    nibabel = _nibabel()
    try:
        image = nibabel.funcs.squeeze_image(nibabel.load(path))
        stored = np.asarray(image.dataobj)
    except Exception as error:  # whatever gzip, zlib or nibabel stumble over
        raise SightlineError(f"{path} cannot be read as NIfTI ({error}). Replace it or leave it out.") from error
    values = real(path, stored)
    if values.ndim != 3:
        raise SightlineError(
            f"{path} has shape {values.shape}: expected one volume (x, y, z). Save the one to be read by itself."
        )
    if not np.isfinite(image.affine).all() or np.linalg.det(image.affine[:3, :3]) == 0:
        raise SightlineError(f"{path}: its affine cannot be inverted, so nobody knows where its voxels lie. Repair it.")
    grid = Grid(values.shape, np.asarray(image.affine, np.float64), image)
    return Scan(grid.upright(values), grid)


@dataclass(frozen=True)
class MaskVolume:
    """What is not 0 in a volume on the grid of its scan."""

    path: Path

    def draw(self, size: Sequence[int]) -> Flags:
        """Where it lies in a scan of `size`: (D, H, W) bool."""
        return self._marked(read_scan(self.path), size)

    def on(self, scan: Scan) -> Flags:
        """Where it lies in `scan`: (D, H, W) bool.

        Raises:
            SightlineError: it cannot be read, is empty, or has another shape or place than the scan.
        """
        mask = read_scan(self.path)
        marked = self._marked(mask, scan.values.shape)
        refuse_elsewhere(self.path, mask.grid, scan.grid)
        return marked

    def content(self) -> bytes:
        return bytes_in(self.path)

    def _marked(self, mask: Scan, size: Sequence[int]) -> Flags:
        if mask.values.shape != tuple(size):
            raise SightlineError(
                f"{self.path} is {_times(mask.values.shape)} voxels (D x H x W), its scan {_times(size)}. "
                "A mask must be as large as its scan."
            )
        if not mask.values.any():
            raise SightlineError(
                f"{self.path} is empty: no voxel differs from 0. If nobody annotated the scan, delete the mask."
            )
        return np.asarray(mask.values != 0)


def refuse_elsewhere(path: Path, mask: Grid | None, scan: Grid | None) -> None:
    """Refuse a mask that lies elsewhere in the patient than its scan, by more than a hundredth of a millimetre."""
    if (mask is None) != (scan is None):
        raise SightlineError(
            f"{path} {'has no' if mask is None else 'has an'} affine, its scan {'none' if scan is None else 'one'}: "
            "how they lie on each other is not known. Save both as NIfTI."
        )
    if mask and scan and not np.allclose(mask.upright_affine(), scan.upright_affine(), rtol=0, atol=1e-2):
        raise SightlineError(f"{path} has another affine than its scan. Resample the mask to the scan's grid.")


# DICOM ----------------------------------------------------------------------------------------------------------------


class Slice(NamedTuple):
    """One DICOM file."""

    path: Path
    tags: Any
    """pydicom's Dataset."""
    values: Floats
    """(H, W), rescaled as the file says."""


def read_series(folder: Path) -> Scan:
    """The DICOM series in a folder, its slices in the order in which they lie in the patient.

    The affine is that of DICOM PS3.3 C.7.6.2.1.1 with the signs of x and y changed: DICOM's point to the patient's left
    and back, NIfTI's to the right and front.

    Raises:
        SightlineError: there is no DICOM file, one is damaged or does not belong to the others, or slices are missing.
    """
    files = sorted(p for p in folder.iterdir() if _may_be_dicom(p))
    if not files:
        raise SightlineError(f"{folder} holds neither DICOM files nor pictures, so it is no volume.")
    slices = [_read_slice(path) for path in files]
    _refuse_mixed(slices)
    normal = _normal(slices[0])
    slices = sorted(slices, key=lambda one: float(_position(one) @ normal))
    values = np.stack([one.values for one in slices])
    grid = Grid(values.shape[::-1], _affine(slices))
    return Scan(grid.upright(values.T), grid, slices[0].tags.PhotometricInterpretation == "MONOCHROME1")


def read_dicom_picture(path: Path) -> Image.Image:
    """One DICOM file as a picture of 8 bits, in its own window if it has one, else from its least to its largest value.

    Raises:
        SightlineError: the file is damaged, has no pixels, several frames, or is compressed as nothing here decodes.
    """
    tags = _read_tags(path)
    values = _pixels(path, tags)
    if values.ndim == 3:
        return Image.fromarray(values.astype(np.uint8))
    values = require("medical", "pydicom.pixels").apply_modality_lut(values, tags)
    window = _window(tags)
    scan = Scan(np.asarray(values, np.float32), None, tags.PhotometricInterpretation == "MONOCHROME1")
    return Image.fromarray(eight_bits(Reading(None, window, (0, 100)).scaled(scan)))


def _may_be_dicom(path: Path) -> bool:
    named = suffix(path) in DICOM or suffix(path)[1:].isdecimal()  # names are often UIDs
    return named and path.is_file() and not path.name.startswith(".") and path.name != "DICOMDIR"


def _read_slice(path: Path) -> Slice:
    tags = _read_tags(path)
    pixels = _pixels(path, tags)
    if pixels.ndim != 2:
        raise SightlineError(f"{path} is in colour: expected grey slices.")
    for name, count in PLACED.items():
        if not tags.get(name) or np.size(tags.get(name)) != count:
            raise SightlineError(f"{path} has no {name}, or a damaged one: it cannot be placed among other slices.")
    values = require("medical", "pydicom.pixels").apply_modality_lut(pixels, tags)
    return Slice(path, tags, np.asarray(values, np.float32))


def _read_tags(path: Path) -> Any:
    pydicom = require("medical", "pydicom")
    try:
        return pydicom.dcmread(path)
    except Exception as error:  # whatever a damaged file leads the parser to
        raise SightlineError(f"{path} cannot be read as DICOM ({error}). Replace it or leave it out.") from error


def _pixels(path: Path, tags: Any) -> Array:
    if "PixelData" not in tags:
        raise SightlineError(f"{path} holds no pixels: it is cut off, or no image (a report, a plan). Leave it out.")
    if int(tags.get("NumberOfFrames") or 1) > 1:
        raise SightlineError(f"{path} holds several frames: expected one slice a file. Convert it to NIfTI.")
    try:
        return np.asarray(tags.pixel_array)
    except Exception as error:  # decoders have no common error
        raise _undecoded(path, tags, error) from error


def _undecoded(path: Path, tags: Any, error: Exception) -> SightlineError:
    """What to do about pixels that cannot be decoded."""
    syntax = tags.file_meta.get("TransferSyntaxUID")
    try:
        decoder = require("medical", "pydicom.pixels").get_decoder(syntax)
    except (NotImplementedError, TypeError):
        return SightlineError(f"{path}: no decoder knows its transfer syntax {syntax}. Save it uncompressed.")
    if not decoder.is_available:
        return SightlineError(
            f"{path} is compressed ({syntax.name}), and nothing that decodes it is installed. Install one of: "
            f"{'; '.join(decoder.missing_dependencies)}."
        )
    return SightlineError(f"{path}: its pixels cannot be decoded ({error}). Replace it or leave it out.")


def _refuse_mixed(slices: Sequence[Slice]) -> None:
    """Refuse slices that do not belong to one series or have not one grid."""
    first = slices[0]
    for one in slices[1:]:
        if one.tags.SeriesInstanceUID != first.tags.SeriesInstanceUID:
            raise SightlineError(
                f"{one.path} belongs to another series than {first.path.name}. "
                "Put each series into a folder of its own."
            )
        if one.values.shape != first.values.shape:
            raise SightlineError(
                f"{one.path} is {_times(one.values.shape)} pixels, {first.path.name} {_times(first.values.shape)}: "
                "the slices of a series must be of one size."
            )
        for name in ("ImageOrientationPatient", "PixelSpacing"):
            if not np.allclose(_numbers(one, name), _numbers(first, name), atol=1e-3):
                raise SightlineError(f"{one.path} has another {name} than {first.path.name}: they are not one volume.")


def _affine(slices: Sequence[Slice]) -> Affine:
    """(4, 4) from (column, row, slice, 1) of sorted slices to NIfTI's millimetres."""
    first = slices[0]
    along_row, along_column = _numbers(first, "ImageOrientationPatient").reshape(2, 3)
    between_rows, between_columns = _numbers(first, "PixelSpacing")
    affine = np.eye(4)
    affine[:3, 0] = along_row * between_columns
    affine[:3, 1] = along_column * between_rows
    affine[:3, 2] = _step(slices)
    affine[:3, 3] = _position(first)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _step(slices: Sequence[Slice]) -> Affine:
    """(3,) millimetres from one slice to the next.

    Raises:
        SightlineError: distances differ, so slices are missing or there twice.
    """
    normal = _normal(slices[0])
    if len(slices) == 1:
        return normal * float(slices[0].tags.get("SliceThickness") or 1)
    distances = np.diff([_position(one) @ normal for one in slices])
    usual = float(np.median(distances))
    odd = np.abs(distances - usual) > UNEVEN * usual
    if odd.any() or usual == 0:
        at = int(odd.argmax())
        raise SightlineError(
            f"{slices[at + 1].path} lies {distances[at]:.4g} mm from {slices[at].path.name}, where {usual:.4g} mm is "
            "usual: slices are missing, or there twice."
        )
    return np.asarray((_position(slices[-1]) - _position(slices[0])) / (len(slices) - 1))


def _normal(one: Slice) -> Affine:
    return np.cross(*_numbers(one, "ImageOrientationPatient").reshape(2, 3))


def _position(one: Slice) -> Affine:
    return _numbers(one, "ImagePositionPatient")


def _numbers(one: Slice, name: str) -> Affine:
    return np.array(one.tags[name].value, np.float64)


def _window(tags: Any) -> tuple[float, float] | None:
    """The first window (centre, width) a file proposes; None where that has no width."""
    if "WindowCenter" not in tags or "WindowWidth" not in tags:
        return None
    centre, width = (np.atleast_1d(np.array(tags[name].value, np.float64)) for name in ("WindowCenter", "WindowWidth"))
    return (float(centre[0]), float(width[0])) if width[0] > 0 else None


def _times(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))


def _nibabel() -> Any:
    return require("medical", "nibabel")


def _upright() -> Array:
    return np.asarray(_nibabel().orientations.axcodes2ornt(UPRIGHT))
