"""Augmentation of training images; a mask goes wherever its image's pixels go.

Transforms are torchvision's (`torchvision.transforms.v2`), those for volumes that stand here, or functions
(image, mask) -> (image, mask) of one's own.
"""

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from sightline.compat import repair_torchvision
from sightline.errors import SightlineError
from sightline.types import Batch

repair_torchvision()

from torchvision import tv_tensors  # noqa: E402
from torchvision.transforms import v2 as v2  # noqa: E402

Transform: TypeAlias = v2.Transform | Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Sides = tuple[int, int, int]
Move = Callable[[Tensor, str], Tensor]
"""(N, D, H, W) to the same shape, "bilinear" for images and "nearest" for masks."""

DRAWS = 10
"""How often an image is augmented anew before it is given up to show all its evidence."""

SLACK = 0.25
"""How far outside [0, 1] an interpolation may overshoot; what goes further has been normalised or scaled."""


class Volume(tv_tensors.Image):  # type: ignore[misc]
    """A volume (D, C, H, W) as a stack of slices: torchvision does the same to each of them."""


class Mask(tv_tensors.Mask):  # type: ignore[misc]
    """A mask that holds -1 where there is evidence and 0 elsewhere: nothing that fills corners looks like evidence."""


@v2.functional.register_kernel(v2.functional.erase, Mask)  # type: ignore[untyped-decorator]
def erase_mask(mask: Mask, i: int, j: int, h: int, w: int, v: Tensor, inplace: bool = False) -> Tensor:
    """Erased pixels show no evidence; torchvision would leave the mask as it is."""
    erased = mask.as_subclass(Tensor).clone()
    erased[..., i : i + h, j : j + w] = 0
    return cast(Tensor, tv_tensors.wrap(erased, like=mask))


class Augmented(Dataset[Batch]):
    """A dataset whose images are augmented as they are read: `augmented[index, seed]` is a `Batch` like the dataset's.

    Transforms are applied in order to image and mask together. The image keeps its size and stays in [0, 1], the mask
    is 0 or 1, and where nobody annotated it stays 1. Several views (views, C, H, W) and the slices of a volume
    (C, D, H, W) share their draws. What no transform may do is take the evidence away, for then the label would have
    to be told from the surroundings: a draw that loses all of a mask (of a class, of a view) is replaced by another,
    and after ten the image stays as it was.

    Args:
        data: samples that are a `Batch`.
        transforms: torchvision's, those of this module, or functions that take image and mask and return both.
        channels: of the images, which tells views from slices.

    Raises:
        SightlineError: a transform cannot be applied to the first image, or leaves [0, 1].
    """

    def __init__(self, data: Dataset[Batch], transforms: Sequence[Transform], channels: int) -> None:
        self.data, self.transforms, self.channels = data, tuple(transforms), channels
        self[0, 0]

    def __len__(self) -> int:
        return len(self.data)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        index, seed = key
        sample = self.data[index]
        sliced = sample.image.ndim == 4 and sample.image.shape[1] != self.channels
        with seeded(seed):
            if not sliced:
                return augment(sample, self.transforms, tv_tensors.Image)
            turned = augment(sample._replace(image=sample.image.movedim(0, 1)), self.transforms, Volume)
            return turned._replace(image=turned.image.movedim(0, 1))


def augment(sample: Batch, transforms: Sequence[Transform], kind: type[Tensor]) -> Batch:
    """The sample under one draw of the transforms; `kind` is `Volume` or torchvision's `Image`."""
    for _ in range(DRAWS):
        image, mask = sample.image, sample.mask
        for transform in transforms:
            image, mask = apply(transform, image, mask, kind)
        image, mask = resized(image, mask, sample.image.shape[-2:])
        if not bool(sample.has_mask):
            return sample._replace(image=within(image))
        if bool((shows(mask, kind) >= shows(sample.mask, kind)).all()):
            return sample._replace(image=within(image), mask=mask)
    return sample


def apply(transform: Transform, image: Tensor, mask: Tensor, kind: type[Tensor]) -> tuple[Tensor, Tensor]:
    """Image and mask under one transform.

    Raises:
        SightlineError: the transform fails.
    """
    try:
        if not isinstance(transform, v2.Transform):
            image, mask = transform(image, mask)
            return image, mask
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*passing through inputs of type tv_tensors.Mask.*")
            image, mask = transform(image.as_subclass(kind), (-mask).as_subclass(Mask))
        return image.as_subclass(Tensor), (mask.as_subclass(Tensor) < 0).float()
    except SightlineError:
        raise
    except Exception as error:  # a transform may be anybody's
        raise SightlineError(
            f"training.augment: {transform} fails on an image {tuple(image.shape)} and a mask {tuple(mask.shape)}: "
            f"{error}. Expected a transform of both."
        ) from error


def resized(image: Tensor, mask: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Both at `size` (H, W), if a transform has changed it."""
    if image.shape[-2:] == size == mask.shape[-2:]:
        return image, mask
    both = v2.Resize(list(size))(image.as_subclass(tv_tensors.Image), mask.as_subclass(tv_tensors.Mask))
    return both[0].as_subclass(Tensor), both[1].as_subclass(Tensor)


def shows(mask: Tensor, kind: type[Tensor]) -> Tensor:
    """Which masks of a sample, by class or view, hold any evidence."""
    return mask.flatten(-3 if kind is Volume else -2).amax(-1) > 0


def within(image: Tensor) -> Tensor:
    """`image` without what an interpolation has overshot.

    Raises:
        SightlineError: it has left [0, 1] by more than that.
    """
    low, high = map(float, image.aminmax())
    if not -SLACK <= low <= high <= 1 + SLACK:
        raise SightlineError(
            f"training.augment: an image lies between {low:.2f} and {high:.2f} afterwards, expected 0 and 1. "
            "Leave normalisation out: it is the model's first layer."
        )
    return image.clamp(0, 1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws of torch on the CPU, of numpy and of Python follow from `seed` (32 bits) and leave no trace."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


class Solid(v2.Transform):  # type: ignore[misc]
    """A transform of whole volumes: a subclass draws what is done to image and mask alike."""

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        if not isinstance(flat_inputs[0], Volume):
            raise SightlineError(
                f"training.augment: {type(self).__name__} is for volumes (C, D, H, W), but the images have shape "
                f"{tuple(flat_inputs[0].shape)}. Use torchvision's transform for the purpose."
            )

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        depth, _, height, width = flat_inputs[0].shape
        return {"move": self.draw((depth, height, width))}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        given, move = inpt.as_subclass(Tensor), params["move"]
        if isinstance(inpt, Volume):
            moved = move(given.movedim(1, 0), "bilinear").movedim(0, 1)
        else:
            moved = move(given.reshape(-1, *given.shape[-3:]), "nearest").reshape(given.shape)
        return cast(Tensor, tv_tensors.wrap(moved, like=inpt))

    def draw(self, size: Sides) -> Move:
        """What is done to a volume of `size` this time."""
        raise NotImplementedError


class RandomDepthFlip(Solid):
    """Mirror a volume along its depth, in a share `p` of cases; torchvision's flips do the other two axes."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def draw(self, size: Sides) -> Move:
        axes = [1] if torch.rand(()) < self.p else []
        return lambda volumes, _: volumes.flip(axes)


class RandomQuarterTurn3D(Solid):
    """Turn a volume by a multiple of 90 degrees in a plane of two axes; by 180 where they differ in length."""

    def draw(self, size: Sides) -> Move:
        a, b = ((0, 1), (0, 2), (1, 2))[int(torch.randint(3, ()))]
        turns = int(torch.randint(4, ())) if size[a] == size[b] else 2 * int(torch.randint(2, ()))
        return lambda volumes, _: volumes.rot90(turns, (a + 1, b + 1))


class RandomAffine3D(Solid):
    """Turn, shift and scale a volume about its centre; what comes from outside is 0.

    Args:
        degrees: angles about the three axes are uniform in plus or minus this; voxels count as cubes.
        translate: largest shift along depth, height and width, as a share of each.
        scale: range of the factor.
    """

    def __init__(
        self,
        degrees: float,
        translate: tuple[float, float, float] = (0.0, 0.0, 0.0),
        scale: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        self.degrees, self.translate, self.scale = degrees, translate, scale

    def draw(self, size: Sides) -> Move:
        angles = torch.deg2rad((torch.rand(3) * 2 - 1) * self.degrees)
        shift = (torch.rand(3) * 2 - 1) * torch.tensor(self.translate)
        sides = torch.tensor(size, dtype=torch.float32)
        # affine_grid measures in half sides and names the last axis first.
        matrix = rotation(angles) / torch.empty(1).uniform_(*self.scale) * sides / sides[:, None]
        theta = torch.cat([matrix.flip(0, 1), -(matrix @ (2 * shift)).flip(0)[:, None]], 1)
        grid = F.affine_grid(theta[None], [1, 1, *size], align_corners=False)
        return lambda volumes, mode: F.grid_sample(volumes[None], grid, mode=mode, align_corners=False)[0]


class RandomResizedCrop3D(Solid):
    """Cut a random box out of a volume and enlarge it to the whole, as torchvision does in two dimensions.

    Args:
        scale: range of the share of the volume that is kept.
        ratio: range of height over depth and of width over depth of the box, each side as a share of the volume's.
    """

    def __init__(self, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> None:
        super().__init__()
        self.scale, self.ratio = scale, ratio

    def draw(self, size: Sides) -> Move:
        aspect = torch.cat([torch.zeros(1), torch.empty(2).uniform_(*map(math.log, self.ratio))]).exp()
        share = (torch.empty(1).uniform_(*self.scale) / aspect.prod()) ** (1 / 3) * aspect
        whole = torch.tensor(size)
        extent = (share * whole).round().long().clamp(min=torch.ones_like(whole), max=whole)
        start = (torch.rand(3) * (whole - extent + 1)).long()
        depth, height, width = (slice(a, a + n) for a, n in zip(start.tolist(), extent.tolist(), strict=True))
        modes = {"bilinear": "trilinear", "nearest": "nearest-exact"}
        return lambda volumes, mode: F.interpolate(volumes[None, :, depth, height, width], size, mode=modes[mode])[0]


def rotation(angles: Tensor) -> Tensor:
    """(3, 3): turns about the first, the second and the third axis, one after the other."""
    matrix = torch.eye(3)
    for axis, angle in enumerate(angles):
        turn = torch.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[a, a] = turn[b, b] = angle.cos()
        turn[a, b], turn[b, a] = -angle.sin(), angle.sin()
        matrix = turn @ matrix
    return matrix
