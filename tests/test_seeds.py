"""Random states."""

import torch

from sightline.seeds import reseed


def test_draws_follow_from_the_seed_as_with_torch():
    torch.manual_seed(7)
    expected = torch.rand(3)
    reseed(7, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
    assert torch.initial_seed() == 7
