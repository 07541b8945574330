"""Small scans in NIfTI and DICOM, for the tests."""

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SPACING = (3.0, 0.8, 0.5)
"""Millimetres between slices, rows and columns."""


def blob(shape, at, seed=0):
    """Noise in -1000..0 with a bright cube around `at`."""
    values = np.random.default_rng(seed).integers(-1000, 0, shape).astype(np.float32)
    values[tuple(slice(max(0, i - 1), i + 2) for i in at)] = 900
    return values


def write_nifti(path, values, affine=None, units="mm", code=1):
    """(i, j, k) values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 1.0, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units(units)
    image.set_sform(image.affine, code)
    image.header["descrip"] = b"Jane Doe"
    nibabel.save(image, path)
    return path


def write_series(folder, values, orientation=(1, 0, 0, 0, 1, 0), origin=(-20.0, -30.0, 40.0), **tags):
    """(slice, row, column) values as one DICOM file a slice, in names that are not in the slices' order."""
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(orientation[:3], orientation[3:])
    series = generate_uid()
    for number, plane in enumerate(values):
        position = np.array(origin) + number * SPACING[0] * normal
        slice_tags = {
            "SeriesInstanceUID": series,
            "ImagePositionPatient": position.tolist(),
            "ImageOrientationPatient": list(orientation),
            "PixelSpacing": list(SPACING[1:]),
            "RescaleSlope": 2,
            "RescaleIntercept": -1000,
        }
        stored = np.rint((plane + 1000) / 2).astype(np.uint16)
        write_dicom(folder / f"IM{(number * 7) % len(values):03d}.dcm", stored, **slice_tags | tags)
    return folder


def write_dicom(path, stored, **tags):
    """One file of uint16 (H, W) pixels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID = "Doe^Jane", "4711"
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.PixelData = stored.astype("<u2").tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def edit_dicom(path, **tags):
    """Set tags of a file; None removes one."""
    data = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(path)
