"""A few masks, propagated: what is drawn, what is left alone, and the network that draws."""

import numpy as np
import pytest
import torch
import yaml

from sightline import recipe
from sightline.data import Episode, Fold, Fraction, Propagated, Source
from sightline.data.segmenter import UNet, fit, mask_loss, overlap, predict
from sightline.errors import SightlineError
from sightline.pictures import Flags


class Squares(Source):
    """A bright square on dim noise; what is bright is the evidence. Every fourth image holds none."""

    name, splits, classes, channels = "Squares", ("train", "test"), ("a", "b"), 3

    def __init__(self, count: int = 80, annotated: int = 10, several: bool = False, split: str = "train") -> None:
        super().__init__(split, 1.0, 0)
        self.count, self.annotated, self.several = count, annotated, several
        self.size = (16, 20)
        self.ids = tuple(map(str, range(count)))
        self.labels = np.eye(2, dtype=np.int64)[np.arange(count) % 2] if several else np.arange(count) % 2
        self.groups = np.full(count, "")
        self.annotate(self.seen() & (np.cumsum(self.seen()) <= annotated) if split == "train" else self.seen())

    def seen(self) -> Flags:
        return np.arange(self.count) % 4 != 3

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(index)
        image = random.integers(0, 90, (*self.size, 3), np.uint8)
        mask = np.zeros(self.size, np.uint8)
        if self.seen()[index]:
            y, x = random.integers(0, 9), random.integers(0, 13)
            image[y : y + 7, x : x + 7], mask[y : y + 7, x : x + 7] = 220, 1
        image.flags.writeable = False  # as Pillow's are
        return image, np.stack([mask, 1 - mask]) if self.several else mask


def quick(steps: int = 200, side: int = 64, **others: object) -> Propagated:
    return Propagated(Squares(**others), steps=steps, side=side, width=4)


@pytest.fixture(scope="module")
def propagated() -> Propagated:
    return quick()


def test_images_with_evidence_get_its_mask(propagated: Propagated) -> None:
    whole = Squares(annotated=80)
    found = [overlap(*(torch.from_numpy(s.read(i)[1]).view(1, 1, 16, 20) for s in (propagated, whole)))
             for i in np.flatnonzero(whole.seen()).tolist()]  # fmt: skip
    assert np.mean(found) > 0.8
    assert propagated.agreement > 0.8
    assert propagated.has_mask[whole.seen()].all()


def test_an_image_without_evidence_stays_without_a_mask(propagated: Propagated) -> None:
    empty = np.flatnonzero(~Squares().seen())
    assert not propagated.has_mask[empty].any()
    assert (propagated[int(empty[0])].mask == 1).all()


def test_masks_that_somebody_drew_stay(propagated: Propagated) -> None:
    own = Squares()
    for index in np.flatnonzero(own.has_mask).tolist():
        np.testing.assert_array_equal(propagated.read(index)[1], own.read(index)[1])


def test_other_splits_are_left_alone(propagated: Propagated) -> None:
    test, own = propagated.on("test"), Squares(split="test")
    assert test.hash() == own.hash()
    assert test.has_mask.tolist() == own.has_mask.tolist()


def test_the_same_seed_draws_the_same_and_leaves_the_global_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = quick(steps=5), quick(steps=5)
    assert torch.equal(torch.get_rng_state(), before)
    for index in range(len(first)):
        np.testing.assert_array_equal(first.read(index)[1], second.read(index)[1])


def test_each_class_of_a_multilabel_image_gets_a_mask() -> None:
    drawn = quick(several=True)
    index = int(np.flatnonzero(~Squares(several=True).has_mask & Squares().seen())[0])
    batch = drawn[index]
    assert batch.mask.shape == (2, 16, 20)
    assert 0.9 < batch.mask.sum(0).mean() < 1.1


def test_large_images_are_looked_at_small() -> None:
    whole, small = Squares(annotated=80), quick(side=12)
    index = int(np.flatnonzero(whole.seen() & ~Squares().has_mask)[0])
    assert overlap(*(torch.from_numpy(source.read(index)[1]).view(1, 1, 16, 20) for source in (whole, small))) > 0.5


def test_a_dataset_that_is_annotated_already_is_left_as_it_is() -> None:
    whole = quick(count=3, annotated=3)
    assert whole.facts() == {}
    assert whole.hash() == Squares(count=3, annotated=3).hash()


def test_how_well_it_agrees_is_told(propagated: Propagated, caplog: pytest.LogCaptureFixture) -> None:
    drawn = int(propagated.has_mask.sum()) - 10
    assert propagated.facts() == {"masks_propagated": drawn, "agreement": pytest.approx(propagated.agreement, abs=1e-4)}
    quick(steps=1)
    assert "held-out images agree with their own to 0." in caplog.text


def test_too_few_masks_are_refused() -> None:
    with pytest.raises(SightlineError, match="4 training images of Squares have a mask, too few"):
        quick(annotated=4)


def test_drawn_masks_are_not_hidden_again(propagated: Propagated) -> None:
    for data in (propagated, Fraction(propagated)):
        with pytest.raises(SightlineError, match="Fraction would hide masks that Propagated has drawn"):
            Fraction(data, mask_fraction=0.5)


@pytest.mark.parametrize(
    "make", [lambda data: Fraction(data, images=0.5), lambda data: Episode(data, shots=2), lambda data: Fold(data, 3)]
)
def test_masks_drawn_from_images_that_are_left_out_are_refused(propagated: Propagated, make) -> None:
    with pytest.raises(SightlineError, match=r"trains on other images than Propagated .* inside Propagated"):
        make(propagated)


def test_a_recipe_builds_it(tmp_path) -> None:
    habitats = {"class_path": "Habitats", "init_args": {"mask_fraction": 0.05, "per_digit": 1, "size": 24}}
    data = {"class_path": "Propagated", "init_args": {"data": habitats, "steps": 2, "width": 2}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"data": data, "model": {"spec": "sightline:cnn"}, "objectives": ["CE"]}))
    built = recipe.build(recipe.read(path)).data
    assert repr(built) == repr(eval(repr(built), vars(__import__("sightline.data", fromlist=["*"]))))


def test_the_loss_by_hand() -> None:
    logits, mask = torch.tensor([[[[0.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    dice = (2 * 0.5 + 1) / (1 + 1 + 1)
    assert mask_loss(logits, mask).item() == pytest.approx(np.log(2) + 2 * (1 - dice))
    most = torch.ones(1, 1, 8, 8)
    most[..., :2, :2] = 0
    nothing, all_of_it = (mask_loss(torch.full_like(most, sign * 9.0), most).item() for sign in (-1, 1))
    assert nothing > 1.9
    assert all_of_it > 0.9  # what is left out is a sixteenth, and missed


def test_overlap_by_hand() -> None:
    first = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]).view(4, 1, 2, 2)
    second = torch.tensor([[0.0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]).view(4, 1, 2, 2)
    assert overlap(first, second).tolist() == pytest.approx([1 / 3, 1, 1, 0])


@pytest.mark.parametrize("size", [(8, 8), (9, 23), (48, 48)])
def test_the_network_keeps_the_size_and_every_weight_learns(size) -> None:
    net = UNet(3, 2, width=4)
    mask_loss(net(torch.rand(2, 3, *size)), torch.ones(2, 2, *size)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_prediction_does_not_depend_on_the_batch() -> None:
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    net = fit(images[:6], (images[:6, :1] > 128).byte(), steps=3, width=4)
    together = predict(net, images)
    assert torch.equal(together[33:34], predict(net, images[33:34]))
