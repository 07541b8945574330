"""Refitting the last layer: the head on made-up features, the layer it belongs to, and the command."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from nets import Deep, Residual, Views
from sightline import models, recipe
from sightline.cli import main
from sightline.data import Habitats
from sightline.dfr import GRID, _balanced, _halves, best_c, cells, dfr, linear_head, read_features, retrained_head
from sightline.errors import SightlineError
from sightline.report.read import Audit, Run, Split
from sightline.report.reproduce import commands
from test_cli import RECIPE, make_folder


def cheating(classes, counts=(300, 12), seed=0):
    """A faint core coordinate, a clear spurious one that `counts` images obey and defy, and three of noise."""
    draw = np.random.default_rng(seed)
    label = np.repeat(np.arange(classes), sum(counts))
    place = np.concatenate(
        [np.r_[np.full(counts[0], k), np.full(counts[1], (k + 1) % classes)] for k in range(classes)]
    )
    core, spurious = np.eye(classes)[label], 3 * np.eye(classes)[place]
    signal = np.concatenate([core, spurious], axis=1) + 0.6 * draw.standard_normal((len(label), 2 * classes))
    features = np.concatenate([signal, draw.standard_normal((len(label), 3))], axis=1)
    return features, label, np.array([f"{k}/{p}" for k, p in zip(label, place, strict=True)])


def worst(head, features, labels, groups):
    right = (features @ head[0].T + head[1]).argmax(1) == labels
    return min(right[groups == group].mean() for group in np.unique(groups))


@pytest.mark.parametrize("classes", [2, 3])
def test_it_finds_the_core_again(classes):
    known, new = cheating(classes), cheating(classes, (200, 200), seed=1)
    plain = retrained_head(*known[:2], np.full(len(known[1]), "all"), classes, c=1.0, rounds=1)
    c = best_c(*known, classes)
    head = retrained_head(*known, classes, c=c)
    assert worst(plain, *new) < 0.5
    assert worst(head, *new) > 0.7
    core, spurious = np.abs(head[0][:, :classes]).sum(), np.abs(head[0][:, classes : 2 * classes]).sum()
    assert core > 3 * spurious


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_is_for_features_as_they_come(classes):
    features, labels, groups = cheating(classes)
    scale, shift = np.arange(1.0, features.shape[1] + 1), np.arange(features.shape[1]) - 3.0
    weight, bias = retrained_head(features, labels, groups, classes, c=0.3, rounds=3)
    other_weight, other_bias = retrained_head(features * scale + shift, labels, groups, classes, c=0.3, rounds=3)
    logits = (features * scale + shift) @ other_weight.T + other_bias
    np.testing.assert_allclose(logits, features @ weight.T + bias, rtol=1e-6, atol=1e-6)


def test_one_round_of_one_group_is_penalised_logistic_regression():
    """Against proximal gradient descent, a few thousand plain steps of it."""
    features, labels, _ = cheating(2, (60, 40))
    weight, bias = retrained_head(features, labels, np.full(len(labels), "all"), 2, c=0.1, rounds=1)
    mean, scale = features.mean(0), features.std(0)
    x = np.c_[(features - mean) / scale, np.ones(len(labels))]
    found, rate = np.zeros(x.shape[1]), 4 / np.linalg.norm(0.1**0.5 * x, 2) ** 2
    for _ in range(5000):
        moved = found - rate * 0.1 * x.T @ (1 / (1 + np.exp(-x @ found)) - labels)
        found = np.sign(moved) * np.maximum(np.abs(moved) - rate, 0)
    expected = x @ found
    got = features @ (weight[1] - weight[0]) + bias[1] - bias[0]
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(got, expected, atol=0.02)


def test_a_feature_that_never_varies_weighs_nothing():
    features, labels, groups = cheating(2)
    features[:, -1] = 7
    weight, bias = retrained_head(features, labels, groups, 2, c=1.0, rounds=2)
    assert (weight[:, -1] == 0).all()
    assert np.isfinite(bias).all()


def test_subsets_are_balanced_and_halves_share_every_group():
    groups, draw = np.array(["a"] * 5 + ["b"] * 3 + ["c"] * 8), np.random.default_rng(0)
    first, second = (_balanced(groups, draw) for _ in range(2))
    assert sorted(groups[first]) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    assert set(first) != set(second)
    fitted, judged = _halves(groups, draw)
    assert sorted([*fitted, *judged]) == list(range(16))
    assert sorted(groups[fitted]) == ["a"] * 3 + ["b"] * 2 + ["c"] * 4


def test_a_subset_without_a_class_is_refused():
    features, labels, _ = cheating(3)
    with pytest.raises(SightlineError, match="lacks a class"):
        retrained_head(features, labels, np.array(["all"] * (len(labels) - 1) + ["one"]), 3, c=1.0)


def test_the_penalty_is_the_one_that_serves_the_worst_group():
    known = cheating(2, (300, 100))
    assert best_c(*known, 2, grid=(1e-9, 1.0)) == 1.0  # the first leaves nothing but zeros: one class for all
    clear = np.c_[known[1] * 2.0 - 1, np.zeros(len(known[1]))]
    assert best_c(clear, *known[1:], 2, grid=(1.0, 0.7)) == 0.7  # both are perfect


@pytest.mark.parametrize("counts", [(1, 1), (2, 1), (1, 0)])
def test_a_handful_of_images_is_enough_to_run(counts):
    known = cheating(3, counts)
    c = best_c(*known, 3)
    weight, bias = retrained_head(*known, 3, c=c, rounds=2)
    assert c in GRID
    assert weight.shape == (3, 9)
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()


@pytest.mark.parametrize(("net", "name"), [(Residual(), "head"), (Deep(), "classifier.4")])
def test_the_head_is_found(net, name):
    assert linear_head(net.eval(), torch.rand(1, 3, 12, 12)) == (name, net.get_submodule(name))


def test_the_head_of_views_is_found():
    assert linear_head(Views().eval(), torch.rand(1, 2, 1, 12, 12))[0] == "head"


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ([nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()], "has none"),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4), nn.LogSoftmax(1)], "something follows"),
        ([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4, bias=False)], "layer '2' has none"),
    ],
)
def test_other_heads_are_refused(tail, message):
    with pytest.raises(SightlineError, match=message):
        linear_head(nn.Sequential(*tail), torch.rand(1, 3, 6, 6))


def test_features_are_what_the_head_reads():
    data, net, seen = Habitats("val", size=24, per_digit=1), Residual().eval(), []
    before = {name: value.clone() for name, value in net.state_dict().items()}
    got = read_features(net, "head", data, batch_size=64)
    net.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for row in range(0, len(data), 40):
        net(data[row].image.unsqueeze(0))
    np.testing.assert_allclose(got[::40], torch.cat(seen).detach(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a folder, and one whose last layer is a convolution."""
    home = tmp_path_factory.mktemp("dfr")
    make_folder(home / "data")
    (home / "plain.yaml").write_text(yaml.safe_dump(RECIPE | {"objectives": ["CE"]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert main(["train", "plain.yaml"]) == 0
        assert main(["train", "plain.yaml", "model.spec=sightline:cfcn_c", "--out", "runs/conv"]) == 0
    return home


@pytest.fixture
def home(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def test_from_run_to_report(home, capsys):
    before = {path: path.read_bytes() for path in Path("runs/plain").rglob("*") if path.is_file()}
    assert main(["dfr", "runs/plain", "--rounds", "3", "--seed", "1"]) == 0
    assert "refitted: runs/plain-dfr  C " in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in Path("runs/plain-dfr").iterdir()) == [
        "model.safetensors", "recipe.yaml", "run.json",
    ]  # fmt: skip
    assert Path("runs/plain-dfr/recipe.yaml").read_bytes() == Path("runs/plain/recipe.yaml").read_bytes()
    record = json.loads(Path("runs/plain-dfr/run.json").read_text())
    done = record["dfr"]
    assert (record["name"], record["finished"], record["seed"]) == ("plain-dfr", True, 0)
    assert (done["run"], done["folder"], done["layer"]) == ("plain", "../plain", "net.head")
    assert (done["split"], done["by"], done["rounds"], done["seed"]) == ("val", "groups", 3, 1)
    assert done["groups"] == {"cat/g0": 2, "cat/g1": 2, "dog/g0": 2, "dog/g1": 2}
    assert done["absent_groups"] == []
    old, new = (models.load(f"file:runs/{run}").state_dict() for run in ("plain", "plain-dfr"))
    assert {name for name, value in old.items() if not torch.equal(value, new[name])} <= {
        "net.head.weight",
        "net.head.bias",
    }
    assert not torch.equal(old["net.head.bias"], new["net.head.bias"])
    assert main(["audit", "runs/plain", "runs/plain-dfr"]) == 0
    assert main(["compare", "runs/plain", "runs/plain-dfr"]) == 0
    assert main(["report", "runs/comparison"]) == 0
    page = Path("runs/report.html").read_text()
    again = "sightline dfr again/plain --split val --by groups --rounds 3 --seed 1 --out again/plain-dfr"
    assert again in page
    assert page.count("sightline train") == 1


def test_what_was_done_can_be_done_again(home):
    for out in ("a", "b"):
        assert main(["dfr", "runs/plain", "--by", "classes", "--out", out]) == 0
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()
    assert json.loads(Path("a/run.json").read_text())["dfr"]["groups"] == {"cat": 4, "dog": 4}


def test_the_commands_train_the_refitted_run_first():
    done = {"run": "erm", "split": "val", "by": "groups", "rounds": 10, "seed": 0}
    run = Run("new", Path("new").resolve(), {"dfr": done}, "data: 1", {})
    split = Split("test", {"new": Audit(Path("new"), {})}, {}, {}, "new", 0.95, {})
    first, second, *_ = commands([split], [run], Path("page.html"))
    assert first == "sightline train new/recipe.yaml --out again/erm"
    assert second.startswith("sightline dfr again/erm --split val")


def test_the_head_on_the_features_gives_the_runs_logits(home):
    """What is written is what was fitted: the new model's own logits are those of the head found."""
    record = dfr("runs/plain", "new", rounds=2)
    data = recipe.build(recipe.read("new/recipe.yaml", ["data.split=val"])).data
    model = models.load("file:new").eval()
    features = read_features(model, "net.head", data)
    weight, bias = retrained_head(features, data.labels, cells(data, "groups"), 2, c=record["dfr"]["c"], rounds=2)
    logits = model(torch.stack([data[i].image for i in range(len(data))])).detach()
    np.testing.assert_allclose(logits, features @ weight.T + bias, rtol=1e-4, atol=1e-5)


def test_a_hundred_groups_of_which_some_are_missing(tmp_path, capsys):
    data = {"class_path": "Habitats", "init_args": {"per_digit": 1, "size": 24}}
    settings = {"epochs": 1, "batch_size": 256}
    (tmp_path / "hab.yaml").write_text(
        yaml.safe_dump(RECIPE | {"data": data, "objectives": ["CE"], "training": settings})
    )
    assert main(["train", "hab.yaml", "--out", "run"]) == 0
    assert main(["dfr", "run"]) == 0
    done = json.loads(Path("run-dfr/run.json").read_text())["dfr"]
    groups = pd.Series(Habitats("val", per_digit=1, size=24).groups)
    assert done["groups"] == groups.value_counts().sort_index().to_dict()
    assert set(done["absent_groups"]) == set(Habitats(per_digit=1, size=24).groups) - set(groups) != set()
    assert f"{len(done['absent_groups'])} groups of the training split are not in val" in capsys.readouterr().out


def without_groups(home):
    frame = pd.read_csv(home / "data/splits.csv").drop(columns="group")
    frame.to_csv(home / "data/splits.csv", index=False)


def without_dogs(home):
    frame = pd.read_csv(home / "data/splits.csv")
    frame[(frame["class"] == "cat") | (frame["split"] != "val")].to_csv(home / "data/splits.csv", index=False)


def unfinished(home):
    (home / "runs/plain/model.safetensors").unlink()


def occupied(home):
    (home / "new").mkdir()
    (home / "new/notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("breaks", "arguments", "message"),
    [
        (None, ["data"], "data is not a run directory"),
        (None, ["runs/plain", "--split", "tets"], "Did you mean 'test'"),
        (None, ["runs/plain", "--out", "runs/conv"], "runs/conv already holds files"),
        (None, ["runs/plain", "--out", "plain.yaml"], "plain.yaml already holds files"),
        (None, ["runs/conv"], "refits the linear layer whose output is the logits"),
        (None, ["runs/plain", "--seed", "-1"], "seed must be at least 0"),
        (occupied, ["runs/plain"], "new already holds files"),
        (unfinished, ["runs/plain"], "is not finished"),
        (without_groups, ["runs/plain"], "no image of .* has a group: .* --by classes"),
        (without_dogs, ["runs/plain"], "has no image of class dog"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(home, capsys, breaks, arguments, message):
    if breaks:
        breaks(home)
    before = sorted(home.rglob("*"))
    out = [] if "--out" in arguments else ["--out", "new"]
    assert main(["dfr", *arguments, *out]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert sorted(home.rglob("*")) == before


def test_hidden_labels_are_not_fitted():
    data = Habitats(per_digit=1, size=24, label_fraction=0.25)
    for by in ("groups", "classes"):
        assert ((cells(data, by) != "") == data.has_label).all()


def test_training_images_are_warned_of(home, caplog):
    dfr("runs/plain", "new", split="train", rounds=1)
    assert "a held-out split serves better" in caplog.text
