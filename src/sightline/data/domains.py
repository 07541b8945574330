"""Domains: trained in some hospitals, laboratories or styles, tested in others."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.data.base import Source, fraction, thin
from sightline.data.habits import Integers
from sightline.data.subset import Pooled
from sightline.errors import SightlineError, did_you_mean
from sightline.pictures import Flags


class Domains(Pooled):
    """A dataset whose groups are domains: some train, the others test.

    Each domain is a split as well. It holds the share of the domain that no model is trained on, whichever domains
    train: models trained on different domains meet the same images there, and `sightline matrix` may compare them.
    All images of "train", "val" and "test" of the dataset take part.

    Args:
        data: the dataset.
        train: the domains to train on.
        test: the domains to test on; None for all others.
        split: "train", "val", "test" (all images of the domains `test`) or a domain.
        val: share in [0, 1] of what else the training domains hold that validates, the same in each class.
        held_out: share of each domain, the same in each class, that neither trains nor validates.
        mask_fraction, label_fraction: of the training images; see `Folder`.
        seed: says which.

    Raises:
        SightlineError: an image without a group, an unknown domain, or one that both trains and tests.
    """

    def __init__(
        self,
        data: Source,
        train: Sequence[str],
        test: Sequence[str] | None = None,
        split: str = "train",
        val: float = 0.1,
        held_out: float = 0.2,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.train = train
        self.test = test
        self.val = fraction("val", val)
        self.held_out = fraction("held_out", held_out)
        super().__init__(data, split, mask_fraction, label_fraction, seed)

    def own_splits(self) -> tuple[str, ...]:
        known = known_domains(self.data, np.concatenate([part.groups for part in self.pool()]))
        for name in (*self.train, *(self.test or ())):
            if name not in known:
                raise SightlineError(f"{self.data.name} has no domain {name!r}. {did_you_mean(name, known)}")
        self._tested = tuple(sorted(known - set(self.train))) if self.test is None else tuple(self.test)
        if both := set(self.train) & set(self._tested):
            raise SightlineError(f"train and test both name {', '.join(sorted(both))}. A domain does one or the other.")
        return "train", "val", "test", *sorted(known)

    def select(self, labels: Integers, groups: npt.NDArray[Any]) -> Flags:
        strata = classes_apart(labels, groups)
        held = thin(np.ones(len(groups), np.bool_), strata, self.held_out, self.seed)
        validates = thin(~held, strata, self.val, self.seed)
        mine = np.isin(groups, self.train) & ~held
        usual = {"train": mine & ~validates, "val": mine & validates, "test": np.isin(groups, self._tested)}
        return usual[self.split] if self.split in usual else (groups == self.split) & held


def known_domains(data: Source, groups: npt.NDArray[Any]) -> set[str]:
    """The domains of all images.

    Raises:
        SightlineError: an image has none, or one is called like a split.
    """
    known = set(groups.tolist())
    if "" in known:
        raise SightlineError(f"{int((groups == '').sum())} images of {data.name} have no group, which is their domain.")
    if taken := known & {"train", "val", "test"}:
        raise SightlineError(
            f"{data.name} has a domain called {taken.pop()!r}, which is the name of a split. Rename it."
        )
    return known


def classes_apart(labels: Integers, groups: npt.NDArray[Any]) -> Integers:
    """(N,) a number for each domain and class, of a multi-label dataset for each domain."""
    _, domain = np.unique(groups, return_inverse=True)
    return domain.astype(np.int64) if labels.ndim > 1 else domain * (labels.max() + 1) + labels
