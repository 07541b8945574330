"""Audits with any explainers and metrics in one pass, of one class per image and of several; what they leave behind."""

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sightline import audit as audits
from sightline.audit import Subject, _others, audit
from sightline.compare import compare
from sightline.data import Folder, Source
from sightline.errors import SightlineError
from sightline.explainers import RISE, WBP, GradCAM, Gradient
from sightline.metrics import (
    FGSM,
    NQH,
    CompositeAccuracy,
    ContentHeatmap,
    IoU,
    PerImage,
    PointingGame,
    content_heatmap,
)
from sightline.models import last_linear, load
from sightline.passes import record
from sightline.scores import read_scores
from sightline.types import Batch, Evidence


class Blocks(Source):
    """A bright block on noise for each class an image has: red above, green on the left below, blue on the right."""

    name = "Blocks"
    splits = ("test",)
    classes = ("red", "green", "blue")
    size = (16, 16)
    channels = 3

    def __init__(self, labels: object, split: str = "test") -> None:
        super().__init__(split, 1.0, 0)
        self.labels = np.asarray(labels)
        self.ids = tuple(f"{i:03}" for i in range(len(self.labels)))
        self.groups = np.array([f"g{i % 2}" for i in range(len(self.labels))])
        self.has_mask = np.arange(len(self.labels)) % 5 != 4
        self.has_label = np.ones(len(self.labels), bool)

    def read(self, index):
        image = np.random.default_rng(index).integers(0, 80, (16, 16, 3), np.uint8)
        mask = np.zeros((3, 16, 16), np.uint8)
        for label in np.flatnonzero(self._has(index)):
            where = [np.s_[2:6, 3:12], np.s_[9:14, 1:6], np.s_[9:14, 9:14]][label]
            image[(*where, label)], mask[(label, *where)] = 250, 1
        return image, mask if self.labels.ndim > 1 else mask[self.labels[index]]

    def _has(self, index):
        label = self.labels[index]
        return label if self.labels.ndim > 1 else np.arange(3) == label

    def __getitem__(self, index):
        image, mask = self.read(index)
        shown = bool(self.has_mask[index])
        return Batch(
            torch.from_numpy(np.moveaxis(image, -1, 0) / np.float32(255)),
            torch.as_tensor(self.labels[index]),
            torch.from_numpy(mask).float() if shown else torch.ones(mask.shape),
            torch.tensor(shown),
            torch.tensor(index),
        )


SEVERAL = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 0]], np.float32)


@pytest.fixture
def subject():
    torch.manual_seed(0)
    return Subject(load("sightline:cnn", num_classes=3, filters=[6, 8]), "run", "cnn")


@pytest.fixture
def single():
    return Blocks(np.arange(11) % 3)


def test_each_explainer_has_columns_of_its_own(subject, single, tmp_path):
    explainers = (GradCAM(), WBP(), GradCAM(elementwise=True))
    summary = audit(subject, single, tmp_path / "all", explainers=explainers, batch_size=4)
    frame = read_scores(tmp_path / "all")
    assert list(summary["explainers"]) == ["GradCAM", "WBP", "GradCAM-2"]
    for explainer, suffix in zip(explainers, ("", "@WBP", "@GradCAM-2"), strict=True):
        audit(subject, single, tmp_path / "alone", explainers=[explainer])
        alone = read_scores(tmp_path / "alone")
        for name in ("ch", "pg", "empty_map"):
            np.testing.assert_allclose(frame[f"{name}{suffix}"], alone[name], rtol=1e-5)
    assert summary["metrics"]["ch@WBP"]["n"] == single.has_mask.sum()
    assert summary["scored_by"]["pg"].startswith("PointingGame(margin=0.53")


@pytest.mark.parametrize(("layer", "coarse"), [("net.block1", False), ("net.block3", True)])
def test_maps_of_few_cells_are_warned_of(single, tmp_path, caplog, layer, coarse):
    deep = Subject(load("sightline:cnn", num_classes=3, filters=[4, 4, 4], strides=[2, 2, 2]), "deep", "cnn")
    audit(deep, single, tmp_path, explainers=[GradCAM(layer)])
    assert ("deep: the maps of GradCAM are 2 x 2, too coarse" in caplog.text) == coarse


def test_one_answer_to_everything_is_warned_of(subject, single, tmp_path, caplog):
    with torch.no_grad():
        subject.model.get_parameter(f"{last_linear(subject.model)}.bias")[1] += 100
    found = audit(subject, single, tmp_path)["one_answer"]
    share = float((single.labels == 1).mean())
    assert found == {"class": single.classes[1], "share": 1, "own": share}
    assert f"run answers 'green' to 100 % of the images of {single.split}, whatever they show: 36 % are" in caplog.text


def test_a_metric_may_come_twice(subject, single, tmp_path):
    metrics = [PointingGame(0), PointingGame(8), ContentHeatmap("zero")]
    summary = audit(subject, single, tmp_path, metrics=metrics)
    assert list(summary["scored_by"]) == ["pg", "pg-2", "ch"]
    assert summary["metrics"]["pg"]["value"] < summary["metrics"]["pg-2"]["value"]


class Images(PerImage):
    """Counts how often it is asked, and keeps what it is given."""

    key = "images"
    of_map = False
    needs = ("image", "predict", "others")

    def score(self, evidence):
        self.seen = evidence
        assert torch.equal(evidence.predict(evidence.image), evidence.logits)
        return evidence.image.flatten(1).mean(1)


def test_a_metric_without_a_map_runs_once_for_all_explainers(subject, single, tmp_path):
    metric = Images()
    summary = audit(subject, single, tmp_path, explainers=(GradCAM(), Gradient()), metrics=[metric])
    assert {"images"} == {name for name in summary["metrics"] if name.startswith("images")}
    assert len(metric.index) == 1
    for i, others in enumerate(metric.seen.others):
        assert len(others) == 3
        same = [j for j in range(11) for other in others if torch.equal(single[j].image, other)]
        assert len(same) == 3
        assert (single.labels[same] != single.labels[i]).all()
        assert metric.seen.present[i].nonzero().flatten().tolist() == sorted({*single.labels[[i, *same]]})


def test_others_of_several_labels_share_none():
    data = Blocks(SEVERAL)
    found = _others(data, torch.tensor([2, 4]))
    for i, others, there in zip((2, 4), found["others"], found["present"], strict=True):
        shown = [i, *(j for j in range(7) for other in others if torch.equal(data[j].image, other))]
        assert len(shown) == 4
        assert not SEVERAL[shown[1:]][:, SEVERAL[i] > 0].any()
        assert there.tolist() == (SEVERAL[shown] > 0).any(0).tolist()


def test_the_class_is_sought_in_composites_by_hand(subject, tmp_path):
    data, seen, metric = Blocks(np.arange(11) % 2 * 2), Images(), CompositeAccuracy()  # green is nowhere
    audit(subject, data, tmp_path, metrics=[seen, metric])
    expected = []
    for i, others in enumerate(seen.seen.others):
        a, b, c, d = (torch.stack([data[i].image, *others])[j] for j in metric._layouts(torch.tensor([i]))[0])
        grid = torch.cat([torch.cat([a, b], 2), torch.cat([c, d], 2)], 1)
        with torch.no_grad():
            red, green, blue = subject.model.eval()(grid[None])[0].tolist()
        expected.append((blue if i % 2 else red) > green)
    assert read_scores(tmp_path).composite_accuracy.tolist() == expected
    assert 0 < sum(expected) < 11


def test_others_depend_on_the_image_alone(subject, single, tmp_path):
    found = []
    for size in (3, 11):
        metric = Images()
        audit(subject, single, tmp_path, metrics=[metric], batch_size=size)
        found.append(metric.seen.others[-1])
    assert torch.equal(*found)


def test_kept_maps_are_of_the_same_network_and_size(tmp_path):
    """Neither pool nor normalisation is among the weights, nor the size in the files."""
    for number in range(4):
        path = tmp_path / f"images/test/{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)).save(path)

    def fresh_and_kept(size=32, **changes):
        torch.manual_seed(0)
        model = load("sightline:cnn", num_classes=2, filters=[6, 8], **changes)
        on, subject = Folder(str(tmp_path / "images"), "test", size=size), Subject(model, "run", "cnn")
        return [
            audit(subject, on, tmp_path / "out", metrics=[NQH()], maps=maps)["metrics"]["nqh"]
            for maps in (None, tmp_path / "maps", tmp_path / "maps")
        ]

    found = [fresh_and_kept(), fresh_and_kept(pool="max"), fresh_and_kept(mean=[0.2] * 3), fresh_and_kept(size=16)]
    assert len({fresh["value"] for fresh, *_ in found}) == 4
    for fresh, made, again in found:
        assert made == again
        assert made["value"] == pytest.approx(fresh["value"], abs=1e-3)
    assert len(list((tmp_path / "maps").iterdir())) == 4


def test_maps_are_kept_and_found_again(subject, single, tmp_path, monkeypatch):
    first = audit(subject, single, tmp_path / "a", explainers=(WBP(), GradCAM()), maps=tmp_path / "maps", batch_size=4)
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "maps").iterdir()) == ["GradCAM", "WBP"]
    taken = []
    monkeypatch.setattr(audits, "record", lambda *a, **k: taken.append((k["taps"], k["ruled"])) or record(*a, **k))
    second = audit(subject, single, tmp_path / "b", explainers=(WBP(), GradCAM()), maps=tmp_path / "maps")
    assert taken == [({}, False)]
    assert first["metrics"] == second["metrics"]
    with torch.no_grad():
        next(subject.model.parameters()).add_(0.1)
    audit(subject, single, tmp_path / "b", explainers=(WBP(),), maps=tmp_path / "maps")
    assert len(list((tmp_path / "maps").iterdir())) == 3


def test_maps_are_whole_or_absent(subject, single, tmp_path, monkeypatch):
    def broken(*_):
        raise SightlineError("gone")

    monkeypatch.setattr(ContentHeatmap, "score", broken)
    with pytest.raises(SightlineError, match="gone"):
        audit(subject, single, tmp_path / "a", maps=tmp_path / "maps", batch_size=4)
    assert list((tmp_path / "maps").iterdir()) == []


def test_damaged_maps_are_named(subject, single, tmp_path):
    audit(subject, single, tmp_path / "a", maps=tmp_path / "maps")
    (file,) = tmp_path.glob("maps/*/maps.npy")
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(SightlineError, match=r"maps\.npy.*Delete the folder"):
        audit(subject, single, tmp_path / "a", maps=tmp_path / "maps")


def test_every_class_of_a_multilabel_image_is_explained(subject, tmp_path):
    data = Blocks(SEVERAL)
    summary = audit(subject, data, tmp_path, batch_size=3)
    frame = read_scores(tmp_path).set_index("id")
    assert list(frame.index) == [
        "000#red", "000#blue", "001", "002#green", "003#red", "003#green", "003#blue", "004#red", "005#blue",
        "006#red", "006#green",
    ]  # fmt: skip
    model = subject.model.eval()
    for row, image, label in (("003#green", 3, 1), ("000#blue", 0, 2), ("006#red", 6, 0)):
        batch = data[image]
        run = record(model, batch.image[None], taps=("net.block2",))
        map = GradCAM("net.block2", elementwise=True)(run, torch.tensor([label]))
        expected = content_heatmap(map.detach(), batch.mask[[label]])
        assert frame.ch[row] == pytest.approx(float(expected), rel=1e-4, nan_ok=True)
        assert frame.confidence[row] == pytest.approx(float(run.logits[0, label].detach().sigmoid()), rel=1e-5)
    assert np.isnan(frame.ch["001"])
    assert np.isnan(frame.ch["004#red"])  # no mask
    assert "accuracy" not in summary["metrics"]


def test_multilabel_decisions_are_counted_per_image(subject, tmp_path):
    from sklearn.metrics import f1_score, roc_auc_score

    data = Blocks(SEVERAL)
    metrics = audit(subject, data, tmp_path)["metrics"]
    with torch.no_grad():
        logits = subject.model.eval()(torch.stack([data[i].image for i in range(7)])).numpy()
    for name, average in (("f1_per_class", "macro"), ("f1_overall", "micro")):
        expected = f1_score(SEVERAL, logits > 0, average=average, zero_division=0)
        assert metrics[name]["value"] == pytest.approx(expected)
    assert metrics["auroc"]["value"] == pytest.approx(roc_auc_score(SEVERAL, logits))
    assert metrics["f1_overall"]["n"] == 7


def test_multilabel_audits_can_be_compared(subject, tmp_path):
    other = Subject(load("sightline:cnn", num_classes=3, filters=[6, 8]), "other", "cnn")
    for one in (subject, other):
        audit(one, Blocks(SEVERAL), tmp_path / one.name)
    found = compare([tmp_path / "run", tmp_path / "other"], tmp_path / "compared")
    different = found["differences"]["other"]
    assert set(different) == {"f1_per_class", "f1_overall", "auroc", "ch", "pg"}
    assert (different["pg"]["test"], different["pg"]["n"]) == (
        "paired bootstrap",
        5,
    )  # images, two of which have no mask


def test_metrics_may_serve_one_audit_after_the_other(single, tmp_path):
    """Of a map, and of none."""
    made = [load("sightline:cnn", num_classes=3, filters=[6, 8]) for _ in range(2)]
    subjects = [Subject(model, f"run{number}", "cnn") for number, model in enumerate(made)]
    shared = [ContentHeatmap(), FGSM(epsilons=[32])]
    shared[0].update(
        Evidence(*[torch.ones(2, 4, 4)] * 2, torch.ones(2).bool(), torch.zeros(2, 3), *[torch.arange(2)] * 2)
    )
    for subject in subjects:
        again = audit(subject, single, tmp_path, metrics=shared)["metrics"]
        assert again == audit(subject, single, tmp_path, metrics=[ContentHeatmap(), FGSM(epsilons=[32])])["metrics"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"target": "predicted"}, "target='predicted'.*Did you mean 'prediction'"), ({"file": "json"}, "file='json'")],
)
def test_words_are_checked_ahead_of_all_work(subject, single, tmp_path, arguments, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(SightlineError, match=message):
        audit(subject, single, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_class_may_be_ruled_out(subject, single, tmp_path):
    with torch.no_grad():
        subject.model.get_parameter(f"{last_linear(subject.model)}.bias")[1] = -float("inf")
    assert audit(subject, single, tmp_path, metrics=[CompositeAccuracy()])["metrics"]["accuracy"]["n"] == 11


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_a_model_that_answers_nan_is_refused(subject, single, tmp_path, damage):
    with torch.no_grad():
        subject.model.get_parameter(f"{last_linear(subject.model)}.bias")[1] = damage
    with pytest.raises(SightlineError, match="answers NaN or infinity to Blocks/test/000: its training has diverged"):
        audit(subject, single, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_maps_that_are_not_finite_are_refused(subject, single, tmp_path):
    class Broken(Gradient):
        def __call__(self, run, target=None, *, differentiable=False):
            maps = super().__call__(run, target)
            return maps.where(maps != maps[2], float("nan"))

    with pytest.raises(SightlineError, match="Broken draws NaN or infinity for '002'"):
        audit(subject, single, tmp_path / "out", explainers=[GradCAM(), Broken()])
    assert not (tmp_path / "out").exists()


def test_a_model_may_come_by_itself(subject, single, tmp_path):
    told, alone = audit(subject, single, tmp_path / "a"), audit(subject.model, single, tmp_path / "b")
    assert told["metrics"] == alone["metrics"]
    assert alone["run"] == type(subject.model).__name__


def test_explainers_and_metrics_may_be_words(subject, single, tmp_path):
    words = audit(subject, single, tmp_path / "a", explainers=["WBP"], metrics=["ch", "pg:margin=1", "iou"])
    objects = [ContentHeatmap(), PointingGame(margin=1), IoU()]
    assert words["metrics"] == audit(subject, single, tmp_path / "b", explainers=[WBP()], metrics=objects)["metrics"]
    with pytest.raises(SightlineError, match="there is no metric 'chh'"):
        audit(subject, single, tmp_path / "c", metrics=["chh"])


def test_data_that_are_no_source_are_refused(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(SightlineError, match=r"data=list.*subclass Source"):
        audit(subject, [1, 2], tmp_path)


def test_no_metrics_leave_the_decisions(subject, single, tmp_path):
    found = audit(subject, single, tmp_path, metrics=[])
    assert found["metrics"]["accuracy"]["n"] == 11
    assert "ch" not in found["metrics"]


def test_what_cannot_be_audited_is_refused(subject, single, tmp_path):
    with pytest.raises(SightlineError, match="Pass one explainer or more"):
        audit(subject, single, tmp_path, explainers=[])
    with pytest.raises(SightlineError, match="multi-label: its maps can only be of the labels"):
        audit(subject, Blocks(SEVERAL), tmp_path, target="prediction")
    with pytest.raises(SightlineError, match="multi-label: Images needs one class per image"):
        audit(subject, Blocks(SEVERAL), tmp_path, metrics=[Images()])
    with pytest.raises(SightlineError, match="1 images of Blocks are unlabelled"):
        audit(subject, Blocks([0, -1, 2]), tmp_path)
    with pytest.raises(SightlineError, match="shares no class with it"):
        audit(subject, Blocks([0, 0]), tmp_path, metrics=[Images()])


def test_a_metric_says_what_it_misses():
    one = torch.ones(1)
    evidence = Evidence(
        torch.zeros(1, 2, 2), torch.ones(1, 2, 2), one.bool(), torch.zeros(1, 3), one.long(), one.long()
    )
    with pytest.raises(
        SightlineError, match=r"Images needs Evidence\.image and Evidence\.predict and Evidence\.others"
    ):
        Images().update(evidence)


def test_the_model_is_left_as_it_was(subject, single, tmp_path):
    subject.model.train()
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    audit(subject, single, tmp_path, explainers=(GradCAM(), RISE(masks=4)), batch_size=4)
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())
    assert all(module.training for module in subject.model.modules() if isinstance(module, nn.Conv2d))
    assert all(parameter.grad is None for parameter in subject.model.parameters())
