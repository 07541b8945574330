"""Images on each other's backgrounds: whose evidence, whose background, which images, and that audits take them."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sightline import recipe
from sightline.audit import audit, of_run
from sightline.data import Folder, Source, Swapped
from sightline.data.swapped import on_background
from sightline.errors import SightlineError
from sightline.train import train

CLASSES = ("cat", "dog", "owl")
SHADES = {"cat": 40, "dog": 120, "owl": 200}


@pytest.fixture
def data(tmp_path: Path) -> Folder:
    """Six images of each class in each split: a white square, the evidence, on the class's shade; two lack the mask."""
    lines = ["id,class,split"]
    for number in range(54):
        label, split = CLASSES[number % 3], ("train", "val", "test")[number // 18]
        square = np.zeros((20, 24), np.uint8)
        square[4 + number % 5 :][:6, 3 + number % 7 :][:, :6] = 255
        save(tmp_path / f"d/images/{label}/n{number:02d}.png", np.where(square, 255, SHADES[label] + number % 4))
        if number % 18 >= 6:
            save(tmp_path / f"d/masks/{label}/n{number:02d}.png", square)
        lines.append(f"n{number:02d},{label},{split}")
    (tmp_path / "d/splits.csv").write_text("\n".join([*lines, ""]))
    return Folder(str(tmp_path / "d"), size=(20, 24), channels=1)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def nearest(shade: float) -> str:
    return min(SHADES, key=lambda label: abs(SHADES[label] - shade))


@pytest.mark.parametrize("background", ["same", "shifted", "swapped"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_the_evidence_is_the_images_and_the_rest_another_ones(data: Folder, split: str, background: str) -> None:
    mixed, plain = Swapped(data).on(f"{split}_{background}"), data.on(split)
    assert mixed.ids == tuple(np.array(plain.ids)[plain.has_mask])
    for index, name in enumerate(mixed.ids):
        (image, mask), (own, own_mask) = mixed.read(index), plain.read(plain.ids.index(name))
        np.testing.assert_array_equal(mask, own_mask)
        np.testing.assert_array_equal(image[mask == 1], own[mask == 1])
        around = image[mask == 0]
        assert np.ptp(around) <= 2  # nothing of the other square is left
        assert mixed.groups[index] == f"{CLASSES[mixed.labels[index]]}/{nearest(around.mean())}"


def test_backgrounds_come_from_where_the_split_says(data: Folder) -> None:
    def shares(background: str) -> float:
        return np.mean([a == b for a, b in (g.split("/") for g in Swapped(data).on(f"test_{background}").groups)])

    assert shares("same") == 1
    assert shares("swapped") == 0
    assert 0 < shares("shifted") < 1


def test_the_datasets_own_splits_are_left_alone(data: Folder) -> None:
    mixed = Swapped(data, mask_fraction=0.5)
    assert mixed.splits == (
        *data.splits,
        *(f"{s}_{b}" for s in ("val", "test") for b in ("same", "shifted", "swapped")),
    )
    assert mixed.on("test").hash() == data.on("test").hash()
    assert mixed.has_mask.sum() == data.on("train").has_mask.sum() / 2


def test_the_seed_and_nothing_else_says_which_background(data: Folder) -> None:
    hashes = [Swapped(data, "test_shifted", seed=seed).hash() for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert Swapped(data, "test_shifted").on("val").on("test_shifted").hash() == hashes[0]


def test_a_background_without_evidence_stays_as_it_is() -> None:
    image, behind = np.full((9, 9, 3), 250, np.uint8), np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    mask = np.eye(9, dtype=np.uint8)
    np.testing.assert_array_equal(
        on_background(image, mask, behind, np.zeros((9, 9), np.uint8)), np.where(mask[..., None], image, behind)
    )


def test_volumes_are_swapped_as_a_whole() -> None:
    image, behind = np.full((4, 9, 9, 1), 250, np.uint8), np.full((4, 9, 9, 1), 20, np.uint8)
    mask, hole = np.zeros((2, 4, 9, 9), np.uint8)
    mask[2:, 3:5, 3:5] = hole[:2, 6:, 6:] = behind[:2, 6:, 6:] = 1
    np.testing.assert_array_equal(on_background(image, mask, behind, hole), np.where(mask[..., None], 250, 20))


def without_masks(data: Folder, *labels: str) -> Source:
    for path in (path for label in labels for path in (Path(data.root) / "masks" / label).iterdir()):
        path.unlink()
    return Swapped(Folder(data.root, size=20))


def test_splits_that_cannot_be_swapped_say_so(data: Folder) -> None:
    one = without_masks(data, "cat", "dog")
    assert len(one.on("test_same")) == 4
    with pytest.raises(SightlineError, match="'test_swapped' of d has no background for 'n44'"):
        one.on("test_swapped")
    with pytest.raises(SightlineError, match="Swapped leaves no image of d in 'test_shifted'"):
        without_masks(data, "owl").on("test_shifted")
    with pytest.raises(SightlineError, match="no 'train_same' here"):
        one.on("train_same")


def test_a_run_trained_on_it_is_audited_on_its_splits(data: Folder, tmp_path: Path) -> None:
    inner = {"class_path": "Folder", "init_args": {"root": data.root, "size": 10}}
    config = {
        "data": {"class_path": "Swapped", "init_args": {"data": inner}},
        "model": {"spec": "sightline:cnn", "arguments": {"filters": [4]}},
        "objectives": ["CE"],
        "training": {"epochs": 1, "batch_size": 6},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(config))
    run = train(recipe.read(tmp_path / "r.yaml"), tmp_path / "run")
    summaries = [audit(*of_run(run, split), tmp_path / split) for split in ("test", "test_swapped")]
    assert [summary["data"]["images"] for summary in summaries] == [18, 12]
