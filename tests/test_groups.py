"""GroupDRO and JTT: values by hand and by plain loops, what they remember, and what they are told."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch.nn.parallel import DistributedDataParallel

from nets import Residual, double
from processes import of_two
from sightline import Guided, recipe
from sightline.cli import main
from sightline.errors import SightlineError
from sightline.objectives import CE, JTT, GroupDRO
from sightline.objectives.groups import group_means, raised
from sightline.objectives.jtt import upweighted
from sightline.objectives.ranks import mean_over_ranks
from sightline.types import Batch
from test_cli import make_folder

GROUPS = ["b", "a", "b", "", "a", "b", "c", "a"]
"""Numbered "", a, b, c: of 1, 3, 3 and 1 images."""
IDS = [f"i{n}" for n in range(8)]
CORRECT = [1, 0, 1, 1, 1, 0, 1, 1]


def batch(rows=range(8), seed=3):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(8, 3, 12, 12, generator=generator, dtype=torch.float64)
    mask, has_mask = torch.ones(8, 12, 12, dtype=torch.float64), torch.zeros(8, dtype=torch.bool)
    whole = Batch(image, torch.arange(8) % 4, mask, has_mask, torch.arange(8))
    return Batch(*(part[list(rows)] for part in whole))


def dro(**arguments):
    guided = Guided(double(Residual()).eval(), [GroupDRO(**arguments)], 12)
    guided.meet(GROUPS)
    return guided.double()


def q(guided):
    return guided.objectives[0].q


def gradients(loss, guided):
    return list(torch.autograd.grad(loss, list(guided.model.parameters())))


def test_algorithm_1_step_by_step():
    """The paper's update in plain loops, over three steps; the small groups' bonus included."""
    guided, weight = dro(step_size=0.3, adjustment=2.0), dict.fromkeys(["", "a", "b", "c"], 0.25)
    for rows in ([0, 1, 2, 3, 4], [5, 6, 7], range(8)):
        images = batch(rows)
        loss, terms = guided(images)
        each = F.cross_entropy(guided.model(images.image), images.label, reduction="none")
        of_group = {}
        for row, value in zip(rows, each, strict=True):
            of_group.setdefault(GROUPS[row], []).append(value)
        mean = {name: sum(values) / len(values) for name, values in of_group.items()}
        for name, value in mean.items():
            weight[name] *= math.exp(0.3 * (value.item() + 2 / math.sqrt(GROUPS.count(name))))
        weight = {name: value / sum(weight.values()) for name, value in weight.items()}
        expected = sum(weight[name] * value for name, value in mean.items())
        assert q(guided).tolist() == pytest.approx(list(weight.values()), rel=1e-12)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        assert float(terms["group_dro_worst"]) == pytest.approx(max(value.item() for value in mean.values()), rel=1e-12)
        for got, plain in zip(gradients(loss, guided), gradients(expected, guided), strict=True):
            torch.testing.assert_close(got, plain, rtol=1e-10, atol=1e-12)


def test_group_means_by_hand():
    losses, group, known = torch.tensor([1.0, 3.0, 5.0, 7.0]), torch.tensor([2, 2, 0, 2]), torch.ones(4).bool()
    known[3] = False
    mean, count = group_means(losses, group, known, 3)
    assert mean.tolist() == [5, 0, 2]
    assert count.tolist() == [1, 0, 2]


def test_q_by_hand():
    got = raised(torch.tensor([0.5, 0.5]), torch.tensor([2.0, 2.0]), torch.tensor([True, False]), 0.5)
    assert got.tolist() == pytest.approx([math.e / (1 + math.e), 1 / (1 + math.e)])
    assert raised(got, torch.tensor([1e6, 1.0]), torch.tensor([True, True]), 1.0).tolist() == [1, 0]


def test_the_worst_group_comes_to_carry_the_loss():
    guided = dro(step_size=5.0)
    terms = [guided(batch())[1] for _ in range(50)][-1]
    assert float(terms["group_dro"]) == pytest.approx(float(terms["group_dro_worst"]), rel=1e-3)


def test_q_moves_once_a_step_and_never_in_evaluation():
    guided, calls = dro(), []
    guided.objectives[0].register_forward_hook(lambda *_: calls.append(q(guided).clone()))
    guided.eval()(batch())
    assert q(guided).tolist() == [0.25] * 4
    guided.train()(batch())[0].backward()
    assert torch.equal(q(guided), calls[-1])
    assert q(guided).tolist() != [0.25] * 4
    assert not q(guided).requires_grad


def test_unlabelled_images_count_for_nobody():
    images = batch()
    some, known = images._replace(label=images.label.clone()), [0, 1, 4]
    some.label[[2, 3, 5, 6, 7]] = -1
    first, second = dro(), dro()
    assert first(some)[0].item() == pytest.approx(second(batch(known))[0].item(), rel=1e-12)
    torch.testing.assert_close(q(first), q(second))
    nobody = dro()
    loss, terms = nobody(images._replace(label=torch.full_like(images.label, -1)))
    assert loss.item() == float(terms["group_dro_worst"]) == 0
    assert loss.requires_grad
    assert q(nobody).tolist() == [0.25] * 4


def test_multi_label_is_the_mean_over_classes():
    """Groups of one size and a frozen q: GroupDRO is cross-entropy."""
    label = torch.rand(8, 4, dtype=torch.float64).round()
    guided = Guided(double(Residual()).eval(), [GroupDRO()], 12).eval()
    guided.meet(["a", "b"] * 4)
    images = batch()._replace(label=label)
    expected = F.binary_cross_entropy_with_logits(guided.model(images.image), label)
    assert guided(images)[0].item() == pytest.approx(expected.item(), rel=1e-6)


def test_images_without_a_group_form_one_and_that_is_said(caplog):
    dro()
    assert "1 of 8 images have no group" in caplog.text


def test_q_travels_with_the_state():
    first, second = dro(step_size=1.0), dro(step_size=1.0)
    first(batch())
    second.load_state_dict(first.state_dict())
    assert torch.equal(q(first), q(second))
    assert torch.equal(first(batch())[0], second(batch())[0])


def halves(rank):
    """Groups are spread unevenly: rank 1 has no "a", and one image that nobody labelled."""
    rows = batch([0, 1, 3, 4, 7] if rank == 0 else [2, 5, 6])
    if rank == 1:
        rows.label[0] = -1
    return rows


def both():
    """GroupDRO and JTT in one step."""
    second = JTT("unused")
    guided = Guided(double(Residual()).eval(), [GroupDRO(step_size=1.0, adjustment=1.0), second], 12)
    guided.objectives[0].meet(GROUPS)
    second.factor = upweighted(torch.arange(8) % 3 == 0, 5.0)
    return guided.double()


def worker(rank):
    guided = both()
    parallel = DistributedDataParallel(guided)
    parallel(halves(rank))[0].backward()
    guided.zero_grad()
    loss, terms = parallel(halves(rank))
    loss.backward()
    mean = mean_over_ranks(loss.detach())
    return [mean, [p.grad for p in guided.parameters()], q(guided), terms["group_dro_worst"]]


def test_two_processes_equal_one_large_batch(tmp_path):
    """Not only the mean of two: group losses are global, and groups may lie on one process alone."""
    got, _ = of_two(worker, tmp_path)
    guided, whole = both(), Batch(*(torch.cat(parts) for parts in zip(halves(0), halves(1), strict=True)))
    guided(whole)
    loss, terms = guided(whole)
    expected = [loss.detach(), gradients(loss, guided), q(guided), terms["group_dro_worst"]]
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def audited(folder, correct=CORRECT, groups=GROUPS, label="x"):
    """A file of scores as `sightline audit` writes it, its rows in another order than the training set's."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"id": IDS, "index": range(8), "correct": correct, "group": groups}
    rest = {"label": label, "prediction": "x", "confidence": 1.0, "has_mask": 0, "ch": math.nan, "pg": math.nan}
    pd.DataFrame(columns | rest | {"empty_map": 0})[::-1].to_csv(folder / "scores.csv", index=False)
    return folder


def jtt(errors, **arguments):
    guided = Guided(double(Residual()).eval(), [JTT(errors, **arguments)], 12)
    guided.meet(GROUPS, IDS)
    return guided.double()


@pytest.mark.parametrize("place", ["run/audit/train", "elsewhere"])
def test_jtt_is_the_mean_over_the_upsampled_set(tmp_path, place):
    audited(tmp_path / place)
    guided = jtt(tmp_path / place.removesuffix("/audit/train"), upweight=4)
    upsampled = [0, *[1] * 4, 2, 3, 4, *[5] * 4, 6, 7]
    plain = Guided(guided.model, [CE()], 12)(batch(upsampled))[0]
    loss = guided(batch())[0]
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    for got, expected in zip(gradients(loss, guided), gradients(plain, guided), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)
    parts = [guided(batch([row]))[0].item() for row in range(8)]
    assert sum(parts) / 8 == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize(("correct", "which"), [([1] * 8, "no"), ([0] * 8, "every")])
def test_jtt_without_a_difference_is_cross_entropy(tmp_path, caplog, correct, which):
    audited(tmp_path / "errors", correct)
    guided = jtt(tmp_path / "errors")
    assert f"got {which} training image wrong, so JTT is plain CE" in caplog.text
    plain = Guided(guided.model, [CE()], 12)
    torch.testing.assert_close(guided(batch())[0], plain(batch())[0])


def test_jtt_says_which_class_the_first_model_has_not_learned(tmp_path, caplog):
    audited(
        tmp_path / "errors", [1, 0, 0, 1, 0, 0, 1, 0], label=["cat", "cow", "dog", "dog", "cow", "dog", "cat", "dog"]
    )
    jtt(tmp_path / "errors")
    assert "has not learned cow, so that" in caplog.text


def test_jtt_leaves_unlabelled_images_out(tmp_path):
    audited(tmp_path / "errors")
    guided, images = jtt(tmp_path / "errors"), batch()
    images.label[[1, 2]] = -1
    kept = [0, 3, 4, 5, 6, 7]
    torch.testing.assert_close(guided(images)[0], guided(batch(kept))[0])


def test_jtt_does_not_count_images_that_nobody_labelled(tmp_path, caplog):
    audited(tmp_path / "errors", correct=[1, 1, 1, 0, 0, 0, 0, 0])
    objective = JTT(tmp_path / "errors", upweight=20)
    objective.meet(GROUPS, IDS, [True] * 4 + [False] * 4)
    torch.testing.assert_close(objective.factor[:4], torch.tensor([1.0, 1, 1, 20]) / (23 / 4))
    assert not caplog.text
    objective.meet(GROUPS, IDS, [True] * 3 + [False] * 5)
    assert objective.factor[:3].tolist() == [1, 1, 1]
    assert "got no training image wrong" in caplog.text


def test_the_adjustment_counts_images_with_a_label():
    objective = met(GroupDRO(adjustment=1.0))
    objective.meet(GROUPS, IDS, [name != "" for name in GROUPS])
    assert objective.size.tolist() == [0, 3, 3, 1]
    assert torch.isfinite(Guided(double(Residual()).eval(), [objective], 12).double()(batch())[0])


def test_group_means_are_the_same_under_autocast():
    losses, group = torch.rand(64), torch.arange(64) % 3
    expected = group_means(losses, group, group >= 0, 3)[0]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(group_means(losses, group, group >= 0, 3)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("groups", [[0, 1] * 4, torch.tensor([0, 1] * 4), np.array([0, 1] * 4), ["0", "1"] * 4])
def test_groups_may_be_numbers(groups, caplog):
    guided = Guided(double(Residual()).eval(), [GroupDRO()], 12)
    guided.meet(groups)
    assert guided.objectives[0].group.tolist() == [0, 1] * 4
    assert not caplog.text
    guided.meet([None, 1] * 4)
    assert "4 of 8 images have no group" in caplog.text


def test_a_state_before_the_training_set_is_met_is_refused():
    state = dro().state_dict()
    with pytest.raises(SightlineError, match=r"state of GroupDRO .* call guided\.meet\(groups, ids\) ahead"):
        Guided(double(Residual()).eval(), [GroupDRO()], 12).load_state_dict(state)


@pytest.mark.parametrize("ignored", [-1, -100])
def test_any_negative_label_is_none(ignored):
    images = batch()
    images.label[[1, 2]] = ignored
    kept = [0, 3, 4, 5, 6, 7]
    assert dro()(images)[0].item() == pytest.approx(dro()(batch(kept))[0].item(), rel=1e-12)


def met(objective, groups=GROUPS, ids=IDS):
    objective.meet(groups, ids)
    return objective


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: met(GroupDRO(), [""] * 8), "GroupDRO needs groups.*or use JTT"),
        (lambda: GroupDRO(step_size=-1), "GroupDRO.step_size is -1"),
        (lambda: GroupDRO(adjustment=math.nan), "GroupDRO.adjustment is nan"),
        (lambda: Guided(Residual().double(), [GroupDRO()], 12)(batch()), "GroupDRO was told of 0 .*guided.meet"),
        (lambda: Guided(Residual().double(), [JTT("x")], 12)(batch()), "JTT was told of 0 training images"),
        (lambda: JTT("x", upweight=0.5), "JTT.upweight is 0.5"),
        (lambda: met(JTT("nowhere")), "nowhere holds no audit of the training split.*--split train"),
        (lambda: met(JTT(audited("fewer")), GROUPS[1:], IDS[1:]), "other images than the 7 .* 8, of which 7"),
        (lambda: met(JTT(audited("none")), ids=()), "other images than the 0"),
        (
            lambda: met(JTT(audited("other", groups=[*GROUPS[:-1], "b"]))),
            "scored other images than the 8 this run trains on: 8, of which 8 share an id",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(SightlineError, match=message):
        make()


RECIPE = {
    "data": {"class_path": "Habitats", "init_args": {"per_digit": 1, "size": 24, "mask_fraction": 0.1}},
    "model": {"spec": "sightline:cnn", "arguments": {"filters": [4, 8]}},
    "objectives": ["CE"],
    "training": {"epochs": 2, "batch_size": 128},
}


def config(tmp_path, objective, **arguments):
    objectives = [{"class_path": objective, "init_args": arguments}]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"objectives": objectives}))
    return recipe.read(tmp_path / "recipe.yaml")


def test_jtt_from_recipe_to_run(tmp_path, capsys):
    """Both stages by the command line, without a mask; the second can be audited when the first is gone."""
    from sightline.train import Module  # not above, where the processes of the test before would import it

    make_folder(tmp_path / "data")
    data = {"class_path": "Folder", "init_args": {"root": "data", "size": 32, "mask_fraction": 0.0}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"data": data, "training": {"epochs": 1}}))
    second = ["train", "recipe.yaml", "objectives=[{class_path: JTT, init_args: {errors: first}}]", "--out", "second"]
    assert main(["train", "recipe.yaml", "--out", "first"]) == 0
    assert main(second) == 1
    assert "first holds no audit of the training split" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()
    assert main(["audit", "first", "--split", "train"]) == 0
    assert main(second) == 0
    made = recipe.build(recipe.read("second/recipe.yaml"))
    scores = pd.read_csv("first/audit/train/scores.csv", index_col="id").loc[list(made.data.ids)]
    wrong = torch.tensor(scores["correct"].to_numpy() == 0)
    assert 0 < wrong.sum() < len(wrong) == 8
    assert torch.equal(Module(made).guided.objectives[0].factor, upweighted(wrong, 20.0))
    (tmp_path / "first").rename(tmp_path / "gone")
    assert main(["audit", "second"]) == 0


def test_group_dro_goes_on_where_it_was_interrupted(tmp_path):
    """q is part of the checkpoint, and the groups are those of the training split whatever split the recipe names."""
    from sightline.train import train

    whole = train(config(tmp_path, "GroupDRO", step_size=0.5), tmp_path / "whole")
    spoilt = [{"class_path": "test_groups.Stopped", "init_args": {"at": 15, "step_size": 0.5}}]
    (tmp_path / "part.yaml").write_text(yaml.safe_dump(RECIPE | {"objectives": spoilt}))
    with pytest.raises(SightlineError, match="stopped here"):
        train(recipe.read(tmp_path / "part.yaml", ["data.split=val"]), tmp_path / "part")
    (tmp_path / "part/recipe.yaml").write_text((whole / "recipe.yaml").read_text())
    train(config(tmp_path, "GroupDRO", step_size=0.5), tmp_path / "part", resume=True)
    ends = [
        torch.load(tmp_path / run / "checkpoint.ckpt", weights_only=True)["state_dict"] for run in ("whole", "part")
    ]
    assert ends[0]["guided.objectives.0.q"].std() > 0
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


class Stopped(GroupDRO):
    """GroupDRO that fails in the middle of the second epoch."""

    def __init__(self, at: int, step_size: float) -> None:
        super().__init__(step_size)
        self.at = at

    def forward(self, step, batch):
        self.at -= 1
        if self.at < 0:
            raise SightlineError("stopped here")
        return super().forward(step, batch)
