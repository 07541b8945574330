"""Every recipe of the repository: two steps on small data in the published layout, and the published numbers in it."""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from jsonargparse import Namespace
from torch.utils.data import default_collate

from conftest import REPOSITORY
from sightline import recipe
from sightline.about import Table
from sightline.cli import _parser, main
from sightline.data import habitats, idx, propagated
from sightline.explainers import names as explainers
from sightline.files import read_json
from sightline.metrics import names as metrics
from sightline.models import load
from sightline.objectives import Guided
from sightline.train import train
from trees import TREES, noise, rectangle, save, write_idx

FOLDER = REPOSITORY / "recipes"
FILES = {path.relative_to(FOLDER).as_posix(): recipe.load(path) for path in sorted(FOLDER.rglob("*.yaml"))}
RAW = {name: content for name, content in FILES.items() if "model" in content}
RECIPES = list(RAW)
ROWS = [(name, row) for name in RECIPES for row in (RAW[name].get("about") or {}).get("rows", {})]

SIDE = 24
SLIM = {"resnet": "ResNet", "alexnet": "VGG", "vgg": "VGG", "inception": "ResNet"}
"""What stands in for a family of networks: a class of slim.py."""
FEW = {"per_digit": 1, "shots": 1, "folds": 3, "steps": 1, "width": 4}
"""Most that small data sets, and what is made of them, can have of something."""
HALF = ("mask_fraction", "label_fraction", "images", "val")
"""Shares that would leave nothing of small data sets."""
CLASSES = ("cat", "dog", "owl", "yak")


def folder(root: Path, classes: Sequence[str], groups: Sequence[str]) -> dict[str, Any]:
    """Of each class nine grey images with masks; a third trains, validates and tests, each in three groups."""
    rows = []
    for label in classes:
        for number in range(9):
            name = f"{label}{number}"
            save(root / f"images/{label}/{name}.png", noise(len(rows))[..., 0])
            save(root / f"masks/{label}/{name}.png", rectangle())
            rows.append((name, label, ("train", "val", "test")[number % 3], [*groups, "b", "c"][number // 3]))
    pd.DataFrame(rows, columns=["id", "class", "split", "group"]).to_csv(root / "splits.csv", index=False)
    return {"root": str(root)}


def eyes(root: Path, *_: Sequence[str]) -> dict[str, Any]:
    """Two classes of pairs of B-scans; of each class, three eyes from each of the sites A, B, C and D."""
    rows = []
    for label in ("GA", "healthy"):
        for number in range(12):
            name = f"{label}{number}"
            for scan in range(2):
                save(root / f"images/{label}/{name}/{scan}.png", noise(10 * len(rows) + scan)[..., 0])
            rows.append((name, label, ("train", "val", "test")[number % 3], "ABCD"[number // 3]))
    pd.DataFrame(rows, columns=["id", "class", "split", "group"]).to_csv(root / "splits.csv", index=False)
    return {"root": str(root)}


def digits(root: Path, *_: Sequence[str]) -> dict[str, Any]:
    """60 images to train and 20 to test in MNIST's files."""
    for part, count in (("train", 60), ("t10k", 20)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        pixels[:, :6] = pixels[:, -6:] = pixels[:, :, :6] = pixels[:, :, -6:] = 0
        labels = (np.arange(count) % 10).astype(np.uint8)
        write_idx(root / f"{part}-images-idx3-ubyte.gz", pixels)
        write_idx(root / f"{part}-labels-idx1-ubyte.gz", labels)
    return {"root": str(root)}


OWN = {"Folder": folder, "OCT": eyes} | dict.fromkeys(
    ["DecoyMNIST", "DecoyFashionMNIST", "ColorMNIST", "TwoColorMNIST"], digits
)
"""Layouts that trees.py lacks: of a root, classes and groups."""


@pytest.fixture(scope="session")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Lays each data set out once, and tells the arguments that find it."""

    @cache
    def lay(name: str, classes: tuple[str, ...], groups: tuple[str, ...]) -> dict[str, Any]:
        root = tmp_path_factory.mktemp(name)
        return OWN[name](root, classes, groups) if name in OWN else TREES[name].build(root)

    return lay


@pytest.fixture
def small(
    laid_out: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Namespace]:
    """Reads a recipe and puts a small data set and a slim network in place of its own; it then trains two steps."""
    monkeypatch.setattr(idx, "VALIDATION", 20)
    monkeypatch.setattr(propagated, "FEWEST", 1)
    monkeypatch.setattr(habitats, "members", lambda *of, every=habitats.members: every(*of)[::16])

    def read(name: str, overrides: Sequence[str] = ()) -> Namespace:
        alone = tmp_path / "recipe.yaml"
        alone.write_text(yaml.safe_dump({key: value for key, value in RAW[name].items() if key != "about"}))
        config = recipe.read(alone, overrides)
        config.model.weights, config.training.workers = None, 0
        shrink_data(config.data, laid_out)
        source = recipe.part(on(config, inner(config.data)), "data")
        shrink_model(config.model, source.size)
        labelled, training = int(source.has_label.sum()), config.training
        training.batch_size, training.accumulate = min(labelled, max(2, labelled // 2)), 1
        training.epochs = 2 // (labelled // training.batch_size)
        training.unlabelled_batch_size = training.unlabelled_batch_size and 2
        return config

    return read


def shrink_data(config: Namespace, laid_out: Callable[..., dict[str, Any]]) -> None:
    classes, groups = (tuple(told(config, *names) or ()) for names in (("only", "markers"), ("train",)))
    for part in parts(config):
        given, name = part.init_args, part.class_path.rpartition(".")[2]
        if "root" in given:
            vars(given).update(laid_out(name, classes or CLASSES, groups or ("a",)))
        if name == "ImageNet":
            given.only = None
        if "size" in given:
            given.size = SIDE if isinstance(given.size, int) else [2, SIDE, SIDE][-len(given.size) :]
        for key in vars(given).keys() & FEW.keys():
            given[key] = min(given[key], FEW[key])
        for key in vars(given).keys() & set(HALF):
            given[key] = given[key] and max(given[key], 0.5)


def parts(config: Namespace) -> Iterator[Namespace]:
    """A dataset, and those it is made of."""
    yield config
    for value in vars(config.init_args).values():
        if isinstance(value, Namespace) and "class_path" in value:
            yield from parts(value)


def inner(data: Namespace) -> Namespace:
    """A dataset; of one that adopts the maps of runs, what these runs train on."""
    return next((part.init_args.data for part in parts(data) if part.class_path.endswith(".Adopted")), data)


def on(config: Namespace, data: Namespace) -> Namespace:
    """A recipe with another dataset."""
    other = config.clone()
    other.data = data
    return other


def told(config: Namespace, *names: str) -> Any:
    """The first argument of one of these names that a dataset, or one it is made of, is given."""
    arguments = (vars(part.init_args).get(name) for part in parts(config) for name in names)
    return next((value for value in arguments if value), None)


def shrink_model(config: Namespace, size: tuple[int, ...]) -> None:
    family, _, name = config.spec.partition(":")
    if family == "file":
        config.spec = f"file:{REPOSITORY / name}"
    elif family != "sightline":
        slim = next(slim for start, slim in SLIM.items() if name.startswith(start))
        config.spec, config.arguments = f"file:{REPOSITORY / 'tests/slim.py'}:{slim}", {}
    if "filters" in config.arguments:
        config.arguments["filters"] = [min(count, 8) for count in config.arguments["filters"]]
    if "size" in config.arguments:
        config.arguments["size"] = list(size)


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps(name: str, small: Callable[..., Namespace]) -> None:
    config = small(name)
    if any(each.class_path.endswith((".JTT", ".Adopted")) for each in [*config.objectives, *parts(config.data)]):
        make_errors(config)
    train(config, "run")
    assert read_json("run/run.json")["finished"]
    assert torch.load("run/checkpoint.ckpt", weights_only=True)["global_step"] == 2


def make_errors(config: Namespace) -> None:
    """Train and audit a first model; where the recipe adopts maps, a second is right where the first was wrong."""
    first = on(config, inner(config.data))
    first.objectives = [Namespace(class_path="sightline.objectives.CE", init_args=Namespace())]
    train(first, "first")
    assert main(["audit", "first", "--split", "train", "--maps", "first/maps"]) == 0
    for objective in config.objectives:
        if objective.class_path.endswith(".JTT"):
            objective.init_args.errors = "first"
    for part in parts(config.data):
        if part.class_path.endswith(".Adopted"):
            part.init_args.errors, part.init_args.run = "first", right("first", "second")


def right(run: str, copy: str) -> str:
    """A copy of an audited run that is right where it was wrong."""
    shutil.copytree(run, copy)
    scores = Path(copy, "audit", "train", "scores.csv")
    pd.read_csv(scores, dtype=str).assign(correct="1").to_csv(scores, index=False)
    return copy


@pytest.mark.parametrize("name", sorted({name for name, _ in ROWS}))
def test_a_step_of_every_row(name: str, small: Callable[..., Namespace]) -> None:
    for row, overrides in RAW[name]["about"]["rows"].items():
        made = recipe.build(small(name, overrides))
        guided = Guided(made.classifier(), made.objectives, made.data.size)
        guided.epoch = 0
        loss, _ = guided(default_collate([made.data[index] for index in range(min(4, len(made.data)))]))
        loss.backward()
        assert bool(loss.isfinite()), row


@pytest.mark.parametrize("name", [name for name in RECIPES if "about" in RAW[name]])
def test_audits_are_understood(name: str) -> None:
    for table in RAW[name]["about"].get("tables", []):
        arguments = _parser().parse_args(["audit", "run", *table.get("audit", [])])
        for word in arguments.explainer:
            explainers.named(word)
        for word in arguments.metrics:
            assert metrics.named(word, margin=15)


def networks() -> Iterator[Any]:
    """A recipe and a row of it for each of the well-known networks that recipes name."""
    seen = set()
    for name, row in [*((name, None) for name in RECIPES), *ROWS]:
        rows = RAW[name]["about"]["rows"][row] if row else []
        changes = [change for change in rows if re.match(r"model(?!\.weights)", change)]
        model = RAW[name]["model"]
        key = str((model["spec"], model.get("pool"), model.get("arguments"), changes))
        if key not in seen and model["spec"].startswith(("torchvision", "timm")) and (changes or not row):
            yield pytest.param(name, row, id=key)
        seen.add(key)


@pytest.mark.parametrize(("name", "row"), list(networks()))
def test_the_networks_themselves_are_built(name: str, row: str | None) -> None:
    model = recipe.read(FOLDER / name, row=row).model
    load(num_classes=3, channels=3, **vars(model) | {"weights": None})


# Published numbers ----------------------------------------------------------------------------------------------------

NOT_TRAINED = {"ppi.t1", "cfcn.t2", "cfcn.t4"}
"""Rules, a list of data sets, and hyper-parameters."""


@pytest.fixture(scope="module")
def targets(shared: Path) -> dict[str, dict[str, Any]]:
    path = shared / "targets.yaml"
    if not path.is_file():
        pytest.skip("there is no list of published numbers beside the repository")
    return {target["id"]: target for target in yaml.safe_load(path.read_text())["targets"] if "id" in target}


def rows_of(values: Any, name: str = "") -> Iterator[tuple[str, list[float | None]]]:
    """By row, whose name are the keys that lead to it, its numbers."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from rows_of(value, f"{name}_{key}".removeprefix("_"))
    elif not isinstance(values, str):
        yield name, list(numbers(values))


def numbers(values: Any) -> Iterator[float | None]:
    for value in values if isinstance(values, list) else [values]:
        yield from numbers(value) if isinstance(value, list) else [value]


def printed(target: str, targets: dict[str, dict[str, Any]]) -> dict[str, list[float | None]]:
    """The rows of "id", of "id/key" in it, or of "id/key/0", the first entry of each row there."""
    first, *path = target.split("/")
    values = targets[first].get("values", {})
    for key in path:
        values = {row: entry[int(key)] for row, entry in values.items()} if key.isdigit() else values[key]
    return dict(rows_of(values))


@pytest.fixture(scope="module")
def tables() -> list[Table]:
    """All tables of all recipes that are in the list."""
    told = [recipe.part(recipe.read(FOLDER / name), "about") for name in RECIPES if RAW[name].get("about")]
    return [table for about in told for table in about.tables if table.target]


def test_published_numbers_are_those_of_the_papers(tables: list[Table], targets: dict[str, dict[str, Any]]) -> None:
    for table in tables:
        known = printed(str(table.target), targets)
        assert {row: known.get(row) for row in table.published} == table.published, table.source


def test_every_table_has_a_recipe(tables: list[Table], targets: dict[str, dict[str, Any]]) -> None:
    told: dict[str, list[float | None]] = {}
    for table in tables:
        told.setdefault(str(table.target).partition("/")[0], []).extend(numbers([*table.published.values()]))
    assert targets.keys() - NOT_TRAINED == told.keys()
    for name in told:
        assert set(numbers([*printed(name, targets).values()])) == set(told[name]), name


@pytest.mark.parametrize("name", sorted({name for name, _ in ROWS}))
def test_every_row_is_of_a_table(name: str) -> None:
    published = [table["published"] for table in RAW[name]["about"].get("tables", []) if "published" in table]
    assert not published or set(RAW[name]["about"]["rows"]) <= {row for rows in published for row in rows}
