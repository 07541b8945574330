"""The check before training: what it finds, what it names, and that it stays quiet where there is nothing."""

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import browser
from sightline import cli, datacheck
from sightline.data import Habitats, Source
from sightline.datacheck import Checked, Sample, Samples
from sightline.datacheck.copies import clusters, copies
from sightline.datacheck.counts import are_individuals, cramers_v
from sightline.datacheck.probes import permuted, recalls
from sightline.listing import find_root, list_entries

SPLITS = ("train", "train", "train", "train", "val", "test")


def in_memory(images: np.ndarray, labels: list[str], splits: list[str] | None = None) -> Samples:
    """Samples of (N, H, W, 3) arrays."""
    samples = [
        Sample(str(i), (label,), splits[i] if splits else SPLITS[i % 6], "", partial(loaded, image))
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return Samples("made", tuple(sorted(set(labels))), False, tuple(samples))


def loaded(image: np.ndarray) -> tuple[Image.Image, list[Any]]:
    return Image.fromarray(image), []


def noise(count: int, seed: int = 0, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def words(count: int, seed: int = 0, classes: int = 3) -> list[str]:
    return [f"class {k}" for k in np.random.default_rng(seed).integers(0, classes, count)]


def keys(checked: Checked) -> dict[str, str]:
    return {finding.key: finding.level for finding in checked.findings}


def shortcuts(checked: Checked) -> list[str]:
    return [finding.key for finding in checked.findings if finding.key.startswith("shortcut")]


# Shortcuts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_noise_tells_nothing(seed: int) -> None:
    assert not shortcuts(datacheck.check(in_memory(noise(240, seed), words(240, seed + 100)), seed=seed))


@pytest.mark.slow
def test_noise_tells_nothing_on_twenty_seeds() -> None:
    checks = (datacheck.check(in_memory(noise(240, s), words(240, s + 100)), seed=s) for s in range(20))
    assert [shortcuts(checked) for checked in checks] == [[]] * 20


@pytest.mark.parametrize(
    ("rows", "columns", "name", "far"),
    [
        ((0, 4), (0, 4), "top left corner", "bottom right corner"),
        ((28, 32), (28, 32), "bottom right corner", "top left corner"),
        ((0, 2), (0, 32), "top strip", "bottom strip"),
    ],
)
def test_a_planted_mark_is_found_where_it_is(
    rows: tuple[int, int], columns: tuple[int, int], name: str, far: str
) -> None:
    images, labels = noise(240), words(240)
    for image, label in zip(images, labels, strict=True):
        image[slice(*rows), slice(*columns)] = 60 + 60 * int(label[-1])
    checked = datacheck.check(in_memory(images, labels))
    scores = {probe.name: probe.score.value or 0 for probe in checked.judged}
    assert shortcuts(checked)[0] == "shortcut_region"
    assert scores[name] > 0.9
    assert scores[far] < 0.5
    assert checked.cells is not None
    assert checked.cells[0 if rows[0] == 0 else -1, 0 if columns[0] == 0 else -1] == checked.cells.max()


def test_what_the_object_shows_is_no_shortcut() -> None:
    images, labels = noise(240), words(240)
    for image, label in zip(images, labels, strict=True):
        image[10:22, 10:22] = 60 + 60 * int(label[-1])
    assert "shortcut_region" not in shortcuts(datacheck.check(in_memory(images, labels)))


class Framed(Source):
    """Noise with a bright square in the middle whose height tells the class; masks for the first `annotated` images."""

    name, splits, size, channels = "Framed", ("train",), (32, 32), 3

    def __init__(self, annotated: int) -> None:
        super().__init__("train", 1.0, 0)
        labels = words(240)
        self.classes = tuple(sorted(set(labels)))
        self.labels = np.array([self.classes.index(label) for label in labels])
        self.ids, self.groups = tuple(map(str, range(240))), np.full(240, "")
        self.annotate(np.arange(240) < annotated)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = noise(1, index)[0], np.zeros((32, 32), np.uint8)
        image[10:22, 10:22], mask[10:22, 10:22] = 60 + 60 * int(self.labels[index]), 1
        return image, mask


def test_the_background_is_judged_on_images_with_a_mask_alone() -> None:
    scores = {}
    for annotated in (240, 80, 20):
        checked = datacheck.check(datacheck.from_source([Framed(annotated)]))
        assert "shortcut_region" not in shortcuts(checked)
        scores[annotated] = {probe.name: probe.score for probe in (*checked.judged, *checked.references)}
    assert (scores[80]["evidence"].n, scores[80]["evidence"].value) == (80, pytest.approx(1))
    assert scores[80]["background"].low < 1 / 3 + 0.1
    assert not scores[20].keys() & {"background", "evidence"}  # fewer than ten of a class


def test_the_background_of_habitats_is_found_and_shown_to_break() -> None:
    sources = [Habitats(split, per_digit=1) for split in ("train", "shifted")]
    checked = datacheck.check(datacheck.from_source(sources), max_images=700)
    (found,) = [finding for finding in checked.findings if finding.key == "shortcut_region"]
    assert "background" in found.title
    assert "pays on none" in found.detail
    assert keys(checked)["groups_tell_classes"] == "warning"


def test_without_habits_the_background_says_nothing() -> None:
    sources = [Habitats(split, correlation=0, per_digit=1) for split in ("train", "val")]
    assert not shortcuts(datacheck.check(datacheck.from_source(sources), max_images=700))


# Files --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of 12 photographs with masks, too few to be probed; some are spoilt by the tests."""
    rows = ["id,class,split,group"]
    for number, label in enumerate(["cat"] * 12 + ["dog"] * 12):
        save(tmp_path / f"images/{label}/{number}.png", blobs(number))
        save(tmp_path / f"masks/{label}/{number}.png", box())
        rows.append(f"{number},{label},{SPLITS[number % 6]},patient {number}")
    (tmp_path / "splits.csv").write_text("\n".join(rows))
    return tmp_path


def blobs(seed: int, side: int = 48) -> np.ndarray:
    """A smooth random picture: two of them are not alike."""
    small = Image.fromarray(noise(1, seed, 6)[0])
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))


def box(side: int = 48) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[8:30, 10:34] = 255
    return mask


def save(path: Path, pixels: np.ndarray | Image.Image, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    image.save(path, **options)


def check_folder(root: Path) -> Checked:
    return datacheck.check(datacheck.from_entries(root.name, list_entries(root)))


def test_a_clean_folder_is_quiet(root: Path) -> None:
    assert keys(check_folder(root)) == {}


def test_every_bad_file_is_named_with_its_reason(root: Path) -> None:
    (root / "images/cat/0.png").write_bytes(b"no image")
    whole = (root / "images/dog/14.png").read_bytes()
    (root / "images/dog/14.png").write_bytes(whole[: len(whole) // 2])
    save(root / "masks/cat/1.png", box(40))
    save(root / "masks/cat/2.png", box() * 0)
    (root / "masks/cat/3.png").write_bytes(b"")
    checked = check_folder(root)
    of = {finding.key: finding for finding in checked.findings}
    assert of["broken_images"].ids == ("train/0", "train/14")
    assert of["bad_masks"].ids == ("train/1", "train/2", "train/3")
    for reason in ("40 x 40", "empty", "cannot be read"):
        assert reason in of["bad_masks"].detail
    assert of["bad_masks"].detail.count("\n") == 2
    assert {finding.level for finding in of.values()} == {"error"}


@pytest.mark.parametrize(
    ("key", "spoil"),
    [
        ("odd_palette", lambda picture, path: save(path, picture.quantize(8))),
        ("odd_alpha", lambda picture, path: save(path, picture.convert("RGBA"))),
        ("odd_grey", lambda picture, path: save(path, picture.convert("L"))),
        ("odd_tiny", lambda picture, path: save(path, picture.resize((20, 20)))),
        ("odd_narrow", lambda picture, path: save(path, picture.resize((200, 50)))),
        ("odd_blank", lambda picture, path: save(path, np.full((48, 48, 3), 200, np.uint8))),
        ("deep_images", lambda picture, path: save(path, np.asarray(picture.convert("L")).astype(np.uint16) * 255)),
        (
            "odd_several_frames",
            lambda picture, path: save(path, picture, save_all=True, append_images=[picture.rotate(90)]),
        ),
    ],
)
def test_odd_files_are_found(root: Path, key: str, spoil: Callable[[Image.Image, Path], None]) -> None:
    (root / "masks/cat/1.png").unlink()
    spoil(Image.fromarray(blobs(1)), root / "images/cat/1.png")
    found = {finding.key: list(finding.ids) for finding in check_folder(root).findings}
    assert found[key] == ["train/1"]
    assert "odd_more_than_8_bits" not in found


def test_cmyk_and_turned_photographs_are_found(root: Path) -> None:
    for number in (0, 1):
        (root / f"images/cat/{number}.png").unlink()
    save(root / "images/cat/0.jpg", Image.fromarray(blobs(0)).convert("CMYK"))
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root / "images/cat/1.jpg", blobs(1), exif=exif)
    assert {"odd_cmyk", "odd_turned_by_exif"} <= set(keys(check_folder(root)))


def test_a_kind_of_file_that_goes_with_a_class_is_a_warning(root: Path) -> None:
    for number in range(12):
        save(root / f"images/cat/{number}.png", Image.fromarray(blobs(number)).convert("RGBA"))
    assert keys(check_folder(root))["linked_alpha"] == "warning"


def test_masks_that_cover_nearly_nothing_or_all_are_found(root: Path) -> None:
    save(
        root / "masks/cat/0.png",
        (box() * 0).astype(np.uint8) + np.eye(48, dtype=np.uint8) * np.eye(48, 48)[0].astype(np.uint8),
    )
    save(root / "masks/cat/1.png", np.full((48, 48), 255, np.uint8))
    found = {finding.key: list(finding.ids) for finding in check_folder(root).findings}
    assert found == {"tiny_masks": ["train/0"], "full_masks": ["train/1"]}


def test_copies_across_splits_and_classes_are_found(root: Path) -> None:
    save(root / "images/cat/5.png", blobs(0))  # a test image, every pixel of a training image
    save(root / "images/dog/15.png", Image.fromarray(blobs(2)).resize((60, 60)), optimize=True)
    (root / "masks/dog/15.png").unlink()
    checked = check_folder(root)
    found = {finding.key: list(finding.ids) for finding in checked.findings}
    assert found["copies_across_splits"] == ["train/0 = test/5"]
    assert found["copies_across_classes"] == ["train/2 = train/15"]
    assert checked.copies.exact.tolist() == [True, False]


def test_patients_on_both_sides_are_found(root: Path) -> None:
    table = root / "splits.csv"
    table.write_text(table.read_text().replace("patient 5\n", "patient 0\n"))
    (found,) = check_folder(root).findings
    assert (found.key, found.level, list(found.ids)) == ("groups_across_splits", "error", ["patient 0"])


@pytest.mark.parametrize("patients", [1, 3])
def test_few_patients_are_probed_in_fewer_folds_or_not_at_all(patients: int) -> None:
    made = in_memory(noise(24), ["a", "b"] * 12, ["train"] * 24)
    grouped = [replace(sample, group=f"patient {i % patients}") for i, sample in enumerate(made.samples)]
    assert bool(datacheck.check(replace(made, samples=tuple(grouped))).judged) == (patients > 1)


def test_leaks_are_found_whatever_the_training_split_is_called(root: Path) -> None:
    save(root / "images/cat/5.png", blobs(0))
    table = root / "splits.csv"
    table.write_text(table.read_text().replace(",train,", ",fit,"))
    (found,) = check_folder(root).findings
    assert (found.key, found.level, list(found.ids)) == ("copies_across_splits", "error", ["fit/0 = test/5"])
    assert "1 picture of fit" in found.title
    table.write_text(table.read_text().replace(",fit,", ",training,"))
    assert check_folder(root).trained_on == "train"


def test_absent_classes_and_imbalance_are_found() -> None:
    labels = ["often"] * 100 + ["rare"] * 8
    splits = ["train"] * 80 + ["test"] * 20 + ["train"] * 8
    found = keys(datacheck.check(in_memory(noise(108), labels, splits)))
    assert found == {"absent_classes": "warning", "imbalance": "note"}


# Parts --------------------------------------------------------------------------------------------------------------


def test_copies_survive_saving_again_and_other_pictures_do_not() -> None:
    pictures = [blobs(seed, 64) for seed in range(300)]
    brighter = np.uint8(pictures[7] * 0.7 + 40)
    thumbs = np.stack([np.asarray(Image.fromarray(p).convert("L").resize((32, 32))) for p in [*pictures, brighter]])
    found = copies([bytes([i // 256, i % 256]) for i in range(301)], thumbs)
    assert found.pairs.tolist() == [[7, 300]]
    assert not found.exact.any()


def test_clusters_are_what_is_linked() -> None:
    assert len(set(clusters(5, np.array([[0, 1]]), np.array([[1, 4]]))[[0, 1, 4]])) == 1
    assert len(set(clusters(5))) == 5


def test_cramers_v_by_hand() -> None:
    assert cramers_v(np.array([[50, 0], [0, 50]])) == pytest.approx(1)
    assert cramers_v(np.array([[25, 25], [25, 25]])) == 0
    assert np.isnan(cramers_v(np.array([[5, 5]])))


def test_patients_are_told_from_hospitals() -> None:
    assert are_individuals([f"p{i // 4}" for i in range(80)], ["train"] * 40 + ["test"] * 40)
    assert not are_individuals([f"h{i % 2}" for i in range(80)], ["train"] * 40 + ["test"] * 40)


def test_balanced_accuracy_and_its_permutation() -> None:
    labels = np.eye(2, dtype=bool)[[0] * 30 + [1] * 10]
    data = np.stack([labels & labels, labels], 1).astype(float)
    data[:30, 0, 0] = np.arange(30) < 15
    assert recalls(data, np.arange(40)[None])[0] == pytest.approx((0.5 + 1) / 2)
    assert permuted(labels, labels, False, 0) == pytest.approx(1 / 1000)
    assert permuted(labels, np.eye(2, dtype=bool)[np.zeros(40, int)], False, 0) == 1


# The command --------------------------------------------------------------------------------------------------------


def test_the_command_writes_page_and_numbers(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(root / "images/cat/5.png", blobs(0))
    assert cli.main(["data", "check", str(root), "--out", "out"]) == 0
    assert cli.main(["data", "check", str(root), "--out", "out", "--strict"]) == 1
    assert "copies in another split" in capsys.readouterr().out
    numbers = json.loads(Path("out/check.json").read_text())
    assert [finding["key"] for finding in numbers["findings"]] == ["copies_across_splits"]
    assert numbers["counts"]["train"] == {"cat": 8, "dog": 8}
    assert numbers["probes"]["fitted_to"] == "train"
    page = Path("out/check.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "train/0, cat" in page


def test_the_same_seed_gives_the_same_numbers(root: Path) -> None:
    for out in ("a", "b"):
        cli.main(["data", "check", str(root), "--out", out, "--max-images", "12", "--seed", "3"])
    numbers = [Path(out, "check.json").read_text() for out in ("a", "b")]
    assert numbers[0] == numbers[1]
    assert json.loads(numbers[0])["checked"] == 12


@pytest.mark.parametrize("around", [[], ["Propagated", "Swapped"]])
def test_a_recipe_or_a_name_says_what_to_check(root: Path, around: list[str]) -> None:
    data = f"{{class_path: Folder, init_args: {{root: {root}, size: 32}}}}"
    for kind in around:  # no network is trained to propagate masks, and a swapped image is no copy
        data = f"{{class_path: {kind}, init_args: {{data: {data}}}}}"
    Path("recipe.yaml").write_text(f"data: {data}\nmodel: {{spec: torchvision:resnet18}}\nobjectives: [CE]\n")
    (root / "images/cat/0.png").write_bytes(b"no image")
    assert cli.main(["data", "check", "recipe.yaml", "--out", "out", "--strict"]) == 1
    assert json.loads(Path("out/check.json").read_text())["broken"][0]["id"] == "0"
    assert cli.main(["data", "check", "Habitats:size=24", "--max-images", "60", "--out", "habitats"]) == 0


def test_volumes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scans/images/cat").mkdir(parents=True)
    np.save(tmp_path / "scans/images/cat/a.npy", np.zeros((8, 8, 8), np.uint8))
    (tmp_path / "scans/splits.csv").write_text("id,class,split\na,cat,train\n")
    assert cli.main(["data", "check", f"Volumes:root={tmp_path / 'scans'},size=8"]) == 1
    assert "scans holds volumes or views (8, 8, 8), and only images (H, W) are checked" in capsys.readouterr().err


def test_a_folder_of_rubbish_is_refused_or_checked_but_never_crashes(tmp_path: Path) -> None:
    (tmp_path / "rubbish/a").mkdir(parents=True)
    assert cli.main(["data", "check", "rubbish"]) == 1
    generator = np.random.default_rng(0)
    for number, suffix in enumerate([".jpg", ".png", ".gif", ".tif", ".webp", ".bmp"] * 2):
        label = "ab"[number // 6]
        (tmp_path / f"rubbish/{label}").mkdir(exist_ok=True)
        (tmp_path / f"rubbish/{label}/{number}{suffix}").write_bytes(generator.bytes(200 * number))
    assert cli.main(["data", "check", "rubbish", "--out", "out"]) == 0
    assert len(json.loads(Path("out/check.json").read_text())["broken"]) == 12


def test_a_browser_finds_no_fault_with_the_page(tmp_path: Path) -> None:
    datacheck.write(datacheck.check(in_memory(noise(90), words(90))), Path("out"))
    with browser(tmp_path / "profile") as tab:
        for width in (1280, 390):
            tab.look(width)
            tab.open(Path("out/check.html"))
            assert not tab.said("Log.entryAdded", "Runtime.exceptionThrown")
            assert tab.evaluate("document.documentElement.scrollWidth") <= width


# Real data ----------------------------------------------------------------------------------------------------------


def mnist(data_root: Path, decoy: bool, count: int = 3000) -> Samples:
    """Digits; with a `decoy`, a grey square in a random corner says which one, and in the test split anything."""
    if not (data_root / "mnist").is_dir():
        pytest.skip("mnist is not there")
    draw, samples = np.random.default_rng(0), []
    for split, file in (("train", "train"), ("test", "t10k")):
        images, labels = (
            np.frombuffer(
                gzip.decompress((data_root / f"mnist/{file}-{kind}.gz").read_bytes()), np.uint8, offset=offset
            )
            for kind, offset in (("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8))
        )
        images = images.reshape(-1, 28, 28)[:count].copy()
        for image, label in zip(images if decoy else [], labels, strict=False):
            y, x = 24 * draw.integers(0, 2, 2)
            image[y : y + 4, x : x + 4] = 255 - 25 * (label if split == "train" else draw.integers(10))
        samples += [
            Sample(f"{split}{i}", (str(label),), split, "", partial(loaded, image))
            for i, (image, label) in enumerate(zip(images, labels, strict=False))
        ]
    return Samples("mnist", tuple("0123456789"), False, tuple(samples))


@pytest.mark.slow
def test_mnist_has_no_shortcut_and_its_decoy_has_one(data_root: Path) -> None:
    assert "shortcut_region" not in shortcuts(datacheck.check(mnist(data_root, decoy=False)))
    checked = datacheck.check(mnist(data_root, decoy=True))
    (found,) = [finding for finding in checked.findings if finding.key == "shortcut_region"]
    assert "corners" in found.title + found.detail
    assert "pays on none" in found.detail


@pytest.mark.slow
def test_a_marker_pasted_into_scans_is_found(data_root: Path) -> None:
    if not (data_root / "brain_mri").is_dir():
        pytest.skip("brain_mri is not there")
    entries = list_entries(find_root(str(data_root / "brain_mri")))
    plain = datacheck.check(datacheck.from_entries("plain", entries))
    marked = datacheck.check(datacheck.from_entries("marked", entries, marked_picture))
    before, after = ({p.name: p.score.value or 0 for p in c.judged} for c in (plain, marked))
    assert "shortcut_region" in shortcuts(marked)
    assert after["top left corner"] > 0.95 > before["top left corner"] + 0.2


def marked_picture(entry: Any) -> Image.Image:
    """The scan with a square in its corner that says the tumour."""
    pixels = np.array(Image.open(entry.image).convert("L"))
    side = min(pixels.shape) // 12
    pixels[:side, :side] = {"glioma": 90, "meningioma": 160, "pituitary": 230}[entry.label]
    return Image.fromarray(pixels)
