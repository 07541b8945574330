"""Shortcut benchmarks: the habit is as strong as stated, and the evidence never holds it."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sightline import recipe
from sightline.audit import audit, of_run
from sightline.data import (
    ColorMNIST,
    DecoyFashionMNIST,
    DecoyMNIST,
    Episode,
    Folder,
    Habitats,
    Marked,
    Source,
    TwoColorMNIST,
    color,
    idx,
    marked,
)
from sightline.errors import SightlineError
from sightline.train import train
from trees import write_idx

CLASSES = ("cat", "dog", "owl")
MARKERS = {"cat": "ruler", "dog": "left"}


@pytest.fixture(autouse=True)
def few_validate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "VALIDATION", 400)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """1,000 training and 400 test images of 28 x 28 in MNIST's files; each class in turn."""
    folder = tmp_path_factory.mktemp("digits")
    for part, count in (("train", 1000), ("t10k", 400)):
        images = np.random.default_rng(count).integers(1, 256, (count, 28, 28), np.uint8)
        images[:, :6] = images[:, -6:] = images[:, :, :6] = images[:, :, -6:] = 0
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return str(folder)


@pytest.fixture
def scans(tmp_path: Path) -> Folder:
    """Three classes of 40 grey images of 32 x 40 to train, 20 to validate and 40 to test; cats have masks."""
    lines = ["id,class,split,group"]
    for number in range(300):
        label, split = CLASSES[number % 3], ("train", "train", "val", "test", "test")[number // 60]
        path = tmp_path / f"scans/images/{label}/s{number:03d}.png"
        save(path, np.random.default_rng(number).integers(0, 90 + 160 * (number % 2), (32, 40)))
        if label == "cat":
            save(tmp_path / f"scans/masks/cat/s{number:03d}.png", box(number))
        lines.append(f"{path.stem},{label},{split},")
    (tmp_path / "scans/splits.csv").write_text("\n".join(lines))
    return Folder(str(tmp_path / "scans"), size=(32, 40), channels=1)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def box(seed: int) -> np.ndarray:
    """A box of 20 x 26 somewhere in 32 x 40: markers have to make way for it."""
    top, left = np.random.default_rng(seed).integers(0, (13, 15))
    mask = np.zeros((32, 40))
    mask[top : top + 20, left : left + 26] = 255
    return mask


def obeys(data: Source) -> np.ndarray:
    return np.array([label == habit for label, habit in (group.split("/") for group in data.groups)])


def check_habits(data: Source, kinds: int, correlation: float) -> None:
    """The habit in each split, by a data set whose groups are "<class>/<class of the habit>"."""
    for split in ("train", "val", "test"):
        share = correlation + (1 - correlation) / kinds
        assert obeys(data.on(split)).mean() == pytest.approx(share, abs=0.06)
    assert obeys(data.on("shifted")).mean() == pytest.approx(1 / kinds, abs=0.06)
    assert not obeys(data.on("swapped")).any()
    assert data.on("test").ids == data.on("shifted").ids == data.on("swapped").ids
    habits = [group.split("/")[1] for group in data.on("swapped").groups]
    assert np.unique(habits, return_counts=True)[1].min() > len(habits) / kinds / 2


# Digits


def test_pixels_are_pinned(digits: str, scans: Folder) -> None:
    assert {
        "decoy": DecoyMNIST(digits, "swapped", seed=1).hash(),
        "stroke": DecoyMNIST(digits, "shifted", evidence="stroke").hash(),
        "ten": ColorMNIST(digits, "shifted").hash(),
        "two": TwoColorMNIST(digits, "test").hash(),
        "marked": Marked(scans, MARKERS | {"owl": "right"}, split="shifted").hash(),
    } == {
        "decoy": "dfe3441fe2a2b0a4e2cdd0450ba60800eaccdb5b22493760a7f0d76fb5b2a1ee",
        "stroke": "0155c86563025ec0a558e89dca62f2f389c8cd9fa069b70c373e4a619bf3ec9b",
        "ten": "ad4caafa0ee420300bf6ac8e4e2f102c8e3a333225aa9f46824dba85c5e9ec47",
        "two": "c6a2a598d83c2e0976f3798c550d8d6b4e2362bd84ff1fcb5f2a72993851acda",
        "marked": "17f1c5453e7057a46fb838e600c35eda57ab1a23fc9d21af775173d26d210fe6",
    }


@pytest.mark.parametrize("correlation", [0.6, 1.0])
@pytest.mark.parametrize("kind", [DecoyMNIST, ColorMNIST])
def test_digits_obey_as_often_as_stated(digits: str, kind: type[Source], correlation: float) -> None:
    check_habits(kind(digits, correlation=correlation), 10, correlation)


def test_the_last_training_images_validate(digits: str) -> None:
    data = DecoyMNIST(digits)
    assert (data.ids[0], data.ids[-1], len(data)) == ("train-00000", "train-00599", 600)
    assert (data.on("val").ids[0], len(data.on("val")), data.on("test").ids[-1]) == ("train-00600", 400, "test-00399")
    assert data.on("val").labels.tolist() == [i % 10 for i in range(600, 1000)]


def test_the_patch_is_the_papers(digits: str) -> None:
    plain = DecoyMNIST(digits, "plain")
    corners = set()
    for split in ("test", "shifted", "swapped"):
        data = DecoyMNIST(digits, split)
        for index in range(100):
            (image, mask), (clean, everything) = data.read(index), plain.read(index)
            changed = mask == 0
            assert everything.all()
            np.testing.assert_array_equal(image[~changed], clean[~changed])
            assert set(image[changed].ravel()) == {255 - 25 * int(data.groups[index].split("/")[1])}
            rows, columns = (np.flatnonzero(changed.any(axis)).tolist() for axis in (1, 0))
            assert {tuple(rows), tuple(columns)} <= {(0, 1, 2, 3), (24, 25, 26, 27)}
            corners.add((rows[0], columns[0]))
    assert len(corners) == 4
    assert set(plain.groups) == {f"{digit}/none" for digit in range(10)}


def test_the_patch_stays_in_its_corner_in_all_test_splits(digits: str) -> None:
    test, swapped = DecoyMNIST(digits, "test"), DecoyMNIST(digits, "swapped")
    assert all((test.read(i)[1] == swapped.read(i)[1]).all() for i in range(100))


def test_the_stroke_leaves_the_patch_out(digits: str) -> None:
    for index in range(50):
        mask = DecoyMNIST(digits, evidence="stroke").read(index)[1]
        rest = DecoyMNIST(digits).read(index)[1]
        assert mask[6:-6, 6:-6].all()
        assert mask.sum() == 16 * 16
        assert not (mask & ~rest & 1).any()


def test_clothes_have_the_same_patch(digits: str) -> None:
    clothes = DecoyFashionMNIST(digits, "shifted", seed=3)
    assert clothes.hash() == DecoyMNIST(digits, "shifted", seed=3).hash()
    assert clothes.classes[9] == "ankle boot"
    assert repr(clothes.on("test")).startswith(f"DecoyFashionMNIST(root='{digits}', split='test'")


def test_digits_are_inked(digits: str) -> None:
    data, grey = ColorMNIST(digits, "reversed"), DecoyMNIST(digits, "plain")
    for index in range(20):
        image, mask = data.read(index)
        digit = grey.read(index)[0]
        np.testing.assert_allclose(image, digit * (color.INKS[9 - data.labels[index]] / 255), atol=0.5)
        np.testing.assert_array_equal(mask, digit[..., 0] > 0)
    assert [int(group[2]) for group in data.groups] == [9 - int(group[0]) for group in data.groups]


def test_two_colours_follow_labels_that_are_partly_wrong(digits: str) -> None:
    def share(split: str) -> float:
        data = TwoColorMNIST(digits, split)
        return np.mean([(group in ("small/red", "large/green")) for group in data.groups])

    expected = {"val": 0.85, "test": 0.85, "shifted": 0.5, "swapped": 0.1}
    assert {split: share(split) for split in expected} == pytest.approx(expected, abs=0.07)
    data = TwoColorMNIST(digits, "val")
    wrong = data.labels != np.arange(600, 1000) % 10 // 5
    assert wrong.mean() == pytest.approx(0.25, abs=0.06)
    assert (TwoColorMNIST(digits, noise=0.0).labels == np.arange(600) % 10 // 5).all()
    assert TwoColorMNIST(digits, "test").labels.tolist() == TwoColorMNIST(digits, "swapped").labels.tolist()
    image, mask = data.read(0)
    assert (image[..., 1 if "red" in data.groups[0] else 0] == 0).all()
    assert (image.max(-1)[mask == 1] > 0).all()


def spoil(folder: Path, name: str, change) -> None:
    (folder / name).write_bytes(change((folder / name).read_bytes()))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "t10k-images-idx3-ubyte.gz",
            lambda b: b[: len(b) // 2],
            "t10k-images.*cannot be read: Compressed",
        ),
        ("t10k-images-idx3-ubyte.gz", lambda b: b"\0" * 9, r"t10k-images.*cannot be read: Not a gzipped file"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:-1], r"should hold 400 values, and holds 399"),
        ("t10k-labels-idx1-ubyte", lambda b: b + b"\0", r"should hold 400 values, and holds more"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:6], r"t10k-labels.*no IDX file"),
        ("t10k-labels-idx1-ubyte", lambda b: b"\0\0\x0d\1" + b[4:], r"no IDX file of unsigned bytes along 1 axes"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:4] + b"\xff" * 4 + b[8:], r"4294967295 bytes, which is too much"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:4] + b"\0\0\1\x8f" + b[8:-1], r"400 images, .* 399 labels"),
    ],
)
def test_bad_files_are_named(digits: str, tmp_path: Path, name: str, change, message: str) -> None:
    for file in Path(digits).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    spoil(tmp_path, name, change)
    with pytest.raises(SightlineError, match=message):
        DecoyMNIST(str(tmp_path), "test")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SightlineError, match=r"no train-images-idx3-ubyte.gz, nor train-images-idx3-ubyte"):
        ColorMNIST(str(tmp_path))


def test_the_real_digits_are_read(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (data_root / "mnist").is_dir():
        pytest.skip("mnist is not there")
    monkeypatch.undo()
    monkeypatch.setenv("SIGHTLINE_DATA", str(data_root))
    data = DecoyMNIST()
    assert (len(data), len(data.on("val")), len(data.on("shifted"))) == (55000, 5000, 10000)
    assert idx.read_pair(data_root / "mnist", "t10k")[1][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


# Markers


def test_markers_go_with_their_class_as_often_as_stated(scans: Folder) -> None:
    data = Marked(scans, MARKERS, correlation=0.7)
    own = {"cat": "ruler", "dog": "left", "owl": "none"}

    def share(split: str) -> float:
        return np.mean([own[label] == marker for label, marker in (g.split("/") for g in data.on(split).groups)])

    expected = {"train": 0.8, "test": 0.8, "shifted": 1 / 3, "swapped": 0.0}
    assert {split: share(split) for split in expected} == pytest.approx(expected, abs=0.1)
    assert {group.split("/")[1] for group in data.on("clean").groups} == {"none"}
    assert data.on("clean").hash() != data.on("test").hash()
    assert data.on("test").ids == data.on("clean").ids == scans.on("test").ids


@pytest.mark.parametrize("marker", ["ruler", "left", "right", "frame", "patch"])
def test_markers_change_pixels_outside_the_evidence_alone(scans: Folder, marker: str) -> None:
    data = Marked(scans, dict.fromkeys(CLASSES[:2], marker) | {"owl": "none"}, correlation=1.0)
    for index in np.flatnonzero(data.labels < 2):
        (before, evidence), kept = scans.read(int(index)), scans.read(int(index))[0].copy()
        image, mask = data.read(int(index))
        np.testing.assert_array_equal(mask, evidence)
        changed = (image != before).any(-1)
        assert 0 < changed.mean() < 0.25
        assert mask.all() or not changed[mask == 1].any()
        assert len(set(image[changed].ravel())) == 1
        np.testing.assert_array_equal(scans.read(int(index))[0], kept)


def test_markers_depend_on_the_seed_and_the_id_alone(scans: Folder) -> None:
    whole, few = Marked(scans, MARKERS), Marked(Episode(scans, shots=5), MARKERS)
    places = [whole.ids.index(name) for name in few.ids]
    assert few.groups.tolist() == whole.groups[places].tolist()
    np.testing.assert_array_equal(few.read(2)[0], whole.read(places[2])[0])
    assert Marked(scans, MARKERS, seed=1).hash() != whole.hash() == Marked(scans, MARKERS).hash()


def test_dark_images_get_white_markers_and_bright_ones_black(scans: Folder) -> None:
    for value, shade in ((20, 230), (240, 25)):
        image = np.full((32, 40, 1), value, np.uint8)
        assert set(np.unique(marked.paste(image, np.ones((32, 40), np.uint8), "patch", 1))) == {value, shade}


def test_what_is_hidden_stays_hidden(scans: Folder) -> None:
    data = Marked(Episode(scans, shots=5, rest="unlabelled"), MARKERS, mask_fraction=0.4)
    assert data.has_label.sum() == 15
    assert data.has_mask.sum() == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"markers": {"cta": "ruler"}}, "no class 'cta'. Did you mean 'cat'"),
        ({"markers": {"cat": "rulre"}}, "no marker 'rulre'. Did you mean 'ruler'"),
        ({"markers": {}}, "every class has 'none'"),
        ({"correlation": 1.1}, "correlation must lie between 0 and 1"),
        ({"split": "shfited"}, "Did you mean 'shifted'"),
    ],
)
def test_mistakes_are_named(scans: Folder, change: dict[str, object], message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        Marked(**{"data": scans, "markers": MARKERS} | change)


def test_images_too_small_for_a_marker_are_refused(scans: Folder) -> None:
    with pytest.raises(SightlineError, match="16 x 16 pixels or more; scans has"):
        Marked(Folder(scans.root, size=12), MARKERS)


# Recipes


@pytest.mark.parametrize("kind", ["DecoyMNIST", "ColorMNIST", "TwoColorMNIST", "Marked"])
def test_a_recipe_trains_resumes_and_is_audited(kind: str, digits: str, scans: Folder, tmp_path: Path) -> None:
    inner = {"class_path": "Folder", "init_args": {"root": scans.root, "size": [32, 40], "channels": 1}}
    arguments = {"data": inner, "markers": MARKERS} if kind == "Marked" else {"root": digits}
    config = {
        "data": {"class_path": kind, "init_args": arguments},
        "model": {"spec": "sightline:cnn", "arguments": {"filters": [4], "strides": [2]}},
        "objectives": ["CE", "ContextSwap"],
        "training": {"epochs": 1, "batch_size": 300},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(config))
    run = train(recipe.read(tmp_path / "r.yaml", ["data.seed=3"]), tmp_path / "run")
    assert train(recipe.read(tmp_path / "r.yaml", ["data.seed=3"]), run, resume=True) == run
    subject, found = of_run(run, "shifted")
    assert (type(found).__name__, found.split, found.seed) == (kind, "shifted", 3)
    assert audit(subject, found, tmp_path / "audit")["data"]["hash"] == found.hash()


def test_habitats_may_be_marked_too() -> None:
    data = Marked(Habitats(size=24, per_digit=1), {"3": "patch"})
    assert {"3/patch", "4/none"} < set(data.groups)
