"""Two gloo processes against the mean of what one process computes."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from nets import Residual, double
from sightline import Guided
from sightline.objectives import CE, CFCN, CGC, ContextSwap
from sightline.types import Batch


def half(rank):
    generator = torch.Generator().manual_seed(100 + rank)
    image = torch.rand(4, 3, 12, 12, generator=generator, dtype=torch.float64)
    mask = (torch.rand(4, 12, 12, generator=generator) > 0.5).double()
    return Batch(image, torch.arange(4), mask, torch.tensor([True, False, True, True]), torch.arange(4) + 4 * rank)


def guided():
    return Guided(double(Residual()), [CE(), CGC("paper", scale=(0.4, 1)), CFCN("C"), ContextSwap()], 12)


def loss(module, rank):
    torch.manual_seed(rank)
    return module(half(rank))[0]


def worker(rank, port, out):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    module = guided()
    parallel = DistributedDataParallel(module)
    loss(parallel, rank).backward()
    if rank == 0:
        torch.save([p.grad for p in module.parameters()], out)
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:layer 'act' ran more than once")
def test_two_processes_equal_the_mean_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, str(tmp_path / "grads.pt")), nprocs=2)
    got = torch.load(tmp_path / "grads.pt", weights_only=True)
    module = guided()
    each = [torch.autograd.grad(loss(module, rank), list(module.parameters())) for rank in (0, 1)]
    for gradient, first, second in zip(got, *each, strict=True):
        torch.testing.assert_close(gradient, (first + second) / 2, rtol=1e-10, atol=1e-12)
