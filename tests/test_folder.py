"""Folders of images: what is read, and what each kind of bad input is answered with."""

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch.utils.data import DataLoader

from sightline import pictures as module
from sightline.data import Folder, Source
from sightline.errors import SightlineError
from sightline.types import Batch

SPLITS = ("train", "train", "val", "test")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of four images; the cats have masks."""
    rows = []
    for label in ("cat", "dog"):
        for number, split in enumerate(SPLITS):
            name = f"{label}{number}"
            save(tmp_path / f"images/{label}/{name}.png", noise(number))
            rows.append([name, label, split, "indoor", "ignored"])
    for number in range(len(SPLITS)):
        save(tmp_path / f"masks/cat/cat{number}.png", box())
    write_table(tmp_path, rows)
    return tmp_path


def noise(seed: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def box(size: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[5:15, 10:20] = 255
    return mask


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_table(
    root: Path, rows: list[list[str]], columns: tuple[str, ...] = ("id", "class", "split", "group", "x")
) -> None:
    with (root / "splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def edit(root: Path, before: str, after: str) -> None:
    table = root / "splits.csv"
    text = table.read_text()
    assert before in text
    table.write_text(text.replace(before, after, 1))


def test_masks_that_are_called_otherwise_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(root / "masks/dog/dog0.jpg", box())
    save(root / "masks/dog1.png", box())
    (root / "masks/notes.txt").write_text("of the dogs")
    Folder(str(root), size=8)
    said = "2 masks in the folder belong to no line and are left out. A mask is called masks/<class>/<id>.png."
    assert said in caplog.text


def test_a_folder_is_read_as_its_table_says(root: Path) -> None:
    train = Folder(str(root), size=(20, 30))
    assert (train.name, train.splits, train.classes) == (root.name, ("train", "val", "test"), ("cat", "dog"))
    assert train.ids == ("cat0", "cat1", "dog0", "dog1")
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert train.groups.tolist() == ["indoor"] * 4
    assert train.has_mask.tolist() == [True, True, False, False]
    image, mask = train.read(0)
    np.testing.assert_array_equal(image, noise(0))
    np.testing.assert_array_equal(mask, box() // 255)
    assert train.read(3)[1].min() == 1
    assert train.on("valid").ids == ("cat2", "dog2")


def test_samples_collate_into_batches(root: Path) -> None:
    batch = next(iter(DataLoader(Folder(str(root), size=16, channels=1), batch_size=4, num_workers=1)))
    assert isinstance(batch, Batch)
    assert batch.image.shape == (4, 1, 16, 16)
    assert batch.mask.shape == (4, 16, 16)
    assert batch.has_mask.tolist() == [True, True, False, False]
    assert batch.index.tolist() == [0, 1, 2, 3]


def test_grey_jpegs_become_colour_and_colour_becomes_grey(root: Path) -> None:
    (root / "images/cat/cat0.png").unlink()
    save(root / "images/cat/cat0.JPEG", box())
    assert np.ptp(Folder(str(root), size=8).read(0)[0], axis=-1).max() == 0
    assert Folder(str(root), size=8, channels=1).read(2)[0].shape == (8, 8, 1)


def test_photographs_are_turned_upright(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(0, (30, 20))).save(root / "images/cat/cat0.png", exif=exif)
    np.testing.assert_array_equal(Folder(str(root), size=(20, 30)).read(0)[0], np.rot90(noise(0, (30, 20)), -1))


def test_samples_that_do_not_fit_in_memory_are_read_when_needed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Folder(str(root), size=16)
    monkeypatch.setattr("sightline.data.filed.MEMORY", 100)
    for other in (Folder(str(root), size=16), Folder(str(root), size=16, verify=False)):
        assert other.hash() == kept.hash()
        for index in range(4):
            for ours, theirs in zip(other.read(index), kept.read(index), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_the_hash_follows_the_files(root: Path) -> None:
    before = Folder(str(root), size=8).hash()
    assert Folder(str(root), size=16).hash() == before
    save(root / "masks/cat/cat1.png", 255 - box())
    assert Folder(str(root), size=8).hash() != before


@pytest.mark.parametrize(("size", "expected"), [((2, 3), 1), ((10, 15), 25), ((20, 30), 100), ((40, 60), 400)])
def test_masks_keep_their_place_and_outline(size: tuple[int, int], expected: int) -> None:
    small = module.shrink(box() > 0, size)
    assert small.shape == size
    assert small.sum() >= expected
    assert abs(small.mean() - 100 / 600) < 0.2


def test_the_smallest_box_does_not_vanish() -> None:
    mask = np.zeros((3000, 3000), np.bool_)
    mask[1700, 2900] = True
    small = module.shrink(mask, (32, 32))
    assert small.sum() == 1
    assert small[18, 30] == 1


def test_a_thin_line_stays_whole() -> None:
    mask = np.zeros((400, 400), np.bool_)
    mask[200] = True
    assert module.shrink(mask, (40, 40))[20].all()


def test_mask_fraction_counts_only_images_that_have_one(root: Path) -> None:
    assert Folder(str(root), size=8, mask_fraction=0.5).has_mask.sum() == 1
    assert Folder(str(root), "test", size=8, mask_fraction=0.5).has_mask.tolist() == [True, False]


def test_classes_may_be_left_out(root: Path) -> None:
    dogs = Folder(str(root), only=["dog"])
    assert (dogs.classes, dogs.ids, dogs.labels.tolist()) == (("dog",), ("dog0", "dog1"), [0, 0])
    with pytest.raises(SightlineError, match="Did you mean 'dog'"):
        Folder(str(root), only=["dogs"])


def test_an_id_in_two_classes_gets_its_class_in_front(root: Path) -> None:
    save(root / "images/dog/cat0.png", noise(9))
    edit(root, "dog0,dog", "cat0,dog")
    assert Folder(str(root), size=8).ids == ("cat/cat0", "cat/cat1", "dog/cat0", "dog/dog1")


def test_image_folders_without_a_table(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        for label in ("b", "a"):
            save(tmp_path / f"deep/{split}/{label}/0.png", noise(0))
    save(tmp_path / "flat/cat/0.png", noise(0))
    deep, flat = Folder("deep", size=8), Folder("flat", "all", size=8)
    assert (deep.splits, deep.classes, deep.ids) == (("train", "val"), ("a", "b"), ("a/0.png", "b/0.png"))
    assert deep.on("val").labels.tolist() == [0, 1]
    assert not deep.has_mask.any()
    assert (flat.splits, flat.ids) == (("all",), ("cat/0.png",))


def test_names_are_looked_up_under_sightline_data(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "elsewhere").mkdir()
    monkeypatch.chdir(root / "elsewhere")
    monkeypatch.setenv("SIGHTLINE_DATA", str(root.parent))
    assert len(Folder(root.name, size=8)) == 4
    with pytest.raises(SightlineError, match="SIGHTLINE_DATA"):
        Folder("no_such_set")


def test_files_nobody_lists_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(root / "images/dog/stray.png", noise(0))
    save(root / "masks/dog/stray.png", box())
    with caplog.at_level(logging.WARNING):
        Folder(str(root), size=8)
    assert "1 images" in caplog.text
    assert "1 masks" in caplog.text


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "images/dog/dog3.png").unlink(), r"images/dog/dog3\.jpg.*Add the files"),
        (lambda root: truncate(root / "images/dog/dog1.png"), r"dog1\.png cannot be read"),
        (lambda root: (root / "images/dog/dog1.png").write_text("hello"), r"dog1\.png cannot be read"),
        (lambda root: truncate(root / "masks/cat/cat1.png"), r"masks/cat/cat1\.png cannot be read"),
        (
            lambda root: save(root / "masks/cat/cat1.png", box((20, 29))),
            r"cat1\.png is 29 x 20 pixels, its image 30 x 20",
        ),
        (lambda root: save(root / "masks/cat/cat1.png", box() * 0), r"cat1\.png is empty"),
        (lambda root: save(root / "images/dog/dog0.png", noise(0)[..., 0].astype(np.uint16)), "more than 8 bits"),
        (lambda root: save(root / "images/dog/dog0.jpg", noise(0)), r"dog0\.jpg and dog0\.png have the same id"),
        (lambda root: edit(root, "dog2,dog", "dog2,dgo"), r"line 8: unknown class 'dgo'.*Did you mean 'dog'"),
        (lambda root: edit(root, "dog2,dog", "dog1,dog"), r"dog/dog1 more than once"),
        (lambda root: edit(root, "dog2,dog", ",dog"), r"line 8: id is empty"),
        (lambda root: edit(root, "split", "slpit"), r"splits\.csv has no column 'split'. Did you mean 'slpit'"),
        (lambda root: write_table(root, []), r"splits\.csv lists no images"),
        (lambda root: (root / "splits.csv").write_bytes(b"id,class,split\n\xff\xfe,cat,train\n"), "UTF-8"),
        (lambda root: (root / "splits.csv").unlink(), r"no splits\.csv"),
    ],
)
def test_bad_files_are_named_at_construction(root: Path, spoil: object, message: str) -> None:
    spoil(root)
    with pytest.raises(SightlineError, match=message):
        Folder(str(root), size=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tset"}, "Did you mean 'test'"),
        ({"channels": 4}, "channels must be 1"),
        ({"size": 0}, "size"),
        ({"mask_fraction": 2.0}, "mask_fraction"),
    ],
)
def test_bad_arguments_are_named(root: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        Folder(str(root), **arguments)


def test_a_split_without_images_is_refused(root: Path) -> None:
    write_table(root, [["cat0", "cat", "train", "", ""]])
    with pytest.raises(SightlineError, match="'val'"):
        Folder(str(root), "val")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SightlineError, match="holds no images"):
        Folder(str(tmp_path))


def test_truncated_images_are_refused_even_where_pillow_was_told_to_fill_them(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    Image.fromarray(noise(0, (200, 200))).save(root / "images/dog/dog0.jpg")
    (root / "images/dog/dog0.png").unlink()
    truncate(root / "images/dog/dog0.jpg")
    with pytest.raises(SightlineError, match=r"dog0\.jpg cannot be read"):
        Folder(str(root), size=8)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_pillows_limits_are_given_back_when_the_last_reader_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    first, second = module.strictly(), module.strictly()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == (False, None)
    second.__exit__(None, None, None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS


def test_without_verification_a_bad_file_is_found_when_it_is_read(root: Path) -> None:
    truncate(root / "images/dog/dog1.png")
    lazy = Folder(str(root), size=8, verify=False)
    assert lazy[2].label == 1
    with pytest.raises(SightlineError, match=r"dog1\.png cannot be read"):
        lazy[3]


@pytest.mark.parametrize(
    ("name", "images", "classes", "masks"),
    [("brain_mri", 306, 3, 306), ("wbc", 148, 5, 148), ("flowers17", 272, 17, None), ("pacs", 999, 7, 0)],
)
def test_real_folders_load(
    data_root: Path, monkeypatch: pytest.MonkeyPatch, name: str, images: int, classes: int, masks: int | None
) -> None:
    if not (data_root / name).is_dir():
        pytest.skip(f"{name} is not there")
    monkeypatch.setenv("SIGHTLINE_DATA", str(data_root))
    val = Folder(name, "val", size=32)
    assert (len(val), len(val.classes)) == (images, classes)
    assert len(set(val.ids)) == len(val)
    assert masks is None or val.has_mask.sum() == masks
    assert all(0 < mask.mean() < 1 for mask in (val.read(int(i))[1] for i in np.flatnonzero(val.has_mask)))


# Data of one's own --------------------------------------------------------------------------------------------------


class Own(Source):
    name, splits, classes, size, channels = "Own", ("train",), ("a", "b"), (6, 8), 3

    def __init__(self, image: Any = None, mask: Any = None) -> None:
        super().__init__("train", 1.0, 0)
        self.image, self.mask = image, mask
        self.labels, self.ids = [0, 1], ("one", "two")
        self.annotate(np.ones(2, bool))

    def read(self, index: int) -> Any:
        return self.image, self.mask


GOOD = np.full((6, 8, 3), 200, np.uint8), np.ones((6, 8), np.uint8)


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (GOOD[0] / np.float32(255), GOOD[1], r"Own/train/two: read\(\) gives values from 0 to 0.78: expected 0 to 255"),
        (np.zeros((3, 6, 8)), GOOD[1], r"an image of shape \(3, 6, 8\): expected \(6, 8, 3\)"),
        (GOOD[0], GOOD[1][:3], r"a mask of shape \(3, 8\): expected \(6, 8\)"),
        (GOOD[0], None, "ones for no mask"),
    ],
)
def test_what_a_source_of_ones_own_reads_is_checked(image: Any, mask: Any, message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        Own(image, mask)[1]


def test_a_source_of_ones_own_needs_no_groups_and_may_read_pictures_and_tensors() -> None:
    for image, mask in (GOOD, (Image.fromarray(GOOD[0]), torch.from_numpy(GOOD[1]))):
        data = Own(image, mask)
        assert data[1].label == 1
        assert data.groups.tolist() == ["", ""]
        assert data.hash() == Own(*GOOD).hash()
