"""What every data set of files does, on small copies in the published layout."""

import inspect
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import savemat
from torch.utils.data import default_collate

from sightline import data, recipe
from sightline.data import Source
from sightline.data.cifar10 import from_pickle
from sightline.data.cub import as_ppi
from sightline.data.idx import Digits
from sightline.errors import SightlineError
from sightline.listing import Entry
from sightline.types import Batch
from trees import TREES, noise, rectangle, save, write
from trees.natural import CATEGORIES, xml

SIZE = (20, 30)


def build(name: str, arguments: dict[str, Any], **others: Any) -> Source:
    return getattr(data, name)(**{**arguments, **others}, size=SIZE)


@pytest.fixture(params=sorted(TREES))
def laid_out(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """A data set's name, and the arguments that construct it."""
    return request.param, TREES[request.param].build(tmp_path)


def test_every_data_set_of_files_has_a_copy() -> None:
    listed = {name: getattr(data, name) for name in data.__all__}
    of_files = {name for name, kind in listed.items() if "root" in inspect.signature(kind).parameters}
    of_files -= {name for name, kind in listed.items() if issubclass(kind, Digits)}
    assert of_files - {"Folder", "OCT", "Volumes"} == set(TREES)


def test_each_split_yields_batches(laid_out: tuple[str, dict[str, Any]]) -> None:
    source = build(*laid_out)
    for split in source.splits:
        check_split(source.on(split))


def check_split(source: Source) -> None:
    assert len(source) > 0
    assert len(set(source.ids)) == len(source)
    assert source.groups.shape == source.has_mask.shape == (len(source),)
    several = source.labels.ndim > 1
    assert source.labels.min() >= 0
    assert source.labels.max() < (2 if several else len(source.classes))
    batch = default_collate([source[index] for index in range(len(source))])
    assert isinstance(batch, Batch)
    assert batch.image.shape == (len(source), source.channels, *SIZE)
    assert 0 <= batch.image.min() < batch.image.max() <= 1
    assert batch.mask.shape in ((len(source), *SIZE), (len(source), len(source.classes), *SIZE))
    assert set(batch.mask.unique().tolist()) <= {0.0, 1.0}
    assert (batch.mask[~batch.has_mask] == 1).all()
    assert (batch.mask[batch.has_mask].flatten(1).any(1)).all()
    assert batch.index.tolist() == list(range(len(source)))


def test_no_image_is_in_two_splits(laid_out: tuple[str, dict[str, Any]]) -> None:
    source = build(*laid_out)
    ids = [name for split in source.splits for name in source.on(split).ids]
    assert len(set(ids)) == len(ids)


def test_the_same_files_have_the_same_hash(laid_out: tuple[str, dict[str, Any]]) -> None:
    first, second = build(*laid_out), build(*laid_out)
    assert first.hash() == second.hash()
    if len(first.splits) > 1:
        assert first.on(first.splits[-1]).hash() != first.on(first.splits[0]).hash()


def test_unverified_samples_are_the_same(laid_out: tuple[str, dict[str, Any]]) -> None:
    name, arguments = laid_out
    if "verify" not in inspect.signature(getattr(data, name)).parameters:
        pytest.skip("holds its samples in memory")
    kept, lazy = (build(name, arguments, verify=verify) for verify in (True, False))
    for index in range(len(kept)):
        for ours, theirs in zip(kept.read(index), lazy.read(index), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_recipe_builds_it_and_its_repr_rebuilds_it(laid_out: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    name, arguments = laid_out
    source = build(name, arguments)
    described = {"class_path": name, "init_args": arguments | {"size": list(SIZE)}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"data": described, "model": {"spec": "sightline:cfcn_c"}, "objectives": ["CE"]}))
    from_recipe = recipe.build(recipe.read(path)).data
    assert repr(from_recipe) == repr(source)
    assert repr(eval(repr(source), vars(data))) == repr(source)
    assert from_recipe.hash() == source.hash()


def test_a_missing_file_is_named(laid_out: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    name, arguments = laid_out
    missing = tmp_path / TREES[name].needs
    missing.unlink()
    with pytest.raises(SightlineError, match=re.escape(missing.name)):
        build(name, arguments)


BOX = np.pad(np.ones((10, 10), np.uint8), ((5, 5), (10, 10)))
"""Rows 5 to 14, columns 10 to 19 of 20 x 30."""


def made(name: str, root: Path, **others: Any) -> Any:
    return build(name, TREES[name].build(root), **others)


def test_cub_has_segmentations_or_boxes(tmp_path: Path) -> None:
    train = made("CUB", tmp_path)
    assert train.classes == ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    assert [len(train.on(split)) for split in train.splits] == [4, 2, 4]
    np.testing.assert_array_equal(train.read(0)[1], BOX)
    box = np.zeros(SIZE, np.uint8)
    box[2:12, 4:24] = 1
    np.testing.assert_array_equal(made("CUB", tmp_path, evidence="box").read(0)[1], box)


def test_cub_keeps_what_most_annotators_saw(tmp_path: Path) -> None:
    faint = rectangle(102)
    faint[8, 12] = 153
    name = made("CUB", tmp_path).ids[0]
    save(next(tmp_path.glob(f"segmentations/*/{name}.png")), faint)
    assert made_again("CUB", tmp_path).read(0)[1].sum() == 1


def made_again(name: str, root: Path, **others: Any) -> Any:
    """A data set from files that a test has changed."""
    return getattr(data, name)(str(root), **others, size=SIZE)


def test_cubs_ppi_partition_has_the_published_proportions(tmp_path: Path) -> None:
    ppi = made("CUB", tmp_path, partition="ppi")
    assert {split: len(ppi.on(split)) for split in ppi.splits} == {"train": 7, "val": 2, "test": 1}
    entries = [Entry(str(number), "x", "train", "", Path("x")) for number in range(11_788)]
    assert Counter(entry.split for entry in as_ppi(entries)) == {"train": 8190, "val": 2311, "test": 1227}


def test_aircraft_lose_their_banner_and_keep_their_box(tmp_path: Path) -> None:
    train = made("Aircraft", tmp_path)
    assert train.classes == ("737-200", "Boeing 737-300")
    assert train.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(train.read(0)[1], BOX)
    whole = np.asarray(Image.open(tmp_path / "images/0000000.jpg"))
    np.testing.assert_array_equal(train.read(0)[0], whole[:20])
    assert made("Aircraft", tmp_path, level="family").classes == ("Boeing 737",)


def test_a_share_redraws_published_splits(tmp_path: Path) -> None:
    source = made("Aircraft", tmp_path, val=0.25)
    assert {split: len(source.on(split)) for split in source.splits} == {"train": 6, "val": 2, "test": 4}
    assert made("Aircraft", tmp_path, val=0.0).splits == ("train", "test")


def test_cars_have_boxes_and_published_classes(tmp_path: Path) -> None:
    test = made("Cars", tmp_path, split="test")
    assert test.classes == ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")
    assert (test.ids[1], test.labels.tolist()) == ("test/00002", [0, 1, 0, 1])
    np.testing.assert_array_equal(test.read(1)[1], BOX)


def test_images_stay_as_they_were_annotated(tmp_path: Path) -> None:
    arguments = TREES["Cars"].build(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(0)).save(tmp_path / "cars_test/00001.jpg", "PNG", exif=exif)
    image, mask = build("Cars", arguments, split="test").read(0)
    np.testing.assert_array_equal(image, noise(0))
    np.testing.assert_array_equal(mask, BOX)


def test_flowers_are_what_is_not_blue(tmp_path: Path) -> None:
    test = made("Flowers102", tmp_path, split="test")
    assert (test.ids, test.labels.tolist()) == (("00006", "00005"), [101, 0])
    assert test.has_mask.tolist() == [True, False]
    mask = test.read(0)[1]
    assert mask[6:14, 11:19].all()
    assert not mask[:3].any()
    assert not mask[:, :7].any()


def test_pets_decide_about_the_border(tmp_path: Path) -> None:
    train = made("Pets", tmp_path)
    assert (train.classes, len(train), len(train.on("val"))) == (("Abyssinian", "beagle"), 2, 2)
    np.testing.assert_array_equal(train.read(0)[1], BOX)
    pets = made("Pets", tmp_path, level="species", border="background")
    assert pets.classes == ("cat", "dog")
    np.testing.assert_array_equal(pets.read(0)[1], np.pad(np.ones((8, 8)), ((6, 6), (11, 11))))


def test_cifar10_is_the_same_in_every_version(tmp_path: Path) -> None:
    arguments = TREES["CIFAR10"].build(tmp_path / "py")
    from_pickles = data.CIFAR10(**arguments)
    assert (len(from_pickles), len(from_pickles.on("val")), len(from_pickles.on("test"))) == (90, 10, 20)
    assert np.bincount(from_pickles.on("val").labels).tolist() == [1] * 10
    for part in ("train", "test"):
        for path in sorted((tmp_path / "py").glob(f"*{'data' if part == 'train' else 'test'}*")):
            samples = from_pickle(path)
            rows = samples.images.transpose(0, 3, 1, 2).reshape(20, -1)
            binary = tmp_path / f"bin/{path.name}.bin"
            binary.parent.mkdir(exist_ok=True)
            np.concatenate([samples.labels[:, None].astype(np.uint8), rows], 1).tofile(binary)
    from_binary = data.CIFAR10(str(tmp_path / "bin"))
    assert from_binary.hash() == from_pickles.hash()
    first = np.random.default_rng(0).integers(0, 256, (20, 3072), np.uint8)[int(from_pickles.ids[0][-5:])]
    np.testing.assert_array_equal(from_pickles.read(0)[0], first.reshape(3, 32, 32).transpose(1, 2, 0))


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    arguments = TREES["CIFAR10"].build(tmp_path)
    (tmp_path / "test_batch").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(SightlineError, match=r"test_batch.*os\.system"):
        data.CIFAR10(**arguments, split="test")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("spoil", [lambda b: b[:1000], lambda b: b"", lambda b: b"hello"])
def test_damaged_batches_are_named(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    arguments = TREES["CIFAR10"].build(tmp_path)
    for name in ("test_batch", "test_batch.bin"):
        (tmp_path / name).write_bytes(spoil((tmp_path / "test_batch").read_bytes()))
        with pytest.raises(SightlineError, match=re.escape(f"{name} ")):
            data.CIFAR10(**arguments, split="test")


def test_imagenet_draws_the_boxes_of_its_class(tmp_path: Path) -> None:
    train = made("ImageNet", tmp_path, val=0)
    assert train.classes == ("n01440764", "n01443537")
    assert train.has_mask.tolist() == [False, True, True] * 2
    np.testing.assert_array_equal(train.read(1)[1], BOX)
    both = BOX.copy()
    both[:2, :2] = 1
    test = train.on("test")
    assert test.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(test.read(0)[1], both)


@pytest.mark.parametrize("kaggle", [True, False])
def test_imagenet_takes_its_other_layouts(tmp_path: Path, kaggle: bool) -> None:
    expected = made("ImageNet", tmp_path, split="test").labels.tolist()
    shutil.rmtree(tmp_path / "ILSVRC2012_devkit_t12")
    names = {"ILSVRC2012_val_00000001": "n01443537", "ILSVRC2012_val_00000002": "n01440764"}
    if kaggle:
        (tmp_path / "Data/CLS-LOC").mkdir(parents=True)
        for part in ("train", "val"):
            (tmp_path / part).rename(tmp_path / "Data/CLS-LOC" / part)
        rows = [f"{name},{label} 1 1 9 9 " for name, label in names.items()]
        write(tmp_path / "LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *rows]) + "\n")
    else:
        for name, label in names.items():
            (tmp_path / "val" / label).mkdir()
            (tmp_path / f"val/{name}.JPEG").rename(tmp_path / f"val/{label}/{name}.JPEG")
    test = made_again("ImageNet", tmp_path, split="test", verify=True)
    assert [test.labels[test.ids.index(name)] for name in names] == expected
    assert test.has_mask.all()


def test_a_damaged_solution_of_imagenet_is_named(tmp_path: Path) -> None:
    arguments = TREES["ImageNet"].build(tmp_path)
    write(tmp_path / "LOC_val_solution.csv", 'ImageId,PredictionString\nILSVRC2012_val_00000001,"n01443537 1 1\n')
    with pytest.raises(SightlineError, match=r"cannot read .*LOC_val_solution\.csv"):
        build("ImageNet", arguments)


def test_imagenet_is_listed_without_opening_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = TREES["ImageNet"].build(tmp_path)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("an image was opened"))
    assert len(data.ImageNet(**arguments | {"verify": False}).on("test")) == 2


def test_a_subset_of_imagenet_and_only_its_validation_set(tmp_path: Path) -> None:
    subset = made("ImageNet", tmp_path, split="test", only=["n01443537"])
    assert (subset.classes, len(subset)) == (("n01443537",), 1)
    shutil.rmtree(tmp_path / "train")
    assert made_again("ImageNet", tmp_path, split="test").splits == ("test",)
    with pytest.raises(SightlineError, match=r"only: there is no class 'n0144353'\. Did you mean 'n01443537'"):
        made_again("ImageNet", tmp_path, only=["n0144353"])


def test_voc_has_evidence_for_each_class(tmp_path: Path) -> None:
    test = made("VOC", tmp_path, split="test")
    plane, cow = test.classes.index("aeroplane"), test.classes.index("cow")
    assert [np.flatnonzero(row).tolist() for row in test.labels] == [[plane], [cow], [plane, cow], [cow]]
    mask = test.read(2)[1]
    np.testing.assert_array_equal(mask[plane], BOX)
    assert mask[cow].sum() == mask[cow, :5, :5].sum() == 25
    assert mask.sum() == 125


def test_voc_segmentations_know_no_border_and_leave_out_what_they_do_not_show(tmp_path: Path) -> None:
    test = made("VOC", tmp_path, split="test", evidence="segmentation")
    assert test.has_mask.tolist() == [False, False, True, False]
    mask = test.read(2)[1]
    np.testing.assert_array_equal(mask[0], np.pad(np.ones((8, 8)), ((6, 6), (11, 11))))
    assert mask[test.classes.index("cow"), :5, :5].all()


def test_aeroplane_and_cow_alone(tmp_path: Path) -> None:
    test = made("VOC", tmp_path, split="test", only=["aeroplane", "cow"])
    assert test.classes == ("aeroplane", "cow")
    assert (test.ids, test.labels.tolist()) == (("2008_000010", "2008_000011", "2008_000013"), [0, 1, 1])
    np.testing.assert_array_equal(test.read(0)[1], BOX)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml(("aeroplen", 1, 1, 9, 9)), "2008_000000.*unknown class 'aeroplen'. Did you mean 'aeroplane'"),
        ("<annotation><object>", r"2008_000000\.xml"),
        (xml(("cow", 1, 1, "", 9)), r"2008_000000\.xml"),
        ("{}", r"2008_000000\.xml holds no annotation in PASCAL VOC's form"),
        (xml(("cow", 100, 100, 120, 120)), "outside"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, text: str, message: str) -> None:
    arguments = TREES["VOC"].build(tmp_path)
    write(tmp_path / "Annotations/2008_000000.xml", text)
    with pytest.raises(SightlineError, match=message):
        build("VOC", arguments, val=0)


def test_coco_reads_polygons_and_run_lengths(tmp_path: Path) -> None:
    test = made("COCO", tmp_path, split="test")
    assert test.classes == ("person", "cat")
    assert test.labels.tolist() == [[0, 1], [1, 0], [1, 1], [0, 0]]
    assert test.has_mask.tolist() == [True, True, True, False]
    for index in range(3):
        np.testing.assert_array_equal(test.read(index)[1], test.labels[index][:, None, None] * BOX)


def test_one_part_of_coco_is_enough(tmp_path: Path) -> None:
    arguments = TREES["COCO"].build(tmp_path)
    (tmp_path / "annotations/instances_train2014.json").unlink()
    assert build("COCO", arguments, split="test").splits == ("test",)
    (tmp_path / "annotations/instances_val2014.json").unlink()
    with pytest.raises(SightlineError, match=r"instances_train2014\.json is not there.*cocodataset\.org"):
        build("COCO", arguments)


def test_a_reduced_copy_of_coco_has_label_maps(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "height": 20, "width": 30, "origin_split": "val"} for n in (1, 2)]
    cat, person = ({"category_id": kind, "bbox": [0, 0, 5, 5]} for kind in (17, 1))
    things = [cat | {"id": 1, "image_id": 1}, person | {"id": 2, "image_id": 1}, cat | {"id": 3, "image_id": 2}]
    whole = {"images": images, "annotations": things, "categories": CATEGORIES}
    write(tmp_path / "instances.json", json.dumps(whole))
    for image in images:
        save(tmp_path / "images" / image["file_name"], noise(image["id"]))
    save(tmp_path / "semantic/000000000001.png", rectangle(17))
    test = made_again("COCO", tmp_path, split="test", verify=True)
    person_mask, cat_mask = test.read(0)[1]
    np.testing.assert_array_equal(cat_mask, BOX)
    assert person_mask.sum() == person_mask[:5, :5].sum() == 25
    assert test.read(1)[1].reshape(2, -1).sum(1).tolist() == [0, 25]


def test_real_coco(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (data_root / "coco_mini").is_dir():
        pytest.skip("the reduced COCO is not there")
    monkeypatch.setenv("SIGHTLINE_DATA", str(data_root))
    test = data.COCO("coco_mini", "test", size=32)
    assert len(test.classes) == 80
    assert len(test) + len(test.on("train")) + len(test.on("val")) == 412
    for index in np.flatnonzero(test.has_mask):
        assert (test.read(int(index))[1].reshape(80, -1).any(1) == test.labels[index]).all()


def test_helmets_are_split_for_good(tmp_path: Path) -> None:
    train = made("BikeHelmets", tmp_path)
    sizes = {split: len(train.on(split)) for split in train.splits}
    assert sizes == {"train": 3, "val": 1, "test": 8}
    several = made("BikeHelmets", tmp_path, split="test")
    both = int(np.flatnonzero(several.labels.all(1))[0])
    assert several.read(both)[1].reshape(2, -1).sum(1).tolist() == [11 * 11, 5 * 5]
    single = made("BikeHelmets", tmp_path, only=["With Helmet", "Without Helmet"])
    ids = [name for split in single.splits for name in single.on(split).ids]
    assert {int(name.removeprefix("BikesHelmets")) % 3 for name in ids} == {0, 1}


def test_unrel_reads_nested_cells(tmp_path: Path) -> None:
    test = made("UnRel", tmp_path)
    assert (test.splits, test.ids, test.classes) == (("test",), ("1", "2"), ("dog", "giraffe", "person"))
    assert test.labels.tolist() == [[0, 1, 1], [1, 0, 0]]
    np.testing.assert_array_equal(test.read(0)[1][2], BOX)
    assert made("UnRel", tmp_path, only=["giraffe", "dog"]).labels.tolist() == [0, 1]


def test_tables_and_matlab_files_that_are_bad_are_named(tmp_path: Path) -> None:
    arguments = TREES["CUB"].build(tmp_path)
    (tmp_path / "classes.txt").write_text("1 001.Black_footed_Albatross\n")
    with pytest.raises(SightlineError, match=r"classes\.txt has no line for '2'"):
        build("CUB", arguments)
    (tmp_path / "classes.txt").write_text("1\n")
    with pytest.raises(SightlineError, match=r"classes\.txt, line 1: expected 2 words"):
        build("CUB", arguments)
    cars = TREES["Cars"].build(tmp_path / "cars")
    (tmp_path / "cars/devkit/cars_meta.mat").write_bytes(b"not MATLAB")
    with pytest.raises(SightlineError, match=r"cars_meta\.mat cannot be read as a MATLAB file"):
        build("Cars", cars)


def test_files_of_another_form_are_reported_as_such(tmp_path: Path) -> None:
    arguments = TREES["Cars"].build(tmp_path)
    rows = np.array([[(1, "00001.jpg")]], [("class", object), ("fname", object)])
    savemat(tmp_path / "devkit/cars_train_annos.mat", {"annotations": rows})
    with pytest.raises(SightlineError, match=r"does not hold Stanford Cars as it is published.*bbox_x1"):
        build("Cars", arguments)
    pets = TREES["Pets"].build(tmp_path / "pets")
    trainval = tmp_path / "pets/annotations/trainval.txt"
    trainval.write_text(trainval.read_text().replace("Abyssinian_0 1 1 1", "Abyssinian_0 one 1 1"))
    with pytest.raises(SightlineError, match=r"does not hold Oxford-IIIT Pets as it is published.*'one'"):
        build("Pets", pets)


def test_real_cifar10(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (data_root / "cifar10").is_dir():
        pytest.skip("CIFAR-10 is not there")
    monkeypatch.setenv("SIGHTLINE_DATA", str(data_root))
    test = data.CIFAR10("cifar10", "test")
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert len(set(test.ids)) == 10_000
