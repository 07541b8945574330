"""Datasets made of the samples of another."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from copy import copy
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sightline.data.base import Source, known_split
from sightline.data.habits import Integers
from sightline.errors import SightlineError
from sightline.pictures import Flags, Pixels


class Subset(Source):
    """Some samples of another dataset, perhaps under splits of its own.

    A subclass stores its arguments under their own names, calls `Subset.__init__` and says in `choose` which samples a
    split has. What `on` returns shares with it whatever of the other dataset has been read.

    Args:
        data: the other dataset, on any of its splits.
        split, mask_fraction, label_fraction, seed: see `Source`. Masks and labels that `data` hides stay hidden.

    Raises:
        SightlineError: masks would be hidden that nobody drew, those of a `Drawn`, or images left out that they were
            drawn from; or a split is left without images.
    """

    def __init__(
        self, data: Source, split: str, mask_fraction: float = 1.0, label_fraction: float = 1.0, seed: int = 0
    ) -> None:
        self.data = data
        if mask_fraction < 1 and (drawn := drawn_by(data)):
            raise SightlineError(
                f"data: mask_fraction={mask_fraction} of {type(self).__name__} would hide masks that {drawn} has drawn "
                f"from all. Give it to the data inside {drawn}."
            )
        self.name, self.classes, self.size, self.channels = data.name, data.classes, data.size, data.channels
        self.views, self.reading = data.views, data.reading
        self._parts = {data.split: data}
        self.splits = self.own_splits()
        super().__init__(split, mask_fraction, seed, label_fraction)
        self._take()

    def own_splits(self) -> tuple[str, ...]:
        """The splits it has."""
        return self.data.splits

    @abstractmethod
    def choose(self) -> dict[str, Integers]:
        """The samples of `self.split`: their indices in splits of `data`."""

    def facts(self) -> dict[str, Any]:
        return self.part(self.split).facts() if self.split in self.data.splits else {}

    def part(self, split: str) -> Source:
        """`data` on one of its splits, read once."""
        if split not in self._parts:
            self._parts[split] = self.data.on(split)
        return self._parts[split]

    def name_of(self, part: Source, index: int) -> str:
        """The id of a sample of `data`."""
        return part.ids[index]

    def on(self, split: str) -> Self:
        other = copy(self)
        other.split = known_split(split, self.splits)
        other._take()
        return other

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        part, inner = self._members[index]
        return part.read(inner)

    def content(self, index: int) -> bytes:
        part, inner = self._members[index]
        return part.content(inner)

    def _take(self) -> None:
        chosen = [(self.part(split), indices) for split, indices in self.choose().items()]
        self._members = [(part, index) for part, indices in chosen for index in indices.tolist()]
        if not self._members:
            raise SightlineError(f"{type(self).__name__} leaves no image of {self.name} in {self.split!r}.")
        if drawn_by(self.data) and self.split == "train" and len(self._members) < len(self.part("train")):
            _refuse_drawn(type(self).__name__, self.data)
        self.ids = tuple(self.name_of(*member) for member in self._members)
        self.labels = np.concatenate([part.labels[indices] for part, indices in chosen])
        self.groups = np.concatenate([part.groups[indices] for part, indices in chosen])
        self.annotate(
            np.concatenate([part.has_mask[indices] for part, indices in chosen]),
            np.concatenate([part.has_label[indices] for part, indices in chosen]),
        )


class Drawn(Subset):
    """All samples of another dataset, where training images without a mask get one that nobody drew.

    A subclass says in `draw` which. Masks that somebody drew stay, and other splits are as they are.

    Args:
        data: a dataset of single images.
        split, seed: see `Source`.

    Raises:
        SightlineError: the dataset is not one of single images.
    """

    def __init__(self, data: Source, split: str = "train", seed: int = 0) -> None:
        if len(data.size) != 2:
            who = type(self).__name__
            raise SightlineError(f"data: {data.name} holds no single images but {data.size}. {who} needs (H, W).")
        super().__init__(data, split, seed=seed)

    @abstractmethod
    def draw(self, has_mask: Flags) -> Iterable[tuple[int, Flags]]:
        """Masks of training images that have none, by the index of the image, of as many entries as `read` gives.

        Empty ones are left out.
        """

    def choose(self) -> dict[str, Integers]:
        return {self.split: np.arange(len(self.part(self.split)))}

    def annotate(self, has_mask: Flags, has_label: Flags | None = None) -> None:
        super().annotate(has_mask, has_label)
        self._drawn: dict[int, bytes] = {}
        if self.split == "train" and not self.has_mask.all():
            self._drawn = {index: np.packbits(mask).tobytes() for index, mask in self.draw(has_mask) if mask.any()}
            self.has_mask[list(self._drawn)] = True

    def content(self, index: int) -> bytes:
        return super().content(index) + self._drawn.get(index, b"")

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        image, mask = super().read(index)
        if index not in self._drawn:
            return image, mask
        bits = np.frombuffer(self._drawn[index], np.uint8)
        return image, np.unpackbits(bits, count=mask.size).reshape(mask.shape)


class Pooled(Subset):
    """The samples of "train", "val" and "test" of another dataset together, split anew.

    Where it has none of these, the samples of all its splits. An id that occurs in two of them gets its split in front.
    A subclass says in `select` which samples a split has.

    Raises:
        SightlineError: the other dataset, or one in it, hides masks or labels, which may be ones to be tested on, or
            has masks that nobody drew.
    """

    def __init__(
        self, data: Source, split: str, mask_fraction: float = 1.0, label_fraction: float = 1.0, seed: int = 0
    ) -> None:
        if hides(data):
            raise SightlineError(
                f"data: {type(self).__name__} splits {data.name} anew. Give mask_fraction and label_fraction to "
                f"{type(self).__name__}, not to the data in it."
            )
        _refuse_drawn(type(self).__name__, data)
        super().__init__(data, split, mask_fraction, label_fraction, seed)

    @abstractmethod
    def select(self, labels: Integers, groups: npt.NDArray[Any]) -> Flags:
        """Which of all samples `self.split` has: (N,) bool."""

    def pool(self) -> list[Source]:
        """`data` on each split that is pooled."""
        usual = [split for split in ("train", "val", "test") if split in self.data.splits]
        return [self.part(split) for split in usual or self.data.splits]

    def choose(self) -> dict[str, Integers]:
        pool = self.pool()
        labels, groups = np.concatenate([p.labels for p in pool]), np.concatenate([p.groups for p in pool])
        ends = np.cumsum([len(part) for part in pool])[:-1]
        selected = np.split(self.select(labels, groups), ends)
        return {part.split: np.flatnonzero(flags) for part, flags in zip(pool, selected, strict=True)}

    def name_of(self, part: Source, index: int) -> str:
        return f"{part.split}/{part.ids[index]}" if self._ambiguous else part.ids[index]

    @cached_property
    def _ambiguous(self) -> bool:
        pool = self.pool()
        return len(set().union(*(part.ids for part in pool))) < sum(map(len, pool))


def hides(data: Source) -> bool:
    """Whether a dataset, or one it is made of, hides masks or labels of its training split."""
    return any(min(each.mask_fraction, each.label_fraction) < 1 for each in _made_of(data))


def drawn_by(data: Source) -> str | None:
    """The name of the `Drawn` that a dataset is, or is made of."""
    return next((type(each).__name__ for each in _made_of(data) if isinstance(each, Drawn)), None)


def _refuse_drawn(who: str, data: Source) -> None:
    if drawn := drawn_by(data):
        raise SightlineError(
            f"data: {who} trains on other images than {drawn} has drawn masks from, which know of those left out. "
            f"Put {who} inside {drawn}."
        )


def _made_of(data: Source) -> Iterator[Source]:
    """A dataset, the one it is made of, and so on."""
    yield data
    if isinstance(data, Subset):
        yield from _made_of(data.data)


def single(data: Source) -> Integers:
    """(N,) labels of a dataset with one class per image.

    Raises:
        SightlineError: images have several.
    """
    if data.labels.ndim > 1:
        raise SightlineError(f"{data.name} is multi-label: expected a dataset with one class per image.")
    return data.labels
