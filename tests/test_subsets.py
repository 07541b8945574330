"""Episodes, fractions, folds and domains: which samples they hold, and that they are datasets like any other."""

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from torch.utils.data import DataLoader

from sightline import recipe
from sightline.audit import audit, of_run
from sightline.data import Domains, Episode, Fold, Folder, Fraction, Habitats, Source
from sightline.errors import SightlineError
from sightline.train import train

CLASSES, SITES = ("cat", "dog"), ("attic", "barn", "cave")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of 30 images, 20 of which train; ten patients in three sites; cats have masks."""
    rows = []
    for number in range(60):
        name, label, split = f"i{number:02d}", CLASSES[number % 2], ("train", "train", "val", "test")[number // 15]
        save(tmp_path / f"data/images/{label}/{name}.png", np.random.default_rng(number).integers(0, 256, (8, 8, 3)))
        if label == "cat":
            save(tmp_path / f"data/masks/{label}/{name}.png", np.eye(8) * 255)
        rows.append([name, label, split, SITES[number % 3]])
    write(tmp_path / "data", rows)
    return tmp_path / "data"


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write(folder: Path, rows: list[list[str]]) -> None:
    with (folder / "splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "class", "split", "group"), *rows])


def regroup(folder: Path, group) -> None:
    with (folder / "splits.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    write(folder, [[*row[:3], group(number)] for number, row in enumerate(rows)])


@pytest.fixture
def data(root: Path) -> Folder:
    return Folder(str(root), size=8)


def made(kind: str, data: Source) -> Source:
    return {
        "Episode": lambda: Episode(data, shots=3, episode=1),
        "Fraction": lambda: Fraction(data, images=0.5),
        "Fold": lambda: Fold(data, folds=3, fold=1),
        "Domains": lambda: Domains(data, train=["barn", "cave"]),
    }[kind]()


@pytest.mark.parametrize("kind", ["Episode", "Fraction", "Fold", "Domains"])
def test_every_sample_is_one_of_the_datasets(kind: str, data: Folder) -> None:
    whole = {name: (part, i) for part in map(data.on, data.splits) for i, name in enumerate(part.ids)}
    for split in made(kind, data).splits:
        some = made(kind, data).on(split)
        assert (some.split, some.size, some.channels, some.classes) == (split, (8, 8), 3, CLASSES)
        assert 0 < len(some) == len(set(some.ids)) == len(some.labels) == len(some.groups) == len(some.has_mask)
        for index, name in enumerate(some.ids):
            part, inner = whole[name]
            assert some.labels[index] == part.labels[inner]
            assert some.groups[index] == part.groups[inner]
            np.testing.assert_array_equal(some[index].image, part[inner].image)
            np.testing.assert_array_equal(some[index].mask, part[inner].mask)
            assert some[index].index == index
    batch = next(iter(DataLoader(some, batch_size=2)))
    assert batch.image.shape == (2, 3, 8, 8)


@pytest.mark.parametrize("kind", ["Episode", "Fraction", "Fold", "Domains"])
def test_the_split_is_the_same_however_it_is_reached(kind: str, data: Folder) -> None:
    first = made(kind, data)
    again = type(first)(**first._arguments() | {"split": "test", "data": data.on("val")})
    assert first.on("test").hash() == again.hash() != first.hash()
    assert first.on("test").on("train").hash() == first.hash()
    assert first.on("validation").ids == first.on("val").ids
    assert f"{kind}(data=Folder(root=" in repr(first)
    with pytest.raises(SightlineError, match="Did you mean 'test'"):
        first.on("tset")


def test_an_episode_has_so_many_images_of_each_class(data: Folder) -> None:
    episodes = [Episode(data, shots=3, episode=e) for e in range(20)]
    assert all(np.bincount(episode.labels).tolist() == [3, 3] for episode in episodes)
    assert len({episode.ids for episode in episodes}) == 20
    assert Episode(data, shots=3, episode=4, seed=1).ids != episodes[4].ids == Episode(data, shots=3, episode=4).ids
    assert all(set(episode.ids) < set(data.ids) for episode in episodes)
    assert episodes[0].on("test").hash() == data.on("test").hash()


def test_the_rest_of_an_episode_may_stay_without_labels(data: Folder) -> None:
    few, many = (Episode(data, shots=4, mask_fraction=0.5, rest=rest) for rest in ("dropped", "unlabelled"))
    assert many.ids == data.ids
    assert np.array(many.ids)[many.has_label].tolist() == list(few.ids)
    assert np.bincount(many.labels[many.has_label]).tolist() == [4, 4]
    assert few.has_mask.sum() == many.has_mask.sum() == 2
    assert not (many.has_mask & ~many.has_label).any()
    assert (many[int(np.flatnonzero(~many.has_label)[0])].label, many.labels.min()) == (-1, 0)
    assert many.on("test").has_label.all()
    assert few.has_label.all()


def test_a_larger_fraction_keeps_what_a_smaller_keeps(data: Folder) -> None:
    small, large = Fraction(data, images=0.2), Fraction(data, images=0.6)
    assert set(small.ids) < set(large.ids) < set(data.ids)
    assert np.bincount(small.labels).tolist() == [3, 3]
    assert Fraction(data).ids == data.ids
    assert small.on("test").ids == data.on("test").ids
    assert Fraction(data, images=0.6, mask_fraction=0.5).has_mask.sum() == round(0.5 * 9)
    assert (~Fraction(data, images=0.6, label_fraction=0.5).has_label).sum() == 2 * (9 - round(0.5 * 9))


def test_masks_and_labels_that_are_hidden_stay_hidden(root: Path) -> None:
    hidden = Folder(str(root), size=8, mask_fraction=0.2, label_fraction=0.5)
    assert Fraction(hidden).has_mask.tolist() == hidden.has_mask.tolist()
    assert Fraction(hidden).has_label.tolist() == hidden.has_label.tolist()
    assert Episode(hidden, shots=7).has_label.all()


@pytest.mark.parametrize("group", [lambda i: f"patient{i // 4:02d}", lambda _: ""])
def test_each_image_is_tested_once_and_no_group_lies_on_both_sides(root: Path, group) -> None:
    regroup(root, group)
    folds = [Fold(Folder(str(root), size=8), folds=5, fold=fold) for fold in range(5)]
    tests = [fold.on("test") for fold in folds]
    assert sorted(name for test in tests for name in test.ids) == [f"i{number:02d}" for number in range(60)]
    for number, fold in enumerate(folds):
        parts = [fold, fold.on("val"), fold.on("test")]
        assert parts[1].ids == tests[(number + 1) % 5].ids
        assert sum(map(len, parts)) == len(set().union(*(part.ids for part in parts))) == 60
        sides = [set(part.groups) - {""} for part in parts]
        assert len(set().union(*sides)) == sum(map(len, sides))
        assert all(abs(np.bincount(part.labels)[0] / len(part) - 0.5) < 0.1 for part in parts)
    assert Fold(folds[0].data, seed=1).on("test").ids != tests[0].ids


def test_groups_may_be_left_apart(data: Folder) -> None:
    with pytest.raises(SightlineError, match="there are 3 groups"):
        Fold(data, folds=5)
    assert set(Fold(data, folds=5, grouped=False).on("test").groups) == set(SITES)


def test_data_of_one_split_are_split_too(tmp_path: Path) -> None:
    for label in CLASSES:
        for number in range(6):
            save(tmp_path / f"leaves/{label}/{number}.png", np.full((8, 8), 9 * number))
    data = Folder(str(tmp_path / "leaves"), "all", size=8)
    fold = Fold(data, folds=3, grouped=False)
    assert [len(fold.on(split)) for split in fold.splits] == [4, 4, 4]
    assert len(Fraction(fold, images=0.5)) == 2


def test_groups_that_are_parts_of_a_class_are_warned_of(data: Folder, caplog: pytest.LogCaptureFixture) -> None:
    Fold(data, folds=3)
    assert not caplog.text
    habitats = Habitats(size=24, per_digit=1)
    Fold(habitats, folds=3, grouped=False)
    assert not caplog.text
    Fold(habitats, folds=3)
    assert "the groups of Habitats are parts of a class" in caplog.text
    assert "grouped=false" in caplog.text


def test_masks_of_a_fold_are_hidden_in_training_only(data: Folder) -> None:
    fold = Fold(data, folds=3, mask_fraction=0.5, label_fraction=0.5)
    assert fold.has_mask.sum() == round((fold.labels == 0).sum() / 2)
    assert fold.has_label.mean() == pytest.approx(0.5, abs=0.1)
    assert fold.on("test").has_label.all()
    assert fold.on("test").has_mask.sum() == (fold.on("test").labels == 0).sum()


def test_an_id_of_two_splits_gets_its_split_in_front(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for label in CLASSES:
            save(tmp_path / f"tree/{split}/{label}/0.png", np.full((8, 8), 9))
    fold = Fold(Folder(str(tmp_path / "tree"), size=8), folds=3, grouped=False)
    assert {name for split in fold.splits for name in fold.on(split).ids} == {
        f"{split}/{label}/0.png" for split in ("train", "val", "test") for label in CLASSES
    }


def test_domains_train_on_some_groups_and_test_on_others(data: Folder) -> None:
    domains = Domains(data, train=["barn", "cave"])
    assert domains.splits == ("train", "val", "test", *SITES)
    assert set(domains.groups) == set(domains.on("val").groups) == {"barn", "cave"}
    assert set(domains.on("test").groups) == {"attic"}
    assert len(domains.on("test")) == 20
    held = [domains.on(site) for site in SITES]
    assert [set(part.groups) for part in held] == [{site} for site in SITES]
    assert [np.bincount(part.labels).tolist() for part in held] == [[2, 2]] * 3
    mine = [set(domains.ids), set(domains.on("val").ids), set(held[1].ids), set(held[2].ids)]
    assert sum(map(len, mine)) == len(set().union(*mine)) == 40
    assert len(Domains(data, train=["barn"], test=["cave"]).on("test")) == 20


def test_models_of_other_domains_meet_the_same_images(data: Folder) -> None:
    one, other = Domains(data, train=["barn"]), Domains(data, train=["attic", "cave"], val=0.3)
    assert all(one.on(site).hash() == other.on(site).hash() for site in SITES)
    assert one.hash() != other.hash()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: Episode(data, shots=16), "shots is 16, but data has 15 labelled training images .* 'cat'"),
        (lambda data: Episode(data, shots=0), "shots must be at least 1"),
        (lambda data: Episode(data, episode=-1), "episode must be at least 0"),
        (lambda data: Fraction(data, images=1.5), "images must lie between 0 and 1"),
        (lambda data: Fraction(data, images=0.01), "images: 0.01 of the class 'cat' is not a single image"),
        (lambda data: Fold(data, folds=2), "folds must be at least 3"),
        (lambda data: Fold(data, folds=3, fold=3), "fold must lie between 0 and 2"),
        (lambda data: Fold(data, folds=40, grouped=False), "Take fewer folds"),
        (lambda data: Domains(data, train=["bran"]), "no domain 'bran'. Did you mean 'barn'"),
        (lambda data: Domains(data, train=["barn"], test=["barn"]), "both name barn"),
        (lambda data: Domains(data, train=[]), "leaves no image of data in 'train'"),
        (lambda data: Domains(Folder(data.root, size=8, mask_fraction=0.5), train=["barn"]), "not to the data in it"),
        (lambda data: Fold(Folder(data.root, size=8, label_fraction=0.5), folds=3), "not to the data in it"),
        (lambda data: Fold(Fraction(Folder(data.root, size=8, mask_fraction=0.5)), folds=3), "not to the data in it"),
    ],
)
def test_mistakes_are_named(data: Folder, make, message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        make(data)


@pytest.mark.parametrize(("group", "message"), [("", "60 images of data have no group"), ("val", "called 'val'")])
def test_groups_that_are_no_domains_are_refused(root: Path, group: str, message: str) -> None:
    regroup(root, lambda _: group)
    with pytest.raises(SightlineError, match=message):
        Domains(Folder(str(root), size=8), train=["barn"])


RUNS = {
    "Episode": {"shots": 4, "rest": "unlabelled"},
    "Fraction": {"images": 0.5},
    "Fold": {"folds": 3},
    "Domains": {"train": ["barn", "cave"]},
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_recipe_trains_resumes_and_is_audited(kind: str, root: Path, tmp_path: Path) -> None:
    inner = {"class_path": "Folder", "init_args": {"root": str(root), "size": 8}}
    config = {
        "data": {"class_path": kind, "init_args": {"data": inner, **RUNS[kind]}},
        "model": {"spec": "sightline:cnn", "arguments": {"filters": [4], "strides": [2]}},
        "objectives": ["CE", *(["CGC"] if kind == "Episode" else [])],
        "training": {"epochs": 1, "batch_size": 4, **({"unlabelled_batch_size": 4} if kind == "Episode" else {})},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(config))
    read = recipe.read(tmp_path / "r.yaml", ["data.data.size=10", "data.seed=3"])
    run = train(read, tmp_path / "run")
    assert train(read, run, resume=True) == run
    subject, found = of_run(run, "test")
    assert (type(found).__name__, found.split, found.size, found.seed) == (kind, "test", (10, 10), 3)
    assert audit(subject, found, tmp_path / "audit")["data"]["hash"] == found.hash()


def test_episodes_of_the_embedded_benchmark() -> None:
    episode = Episode(Habitats(size=24, per_digit=1), shots=2)
    assert np.bincount(episode.labels).tolist() == [2] * 10
    assert episode.hash() == "a59edfcd3842323aa548bfafd5ce5adb5df688d5667722cbcab97da0ef770699"


@pytest.mark.parametrize(("name", "trained"), [("pacs", ["photo", "cartoon"]), ("wbc", ["tecom"])])
def test_real_domains(data_root: Path, monkeypatch: pytest.MonkeyPatch, name: str, trained: list[str]) -> None:
    if not (data_root / name).is_dir():
        pytest.skip(f"{name} is not there")
    monkeypatch.setenv("SIGHTLINE_DATA", str(data_root))
    domains = Domains(Folder(name, size=16, verify=False), train=trained)
    assert set(domains.groups) == set(trained)
    assert not set(domains.on("test").groups) & set(trained)
    assert all(set(domains.on(site).groups) == {site} for site in domains.splits[3:])
