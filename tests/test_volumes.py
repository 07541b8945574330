"""Scans: how they are read, what lies where in them, and what each kind of bad input is answered with."""

import csv
import gzip
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image
from pydicom.uid import JPEGLSLossless
from torch.utils.data import DataLoader

from scans import SPACING, blob, edit_dicom, write_dicom, write_nifti, write_series
from sightline.cli import main
from sightline.data import Volumes
from sightline.errors import SightlineError
from sightline.volumes import Reading, Scan, read_dicom_picture, read_scan, resampled, shrink

SHAPE = (6, 9, 12)
AT = (4, 2, 7)

OBLIQUE = np.array([[0.0, 0, -3, 50], [-0.9, 0.1, 0, 20], [0.1, 0.8, 0, -10], [0, 0, 0, 1]])
"""Axes swapped, flipped and tilted."""

AFFINES = [np.diag([1.0, 2, 3, 1]), np.diag([-1.0, -1, 2, 1]), np.diag([-0.5, 1, -4, 1]), OBLIQUE]


def world(affine, voxel):
    return (affine @ [*voxel, 1])[:3]


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", AFFINES)
def test_a_nifti_is_turned_upright_and_back(tmp_path, affine):
    values = blob((5, 7, 4), (3, 1, 2))
    scan = read_scan(write_nifti(tmp_path / "a.nii.gz", values, affine))
    np.testing.assert_array_equal(scan.grid.filed(scan.values), values)
    np.testing.assert_array_equal(scan.grid.affine, nibabel.load(tmp_path / "a.nii.gz").affine)
    upright = scan.grid.upright_affine()
    assert nibabel.aff2axcodes(upright) == tuple("LPS")
    for d, h, w in np.argwhere(scan.values == 900):
        found = np.argwhere(np.isclose(values, 900))
        places = np.array([world(scan.grid.affine, voxel) for voxel in found])
        assert np.abs(places - world(upright, (w, h, d))).sum(1).min() < 1e-4


def test_upright_agrees_with_nibabels_canonical_order(tmp_path):
    path = write_nifti(tmp_path / "a.nii", blob((5, 7, 4), (3, 1, 2)), OBLIQUE)
    ras = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()
    np.testing.assert_array_equal(read_scan(path).values, ras[::-1, ::-1].T)


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (0.8, 0.6, 0, 0, 0, -1)])
def test_the_same_scan_is_the_same_array_in_dicom_and_nifti(tmp_path, orientation):
    values = np.rint(blob(SHAPE, AT) / 2) * 2
    scan = read_scan(write_series(tmp_path / "series", values, orientation))
    row, column, normal = (
        np.array(orientation[:3]),
        np.array(orientation[3:]),
        np.cross(orientation[:3], orientation[3:]),
    )
    lps = np.stack([SPACING[2] * row, SPACING[1] * column, SPACING[0] * normal, [-20, -30, 40]], 1)
    affine = np.vstack([np.diag([-1, -1, 1]) @ lps, [0, 0, 0, 1]])
    np.testing.assert_allclose(scan.grid.affine, affine, atol=1e-6)
    same = read_scan(write_nifti(tmp_path / "same.nii.gz", values.T, affine))
    np.testing.assert_array_equal(scan.values, same.values)
    np.testing.assert_allclose(scan.grid.upright_affine(), same.grid.upright_affine(), atol=1e-4)
    if orientation == (1, 0, 0, 0, 1, 0):
        np.testing.assert_array_equal(scan.values, values)


def test_a_stack_of_pictures_is_a_volume(tmp_path):
    planes = np.random.default_rng(0).integers(0, 255, (3, 4, 5), np.uint8)
    for number, plane in enumerate(planes):
        Image.fromarray(plane).save(tmp_path / f"{number}.png")
    np.testing.assert_array_equal(read_scan(tmp_path).values, planes)


def test_a_single_volume_in_four_dimensions_is_one(tmp_path):
    path = write_nifti(tmp_path / "a.nii", blob((*SHAPE, 1), (*AT, 0)))
    assert read_scan(path).values.shape == SHAPE[::-1]


# Scaling and resampling -----------------------------------------------------------------------------------------------


def test_window_and_percentiles():
    values = np.arange(-100.0, 101, dtype=np.float32).reshape(3, 67, 1)
    tones = Reading(window=(50, 20)).scaled(Scan(values))
    np.testing.assert_allclose(tones, np.clip((values - 40) / 20, 0, 1), atol=1e-6)
    low, high = np.percentile(values, (10, 90))
    tones = Reading(percentiles=(10, 90)).scaled(Scan(values))
    np.testing.assert_allclose(tones, np.clip((values - low) / (high - low), 0, 1), atol=1e-6)
    np.testing.assert_allclose(Reading(percentiles=(10, 90)).scaled(Scan(values, inverted=True)), 1 - tones)
    assert not Reading().scaled(Scan(np.ones((2, 2, 2), np.float32))).any()


def test_resampling_averages_and_keeps_masks():
    values = np.random.default_rng(0).random((4, 6, 8)).astype(np.float32)
    np.testing.assert_array_equal(resampled(values, (4, 6, 8)), values)
    boxes = resampled(values, (2, 3, 4), Image.Resampling.BOX)
    np.testing.assert_allclose(boxes, values.reshape(2, 2, 3, 2, 4, 2).mean((1, 3, 5)), atol=1e-6)
    mask = np.zeros((4, 6, 8), np.bool_)
    mask[3, 0, 7] = True
    assert np.argwhere(shrink(mask, (2, 3, 4))).tolist() == [[1, 0, 3]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": (40, 0)}, "width above 0"),
        ({"percentiles": (99, 1)}, "lower one first"),
        ({"percentiles": (0, 101)}, r"in \[0, 100\]"),
    ],
)
def test_bad_readings_are_refused(arguments, message):
    with pytest.raises(SightlineError, match=message):
        Reading(**arguments)


# One picture in DICOM -------------------------------------------------------------------------------------------------


def test_a_dicom_picture_comes_in_its_window(tmp_path):
    stored = np.arange(0, 1200, 100, np.uint16).reshape(3, 4)
    plain = np.asarray(read_dicom_picture(write_dicom(tmp_path / "a.dcm", stored)))
    np.testing.assert_allclose(plain, 255.0 * stored / 1100, atol=0.501)
    path = write_dicom(tmp_path / "b.dcm", stored, WindowCenter=[500, 1], WindowWidth=[1000, 1])
    np.testing.assert_allclose(read_dicom_picture(path), 255 * np.clip(stored / 1000, 0, 1), atol=0.501)
    empty = write_dicom(tmp_path / "d.dcm", stored, WindowCenter=500, WindowWidth=0)
    np.testing.assert_array_equal(np.asarray(read_dicom_picture(empty)), plain)
    negative = write_dicom(tmp_path / "c.dcm", stored, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(np.asarray(read_dicom_picture(negative)), 255.0 - plain, atol=1)


def test_series_of_monochrome1_are_inverted(tmp_path):
    folder = write_series(tmp_path / "s", blob(SHAPE, AT), PhotometricInterpretation="MONOCHROME1")
    scan = read_scan(folder)
    assert scan.values.max() == 900
    assert Reading().scaled(scan)[scan.values == 900].max() == 0


# The dataset ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    """One class in NIfTI, with masks, and one of arrays, a series and a stack."""
    rows = [("id", "class", "split", "group")]
    for number, split in enumerate(("train", "train", "val", "test")):
        values = blob(SHAPE, AT, number)
        write_nifti(tmp_path / f"images/lesion/a{number}.nii.gz", values, OBLIQUE)
        write_nifti(tmp_path / f"masks/lesion/a{number}.nii", (values == 900).astype(np.uint8), OBLIQUE)
        rows.append((f"a{number}", "lesion", split, "ward"))
    (tmp_path / "images/none").mkdir()
    np.save(tmp_path / "images/none/b0.npy", blob(SHAPE, AT))
    write_series(tmp_path / "images/none/b1", blob(SHAPE, AT))
    for name in ("b2", "b3"):
        (tmp_path / "images/none" / name).mkdir()
        for number in range(3):
            Image.fromarray(np.full((9, 12), 50 * number, np.uint8)).save(tmp_path / f"images/none/{name}/{number}.png")
    rows += [(f"b{i}", "none", split, "home") for i, split in enumerate(("train", "train", "val", "test"))]
    with (tmp_path / "splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


def test_a_folder_of_scans(root):
    train = Volumes(str(root), size=(4, 8, 6))
    assert (train.classes, train.splits, train.size) == (("lesion", "none"), ("train", "val", "test"), (4, 8, 6))
    assert (train.ids, train.groups.tolist()) == (("a0", "a1", "b0", "b1"), ["ward", "ward", "home", "home"])
    assert train.has_mask.tolist() == [True, True, False, False]
    batch = next(iter(DataLoader(train, batch_size=4)))
    assert batch.image.shape == (4, 1, 4, 8, 6)
    assert batch.mask.shape == (4, 4, 8, 6)
    assert 0 <= batch.image.min() < 0.5 < batch.image.max() <= 1
    assert batch.mask[2:].min() == 1
    assert train.on("test").hash() == train.on("test").hash() != train.hash()
    assert Volumes(str(root), size=4, channels=3)[0].image.shape == (3, 4, 4, 4)


def test_the_mask_lies_on_the_evidence(root):
    data = Volumes(str(root), size=read_scan(root / "images/lesion/a0.nii.gz").values.shape)
    image, mask = data.read(0)
    np.testing.assert_array_equal(image[..., 0] == 255, mask == 1)
    assert mask.sum() == 27


def test_a_mask_in_another_order_of_axes_is_the_same_mask(root):
    mask = nibabel.load(root / "masks/lesion/a0.nii")
    before = Volumes(str(root), size=5).read(0)[1]
    canonical = nibabel.as_closest_canonical(mask)
    write_nifti(root / "masks/lesion/a0.nii", np.array(canonical.dataobj), canonical.affine)
    assert canonical.shape != mask.shape
    np.testing.assert_array_equal(Volumes(str(root), size=5).read(0)[1], before)


def test_the_hash_follows_every_slice(root):
    before = Volumes(str(root), size=4).hash()
    edit_dicom(root / "images/none/b1/IM003.dcm", PixelData=b"\0" * 2 * 9 * 12)
    assert Volumes(str(root), size=4).hash() != before


# Bad input ------------------------------------------------------------------------------------------------------------


def refused(root, *words, split="train"):
    with pytest.raises(SightlineError) as error:
        Volumes(str(root), split, size=4)
    for word in words:
        assert word in str(error.value)


def test_bad_nifti_files_are_named(root):
    path = root / "images/lesion/a0.nii.gz"
    whole = path.read_bytes()
    path.write_bytes(gzip.decompress(whole))
    refused(root, "a0.nii.gz", "cannot be read as NIfTI")
    path.write_bytes(whole[: len(whole) // 2])
    refused(root, "a0.nii.gz", "cannot be read as NIfTI")
    write_nifti(path, np.zeros((*SHAPE, 2), np.float32))
    refused(root, "a0.nii.gz", "(6, 9, 12, 2)", "one volume")
    write_nifti(path, np.where(blob(SHAPE, AT) == 900, np.nan, 1).astype(np.float32))
    refused(root, "a0.nii.gz", "27 voxels are NaN")


def test_bad_masks_are_named(root):
    path = root / "masks/lesion/a0.nii"
    write_nifti(path, np.ones((6, 9, 11), np.uint8), OBLIQUE)
    refused(root, "a0.nii", "must be as large as its scan")
    write_nifti(path, np.ones(SHAPE, np.uint8), OBLIQUE @ np.diag([1, 1, 1.2, 1]))
    refused(root, "a0.nii", "another affine")
    write_nifti(path, np.zeros(SHAPE, np.uint8), OBLIQUE)
    refused(root, "a0.nii", "is empty")
    path.unlink()
    np.save(path.with_suffix(".npy"), np.ones(read_scan(root / "images/lesion/a0.nii.gz").values.shape))
    refused(root, "a0.npy", "has no affine")


def test_bad_series_are_named(root):
    file = root / "images/none/b1/IM001.dcm"
    whole = file.read_bytes()
    other = root / "images/none/b1/IM002.dcm"

    def then(*words, **tags):
        edit_dicom(file, **tags)
        refused(root, "IM001.dcm", *words)
        file.write_bytes(whole)

    then("another series", SeriesInstanceUID="1.2.3")
    then("another PixelSpacing", PixelSpacing=[1, 1])
    then("another ImageOrientationPatient", ImageOrientationPatient=[0, 1, 0, 1, 0, 0])
    then("no ImagePositionPatient", ImagePositionPatient=None)
    then("no ImageOrientationPatient, or a damaged one", ImageOrientationPatient=[1, 0, 0])
    then("holds no pixels", PixelData=None)
    then("several frames", NumberOfFrames=2)
    then("8 x 12 pixels", "one size", Rows=8, PixelData=b"\0" * 2 * 8 * 12)
    for cut in (len(whole) - 50, 200, 10):
        file.write_bytes(whole[:cut])
        refused(root, "IM001.dcm")
    file.unlink()
    refused(root, "slices are missing")
    file.write_bytes(other.read_bytes())
    refused(root, "IM00", "there twice")


def test_a_compression_without_a_decoder_is_named_with_its_packages(root):
    path = root / "images/none/b1/IM001.dcm"
    edit_dicom(path)
    data = path.read_bytes()
    from pydicom import dcmread
    from pydicom.encaps import encapsulate

    tags = dcmread(path)
    tags.file_meta.TransferSyntaxUID = JPEGLSLossless
    tags.PixelData = encapsulate([b"\xff\xd8not jpeg\xff\xd9"])
    tags["PixelData"].VR = "OB"
    tags.save_as(path)
    assert path.read_bytes() != data
    refused(root, "IM001.dcm", "JPEG-LS", "pylibjpeg")


def test_other_bad_input_is_named(root):
    for number in range(3):
        (root / f"images/none/b2/{number}.png").unlink()
    refused(root, "b2", "neither DICOM files nor pictures", split="val")
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(root / "images/none/b3/1.png")
    refused(root, "1.png", "one size", split="test")
    np.save(root / "images/none/b0.npy", np.zeros((2, 3)))
    refused(root, "b0.npy", "(2, 3)")
    np.save(root / "images/none/b0.npy", np.full((2, 3, 4), 1j))
    refused(root, "b0.npy", "real numbers")
    np.savez_compressed(root / "images/none/b0.npz", np.arange(1000.0).reshape(10, 10, 10))
    (root / "images/none/b0.npy").unlink()
    damaged = bytearray((root / "images/none/b0.npz").read_bytes())
    damaged[100:400] = bytes(300)
    (root / "images/none/b0.npz").write_bytes(damaged)
    refused(root, "cannot read", "b0.npz", "as one array")
    (root / "images/none/b0.npz").unlink()
    refused(root, "images/none/b0", "there neither as a folder")


def test_a_missing_extra_is_named(root, monkeypatch):
    for module in ("nibabel", "pydicom"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(SightlineError, match=r'pip install "sightline\[medical\]"'):
                read_scan(root / ("images/lesion/a0.nii.gz" if module == "nibabel" else "images/none/b1"))


# `sightline explain` --------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A network of volumes whose first channel, and with it the map, is what is bright."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net(num_classes):\n"
        "    body = nn.Sequential(nn.Conv3d(1, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), "
        "nn.Linear(1, num_classes))\n"
        "    body[0].weight.data.fill_(1)\n    body[0].bias.data.fill_(-0.5)\n    body[4].weight.data.fill_(1)\n"
        "    return body\n"
    )
    return "file:net.py:net"


def explained(model, path, *arguments):
    assert main(["explain", model, str(path), "--classes", "2", "--out", "out", *arguments]) == 0
    (overlay,) = Path("out").glob("*.nii.gz")
    return nibabel.load(overlay)


@pytest.mark.parametrize("affine", AFFINES)
def test_the_overlay_has_the_affine_of_its_scan_and_the_blob_where_the_scan_has_it(model, tmp_path, affine):
    values = blob(SHAPE, AT)
    scan = nibabel.load(write_nifti(tmp_path / "scan.nii.gz", values, affine, units="micron", code=3))
    overlay = explained(model, tmp_path / "scan.nii.gz")
    assert overlay.shape == scan.shape
    np.testing.assert_array_equal(overlay.affine, scan.affine)
    for name in ("sform_code", "qform_code", "pixdim", "srow_x", "xyzt_units"):
        np.testing.assert_array_equal(overlay.header[name], scan.header[name])
    centre = np.argwhere(overlay.get_fdata() > 0).mean(0)
    np.testing.assert_allclose(world(overlay.affine, centre), world(scan.affine, AT), atol=1e-4)
    np.testing.assert_array_equal(overlay.get_fdata() > 0, values == 900)
    assert b"Jane" not in gzip.decompress(Path(overlay.get_filename()).read_bytes())


def test_the_affine_of_a_quaternion_is_kept(model, tmp_path):
    image = nibabel.Nifti1Image(blob(SHAPE, AT), None)
    image.set_qform(AFFINES[2] @ np.array([[0.6, -0.8, 0, 3], [0.8, 0.6, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), 1)
    nibabel.save(image, tmp_path / "scan.nii")
    scan = nibabel.load(tmp_path / "scan.nii")
    overlay = explained(model, tmp_path / "scan.nii")
    assert scan.header["sform_code"] == 0
    np.testing.assert_array_equal(overlay.affine, scan.affine)


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (0.8, 0.6, 0, 0, 0, -1)])
def test_the_overlay_of_a_series_lies_where_its_tags_say(model, tmp_path, orientation):
    values = blob(SHAPE, AT)
    overlay = explained(model, write_series(tmp_path / "series", values, orientation), "--window", "0", "1800")
    assert overlay.shape == SHAPE[::-1]
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    row, column = AT[1] * SPACING[1] * down, AT[2] * SPACING[2] * across
    lps = np.array([-20.0, -30, 40]) + AT[0] * SPACING[0] * np.cross(across, down) + row + column
    places = np.argwhere(overlay.get_fdata() > 0)
    assert len(places) == 27
    np.testing.assert_allclose(world(overlay.affine, places.mean(0)), [-lps[0], -lps[1], lps[2]], atol=1e-4)
    assert overlay.header.get_xyzt_units()[0] == "mm"
    for file in Path("out").iterdir():
        content = file.read_bytes()
        assert b"Doe" not in (gzip.decompress(content) if file.suffix == ".gz" else content)


def test_a_run_reads_scans_as_it_was_trained_on(root, model):
    settings = {
        "data": {"class_path": "Volumes", "init_args": {"root": str(root), "size": [4, 6, 8], "window": [0, 1800]}},
        "model": {"spec": model},
        "objectives": ["CE"],
        "training": {"epochs": 1, "batch_size": 2},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(settings))
    assert main(["train", "recipe.yaml", "--out", "run"]) == 0
    path = root / "images/lesion/a0.nii.gz"
    assert main(["explain", "run", str(path), str(root / "images/none/b0.npy"), "--out", "out"]) == 0
    with np.load("out/maps.npz") as saved:
        assert saved["map/a0/GradCAM"].shape == (1, 4, 6, 8)
        assert saved["classes"].tolist() == ["lesion", "none"]
    assert nibabel.load("out/overlay-a0-GradCAM.nii.gz").shape == SHAPE
    (root / "splits.csv").unlink()
    assert main(["explain", "run", str(path), "--out", "again"]) == 0
    for name in ("overlay-a0-GradCAM.png", "overlay-a0-GradCAM.nii.gz"):
        assert (Path("out") / name).read_bytes() == (Path("again") / name).read_bytes()


def test_a_dicom_file_is_explained_as_an_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dicom(tmp_path / "x.dcm", blob((20, 30), (10, 10)).astype(np.uint16))
    out = ["--classes", "2", "--size", "32", "--out", "out"]
    assert main(["explain", "torchvision:resnet18", "x.dcm", *out]) == 0
    assert Path("out/overlay-x-GradCAM.png").exists()


def test_what_explain_refuses(model, tmp_path, capsys):
    def refused(path, *words):
        assert main(["explain", model, str(path), "--classes", "2", "--out", "out"]) == 1
        printed = capsys.readouterr().err
        assert all(word in printed for word in words), printed

    (tmp_path / "nothing").mkdir()
    refused(tmp_path / "nothing", "nothing holds no file ending in .nii")
    write_dicom(tmp_path / "one.dcm", np.zeros((4, 4), np.uint16))
    refused(tmp_path / "one.dcm", "is no volume", "the folder of a DICOM series")
    (tmp_path / "scan.nii").write_bytes(b"no")
    refused(tmp_path / "scan.nii", "cannot be read as NIfTI")
    assert not list(Path("out").glob("*"))


def test_an_audit_shows_the_slice_with_the_evidence(root, model):
    settings = {
        "data": {"class_path": "Volumes", "init_args": {"root": str(root), "size": [9, 6, 12]}},
        "model": {"spec": model},
        "objectives": ["CE"],
        "training": {"epochs": 1, "batch_size": 2, "channels_last": True},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(settings))
    assert main(["train", "recipe.yaml", "--out", "run"]) == 0
    assert main(["audit", "run"]) == 0
    data = Volumes(str(root), "test", size=(9, 6, 12))
    image, mask = data.read(0)
    at = mask.sum((1, 2)).argmax()
    with np.load("run/audit/test/gallery.npz") as gallery:
        np.testing.assert_array_equal(gallery["mask"][0], mask[at])
        np.testing.assert_array_equal(gallery["image"][0], np.broadcast_to(image[at], (6, 12, 3)))
        assert gallery["map"].shape == (2, 6, 12)
    assert main(["report", "run/audit/test", "--out", "report.html"]) == 0
