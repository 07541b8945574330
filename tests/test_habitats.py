"""The embedded benchmark does what its description says."""

import hashlib
import sys
from functools import cache

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from sightline.data import Habitats, habitats
from sightline.errors import SightlineError
from sightline.types import Batch


@cache
def small(split: str = "train", **changes: object) -> Habitats:
    return Habitats(split, **{"size": 24, "per_digit": 1, "correlation": 0.7, **changes})


def own_habitat(dataset: Habitats) -> np.ndarray:
    names = list(habitats.PHOTOGRAPHS)
    return np.array([names.index(group.split("/")[1]) for group in dataset.groups]) == dataset.labels


def test_pixels_are_pinned() -> None:
    photographs = hashlib.sha256(b"".join(photo.tobytes() for photo in habitats.photographs((24, 24))))
    assert photographs.hexdigest() == "6a0400a18e1c5db48037e99742b0a82f81e7697fc4ae4c0a2d8c9ac2df1653a1"
    assert small("train", seed=3).hash() == "6c5fa8be8225b32055a0b5e6aee26678570777a75504ea5e3056ddff05d9cb19"
    assert small("swapped", size=(24, 32)).hash() == "b45909f659276d32f3bfbc79bec42384173d3fd188f6648c5a890408811d8807"


def test_only_the_arguments_count() -> None:
    first = small("val").hash()
    assert small("val").on("val").hash() == first
    assert small("val", seed=1).hash() != first
    assert small("val", correlation=0.9).hash() != first


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert len([habitats.photograph(name, 30) for name in habitats.PHOTOGRAPHS]) == 10


def test_splits_share_no_source_digit() -> None:
    splits = {split: set(habitats.members(split)) for split in Habitats.splits}
    assert len(splits["train"] | splits["val"] | splits["test"]) == 1797
    assert [len(splits[split]) for split in ("train", "val", "test")] == [1297, 200, 300]
    assert splits["test"] == splits["shifted"] == splits["swapped"]
    test = small("test")
    assert set(np.bincount(test.labels)) == {30}
    assert own_habitat(test).mean() == pytest.approx(0.73, abs=0.08)


def test_some_digits_alone_lie_in_no_habitats_but_theirs() -> None:
    train = Habitats(size=24, per_digit=1, correlation=0.6, only=["8", "0"])
    assert train.classes == ("0", "8")
    assert set(train.groups) == {"0/grass", "0/rocket", "8/grass", "8/rocket"}
    assert np.mean(np.isin(train.groups, ["0/grass", "8/rocket"])) == pytest.approx(0.8, abs=0.08)
    assert set(train.on("swapped").groups) == {"0/rocket", "8/grass"}
    digits = habitats.source_digits()[1][[int(name.split("-")[0]) for name in train.ids]]
    np.testing.assert_array_equal(digits, np.array([0, 8])[train.labels])
    assert set(train.ids) == {name for name, label in zip(small().ids, small().labels, strict=True) if label in (0, 8)}
    with pytest.raises(SightlineError, match="only: there is no digit '08'"):
        Habitats(only=["08"])


def at_home(correlation: float) -> np.ndarray:
    labels = np.repeat(np.arange(10), 300)
    plan = habitats.scenes("train", labels, correlation, (48, 48), seed=0)
    return np.array([scene.habitat for scene in plan]) == labels


@pytest.mark.parametrize("correlation", [0.0, 0.7, 1.0])
def test_correlation_is_how_often_a_digit_is_at_home(correlation: float) -> None:
    assert at_home(correlation).mean() == pytest.approx(correlation + (1 - correlation) / 10, abs=0.03)


def test_images_that_obey_keep_obeying_at_a_higher_correlation() -> None:
    assert not (at_home(0.3) & ~at_home(0.6)).any()


def test_shifted_is_uniform_and_swapped_never_at_home() -> None:
    shifted, swapped = small("shifted", per_digit=3), small("swapped", per_digit=3)
    assert own_habitat(shifted).mean() == pytest.approx(0.1, abs=0.04)
    assert not own_habitat(swapped).any()
    habitat = [group.split("/")[1] for group in swapped.groups]
    assert np.unique(habitat, return_counts=True)[1].min() > 60


def test_one_id_is_one_drawn_digit_in_all_test_splits() -> None:
    test, shifted = small("test"), small("shifted")
    assert test.ids == shifted.ids
    assert len(set(test.ids)) == len(test) == 300
    moved = test.groups != shifted.groups
    assert moved.mean() > 0.5
    for index in np.flatnonzero(moved)[:20].tolist():
        (before, mask), (after, same_mask) = test.read(index), shifted.read(index)
        solid = habitats.opacity(*drawing(test, index)) == 255
        np.testing.assert_array_equal(mask, same_mask)
        np.testing.assert_array_equal(before[solid], after[solid])
        assert (before[mask == 0] != after[mask == 0]).mean() > 0.5


def test_the_mask_is_exactly_the_ink() -> None:
    dataset = small("test")
    for index in range(0, 300, 17):
        image, mask = dataset.read(index)
        digit, scene, size = drawing(dataset, index)
        ink = habitats.INKS[scene.ink]
        photograph = habitats.expose(habitats.crop(scene, size), ink, scene.place)
        opaque = habitats.opacity(digit, scene, size)
        np.testing.assert_array_equal(image[mask == 0], photograph[mask == 0])
        np.testing.assert_array_equal(mask == 1, opaque > 0)
        assert (image[opaque == 255] == ink).all()
        assert 0.02 < mask.mean() < 0.3


def test_the_ink_stands_out_from_every_habitat() -> None:
    dataset = small("shifted")
    for index in range(0, 300, 7):
        image, mask = dataset.read(index)
        _, scene, _ = drawing(dataset, index)
        around = image[scene.place][mask[scene.place] == 0].astype(np.int32)
        difference = habitats.luminance(around).mean() - habitats.luminance(habitats.INKS[scene.ink])
        assert abs(difference) > habitats.CONTRAST - 45


def test_the_ink_does_not_give_the_class_away() -> None:
    labels = np.repeat(np.arange(10), 500)
    ink = np.array([scene.ink for scene in habitats.scenes("train", labels, 1.0, (48, 48), 0)])
    counts = np.histogram2d(labels, ink, bins=(10, 12))[0]
    expected = counts.sum(1, keepdims=True) / 12
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 148  # the 0.999 quantile at 99 degrees of freedom


def test_mask_fraction_thins_each_class_of_the_training_split_alone() -> None:
    some = small(mask_fraction=0.25)
    for digit in range(10):
        mine = some.labels == digit
        assert some.has_mask[mine].sum() == round(0.25 * mine.sum())
    assert not (some.has_mask & ~small(mask_fraction=0.5).has_mask).any()
    assert some.on("val").has_mask.all()
    hidden = some[int(np.flatnonzero(~some.has_mask)[0])]
    assert hidden.mask.min() == 1
    assert not hidden.has_mask
    assert not small(mask_fraction=0.0).has_mask.any()


def test_on_keeps_the_arguments() -> None:
    dataset = small(correlation=0.9, seed=5).on("validation")
    assert (dataset.split, dataset.correlation, dataset.size, dataset.seed) == ("val", 0.9, (24, 24), 5)
    assert repr(dataset).startswith("Habitats(split='val', correlation=0.9, size=(24, 24)")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_makes_batches(workers: int) -> None:
    dataset = small("val", size=(24, 32))
    batch = next(iter(DataLoader(dataset, batch_size=8, num_workers=workers)))
    assert isinstance(batch, Batch)
    assert batch.image.shape == (8, 3, 24, 32)
    assert batch.mask.shape == (8, 24, 32)
    assert (batch.image.dtype, batch.mask.dtype, batch.label.dtype) == (torch.float32, torch.float32, torch.int64)
    assert batch.image.min() >= 0
    assert 0.5 < batch.image.max() <= 1
    assert set(batch.mask.unique().tolist()) == {0.0, 1.0}
    assert batch.index.tolist() == list(range(8))
    assert batch.label.tolist() == dataset.labels[:8].tolist()
    assert batch.has_mask.all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "swaped"}, "swapped"),
        ({"correlation": 1.5}, "correlation must lie between 0 and 1"),
        ({"mask_fraction": -0.1}, "mask_fraction"),
        ({"size": 8}, "size"),
        ({"size": (48, 0)}, "size"),
        ({"per_digit": 0}, "per_digit"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        Habitats(**arguments)


def drawing(dataset: Habitats, index: int) -> tuple[np.ndarray, habitats.Scene, tuple[int, int]]:
    """The source digit and the scene behind one image."""
    plan = habitats.scenes(dataset.split, dataset.labels, dataset.correlation, dataset.size, dataset.seed)
    digit = habitats.source_digits()[0][int(dataset.ids[index].split("-")[0])]
    return digit, list(plan)[index], dataset.size
