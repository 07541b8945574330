"""Augmentation: masks go where their pixels go, and every draw follows from seed, epoch and place."""

import os
import random
import signal
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import affine_transform
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from sightline import recipe
from sightline.augment import (
    Augmented,
    RandomAffine3D,
    RandomDepthFlip,
    RandomQuarterTurn3D,
    RandomResizedCrop3D,
    rotation,
    seeded,
    v2,
)
from sightline.data import Source
from sightline.errors import SightlineError
from sightline.loading import BalancedSampler, MixedSampler, Seeded
from sightline.models import load
from sightline.objectives import CE
from sightline.train import Module, train
from sightline.types import Batch

LINEAR = v2.InterpolationMode.BILINEAR
FLAT = {
    "flips": lambda size: [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()],
    "crop": lambda size: [v2.RandomResizedCrop(size, scale=(0.3, 1))],
    "rotation": lambda size: [v2.RandomRotation(45)],
    "affine": lambda size: [
        v2.RandomAffine(20, (0.1, 0.1), (0.8, 1.2), 5, interpolation=v2.InterpolationMode.BILINEAR)
    ],
    "perspective": lambda size: [v2.RandomPerspective(0.3, p=1)],
    "elastic": lambda size: [v2.ElasticTransform(20.0)],
    "padded crop": lambda size: [v2.RandomCrop([side - 3 for side in size], padding=2)],
    "zoom": lambda size: [v2.RandomZoomOut(p=1)],
    "erasing": lambda size: [v2.RandomErasing(p=1)],
    "chosen": lambda size: [
        v2.RandomApply([v2.RandomRotation(30, fill=0)]),
        v2.RandomChoice([v2.RandomVerticalFlip(1)]),
    ],
}
PHOTOMETRIC = {
    "jitter": v2.ColorJitter(0.5, 0.5, 0.5, 0.2),
    "blur": v2.GaussianBlur(3, (0.5, 2)),
    "noise": v2.GaussianNoise(),
    "grey": v2.RandomGrayscale(1),
    "solarised": v2.RandomSolarize(0.3, p=1),
}
SOLID = {
    "flip": [RandomDepthFlip(), v2.RandomHorizontalFlip()],
    "turn": [RandomQuarterTurn3D()],
    "affine": [RandomAffine3D(25, (0.1, 0.1, 0.1), (0.8, 1.2))],
    "crop": [RandomResizedCrop3D((0.3, 1))],
    "slices": [v2.RandomRotation(45), v2.RandomErasing(p=1)],
}
some = settings(max_examples=8, deadline=None)
seeds = st.integers(0, 2**32 - 1)


class Samples(Dataset[Batch]):
    """Given samples, one after the other."""

    def __init__(self, *samples: Batch) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Batch:
        return self.samples[index]


def sample(image: Tensor, mask: Tensor, has_mask: bool = True) -> Batch:
    return Batch(image, torch.tensor(0), mask, torch.tensor(has_mask), torch.tensor(0))


def blob(size: tuple[int, ...], seed: int) -> Tensor:
    """A random ellipsoid somewhere in the middle, 0 and 1."""
    generator = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, side) for side in size], indexing="ij")
    centre, radius = generator.uniform(-0.3, 0.3, len(size)), generator.uniform(0.4, 0.7, len(size))
    inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radius, strict=True)) <= 1
    return torch.from_numpy(inside.astype(np.float32))


def augmented(made: Batch, transforms: Any, seed: int, channels: int = 3) -> Batch:
    return Augmented(Samples(made), transforms, channels)[0, seed]


def at_edges(mask: Tensor, axes: int) -> Tensor:
    """Where a pixel or one within two of it differs from the mask: what interpolation may blend."""
    pool = F.max_pool3d if axes == 3 else F.max_pool2d
    grown = [pool(part.reshape(-1, 1, *part.shape[-axes:]), 5, 1, 2).reshape(part.shape) for part in (mask, 1 - mask)]
    return (grown[0] > 0) & (grown[1] > 0)


def agree(image: Tensor, mask: Tensor, axes: int) -> None:
    """The image is still its mask painted, but for pixels at an edge and a tip that interpolation has cut off."""
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert 0 <= image.min() <= image.max() <= 1
    inside = ~at_edges(mask, axes)
    assert inside.float().mean() > 0.3
    assert ((image - mask).abs() > 0.02)[inside].float().mean() < 0.005


@pytest.mark.parametrize("name", FLAT)
@some
@given(seed=seeds, height=st.integers(24, 50), width=st.integers(24, 50))
def test_images_that_are_their_mask_stay_so(name: str, seed: int, height: int, width: int) -> None:
    mask = blob((height, width), seed)
    got = augmented(sample(mask.expand(3, -1, -1), mask), FLAT[name]((height, width)), seed)
    assert got.image.shape == (3, height, width)
    assert got.mask.shape == mask.shape
    assert bool(got.has_mask)
    assert got.mask.any()
    agree(got.image[0], got.mask, 2)


@pytest.mark.parametrize("name", FLAT)
@some
@given(seed=seeds)
def test_views_and_classes_go_together(name: str, seed: int) -> None:
    """Five views of two channels, each with its own mask; four classes, each with its own."""
    views = torch.stack([blob((30, 26), seed + view) for view in range(5)])
    got = augmented(sample(views[:, None].expand(-1, 2, -1, -1), views), FLAT[name]((30, 26)), seed, channels=2)
    agree(got.image[:, 1], got.mask, 2)
    assert got.mask.flatten(1).any(1).all()
    classes = augmented(sample(views[:3], views[:4]), FLAT[name]((30, 26)), seed)
    assert classes.mask.shape == (4, 30, 26)
    agree(classes.image, classes.mask[:3], 2)


@pytest.mark.parametrize("name", SOLID)
@some
@given(seed=seeds, size=st.tuples(st.integers(14, 20), st.integers(14, 20), st.integers(14, 20)), even=st.booleans())
def test_volumes_go_with_their_masks(name: str, seed: int, size: tuple[int, int, int], even: bool) -> None:
    size = (size[0],) * 3 if even else size
    mask = blob(size, seed)
    got = augmented(sample(mask.expand(2, -1, -1, -1), mask), SOLID[name], seed, channels=2)
    assert got.image.shape == (2, *size)
    agree(got.image[1], got.mask, 3)
    classes = torch.stack([mask, mask.flip(0)])
    both = augmented(sample(classes, classes), SOLID[name], seed, channels=2)
    agree(both.image, both.mask, 3)


@pytest.mark.parametrize("name", PHOTOMETRIC)
@given(seed=seeds)
@some
def test_colours_leave_the_mask_alone(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    made = sample(torch.rand(3, 16, 18), (torch.rand(2, 16, 18) > 0.6).float())
    got = augmented(made, [PHOTOMETRIC[name]], seed)
    assert torch.equal(got.mask, made.mask)
    assert not torch.equal(got.image, made.image)
    assert 0 <= got.image.min() <= got.image.max() <= 1


def test_the_affine_transform_of_volumes_is_scipys() -> None:
    size = (7, 12, 10)
    volume = torch.rand(1, *size)
    with seeded(3):
        moved = RandomAffine3D(40, (0.1, 0.2, 0.1), (0.8, 1.2)).draw(size)(volume, "bilinear")[0]
    with seeded(3):
        angles, shift = [(torch.rand(3) * 2 - 1) * limit for limit in (np.pi * 40 / 180, torch.tensor([0.1, 0.2, 0.1]))]
        matrix = (rotation(angles) / torch.empty(1).uniform_(0.8, 1.2)).numpy()
    centre = (np.array(size) - 1) / 2
    offset = centre - matrix @ (centre + shift.numpy() * size)
    expected = affine_transform(volume[0].numpy(), matrix, offset, order=1, mode="grid-constant")
    np.testing.assert_allclose(moved, expected, atol=1e-4)
    assert np.linalg.det(rotation(angles).numpy()) == pytest.approx(1)


def test_unannotated_images_keep_a_mask_of_ones() -> None:
    made = sample(torch.rand(3, 20, 20), torch.ones(20, 20), has_mask=False)
    got = augmented(made, [v2.RandomRotation((45, 45))], 1)
    assert got.image[:, 0, 0].max() == 0
    assert got.mask.min() == 1
    assert not bool(got.has_mask)


@pytest.mark.parametrize("fill", [0.5, 1])
def test_what_fills_the_corners_is_no_evidence(fill: float) -> None:
    got = augmented(sample(torch.rand(3, 20, 20), torch.ones(20, 20)), [v2.RandomRotation((45, 45), fill=fill)], 1)
    assert got.image[:, 0, 0].min() == fill
    assert got.mask[0, 0] == 0
    assert got.mask[10, 10] == 1


def test_no_draw_takes_the_evidence_away() -> None:
    mask = torch.zeros(2, 40, 40)
    mask[0, 3, 5] = mask[1, 30, 31] = 1
    samples = Augmented(Samples(sample(torch.rand(3, 40, 40), mask)), [v2.RandomResizedCrop(40, (0.4, 0.6))], 3)
    drawn = [samples[0, seed] for seed in range(20)]
    assert all(bool(one.has_mask) and one.mask.flatten(1).any(1).all() for one in drawn)
    never = augmented(samples.data[0], [v2.RandomCrop(4), v2.Resize(40)], 0)
    assert torch.equal(never.mask, mask)
    assert torch.equal(never.image, samples.data[0].image)


def test_seeds_decide_and_leave_no_trace() -> None:
    def own(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        shift = random.randrange(9) + np.random.randint(9)
        return image.roll(shift, -1) * torch.rand(()), mask.roll(shift, -1)

    mask = blob((20, 20), 0)
    samples = Augmented(Samples(sample(torch.rand(3, 20, 20), mask)), [own, v2.ColorJitter(0.5)], 3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, again, other = samples[0, 5], samples[0, 5], samples[0, 6]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.mask, again.mask)
    assert not torch.equal(first.image, other.image)


SAMPLERS = {
    "all": lambda data: DistributedSampler(data, 1, 0, seed=3),
    "balanced": lambda data: BalancedSampler(data.groups, seed=3),
    "mixed": lambda data: MixedSampler(data.has_label, 6, 4, seed=3),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_workers_change_nothing_and_epochs_everything(name: str) -> None:
    samples = Augmented(Few(), [v2.RandomResizedCrop(24), v2.ColorJitter(0.4, 0.4)], channels=3)

    def epochs(workers: int, numbers: tuple[int, ...]) -> list[Batch]:
        sampler = Seeded(SAMPLERS[name](samples.data), seed=3)
        loader = DataLoader(samples, 10, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
        batches = []
        for epoch in numbers:
            sampler.set_epoch(epoch)
            batches += list(loader)
        return batches

    alone, shared, resumed = epochs(0, (0, 1)), epochs(2, (0, 1)), epochs(2, (1,))
    half = len(alone) // 2
    for pair in (*zip(alone, shared, strict=True), *zip(alone[half:], resumed, strict=True)):
        assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))
    assert not torch.equal(alone[0].image, alone[half].image)


def test_an_image_drawn_twice_is_augmented_twice_and_processes_differ() -> None:
    keys = list(Seeded(BalancedSampler(np.array(["a"] * 30 + ["b"] * 2)), seed=1))
    assert len({index for index, _ in keys}) < len({seed for _, seed in keys}) == len(keys)
    other = list(Seeded(BalancedSampler(np.array(["a"] * 30 + ["b"] * 2)), seed=1, rank=1))
    assert not {seed for _, seed in keys} & {seed for _, seed in other}


def fails(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    raise IndexError("no such pixel")


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (v2.Normalize([0.5] * 3, [0.1] * 3), "Leave normalisation out"),
        (v2.Normalize([0.5] * 4, [0.1] * 4), r"Normalize.*fails on an image \(3, 20, 20\)"),
        (RandomDepthFlip(), r"RandomDepthFlip is for volumes.*\(3, 20, 20\)"),
        (fails, "no such pixel"),
    ],
)
def test_transforms_that_do_not_fit_are_named_at_construction(transform: Any, message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        Augmented(Samples(sample(torch.rand(3, 20, 20), torch.ones(20, 20))), [transform], 3)


def test_views_are_no_volume() -> None:
    views = sample(torch.rand(4, 3, 20, 20), torch.ones(4, 20, 20))
    with pytest.raises(SightlineError, match="RandomDepthFlip is for volumes"):
        Augmented(Samples(views), [RandomDepthFlip()], 3)


class Few(Source):
    """Some images of two classes, each with a box; `bad` cannot be read in a worker, or takes it with it."""

    name, splits, classes, channels, size = "few", ("train", "val"), ("a", "b"), 3, (24, 24)

    def __init__(self, split: str = "train", bad: int | None = None, fatal: bool = False) -> None:
        super().__init__(split, 1.0, 0)
        self.bad, self.fatal, self.home = bad, fatal, os.getpid()
        self.ids = tuple(map(str, range(40)))
        self.labels = np.arange(40) % 2
        self.groups = np.where(np.arange(40) < 30, "x", "y")
        self.annotate(np.arange(40) % 3 > 0)
        self.has_label[::4] = False

    def read(self, index):
        if index == self.bad and os.getpid() != self.home:
            if self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            raise SightlineError(f"{index}.png cannot be read")
        mask = np.zeros(self.size, np.uint8)
        mask[index % 12 : 20, 4:12] = 1
        return np.random.default_rng(index).integers(0, 256, (*self.size, 3), np.uint8), mask


CONFIG = {
    "data": "test_augment.Few",
    "model": {"spec": "sightline:cnn", "arguments": {"filters": [4, 8]}},
    "objectives": ["test_augment.Noting"],
    "training": {
        "epochs": 2,
        "batch_size": 10,
        "augment": [
            "RandomHorizontalFlip",
            {"class_path": "RandomAffine", "init_args": {"degrees": 10, "translate": [0.1, 0.1]}},
            {"class_path": "torchvision.transforms.v2.RandomResizedCrop", "init_args": {"size": 24}},
            {"class_path": "RandomErasing", "init_args": {"p": 0.2}},
            "test_augment.mirrored",
        ],
    },
}


class Noting(CE):
    """Cross-entropy that notes what it was shown: in training, and not."""

    seen: ClassVar[list[float]] = []
    stop: ClassVar[int] = 99

    def forward(self, step, batch):
        if len(Noting.seen) == Noting.stop:
            raise SightlineError("stopped")
        Noting.seen.append(float(batch.image.double().sum() + 7 * batch.mask.double().sum()))
        return super().forward(step, batch)


def mirrored(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return image.flip(-1), mask.flip(-1)


@pytest.fixture
def config(tmp_path):
    def read(*overrides, **changes):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(CONFIG | changes))
        return recipe.read(path, overrides)

    return read


def test_a_recipe_names_transforms_and_keeps_their_arguments(config, tmp_path):
    read = config()
    text = recipe.dump(read)
    (tmp_path / "again.yaml").write_text(text)
    assert recipe.dump(recipe.read(tmp_path / "again.yaml")) == text
    assert yaml.safe_load(text)["training"]["augment"][1]["init_args"]["degrees"] == 10
    flip, affine, _, erasing, own = recipe.build(config("training.augment.3.p=0.5")).training.augment
    assert isinstance(flip, v2.RandomHorizontalFlip)
    assert affine.translate == [0.1, 0.1]
    assert erasing.p == 0.5
    assert own is mirrored
    solid = [{"class_path": "RandomAffine3D", "init_args": {"degrees": 10}}]
    assert isinstance(recipe.build(config(training={"augment": solid})).training.augment[0], RandomAffine3D)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("RandomHorizontalFlop", "Did you mean 'RandomHorizontalFlip'"),
        ({"class_path": "ColorJitter", "init_args": {"brightnes": 1}}, "Did you mean 'brightness'"),
    ],
)
def test_misspelt_transforms(config, wrong, message):
    with pytest.raises(SightlineError, match=message):
        config(training={"augment": [wrong]})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("more", [(), ("training.unlabelled_batch_size=4",), ("training.augment=[]",)])
def test_an_interrupted_run_draws_the_same_and_ends_with_the_same_bits(config, tmp_path, monkeypatch, workers, more):
    monkeypatch.setattr(Noting, "seen", [])
    train(config(f"training.workers={workers}", *more), tmp_path / "whole")
    drawn = Noting.seen[:]
    half = len(drawn) // 2
    assert len(set(drawn)) == 2 * half > 3
    monkeypatch.setattr(Noting, "seen", [])
    monkeypatch.setattr(Noting, "stop", half + 1)
    with pytest.raises(SightlineError, match="stopped"):
        train(config(f"training.workers={workers}", *more), tmp_path / "part")
    monkeypatch.setattr(Noting, "seen", [])
    monkeypatch.setattr(Noting, "stop", 99)
    train(config(f"training.workers={workers}", *more), tmp_path / "part", resume=True)
    assert Noting.seen == drawn[half:]
    weights = [load(f"file:{tmp_path / name}").state_dict() for name in ("whole", "part")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_validation_images_stay_as_they_are(config, tmp_path, monkeypatch):
    seen = []
    step = Module.validation_step
    monkeypatch.setattr(Module, "validation_step", lambda self, batch, i: (seen.append(batch), step(self, batch, i))[1])
    train(config("training.epochs=1"), tmp_path / "run")
    data = Few("val")
    for batch in seen:
        assert all(torch.equal(batch.image[i], data[int(k)].image) for i, k in enumerate(batch.index))


@pytest.mark.parametrize(
    ("fatal", "message"),
    [(True, r"process that reads training images died.*training\.workers"), (False, r"^17\.png cannot be read$")],
)
def test_what_goes_wrong_in_a_worker_is_said_plainly(config, tmp_path, fatal, message):
    data = {"class_path": "test_augment.Few", "init_args": {"bad": 17, "fatal": fatal}}
    with pytest.raises(SightlineError, match=message):
        train(config("training.workers=1", data=data), tmp_path / "run")
