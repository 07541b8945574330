"""Two gloo processes against what one process computes."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from nets import Residual, double
from processes import of_two
from sightline import Guided
from sightline.objectives import CE, CFCN, CGC, GAIN, GC, PPI, RRR, ContextSwap
from sightline.objectives.ranks import gathered, mean_over_ranks, pooled_mean
from sightline.types import Batch
from sightline.views import Crop

pytestmark = pytest.mark.filterwarnings("ignore:layer 'act' ran more than once")

ROWS = {"even": (3, 3), "uneven": (1, 4), "none on one": (0, 2), "none at all": (0, 0)}
CASES = {
    "paper": ({}, 4, range(8)),
    "official": ({"preset": "official"}, 4, range(8)),
    "paper, uneven": ({}, 5, range(8)),
    "anchored at the view, uneven": ({"anchor": "aug"}, 3, range(8)),
    "no negatives, uneven": ({"negatives": False, "weight": 100.0}, 5, range(8)),
    "unlabelled": ({"on": "unlabelled"}, 4, [0, -1, 2, -1, -1, 1, 3, 3]),
    "unlabelled, none on one": ({"on": "unlabelled"}, 4, [0, 1, 2, 3, -1, 1, -1, -1]),
    "unlabelled, none at all": ({"on": "unlabelled"}, 4, range(8)),
    "unlabelled, no negatives": ({"on": "unlabelled", "negatives": False, "weight": 100.0}, 4, [0, -1, *range(6)]),
}
"""CGC's arguments, how many of eight images the first process has, and their labels, -1 or modulo four."""


class Told(CGC):
    """CGC with crops told by the images themselves, so that one process and two cut alike."""

    def _crop(self, image, size, generator):
        start = (5 * image[:, :2, 0, 0]).long()
        return Crop(tuple(size), start, 12 - start, image[:, 2, 0, 0] > 0.5)


def half(rank):
    generator = torch.Generator().manual_seed(100 + rank)
    image = torch.rand(4, 3, 12, 12, generator=generator, dtype=torch.float64)
    mask = (torch.rand(4, 12, 12, generator=generator) > 0.5).double()
    return Batch(image, torch.arange(4), mask, torch.tensor([True, False, True, True]), torch.arange(4) + 4 * rank)


def guided():
    consistent = [CGC("paper", scale=(0.4, 1), gather=False), GC(), PPI(), GAIN(external=10)]
    return Guided(double(Residual()), [CE(), *consistent, CFCN("C"), RRR(), ContextSwap()], 12)


def loss(module, rank):
    torch.manual_seed(rank)
    return module(half(rank))[0]


def told(case):
    """Without statistics of batches, and with a cross-entropy that only keeps every parameter in the graph."""
    return Guided(double(Residual()).eval(), [CE(weight=0), Told(**CASES[case][0])], 12)


def part(case, begin=0, end=8):
    whole = Batch(*(torch.cat(pair) for pair in zip(half(0), half(1), strict=True)))
    label = torch.tensor(CASES[case][2])
    return Batch(*(field[begin:end] for field in whole._replace(label=torch.where(label < 0, -1, label % 4))))


def share(rank, case):
    first = CASES[case][1]
    return part(case, 0, first) if rank == 0 else part(case, first)


def rows(case, rank):
    values = torch.arange(sum(ROWS[case]) * 2, dtype=torch.float64).view(-1, 2)
    return values[: ROWS[case][0]] if rank == 0 else values[ROWS[case][0] :]


def gather(case, rank):
    """What is gathered, where the own rows begin, and the gradient of a loss that differs between processes."""
    own = rows(case, rank).requires_grad_()
    everyone, first = gathered(own)
    (everyone * (rank + 1) * torch.arange(1, everyone.numel() + 1).view_as(everyone)).sum().backward()
    return everyone.detach(), first, own.grad


def counting():
    """Objectives whose terms are means over what counts, without draws, partners or statistics of batches."""
    return Guided(double(Residual()).eval(), [CE(), PPI(w3=0), GAIN(external=10)], 12)


def counted(begin=0, end=8):
    """Images one process sees one labelled one of, and the other four, with one more mask."""
    whole = Batch(*(torch.cat(pair) for pair in zip(half(0), half(1), strict=True)))
    return Batch(*(field[begin:end] for field in whole._replace(label=torch.tensor([-1, 2, -1, -1, 0, 1, 3, 2]))))


def step(module, run):
    value, terms = run(module)
    value.backward()
    return terms, [p.grad for p in module.parameters()]


def worker(rank):
    found = {f"rows {case}": gather(case, rank) for case in ROWS}
    found |= {f"mean {case}": mean_over_ranks(pooled_mean(rows(case, rank).flatten())) for case in ROWS}
    module = DistributedDataParallel(guided())
    loss(module, rank).backward()
    found["all objectives"] = [p.grad for p in module.parameters()]
    found["counting"] = step(DistributedDataParallel(counting()), lambda m: m(counted(4 * rank, 4 * rank + 4)))
    for case in CASES:
        found[case] = step(DistributedDataParallel(told(case)), lambda module, case=case: module(share(rank, case)))
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two processes found."""
    return of_two(worker, tmp_path_factory.mktemp("processes"))


def assert_close(got, expected):
    for gradient, other in zip(got, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12)


def test_two_processes_equal_the_mean_of_one(both):
    module = guided()
    each = [torch.autograd.grad(loss(module, rank), list(module.parameters())) for rank in (0, 1)]
    assert_close(both[0]["all objectives"], [(first + second) / 2 for first, second in zip(*each, strict=True)])


def test_means_over_what_counts_are_those_of_one_process(both):
    (one, gradients), (other, _) = (found["counting"] for found in both)
    terms, expected = step(counting(), lambda module: module(counted()))
    for name in terms:
        torch.testing.assert_close((one[name] + other[name]) / 2, terms[name], rtol=1e-10, atol=0)
    assert_close(gradients, expected)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_with_gathered_negatives_equal_one_large_batch(both, case):
    (one, gradients), (other, _) = (found[case] for found in both)
    terms, expected = step(told(case), lambda module: module(part(case)))
    assert (terms["cgc"] == 0) == case.endswith("none at all")
    for name in terms.keys() - {"ce"}:
        torch.testing.assert_close((one[name] + other[name]) / 2, terms[name], rtol=1e-10, atol=0)
    assert_close(gradients, expected)


@pytest.mark.parametrize("case", ROWS)
def test_gathered_rows_and_their_gradients(both, case):
    whole = torch.cat([rows(case, 0), rows(case, 1)])
    weights = torch.arange(1, whole.numel() + 1, dtype=torch.float64).view_as(whole) * (1 + 2)
    for rank, (everyone, first, gradient) in enumerate(found[f"rows {case}"] for found in both):
        assert torch.equal(everyone, whole)
        assert first == rank * ROWS[case][0]
        assert torch.equal(gradient, weights[first : first + ROWS[case][rank]])


@pytest.mark.parametrize("case", ROWS)
def test_pooled_means_average_to_the_mean_of_all(both, case):
    whole = torch.cat([rows(case, 0), rows(case, 1)]).flatten()
    expected = whole.mean() if len(whole) else torch.zeros((), dtype=torch.float64)
    for found in both:
        torch.testing.assert_close(found[f"mean {case}"], expected)
    torch.testing.assert_close(pooled_mean(whole), expected)
