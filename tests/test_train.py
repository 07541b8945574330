"""Training through the library; what a user types is in test_cli.py."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from sightline import recipe
from sightline.data import Habitats
from sightline.errors import SightlineError
from sightline.models import load
from sightline.objectives import CE
from sightline.train import _warn_of_gaps, train

ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
}
COMMAND = [sys.executable, "-m", "sightline"]
CONFIG = {
    "data": {"class_path": "Habitats", "init_args": {"per_digit": 1, "size": 32}},
    "model": {"spec": "sightline:cnn", "arguments": {"filters": [4, 8], "dropout": 0.2}},
    "objectives": ["CE", "CGC", "CFCN", "ContextSwap"],
    "optimizer": {"name": "adamw", "lr": 3e-3},
    "schedule": {"name": "onecycle"},
    "training": {"epochs": 4, "batch_size": 128},
}


class Spoilt(CE):
    """Cross-entropy that turns into NaN, or blows the weights up, at a given step."""

    def __init__(self, at: int, weights_only: bool = False) -> None:
        super().__init__()
        self.at, self.weights_only, self.calls = at, weights_only, 0

    def forward(self, step, batch):
        self.calls += 1
        term = super().forward(step, batch)["ce"]
        if self.calls <= self.at:
            return {"ce": term}
        return {"ce": term + (torch.sqrt(term * 0) if self.weights_only else torch.nan * term)}


@pytest.fixture
def config(tmp_path):
    def read(*overrides, **changes):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(CONFIG | changes))
        return recipe.read(path, overrides)

    return read


def weights(run):
    return load(f"file:{run}").state_dict()


def log(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_directory_holds_everything(config, tmp_path):
    out = train(config("training.epochs=2", "training.log=tensorboard"), tmp_path / "run")
    assert {path.name for path in out.iterdir()} >= {
        "recipe.yaml",
        "run.json",
        "metrics.csv",
        "checkpoint.ckpt",
        "model.safetensors",
        "tensorboard",
    }
    assert not list(out.rglob(".*"))
    record = json.loads((out / "run.json").read_text())
    assert record["finished"]
    assert record["seed"] == 0
    assert len(record["data"]["hash"]) == 64
    assert record["explainers"]["CFCN"] == ["GradCAM(layer='net.block2', elementwise=True)"]
    terms = [row for row in log(out) if row["loss"]]
    assert all(row[name] for row in terms for name in ("ce", "cgc", "cfcn", "swap"))
    assert sum(bool(row["val_accuracy"]) for row in log(out)) == 2


def test_a_recipe_may_come_as_its_file(config, tmp_path):
    one = train(config("training.epochs=1"), tmp_path / "one")
    two = train(one / "recipe.yaml", tmp_path / "two")
    assert all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(two).values(), strict=True))
    with pytest.raises(SightlineError, match="no-such"):
        train(tmp_path / "no-such.yaml", tmp_path / "three")


def test_training_learns_and_a_file_gets_a_line_for_each_epoch(config, tmp_path, capfd):
    out = train(
        config(
            "training.epochs=12",
            "training.batch_size=32",
            "data.correlation=0.95",
            "optimizer.lr=1e-2",
            objectives=["CE"],
        ),
        tmp_path / "run",
    )
    assert float(log(out)[-1]["val_accuracy"]) > 0.5
    lines = capfd.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"epoch {n + 1} of 12" for n in range(12)]
    assert f"val_accuracy {float(log(out)[-1]['val_accuracy']):.4g}" in lines[-1]


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.name=sgd", "optimizer.nesterov=true", "schedule.name=step", "schedule.every=1"],
        ["schedule.name=cosine", "training.precision=bf16", "training.clip=1"],
        ["schedule.name=constant", "training.channels_last=true", "training.workers=1"],
    ],
)
def test_settings(config, tmp_path, overrides):
    out = train(config("training.epochs=1", *overrides), tmp_path / "run")
    assert all(torch.isfinite(value).all() for value in weights(out).values())


def test_an_epochs_last_batches_are_averaged_however_few_they_are(config, tmp_path):
    settings = ("training.epochs=2", "training.batch_size=1000", "optimizer.name=sgd")  # one batch an epoch
    one, four = (train(config(*settings, f"training.accumulate={count}"), tmp_path / str(count)) for count in (1, 4))
    for name, value in weights(one).items():
        assert torch.equal(value, weights(four)[name]), name


def test_guidance_without_masks_is_warned_of(config, tmp_path, caplog):
    train(config("training.epochs=1", "data.mask_fraction=0", objectives=["CE", "CFCN", "CGC"]), tmp_path / "run")
    assert "no training image of Habitats has a mask: CFCN will learn nothing" in caplog.text


def test_what_cannot_be_learned_is_warned_of(config, tmp_path, caplog):
    train(config("training.epochs=1", objectives=["GC", {"class_path": "CGC"}]), tmp_path / "run")
    assert "nothing among GC, CGC teaches the classes: add CE" in caplog.text
    assert "no training image" not in caplog.text


@pytest.mark.parametrize("labels", [[0, 2, 1], [[1, 0, 0], [0, 0, 1], [0, 1, 0]]])
def test_classes_without_a_labelled_image_are_warned_of(caplog, labels):
    data = Habitats(only=["0", "4", "8"], per_digit=1, size=24)
    data.labels, data.has_label, data.has_mask = np.array(labels), np.array([True, True, False]), np.ones(3, bool)
    _warn_of_gaps([CE()], data)
    assert caplog.messages == ["no training image of Habitats shows 4: it cannot be learned."]


def test_no_threads_are_a_mistake(config, tmp_path):
    with pytest.raises(SightlineError, match="threads is 0: expected at least 1"):
        train(config("training.threads=0"), tmp_path / "run")


def test_validation_may_be_rarer(config, tmp_path):
    out = train(config("training.epochs=3", "training.validate_every=2", objectives=["CE"]), tmp_path / "run")
    with (out / "metrics.csv").open() as file:
        assert sum(bool(row["val_loss"]) for row in csv.DictReader(file)) == 1


def test_step_schedule_divides_by_epochs(config, tmp_path):
    out = train(
        config("training.epochs=3", "optimizer.name=sgd", "schedule.name=step", "schedule.every=1", objectives=["CE"]),
        tmp_path / "run",
    )
    state = torch.load(out / "checkpoint.ckpt", weights_only=True)
    assert state["lr_schedulers"][0]["_last_lr"] == [pytest.approx(3e-3 * 0.1**3)]


def test_steps_come_at_milestones_and_the_head_has_its_own_rate(config, tmp_path):
    steps = ("schedule.name=step", "schedule.milestones=[1, 2]", "schedule.gamma=0.5")
    out = train(
        config("training.epochs=3", "optimizer.name=sgd", "optimizer.head_lr=0.2", *steps, objectives=["CE"]),
        tmp_path / "run",
    )
    state = torch.load(out / "checkpoint.ckpt", weights_only=True)
    assert state["lr_schedulers"][0]["_last_lr"] == [pytest.approx(3e-3 / 4), pytest.approx(0.2 / 4)]
    head, rest = (len(group["params"]) for group in state["optimizer_states"][0]["param_groups"][::-1])
    assert (head, rest) == (2, len(weights(out)) - 2 - 3 * 2)


def test_a_rate_for_a_head_that_is_none(config, tmp_path):
    with pytest.raises(SightlineError, match=r"optimizer\.head_lr: this network has no last linear layer"):
        train(config("optimizer.head_lr=1", "model.spec=sightline:cfcn_c"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_interrupted_run_goes_on_to_the_same_bits(config, tmp_path):
    whole = train(config(), tmp_path / "whole")
    part = tmp_path / "part"
    with pytest.raises(SightlineError, match="'ce' is nan at step 25"):
        train(
            config(
                objectives=[{"class_path": "test_train.Spoilt", "init_args": {"at": 25}}, *CONFIG["objectives"][1:]]
            ),
            part,
        )
    (part / "recipe.yaml").write_text((whole / "recipe.yaml").read_text())  # the same run, but for the interruption
    train(config(), part, resume=True)
    assert all(torch.equal(value, weights(part)[name]) for name, value in weights(whole).items())
    assert log(part) == log(whole)


SEMI = {
    "data": {"class_path": "Habitats", "init_args": {"per_digit": 1, "size": 24, "label_fraction": 0.05}},
    "objectives": ["test_train.Watched", {"class_path": "CGC", "init_args": {"on": "unlabelled"}}],
    "training": {"epochs": 2, "batch_size": 16, "unlabelled_batch_size": 8},
}


class Watched(CE):
    """Cross-entropy that notes which images it was shown, and in how many labels."""

    seen: ClassVar[list[tuple[list[int], int]]] = []

    def forward(self, step, batch):
        Watched.seen.append((batch.index.tolist(), int((batch.label >= 0).sum())))
        return super().forward(step, batch)


def test_unlabelled_images_join_each_batch_and_a_resumed_run_draws_the_same(config, tmp_path):
    Watched.seen.clear()
    whole = train(config(**SEMI), tmp_path / "whole")
    batches = Watched.seen[:]
    assert [(len(index), labelled) for index, labelled in batches] == [(24, 16)] * 8  # 65 images show their label
    assert len({i for index, _ in batches[:4] for i in index[:16]}) == 64
    assert batches[0] != batches[4]
    part = tmp_path / "part"
    spoilt = {"class_path": "test_train.Spoilt", "init_args": {"at": 6}}
    with pytest.raises(SightlineError, match="'ce' is nan at step 6"):
        train(config(**SEMI | {"objectives": [spoilt, SEMI["objectives"][1]]}), part)
    (part / "recipe.yaml").write_text((whole / "recipe.yaml").read_text())
    Watched.seen.clear()
    train(config(**SEMI), part, resume=True)
    assert Watched.seen == batches[4:]
    assert all(torch.equal(value, weights(part)[name]) for name, value in weights(whole).items())


@pytest.mark.parametrize(("share", "message"), [(1.0, "every training image shows its label"), (0.0, "no training")])
def test_batches_need_images_with_and_without_a_label(config, tmp_path, share, message):
    with pytest.raises(SightlineError, match=message):
        train(config(f"data.label_fraction={share}", "training.unlabelled_batch_size=8"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nan_stops_names_the_term_and_keeps_the_last_epoch(config, tmp_path):
    spoilt = [{"class_path": "test_train.Spoilt", "init_args": {"at": 15}}]
    with pytest.raises(SightlineError, match=r"'ce' is nan at step 15 \(epoch 1\).*Lower optimizer.lr"):
        train(config(objectives=spoilt), tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoint.ckpt", weights_only=True)
    assert state["global_step"] == 10
    assert all(torch.isfinite(v).all() for v in state["state_dict"].values())
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_weights_that_break_at_the_end_of_an_epoch_never_reach_a_checkpoint(config, tmp_path):
    """The loss is finite, its gradient is not: nothing but the weights shows it."""
    spoilt = [{"class_path": "test_train.Spoilt", "init_args": {"at": 19, "weights_only": True}}]
    with pytest.raises(SightlineError, match="no longer finite after step 20"):
        train(config(objectives=spoilt), tmp_path / "run")
    assert torch.load(tmp_path / "run" / "checkpoint.ckpt", weights_only=True)["global_step"] == 10


def test_run_directories_are_not_mixed_up(config, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(SightlineError, match="nothing to resume"):
        train(config(), out, resume=True)
    assert not out.exists()
    train(config("training.epochs=1"), out)
    with pytest.raises(SightlineError, match="already holds a run"):
        train(config("training.epochs=1"), out)
    with pytest.raises(SightlineError, match=r"another recipe: optimizer.lr: 0.003 -> 0.1"):
        train(config("training.epochs=1", "optimizer.lr=0.1"), out, resume=True)
    before = (out / "model.safetensors").read_bytes()
    train(config("training.epochs=1"), out, resume=True)
    assert (out / "model.safetensors").read_bytes() == before


def test_an_unwritable_run_directory(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SightlineError, match=r"cannot write .*file/run/recipe.yaml.*permissions"):
        train(config(), tmp_path / "file" / "run")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    from sightline.files import whole

    (tmp_path / "kept.txt").write_text("good")

    def fill() -> None:
        with whole(tmp_path / "kept.txt") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("x" * 100_000)

    with pytest.raises(SightlineError, match=r"cannot write .*kept.txt: No space left"):
        fill()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("kept.txt", "good")]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_random_moments_and_resumed_a_run_ends_with_the_same_bits(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(CONFIG | {"training": {"epochs": 8, "batch_size": 64}}))
    base = [*COMMAND, "train", str(tmp_path / "recipe.yaml")]

    def start(out, *more):
        return subprocess.Popen(
            [*base, "--out", str(out), *more], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def wait_for_recipe(out):
        while not (out / "recipe.yaml").exists():
            time.sleep(0.05)

    began = time.monotonic()
    process = start(tmp_path / "whole")
    wait_for_recipe(tmp_path / "whole")
    ready = time.monotonic()
    assert process.wait() == 0, process.stderr.read().decode()
    length = time.monotonic() - ready
    assert ready - began < 120
    for moment in range(3):
        out = tmp_path / f"killed{moment}"
        process = start(out)
        wait_for_recipe(out)
        time.sleep(random.Random(time.time_ns()).uniform(0, length))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        again = start(out, "--resume")
        assert again.wait() == 0, again.stderr.read().decode()
        assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
        assert log(out) == log(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_devices_by_flag(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(CONFIG | {"training": {"epochs": 1, "batch_size": 64}}))
    command = [
        *COMMAND,
        "train",
        str(tmp_path / "recipe.yaml"),
        "--out",
        str(tmp_path / "run"),
        "--devices",
        "2",
        "--accelerator",
        "cpu",
    ]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"]
    assert isinstance(load(f"file:{tmp_path / 'run'}"), nn.Module)
