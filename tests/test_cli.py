"""What a user types, and what a user gets wrong."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from sightline.cli import main
from sightline.models import load

RECIPE = {
    "data": {"class_path": "Folder", "init_args": {"root": "data", "size": 32}},
    "model": {"spec": "sightline:cnn", "arguments": {"filters": [4, 8]}},
    "objectives": ["CE", {"class_path": "CFCN", "init_args": {"variant": "C"}}],
    "training": {"epochs": 1, "batch_size": 8},
}


def make_folder(root):
    """Two classes, twelve images each, with masks; every fourth image tests, every third validates."""
    generator, rows = np.random.default_rng(0), []
    for label in ("cat", "dog"):
        for kind in ("images", "masks"):
            (root / kind / label).mkdir(parents=True)
        for i in range(12):
            pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            mask = np.zeros((32, 32), np.uint8)
            mask[4:20, 6:24] = 255
            Image.fromarray(pixels).save(root / "images" / label / f"{label}{i:02}.png")
            Image.fromarray(mask).save(root / "masks" / label / f"{label}{i:02}.png")
            rows.append(
                {"id": f"{label}{i:02}", "class": label, "split": ["test", "val", "train"][i % 3], "group": f"g{i % 2}"}
            )
    pd.DataFrame(rows).to_csv(root / "splits.csv", index=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs on a folder, audited, compared and reported, all through the command line."""
    home = tmp_path_factory.mktemp("trained")
    make_folder(home / "data")
    (home / "guided.yaml").write_text(yaml.safe_dump(RECIPE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert main(["train", "guided.yaml"]) == 0
        assert main(["train", "guided.yaml", "objectives=[CE]", "--out", "runs/plain"]) == 0
        assert main(["audit", "runs/plain", "runs/guided", "--split", "test", "val"]) == 0
        assert main(["compare", "runs/plain", "runs/guided"]) == 0
        assert main(["report", "runs/comparison"]) == 0
    return home


@pytest.fixture
def home(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def said(capsys, *arguments):
    assert main([str(a) for a in arguments]) == 1
    return capsys.readouterr().err


def test_train_audit_compare_report(trained):
    summary = json.loads((trained / "runs/guided/audit/test/summary.json").read_text())
    assert summary["run"] == "guided"
    assert summary["split"] == "test"
    assert summary["data"]["images"] == 8
    assert {"accuracy", "worst_group", "ch", "pg"} <= set(summary["metrics"])
    assert summary["explainer"] == "GradCAM(layer='net.block2', elementwise=True)"
    scores = pd.read_csv(trained / "runs/guided/audit/test/scores.csv")
    assert sorted(scores.id) == sorted(f"{c}{i:02}" for c in ("cat", "dog") for i in range(0, 12, 3))
    np.testing.assert_allclose(scores[["p_cat", "p_dog"]].sum(axis=1), 1)
    assert scores.correct.mean() == pytest.approx(summary["metrics"]["accuracy"]["value"])
    comparison = json.loads((trained / "runs/comparison/test/comparison.json").read_text())
    assert comparison["runs"] == ["plain", "guided"]
    assert "<html" in (trained / "runs/report.html").read_text()


def test_the_scores_do_not_depend_on_the_batch_size(home):
    frames = []
    for size in (3, 64):
        assert main(["audit", "runs/guided", "--batch-size", str(size), "--out", f"audit{size}"]) == 0
        frames.append(pd.read_csv(home / f"audit{size}/test/scores.csv"))
    pd.testing.assert_frame_equal(*frames, rtol=1e-4, atol=1e-5)


def test_runs_of_one_name_are_audited_into_folders_of_their_own(home):
    shutil.copytree("runs/plain", "others/plain")
    assert main(["audit", "runs/plain", "others/plain", "runs/guided", "--out", "both"]) == 0
    assert {path.name for path in (home / "both").iterdir()} == {"plain", "plain-2", "guided"}


def test_parquet_equals_csv(home):
    pytest.importorskip("pyarrow")
    assert main(["audit", "runs/guided", "--out", "a"]) == 0
    assert main(["audit", "runs/guided", "--out", "b", "--format", "parquet"]) == 0
    frame = pd.read_parquet(home / "b/test/scores.parquet")
    pd.testing.assert_frame_equal(pd.read_csv(home / "a/test/scores.csv"), frame, check_dtype=False)


def test_a_model_of_ones_own_on_a_folder(home, capsys):
    (home / "net.py").write_text(
        "from torch import nn\ndef net(num_classes):\n"
        "    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head)\n"
    )
    command = ["audit", "file:net.py:net", "--data", "data", "--size", "32", "--out", "mine"]
    assert main(command) == 0
    assert "sees (image - mean) / std, with mean=[0.5], std=[0.25], or what --mean and --std say" in (
        capsys.readouterr().err
    )
    assert main([*command, "--mean", "0.1", "0.2", "0.3", "--std", "1"]) == 0
    assert not capsys.readouterr().err
    summary = json.loads((home / "mine/test/summary.json").read_text())
    assert summary["explainer"] == "GradCAM(layer='net.1', elementwise=True)"
    assert summary["normalise"] == {"mean": pytest.approx([0.1, 0.2, 0.3]), "std": [1]}


def test_the_data_of_a_run_at_another_size(home):
    assert main(["audit", "runs/guided", "--override", "data.size=40", "--out", "large"]) == 0
    with np.load(home / "large/test/gallery.npz") as gallery:
        assert gallery["image"].shape[1:3] == (40, 40)


def test_a_run_on_other_data_sees_them_at_its_own_size(home):
    assert main(["audit", "file:runs/guided", "--data", "data", "--out", "other"]) == 0
    said = [json.loads((home / folder / "test/summary.json").read_text()) for folder in ("other", "runs/guided/audit")]
    assert said[0]["data"]["size"] == said[1]["data"]["size"] == [32, 32]
    assert said[0]["metrics"] == said[1]["metrics"]


def test_a_comparison_of_other_runs_takes_the_place_of_the_first(home, capsys):
    shutil.copytree("runs/plain", "runs/again")
    assert main(["compare", "runs/plain", "runs/guided", "--split", "test"]) == 0
    assert "removed" not in capsys.readouterr().out
    assert main(["compare", "runs/plain", "runs/again", "--split", "test"]) == 0
    assert "removed: runs/comparison/val/comparison.json, of other runs" in capsys.readouterr().out
    assert main(["report", "runs/comparison"]) == 0
    assert [path.parent.name for path in (home / "runs/comparison").glob("*/comparison.json")] == ["test"]


def test_mistakes_are_found_ahead_of_all_work(home, capsys):
    shutil.rmtree("runs/plain/audit")
    shutil.copytree("runs/guided", "runs/begun")
    (home / "runs/begun/model.safetensors").unlink()
    assert main(["audit", "runs/plain", "runs/begun"]) == 1
    assert "runs/begun is not finished" in capsys.readouterr().err
    shutil.copy("runs/guided/model.safetensors", "runs/begun/epoch3.safetensors")
    assert load("file:runs/begun/epoch3.safetensors").origin == load("file:runs/guided").origin
    assert main(["explain", "runs/begun", "data/images/cat"]) == 1
    assert "runs/begun is not finished" in capsys.readouterr().err
    assert main(["audit", "runs/plain", "--split", "test", "tset"]) == 1
    assert "Did you mean 'test'" in capsys.readouterr().err
    assert not (home / "runs/plain/audit").exists()


def test_a_dataset_by_name(home, capsys):
    data = ["--data", "Habitats:per_digit=1,size=24", "--split", "shifted"]
    assert main(["audit", "sightline:cnn", *data, "--out", "named"]) == 0
    assert "sightline:cnn has random weights" in capsys.readouterr().err
    assert json.loads((home / "named/shifted/summary.json").read_text())["data"]["name"] == "Habitats"


def test_print_config_is_a_recipe(home, capsys):
    assert main(["train", "guided.yaml", "training.epochs=3", "--print_config"]) == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert resolved["training"]["epochs"] == 3
    assert resolved["optimizer"]["name"] == "adamw"


def test_layers(capsys):
    assert main(["layers", "torchvision:resnet18", "--size", "64"]) == 0
    chosen = [line for line in capsys.readouterr().out.splitlines() if line.startswith("->")]
    assert chosen[0].split()[1:] == ["net.layer4", "512", "x", "2", "x", "2"]


def test_layers_of_a_run_are_those_at_its_size(home, capsys):
    assert main(["layers", "runs/plain"]) == 0
    at_32 = capsys.readouterr().out
    assert main(["layers", "runs/plain", "--size", "32"]) == 0
    assert capsys.readouterr().out == at_32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "guided.yaml", "--epochs", "1"], "Settings of a recipe have no dashes: training.epochs=1."),
        (["train", "guided.yaml", "--resumee"], "Did you mean '--resume'?"),
        (["audit", "runs/plain", "--splits", "test"], "Did you mean '--split'"),
    ],
)
def test_options_that_are_none_are_named(home, capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(arguments)
    said = capsys.readouterr().err
    assert message in said
    assert f"usage: sightline {arguments[0]}" in said


def test_an_audit_says_how_many_images_a_score_has(home, capsys):
    (next((home / "data/masks").rglob("*.png"))).unlink()
    assert main(["audit", "runs/plain", "--split", "train", "test", "--out", "fewer"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"ch \d\.\d+ \(n \d+\)", said)
    assert "accuracy" in said
    assert not re.search(r"accuracy \d\.\d+ \(n", said)


def test_an_audit_on_other_backgrounds_ends_with_what_they_cost(home, capsys):
    folder = "{class_path: Folder, init_args: {root: data, size: 32}}"
    data = f"data={{class_path: Swapped, init_args: {{data: {folder}}}}}"
    splits = ["test_same", "test_swapped", "test"]
    assert main(["audit", "runs/plain", "--split", *splits, "--override", data, "--out", "backgrounds"]) == 0
    *audited, last = capsys.readouterr().out.splitlines()
    assert len(audited) == 3
    number = r"-?\d\.\d+"
    assert re.fullmatch(
        rf"lost .*: accuracy {number} \[{number}, {number}\], p .*, from test_same to test_swapped", last
    )


def break_image(home):
    path = home / "data/images/cat/cat02.png"
    path.write_bytes(path.read_bytes()[:200])


def lose_image(home):
    (home / "data/images/cat/cat02.png").unlink()


def resize_mask(home):
    Image.new("L", (30, 32), 255).save(home / "data/masks/dog/dog05.png")


def empty_mask(home):
    Image.new("L", (32, 32), 0).save(home / "data/masks/dog/dog05.png")


def unknown_class(home):
    path = home / "data/splits.csv"
    path.write_text(path.read_text().replace("cat02,cat", "cat02,cta"))


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (break_image, "cat02.png"),
        (lose_image, "cat02"),
        (resize_mask, "dog05.png"),
        (empty_mask, "dog05.png"),
        (unknown_class, "cta"),
    ],
)
def test_bad_data_stops_before_anything_is_trained(home, capsys, breaks, message):
    breaks(home)
    assert message in said(capsys, "train", "guided.yaml", "--out", "runs/new")
    assert not (home / "runs/new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nothing.yaml"], "cannot read the recipe nothing.yaml"),
        (["train", "guided.yaml"], "already holds a run"),
        (["train", "guided.yaml", "optimizr.lr=1", "--out", "n"], "Did you mean 'optimizer'"),
        (["train", "guided.yaml", "objectives.1.layer=net.block9", "--out", "n"], "no layer 'net.block9'"),
        (["audit", "runs/plain", "--layer", "net.blok2"], "Did you mean 'net.block2'"),
        (["audit", "data"], "holds no recipe.yaml"),
        (["audit", "runs/plain", "--split", "tets"], "Did you mean 'test'"),
        (["audit", "torchvision:resnet18"], "pass --data"),
        (["compare", "runs/plain", "data"], "data holds no audit"),
        (["audit", "runs/plane"], "no run directory runs/plane"),
        (["audit", "runs/plain", "--data", "data"], "brings its data, weights and normalisation"),
        (["report", "data"], "no comparison.json, summary.json or matrix.json"),
        (["layers", "torchvision:resnet81"], "Did you mean"),
        (["audit", "runs/plain", "--metrics", "nqh:size=half"], "Expected one of 'double', 'same'"),
        (["audit", "timm:resnet18", "--data", "data"], "pass --out"),
        (["audit", "file:runs/plain", "--data", "data", "--out", "x", "--mean", "0"], "leave mean out"),
        (["audit", "timm:resnet18", "--data", "data", "--override", "data.size=8"], "no recipe to override"),
        (["audit", "runs/plain", "--override", "data.sice=8"], "Did you mean 'size'"),
        (["audit", "runs/plain", "--override", "data.size=24", "model.pool=max"], "as it was trained"),
        (["audit", "runs/plain", "--metrics", "accuracy"], "part of every audit"),
    ],
)
def test_mistakes_are_named(home, capsys, arguments, message):
    assert message in said(capsys, *arguments)


def test_a_model_without_a_spatial_layer(home, capsys):
    (home / "net.py").write_text(
        "from torch import nn\ndef net(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes))\n"
    )
    assert "layer=" in said(capsys, "train", "guided.yaml", "model={spec: 'file:net.py:net'}", "--out", "runs/flat")


def test_audits_of_different_data_are_refused(home, capsys):
    Image.new("RGB", (32, 32), "red").save(home / "data/images/cat/cat00.png")
    assert main(["audit", "runs/guided"]) == 0
    assert "data" in said(capsys, "compare", "runs/plain", "runs/guided", "--split", "test", "--out", "c")
    assert not (home / "c").exists()


def test_a_class_count_that_does_not_fit(home, capsys):
    shutil.copytree(home / "data/images/cat", home / "data/images/cow")
    rows = (home / "data/splits.csv").read_text()
    for file in (home / "data/images/cow").iterdir():
        file.rename(file.with_name(file.name.replace("cat", "cow")))
    (home / "data/splits.csv").write_text(
        rows + "".join(r.replace("cat", "cow") + "\n" for r in rows.splitlines() if r.startswith("cat"))
    )
    assert "classes" in said(capsys, "audit", "runs/guided")


def test_interrupting(home, monkeypatch, capsys):
    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("sightline.compare.compare", stop)
    assert main(["compare", "runs/plain", "runs/guided"]) == 130
    assert "--resume" in capsys.readouterr().err


def test_help_says_defaults_where_there_are_some(capsys):
    with pytest.raises(SystemExit):
        main(["dfr", "--help"])
    said = capsys.readouterr().out
    assert "default: val" in " ".join(said.split())
    assert "None" not in said
