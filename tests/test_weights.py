"""Weights that vary: by themselves, in `Guided`, in recipes and in training; and what training does around a loss."""

import csv
import math

import pytest
import torch
import yaml

from nets import Deep, double
from processes import of_two
from sightline import Guided, recipe
from sightline.errors import SightlineError
from sightline.models import load
from sightline.objectives import CE, CFCN, Balanced, Objective, Scheduled
from test_objectives import batch

STEPS, RAMP = Scheduled([1, 3], [2, 8]), Scheduled([1, 3], [2, 8], ramp=True)
NET = """
from torch import nn

def build(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
"""
CONFIG = {
    "data": {"class_path": "Habitats", "init_args": {"per_digit": 1, "size": 24}},
    "model": {"spec": "file:net.py:build"},
    "objectives": ["CE", {"class_path": "CFCN", "init_args": {"variant": "F"}}],
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0, "weight_decay": 0},
    "schedule": {"name": "constant"},
    "training": {"epochs": 1, "batch_size": 64},
}


class Size(Objective):
    """The mean absolute logit, times a number: a term of any size. Term: "size"."""

    def __init__(self, weight, factor=1.0):
        super().__init__()
        self.weights, self.factor = {"size": weight}, factor

    def forward(self, step, batch):
        return {"size": step.run(batch.image).logits.abs().mean() * self.factor}


@pytest.fixture
def read(tmp_path):
    (tmp_path / "net.py").write_text(NET)

    def with_changes(*overrides, **changes):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(CONFIG | changes))
        return recipe.read(tmp_path / "recipe.yaml", overrides)

    return with_changes


@pytest.fixture
def train():
    # Not above: processes that a test starts import this file, and Lightning would take each of them seconds.
    from sightline.train import train

    return train


def scheduled(**arguments):
    return {"class_path": "Scheduled", "init_args": arguments}


def rows(run):
    with (run / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file) if row["loss"]]


def weights(run):
    return flat(load(f"file:{run}"))


def start(config):
    """The weights that a run begins with."""
    torch.manual_seed(config.seed)
    return flat(recipe.build(config).classifier())


def flat(model):
    return torch.cat([value.flatten() for value in model.parameters()]).detach()


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (STEPS, {0: 2, 0.9: 2, 1: 2, 2.99: 2, 3: 8, 100: 8}),
        (RAMP, {0: 2, 1: 2, 1.5: 3.5, 2: 5, 3: 8, 100: 8}),
        (Scheduled([0, 20], [1, 100]), {0: 1, 19.9: 1, 20: 100}),
        (Scheduled([5], [3]), {0: 3, 9: 3}),
        (Scheduled([5], [3], ramp=True), {0: 3, 9: 3}),
        (Scheduled([0, 2, 4], [0, 1, 0], ramp=True), {1: 0.5, 2: 1, 3: 0.5, 4: 0, 5: 0}),
    ],
)
def test_scheduled_by_hand(weight, expected):
    assert {epoch: weight.at("x", {}, epoch) for epoch in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scheduled([], []), r"Scheduled\(epochs=\[\].*at least one"),
        (lambda: Scheduled([0, 1], [1]), "as many values as epochs"),
        (lambda: Scheduled([0, 0], [1, 2]), "ascend"),
        (lambda: Scheduled([2, 1], [1, 2]), "ascend"),
        (lambda: Scheduled([0, math.nan], [1, 2]), "ascend"),
        (lambda: Scheduled([0], [-1]), "'values' is -1: expected a finite number that is not negative"),
        (lambda: Scheduled([0], [math.inf]), "finite"),
        (lambda: Balanced(-1), "'ratio' is -1"),
        (lambda: Balanced(math.nan), "finite"),
        (lambda: STEPS.at("cfcn", {}, None), "'cfcn' is scheduled.*set guided.epoch"),
        (lambda: Balanced().at("cfcn", {"cfcn": torch.ones(())}, None), "to='ce'.*'cfcn': .*no such term, only cfcn"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(SightlineError, match=message):
        make()


def test_guided_weighs_by_the_epoch_it_is_told():
    guided = Guided(double(Deep()), [CE(), Size(RAMP)], 12)
    with pytest.raises(SightlineError, match="'size' is scheduled"):
        guided(batch())
    for epoch, weight in {0: 2, 2: 5, 7: 8}.items():
        guided.epoch = epoch
        loss, terms = guided(batch())
        assert loss.item() == pytest.approx(float(terms["ce"] + weight * terms["size"]))


@pytest.mark.parametrize("factor", [1e-4, 1.0, -300.0])
def test_balanced_makes_a_term_a_share_of_cross_entropy(factor):
    """Whatever the size of the term, and without a gradient through the weight."""
    model = double(Deep())
    loss, terms = Guided(model, [CE(), Size(Balanced(0.25), factor)], 12)(batch())
    extra = loss - terms["ce"]
    assert extra.abs().item() == pytest.approx(0.25 * terms["ce"].item())
    weight = 0.25 * terms["ce"] / terms["size"].abs()
    expected, _ = Guided(model, [CE(), Size(weight.item(), factor)], 12)(batch())
    for own, plain in zip(*(torch.autograd.grad(x, list(model.parameters())) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(own, plain)


def test_balanced_gives_a_term_of_zero_no_weight():
    model = double(Deep())
    loss, terms = Guided(model, [CE(), Size(Balanced(), 0.0)], 12)(batch())
    loss.backward()
    assert loss.item() == terms["ce"].item()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_balanced_to_another_term():
    loss, terms = Guided(double(Deep()), [CE(), CFCN("F"), Size(Balanced(2, to="cfcn"))], 12)(batch())
    assert loss.item() == pytest.approx(float(terms["ce"] + 3 * terms["cfcn"]))


def share(rank):
    terms = {"x": torch.tensor([0.0, 4.0][rank]), "ce": torch.tensor([5.0, 7.0][rank])}
    return Balanced(0.5).at("x", terms, None), terms


def test_processes_share_one_balance(tmp_path):
    """Sizes are means over processes, so that all weigh alike, and a process whose own term is 0 too."""
    found = of_two(share, tmp_path)
    assert [weight.item() for weight, _ in found] == [0.5 * 6 / 2] * 2
    assert [terms["x"].item() for _, terms in found] == [0, 4]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (3, 3.0),
        ("3e-1", 0.3),
        (scheduled(epochs=[1, 3], values=[2, 8]), STEPS),
        (scheduled(epochs=[1, 3], values=[2, 8], ramp=True), RAMP),
        ({"class_path": "Balanced", "init_args": {"ratio": 0.5, "to": "cgc"}}, Balanced(0.5, "cgc")),
        ("Balanced", Balanced()),
    ],
)
def test_recipes_take_weights_that_vary(read, tmp_path, given, expected):
    config = read(objectives=["CE", {"class_path": "CFCN", "init_args": {"weight": given}}])
    assert recipe.build(config).objectives[1].weights == {"cfcn": expected}
    text = recipe.dump(config)
    (tmp_path / "again.yaml").write_text(text)
    again = recipe.read(tmp_path / "again.yaml")
    assert recipe.dump(again) == text
    assert recipe.build(again).objectives[1].weights == {"cfcn": expected}


def test_overrides_reach_into_a_weight(read):
    objectives = ["CE", {"class_path": "CFCN", "init_args": {"weight": scheduled(epochs=[1, 3], values=[2, 4])}}]
    made = recipe.build(read("objectives.1.weight.values.1=8", "objectives.1.weight.ramp=true", objectives=objectives))
    assert made.objectives[1].weights == {"cfcn": RAMP}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": [3, 1], "values": [1, 2]}, r"^recipe: Scheduled\(epochs=\[3.0, 1.0\].*ascend\.$"),
        ({"epochs": [0], "values": [-1]}, "^recipe: Scheduled: the weight of 'values' is -1.0: expected a finite"),
        ({"epoch": [0], "values": [1]}, "Option 'epoch' is not accepted.*Did you mean 'epochs'"),
        ({"epochs": [0], "values": ["x"]}, "Got value: x"),
    ],
)
def test_mistakes_in_a_recipes_weight_are_named(read, arguments, message):
    with pytest.raises(SightlineError, match=message):
        recipe.build(read(objectives=[{"class_path": "CE", "init_args": {"weight": scheduled(**arguments)}}]))


def test_training_tells_the_epoch_and_resumes_with_the_same_schedule_only(read, train, tmp_path):
    def changed(later):
        weight = scheduled(epochs=[0, 1], values=[0, later])
        return read("training.epochs=2", objectives=["CE", {"class_path": "CFCN", "init_args": {"weight": weight}}])

    out = train(changed(10), tmp_path / "run")
    logged = rows(out)
    assert {row["epoch"] for row in logged} == {0, 1}
    for row in logged:
        assert row["loss"] == pytest.approx(row["ce"] + 10 * row["epoch"] * row["cfcn"], rel=1e-5)
    assert train(changed(10), out, resume=True) == out
    with pytest.raises(SightlineError, match="begun with another recipe: objectives"):
        train(changed(20), out, resume=True)


def test_two_accumulated_batches_are_one_of_double_size(read, train, tmp_path):
    """Without BatchNorm, losses that are means over images leave the same weights up to rounding."""
    # A small share: where maps are nearly 0 their quotient is steep, and magnifies rounding from step to step.
    shares = "objectives.1.weight=0.01", "objectives.0.smoothing=0.1"
    whole = weights(train(read(*shares), tmp_path / "whole"))
    half = weights(train(read(*shares, "training.batch_size=32", "training.accumulate=2"), tmp_path / "half"))
    torch.testing.assert_close(half, whole, rtol=1e-4, atol=1e-5)
    assert (whole - start(read())).abs().max() > 1e-2


def test_clipping_bounds_every_step(read, train, tmp_path):
    config = read("training.clip=0.01")
    moved = (weights(train(config, tmp_path / "clipped")) - start(config)).norm()
    free = (weights(train(read(), tmp_path / "free")) - start(config)).norm()
    steps = torch.load(tmp_path / "clipped" / "checkpoint.ckpt", weights_only=True)["global_step"]
    assert 0 < moved <= steps * 0.1 * 0.01 * 1.001
    assert free > 2 * moved
