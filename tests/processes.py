"""Two processes that train together."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def of_two(work: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """What `work(rank, *args)` returns in each of two gloo processes; they meet and answer in `folder`."""
    mp.spawn(_joined, (work, folder, args), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def _joined(rank: int, work: Callable[..., Any], folder: Path, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"  # a port could be another test's by now
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(minutes=3))
    torch.save(work(rank, *args), folder / f"{rank}.pt")
    dist.barrier()  # nobody leaves while the other is still being answered
    dist.destroy_process_group()
