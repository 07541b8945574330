"""What an objective asks of the other processes of a distributed run; alone, the answers are its own."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def world() -> tuple[int, int]:
    """(own rank, number of processes)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a detached `value` over all processes."""
    if world()[1] > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a detached `value` over all processes."""
    return sum_over_ranks(value) / world()[1]


def pooled(mean: Tensor, count: Tensor) -> Tensor:
    """The `mean` of `count` own values, so weighted that its mean over processes is that of the values of them all.

    DDP averages gradients over processes: they too are then those of one process that holds all values. `count` is a
    detached scalar; who has 0 values hands in a mean of 0. Alone, the mean is returned as it is.
    """
    size = world()[1]
    return mean if size == 1 else mean * count * size / sum_over_ranks(count).clamp(min=1)


def pooled_mean(values: Tensor) -> Tensor:
    """The mean of (n,) own values, `pooled`; 0 if nobody has any."""
    return pooled(values.sum() / max(len(values), 1), torch.tensor(len(values), device=values.device))


def gathered(rows: Tensor) -> tuple[Tensor, int]:
    """The (N, ...) rows of all processes, in the order of their ranks, and where one's own begin; differentiable.

    Processes may hold different numbers of rows, or none. Gradients reach the process a row came from: with losses
    averaged over processes, as DDP does, they are those of one process that holds all rows. All of them take part in
    the backward: everybody's rows must require a gradient, and everybody's loss must depend on the result.
    """
    rank, size = world()
    if size == 1:
        return rows, 0
    counts = torch.zeros(size, dtype=torch.long, device=rows.device)
    counts[rank] = len(rows)
    counts = sum_over_ranks(counts)
    longest = int(counts.max())
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    everyone = all_gather(padded)
    return torch.cat([part[:count] for part, count in zip(everyone, counts.tolist(), strict=True)]), int(
        counts[:rank].sum()
    )
