"""Random states, and weights drawn anew."""

import copy

import numpy as np
import torch
from torch import nn


def reseed(seed: int, device: torch.device) -> None:
    """What torch draws on the CPU and on `device` follows from `seed`; other devices' states stay.

    `torch.manual_seed` also tells every kind of device that is not there, with the call stack for each: half a
    millisecond of every step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def seeded(seed: int, index: int) -> torch.Generator:
    """A CPU generator for one image, the same wherever and whenever it is met."""
    state = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def redrawn(model: nn.Module, seed: int) -> nn.Module:
    """A copy with random weights only, the same on every device.

    A module that has `reset_parameters` starts as it would before training; the weights of others are shuffled.
    """
    random = copy.deepcopy(model).cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        # Not the bare seed: a user's model may have begun with it, and these would be its own first weights.
        torch.default_generator.manual_seed(seeded(seed, 0).initial_seed())
        for module in random.modules():
            _draw(module)
    return random.to(next(model.parameters(), torch.empty(0)).device)


def _draw(module: nn.Module) -> None:
    own = list(module.parameters(recurse=False))
    if own and callable(reset := getattr(module, "reset_parameters", None)):
        reset()
    else:
        for weight in own:
            weight.copy_(weight.flatten()[torch.randperm(weight.numel())].view_as(weight))
