"""Labels that are hidden, and the batches that mix images with and without one."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sightline.audit import Subject, audit
from sightline.data import Folder, Habitats, Source
from sightline.errors import SightlineError
from sightline.loading import BalancedSampler, MixedSampler
from sightline.models import load

HAS_LABEL = np.arange(40) % 4 == 0


class Plain(Source):
    """Blank images of ten classes."""

    name, splits, classes, channels, size = "plain", ("train", "val"), tuple("0123456789"), 3, (2, 2)

    def __init__(self, split="train", mask_fraction=1.0, label_fraction=1.0, seed=0):
        super().__init__(split, mask_fraction, seed, label_fraction)
        self.ids = tuple(map(str, range(400)))
        self.labels = np.random.default_rng(1).integers(0, 10, 400)
        self.groups = np.full(400, "")
        self.annotate(np.ones(400, np.bool_))

    def read(self, index):
        return np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), np.uint8)


def epoch(sampler, number=0):
    sampler.set_epoch(number)
    return list(sampler)


def test_label_fraction_thins_each_class_of_the_training_split_alone():
    some = Plain(label_fraction=0.25)
    for digit in range(10):
        mine = some.labels == digit
        assert some.has_label[mine].sum() == round(0.25 * mine.sum())
    assert not (some.has_label & ~Plain(label_fraction=0.5).has_label).any()
    assert some.on("val").has_label.all()
    assert not Plain(label_fraction=0.0).has_label.any()
    assert [int(sample.label) for sample in some] == np.where(some.has_label, some.labels, -1).tolist()


def test_hidden_labels_stay_what_they_are():
    hidden, whole = Plain(label_fraction=0.25, mask_fraction=0.25), Plain()
    np.testing.assert_array_equal(hidden.labels, whole.labels)
    assert hidden.hash() == whole.hash()
    np.testing.assert_array_equal(hidden.has_label, hidden.has_mask)
    assert not np.array_equal(hidden.has_label, Plain(label_fraction=0.25, seed=1).has_label)


def test_habitats_hide_labels():
    some = Habitats(size=24, per_digit=1, label_fraction=0.1)
    assert 120 < some.has_label.sum() < 140
    assert [int(some[i].label) for i in range(20)] == np.where(some.has_label, some.labels, -1)[:20].tolist()


@pytest.fixture
def folder(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / "data" / "train" / label).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / "train" / label / f"{number}.png")
    return lambda share: Folder(str(tmp_path / "data"), size=8, label_fraction=share)


def test_folders_hide_labels_too(folder):
    batch = next(iter(DataLoader(folder(0.5), batch_size=8)))
    assert Counter(batch.label.tolist()) == {-1: 4, 0: 2, 1: 2}


@pytest.mark.parametrize("target", ["label", "prediction"])
def test_an_audit_of_the_training_split_knows_all_labels(folder, tmp_path, target):
    subject = Subject(load("sightline:cnn", num_classes=2, filters=[4]), "run", "cnn")
    # A last batch of one image.
    options = {"target": target, "batch_size": 7}
    hidden, whole = (audit(subject, folder(share), tmp_path / str(share), **options) for share in (0.25, 1.0))
    assert hidden["metrics"] == whole["metrics"]
    assert hidden["metrics"]["accuracy"]["n"] == 8


def test_each_batch_holds_both_kinds_and_an_epoch_every_labelled_image():
    sampler = MixedSampler(HAS_LABEL, 2, 3)
    batches = list(DataLoader(range(40), 5, sampler=sampler))
    assert len(batches) == 5
    assert len(sampler) == 25
    for batch in batches:
        assert HAS_LABEL[batch].tolist() == [True] * 2 + [False] * 3
    drawn = torch.cat(batches).tolist()
    assert len(set(drawn)) == 25


def test_unlabelled_images_come_again_when_all_have_come():
    drawn = [i for i in epoch(MixedSampler(HAS_LABEL, 1, 12)) if not HAS_LABEL[i]]
    assert set(Counter(drawn).values()) == {4}
    assert Counter(drawn[:30]) == Counter(drawn[30:60]) == Counter(np.flatnonzero(~HAS_LABEL).tolist())
    assert drawn[:30] != drawn[30:60]


def test_the_order_follows_from_seed_and_epoch():
    first, again = MixedSampler(HAS_LABEL, 2, 3, seed=1), MixedSampler(HAS_LABEL, 2, 3, seed=1)
    epoch(first, 0)
    assert epoch(first, 7) == epoch(again, 7)
    assert epoch(first, 7) != epoch(first, 6)
    assert epoch(first, 7) != epoch(MixedSampler(HAS_LABEL, 2, 3, seed=2), 7)


def test_processes_share_the_images_out():
    drawn = [epoch(MixedSampler(HAS_LABEL, 2, 3, rank=rank, ranks=2)) for rank in (0, 1)]
    assert len(drawn[0]) == len(drawn[1]) == 10
    assert set(drawn[0]).isdisjoint(drawn[1])
    assert len(set(drawn[0] + drawn[1])) == 20


@pytest.mark.parametrize(("ranks", "expected"), [(1, [10, 3]), (4, [3, 3])])
def test_fewer_labelled_images_than_a_batch_make_one(ranks, expected):
    for rank in range(ranks):
        sampler = MixedSampler(HAS_LABEL, 16, 3, rank=rank, ranks=ranks)
        indices = epoch(sampler)
        assert [HAS_LABEL[indices].sum(), (~HAS_LABEL[indices]).sum()] == expected
        assert len(list(DataLoader(range(40), 19, sampler=sampler))) == 1


def test_an_incomplete_last_batch_is_dropped():
    indices = epoch(MixedSampler(HAS_LABEL, 4, 1))
    assert HAS_LABEL[indices].tolist() == ([True] * 4 + [False]) * 2


@pytest.mark.parametrize(("has_label", "message"), [(True, "every.*Lower data.label_fraction"), (False, "no.*Raise")])
def test_both_kinds_are_needed(has_label, message):
    with pytest.raises(SightlineError, match=message):
        MixedSampler(np.full(8, has_label), 2, 2)


def test_bad_fraction():
    with pytest.raises(SightlineError, match="label_fraction must lie between 0 and 1"):
        Plain(label_fraction=1.5)


def test_balanced_batches_show_every_group_equally_often():
    groups = np.array(["a"] * 3 + ["b"] * 300 + [""] * 97)
    drawn = Counter(groups[i] for number in range(20) for i in epoch(BalancedSampler(groups, seed=3), number))
    assert sum(drawn.values()) == 20 * 400
    for count in drawn.values():  # 8,000 draws of probability 1/3: five standard deviations are 211
        assert abs(count - 8000 / 3) < 211


def test_processes_share_the_draws_of_a_balanced_epoch():
    groups = np.array(["a", "b"] * 25)
    whole = epoch(BalancedSampler(groups, seed=1), 4)
    parts = [epoch(BalancedSampler(groups, rank=rank, ranks=2, seed=1), 4) for rank in (0, 1)]
    assert parts == [whole[0::2], whole[1::2]]
    assert whole != epoch(BalancedSampler(groups, seed=1), 5)


def test_balance_needs_groups():
    with pytest.raises(SightlineError, match="no training image has a group"):
        BalancedSampler(Plain().groups)
