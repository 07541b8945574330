"""Which images make up a training batch, and what is random about each; what is said when a worker fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count, islice
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import DistributedSampler, Sampler

from sightline.errors import SightlineError


class BalancedSampler(Sampler[int]):
    """Indices among which every group comes equally often, drawn with replacement; an epoch has as many as images.

    Args:
        groups: (N,) group of each image.
        rank, ranks: this process, and how many there are.
        seed: with the epoch, of the draws.

    Raises:
        SightlineError: no image has a group.
    """

    def __init__(self, groups: npt.NDArray[Any], *, rank: int = 0, ranks: int = 1, seed: int = 0) -> None:
        if not (groups != "").any():
            raise SightlineError(
                'training.balance is "groups", but no training image has a group. Name them in the column "group" of '
                "splits.csv, or leave balance out."
            )
        _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        self.share = 1 / sizes[group] / len(sizes)
        self.rank, self.ranks, self.seed, self.epoch = rank, ranks, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.share) // self.ranks

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        drawn = generator.choice(len(self.share), len(self) * self.ranks, p=self.share)
        return iter(drawn[self.rank :: self.ranks].tolist())


class MixedSampler(Sampler[int]):
    """Indices of `labelled` images with a label, then `unlabelled` ones without, batch after batch.

    An epoch is one pass over the labelled images in random order, shared out over the processes; an incomplete last
    batch is dropped, unless there would be no other. The unlabelled images come in random order too; within an epoch
    each of them comes once before any comes again, in whichever process. All of it follows from the seed and the epoch.

    Args:
        has_label: (N,) bool, which images of the dataset show their label.
        labelled, unlabelled: how many of each a process has in a batch.
        rank, ranks: this process, and how many there are.
        seed: of the orders.

    Raises:
        SightlineError: all images show their label, or none does.
    """

    def __init__(
        self,
        has_label: npt.NDArray[np.bool_],
        labelled: int,
        unlabelled: int,
        *,
        rank: int = 0,
        ranks: int = 1,
        seed: int = 0,
    ) -> None:
        self.known, self.hidden = divided(has_label)
        self.labelled, self.unlabelled = labelled, unlabelled
        self.rank, self.ranks, self.seed, self.epoch = rank, ranks, seed, 0
        drop = len(self.known) >= labelled * ranks
        places: Any = range(len(self.known))  # of a dataset it asks the length alone
        self.order: DistributedSampler[int] = DistributedSampler(places, ranks, rank, seed=seed, drop_last=drop)
        self.batches = len(self.order) // labelled if drop else 1

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return min(len(self.order), self.batches * self.labelled) + self.batches * self.unlabelled

    def __iter__(self) -> Iterator[int]:
        known, hidden = iter(self.known[list(self.order)].tolist()), self._shuffled()
        for _ in range(self.batches):
            yield from islice(known, self.labelled)
            yield from islice(hidden, self.unlabelled)

    def _shuffled(self) -> Iterator[int]:
        """This process's share of the unlabelled images, without end."""
        generator = np.random.default_rng([self.seed, self.epoch])
        passes = (generator.permutation(self.hidden).tolist() for _ in count())
        return islice(chain.from_iterable(passes), self.rank, None, self.ranks)


class Seeded(Sampler[tuple[int, int]]):
    """The indices of another sampler, each with a seed (32 bits) of its own.

    It follows from the run's seed, the epoch, the place in the epoch and the process: whichever worker reads the
    image, and whether or not the run was resumed, it is augmented alike.

    Args:
        sampler: BalancedSampler, MixedSampler or a DistributedSampler.
        rank: this process.
        seed: of the run.
    """

    def __init__(self, sampler: Any, *, rank: int = 0, seed: int = 0) -> None:
        self.sampler, self.rank, self.seed, self.epoch = sampler, rank, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # A spawn key keeps these draws apart from the training step's, which begin with the same numbers.
        sequence = np.random.SeedSequence((self.seed, self.epoch, self.rank), spawn_key=(1,))
        return zip(self.sampler, sequence.generate_state(len(self)).tolist(), strict=True)


@contextmanager
def plain_failures() -> Iterator[None]:
    """Say what went wrong in a worker process without its traceback.

    Raises:
        SightlineError: a worker found bad data, or was killed.
    """
    try:
        yield
    except SightlineError as error:
        reason = str(error).rpartition(f"{SightlineError.__module__}.{SightlineError.__name__}: ")[2]
        raise (SightlineError(reason.strip()) if reason != str(error) else error) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise SightlineError(
            f"a process that reads training images died ({error}). That happens when memory runs out: "
            "lower training.workers (0 reads them in the main process) or training.batch_size."
        ) from error


def divided(has_label: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The indices of the images that show their label, and of those that do not.

    Raises:
        SightlineError: there are none of either kind.
    """
    known, hidden = np.flatnonzero(has_label), np.flatnonzero(~has_label)
    if not len(known) or not len(hidden):
        shown = "every" if len(known) else "no"
        raise SightlineError(
            f"training.unlabelled_batch_size is set, but {shown} training image shows its label. "
            f"{'Lower' if len(known) else 'Raise'} data.label_fraction, or leave unlabelled_batch_size out."
        )
    return known, hidden
