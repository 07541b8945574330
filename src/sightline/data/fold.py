"""Cross-validation: each image is tested on once, and no group lies on both sides."""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.data.base import Source, at_least
from sightline.data.habits import Integers
from sightline.data.subset import Pooled, single
from sightline.errors import SightlineError
from sightline.pictures import Flags

log = logging.getLogger(__name__)


class Fold(Pooled):
    """One fold of a cross-validation: fold number `fold` tests, the one after it validates, the others train.

    The folds are scikit-learn's: stratified by class, and where images have a group (a patient, a hospital), a group
    lies in one fold as a whole. All images of "train", "val" and "test" of the dataset take part.

    Args:
        data: a dataset with one class per image.
        folds: how many, at least 3.
        fold: which of them tests, 0 to `folds` - 1.
        split: "train", "val" or "test".
        grouped: whether to keep groups together.
        mask_fraction, label_fraction: of the training images; see `Folder`.
        seed: of the folds, and of whose masks and labels are kept.

    Raises:
        SightlineError: there are fewer groups, or fewer images of every class, than folds.
    """

    def __init__(
        self,
        data: Source,
        folds: int = 5,
        fold: int = 0,
        split: str = "train",
        grouped: bool = True,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.folds = at_least("folds", folds, 3)
        self.fold = at_least("fold", fold, 0)
        if fold >= folds:
            raise SightlineError(f"fold must lie between 0 and {folds - 1}, not {fold}.")
        self.grouped = grouped
        single(data)
        super().__init__(data, split, mask_fraction, label_fraction, seed)
        own = [f"{self.classes[label]}/" for label in self.labels]
        if grouped and any(map(str.startswith, self.groups.tolist(), own)):
            log.warning(
                "Fold: the groups of %s are parts of a class, such as %r, and a fold holds them whole, so that folds "
                "differ in what they show. Where they are no patients or places, pass grouped=false.",
                self.name, self.groups[0],
            )  # fmt: skip

    def own_splits(self) -> tuple[str, ...]:
        return "train", "val", "test"

    def select(self, labels: Integers, groups: npt.NDArray[Any]) -> Flags:
        number = fold_numbers(labels, groups if self.grouped else np.full_like(groups, ""), self.folds, self.seed)
        place = (number - self.fold) % self.folds
        return np.asarray({"test": place == 0, "val": place == 1, "train": place > 1}[self.split])


def fold_numbers(labels: Integers, groups: npt.NDArray[Any], folds: int, seed: int) -> Integers:
    """(N,) the fold of each image, 0..folds - 1; images without a group are on their own.

    Raises:
        SightlineError: there are fewer groups, or fewer images of every class, than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # takes a second

    own = np.array([f"\0{i}" for i in range(len(labels))])
    _, group = np.unique(np.where(groups == "", own, groups), return_inverse=True)
    if (count := int(group.max()) + 1) < folds:
        raise SightlineError(f"folds is {folds}, but there are {count} groups, which stay whole. Take fewer folds.")
    alone = count == len(labels)
    splitter = (StratifiedKFold if alone else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    number = np.empty(len(labels), np.int64)
    try:
        for fold, (_, tested) in enumerate(splitter.split(labels, labels, None if alone else group)):
            number[tested] = fold
    except ValueError as error:
        raise SightlineError(f"folds: {error} Take fewer folds.") from error
    return number
