"""Medical data sets: what their evidence, groups and folds are, and what damaged files are answered with."""

import csv
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.io import savemat
from torch.utils.data import DataLoader

from sightline import recipe
from sightline.cli import main
from sightline.data import LIDC, OCT, BrainMRI, Fraction, IDRiD
from sightline.errors import SightlineError
from trees import medical, noise, rectangle, save

SIZE = (20, 30)
BOX = rectangle() > 0


# Brain MRI ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def brain(tmp_path):
    medical.brain_mri(tmp_path)
    return str(tmp_path)


def test_brain_slices_are_read_as_matlab_means_them(brain):
    data = BrainMRI(brain, size=SIZE)
    assert data.classes == ("meningioma", "glioma", "pituitary")
    number = int(data.ids[0].removeprefix("cheng_"))
    image, mask = data.read(0)
    tones = noise(number)[..., 0].astype(float)
    np.testing.assert_allclose(image[..., 0], 255 * tones / tones.max(), atol=0.51)
    np.testing.assert_array_equal(mask, BOX & (noise(number)[..., 1] > 60))
    boxed = BrainMRI(brain, evidence="box", size=SIZE)
    np.testing.assert_array_equal(boxed.read(0)[1], BOX)
    assert boxed.hash() != data.hash()


@pytest.mark.parametrize("fold", [None, 1, 5])
def test_no_patient_is_in_two_splits(brain, fold):
    data = BrainMRI(brain, fold=fold, size=SIZE)
    patients = {split: set(data.on(split).groups) for split in data.splits}
    assert sum(map(len, patients.values())) == len(set.union(*patients.values())) == 30
    shares = {"train": 7, "val": 1, "test": 2} if fold is None else {"train": 6, "val": 2, "test": 2}
    for split, share in shares.items():
        assert [sum(name[0] == label for name in patients[split]) for label in "123"] == [share] * 3


def test_the_authors_folds_name_the_test_patients(brain):
    assert {name[1:] for name in BrainMRI(brain, "test", fold=2, size=SIZE).groups} == {"01", "06"}
    assert {name[1:] for name in BrainMRI(brain, "val", fold=5, size=SIZE).groups} == {"00", "05"}
    with h5py.File(Path(brain) / "cvind.mat") as file:
        folds = np.array(file["cvind"])
    old = BrainMRI(brain, "test", fold=2, size=SIZE).hash()
    (Path(brain) / "cvind.mat").unlink()
    savemat(Path(brain) / "cvind.mat", {"cvind": folds})
    assert BrainMRI(brain, "test", fold=2, size=SIZE).hash() == old


def test_damaged_brain_files_are_named(brain, monkeypatch):
    def refused(*words, **arguments):
        with pytest.raises(SightlineError) as error:
            BrainMRI(brain, size=SIZE, **arguments)
        assert all(word in str(error.value) for word in words), error.value

    refused("fold is 6", fold=6)
    savemat(Path(brain) / "cvind.mat", {"cvind": np.ones((4, 1))})
    refused("4 folds for 33 slices", fold=1)
    (Path(brain) / "cvind.mat").unlink()
    refused("cvind.mat is not there", "figshare", fold=1)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "h5py", None)
        refused('pip install "sightline[medical]"')
    path = Path(brain) / "brainTumorDataPublic_1-766/3.mat"
    with h5py.File(path, "a") as file:
        file["cjdata/label"][0, 0] = 4
    refused("3.mat", "label is 4")
    with h5py.File(path, "a") as file:
        del file["cjdata/label"]
    refused("3.mat", "label")
    path.write_bytes(b"MATLAB 5.0 MAT-file")
    refused("3.mat", "cannot be read as MATLAB 7.3, that is HDF5")


def test_a_mask_that_does_not_fit_is_named(brain):
    data = BrainMRI(brain, size=SIZE)
    path = next(Path(brain).rglob(f"{int(data.ids[0][6:])}.mat"))
    with h5py.File(path, "a") as file:
        file["cjdata/tumorMask"][...] = 0
    with pytest.raises(SightlineError, match=f"{path.name}: its tumorMask is empty"):
        BrainMRI(brain, size=SIZE)


# IDRiD ----------------------------------------------------------------------------------------------------------------


def test_lesions_have_masks_by_class(tmp_path):
    data = IDRiD(**medical.idrid(tmp_path), val=0, size=SIZE)
    assert (data.splits, data.classes) == (("train", "test"), ("MA", "HE", "EX", "SE", "OD"))
    assert data.labels.tolist() == [[1, 1, 1, odd, 1] for odd in (1, 0) * 3]
    mask = data.read(1)[1]
    np.testing.assert_array_equal(mask[0], np.roll(BOX, len("1. Microaneurysms") % 7, 1))
    assert not mask[3].any()
    one = IDRiD(str(tmp_path), classes=("SE",), val=0, size=SIZE)
    assert (one.labels.ravel().tolist(), one.has_mask.all()) == ([1, 0] * 3, True)
    assert [bool(one.read(i)[1].any()) for i in range(6)] == [True, False] * 3
    assert len(IDRiD(str(tmp_path), "val", size=SIZE)) == 1
    with pytest.raises(SightlineError, match="Did you mean 'EX'"):
        IDRiD(str(tmp_path), classes=("EXX",), size=SIZE)


def test_a_reduced_copy_is_the_same_data(tmp_path):
    full = IDRiD(**medical.idrid(tmp_path / "full"), size=SIZE)
    rows = [("id", "split")]
    for split, part in (("train", "a. Training Set"), ("test", "b. Testing Set")):
        for image in sorted((tmp_path / f"full/A. Segmentation/1. Original Images/{part}").iterdir()):
            rows.append((image.stem, split))
            save(tmp_path / f"small/images/{image.stem}.png", np.asarray(Image.open(image)))
            for mask in (tmp_path / f"full/{medical.TRUTHS}/{part}").glob(f"*/{image.stem}_*.tif"):
                save(tmp_path / f"small/masks/{mask.stem[-2:]}/{image.stem}.png", np.asarray(Image.open(mask)))
    with (tmp_path / "small/splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    small = IDRiD(str(tmp_path / "small"), size=SIZE)
    assert (small.ids, small.labels.tolist()) == (full.ids, full.labels.tolist())
    for index in range(len(full)):
        for ours, theirs in zip(small.read(index), full.read(index), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    with (tmp_path / "small/splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([*rows[:-2], (rows[-2][0], "validation"), (rows[-1][0], "site B")])
    other = IDRiD(str(tmp_path / "small"), val=0, size=SIZE)
    assert other.splits == ("train", "val", "site B")
    assert [len(other.on(split)) for split in other.splits] == [6, 1, 1]


def test_a_fraction_that_leaves_nothing_says_so(tmp_path):
    with pytest.raises(SightlineError, match="Fraction leaves no image of IDRiD in 'train'"):
        Fraction(IDRiD(**medical.idrid(tmp_path), size=SIZE), images=0.01)


# LIDC-IDRI ------------------------------------------------------------------------------------------------------------


def test_readers_decide_what_a_lesion_is(tmp_path):
    root = medical.lidc(tmp_path)["root"]
    two, one, three = (LIDC(root, readers=readers, size=SIZE) for readers in (2, 1, 3))
    assert [data.labels.tolist() for data in (two, one, three)] == [[1, 0], [1, 1], [0, 0]]
    assert (two.ids[0], two.groups[0], two.classes) == (
        "LIDC-IDRI-0001/z-10.5_c0",
        "LIDC-IDRI-0001",
        ("none", "lesion"),
    )
    assert two.has_mask.tolist() == [True, False]
    np.testing.assert_array_equal(two.read(0)[1], BOX | np.roll(BOX, 1, 1))
    with pytest.raises(SightlineError, match="at most 4"):
        LIDC(root, readers=5)


# OCT ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def eyes(tmp_path):
    """Two classes of stacks of eight B-scans, from two sites; those with GA have masks."""
    rows = [("id", "class", "split", "group")]
    for label in ("GA", "healthy"):
        for number, split in enumerate(("train", "train", "val", "test")):
            rows.append((f"{label}{number}", label, split, f"site {'AB'[number % 2]}"))
            for scan in range(8):
                save(tmp_path / f"images/{label}/{label}{number}/{scan}.png", noise(10 * number + scan)[..., 0])
                if label == "GA":
                    outline = rectangle() if scan == 5 else rectangle(0)
                    save(tmp_path / f"masks/{label}/{label}{number}/{scan}.png", outline)
    with (tmp_path / "splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


def test_views_are_slices_at_even_distances(eyes):
    data = OCT(str(eyes), size=(4, *SIZE), percentiles=(0, 100))
    batch = next(iter(DataLoader(data, batch_size=4)))
    assert batch.image.shape == (4, 4, 1, *SIZE)
    assert batch.mask.shape == (4, 4, *SIZE)
    assert data.groups.tolist() == ["site A", "site B"] * 2
    planes = [noise(scan)[..., 0] / 255 for scan in (1, 3, 5, 7)]
    torch.testing.assert_close(batch.image[0, :, 0].double(), torch.tensor(np.array(planes)), atol=0.01, rtol=0)
    assert batch.mask[0].flatten(1).any(1).tolist() == [False, False, True, False]
    assert len(data.on("test")) == 2


def test_a_network_of_views_is_trained_and_audited(eyes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "from torch import nn\nfrom nets import Views\n"
        "def net(num_classes):\n"
        "    model = Views()\n"
        "    model.head = nn.Linear(6, num_classes)\n"
        "    return model\n"
    )
    settings = {
        "data": {"class_path": "OCT", "init_args": {"root": str(eyes), "size": [4, 20, 30]}},
        "model": {"spec": "file:net.py:net"},
        "objectives": ["CE"],
        "training": {"epochs": 1, "batch_size": 2},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(settings))
    assert recipe.build(recipe.read("recipe.yaml")).data.size == (4, 20, 30)
    assert main(["train", "recipe.yaml", "--out", "run"]) == 0
    assert main(["audit", "run"]) == 0
