"""One training step's memory: every pass and every map is computed once, whoever asks for it."""

from collections.abc import Iterable
from zlib import crc32

import torch
from torch import Tensor, nn

from sightline.explainers import Explainer
from sightline.passes import Pass, Target, record


class Step:
    """The passes and maps of one step.

    Images and targets are told apart by identity, not by value: ask for the same tensor object to get the same pass.

    Args:
        model: the classifier being trained.
        taps: activations that every pass of this step records.
        ruled: whether every pass of this step can have its backward replaced; see `record`.
        seed: start of this step's random draws; None takes one from torch's global generator.
    """

    def __init__(
        self, model: nn.Module, taps: Iterable[str] = (), *, ruled: bool = False, seed: int | None = None
    ) -> None:
        self.model, self.ruled = model, ruled
        self.taps = tuple(dict.fromkeys(taps))
        self.seed = int(torch.randint(2**31, ())) if seed is None else seed
        # Images and targets are kept, so that an id stays taken as long as it is a key.
        self._passes: dict[int, tuple[Tensor, Pass]] = {}
        self._maps: dict[tuple[Explainer, int, int], tuple[Target, Tensor]] = {}

    def run(self, image: Tensor) -> Pass:
        """The pass of `image` through the model; the first call runs it."""
        if id(image) not in self._passes:
            self._passes[id(image)] = image, record(self.model, image, taps=self.taps, ruled=self.ruled)
        return self._passes[id(image)][1]

    def explain(self, explainer: Explainer, image: Tensor, target: Target = None) -> Tensor:
        """(B, *spatial) differentiable map of `target` on `image`; see `Pass.target` for what a target may be."""
        key = (explainer, id(image), id(target))
        if key not in self._maps:
            self._maps[key] = (target, explainer(self.run(image), target, differentiable=True))
        return self._maps[key][1]

    def random(self, name: str) -> torch.Generator:
        """A fresh CPU generator for the objective called `name`: what others draw beside it changes nothing."""
        return torch.Generator().manual_seed(self.seed ^ crc32(name.encode()))
