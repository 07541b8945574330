"""One training step's memory: every pass and every map is computed once, whoever asks for it."""

from collections.abc import Iterable
from contextlib import nullcontext
from zlib import crc32

import torch
from torch import Tensor, nn

from sightline.explainers import Explainer
from sightline.passes import Pass, Target, keeping_statistics, record


class Step:
    """The passes and maps of one step.

    Images and targets are told apart by identity, not by value: ask for the same tensor object to get the same pass.

    Args:
        model: the classifier being trained.
        taps: activations that a pass records unless `run` is told which explainers will ask.
        ruled: whether the backward of such a pass can be replaced; see `record`.
        seed: start of this step's random draws; None takes one from torch's global generator.
    """

    def __init__(
        self, model: nn.Module, taps: Iterable[str] = (), *, ruled: bool | None = False, seed: int | None = None
    ) -> None:
        self.model, self.ruled = model, ruled
        self.taps = tuple(dict.fromkeys(taps))
        self.seed = int(torch.randint(2**31, ())) if seed is None else seed
        # Images and targets are kept, so that an id stays taken as long as it is a key.
        self._passes: dict[int, tuple[Tensor, Pass]] = {}
        self._maps: dict[tuple[Explainer, int, int, bool], tuple[Target, Tensor]] = {}
        self._labels: dict[int, tuple[Tensor, Tensor]] = {}

    def run(self, image: Tensor, explainers: Iterable[Explainer] | None = None, *, update: bool = True) -> Pass:
        """The pass of `image` through the model; the first call runs it.

        Args:
            image: (B, C, *spatial).
            explainers: those that will be asked for maps of this pass; none for an image that is only classified,
                whose own gradient is then kept. By default all of the step's, as the batch's image needs.
            update: whether normalisation layers in training mode learn running statistics from this pass.
        """
        if id(image) not in self._passes:
            taps, ruled = self.taps, self.ruled
            if explainers is not None:
                explainers = tuple(explainers)
                taps = tuple(dict.fromkeys(tap for explainer in explainers for tap in explainer.taps))
                ruled = any(explainer.ruled for explainer in explainers)
            with nullcontext() if update else keeping_statistics(self.model):
                self._passes[id(image)] = image, record(self.model, image, taps=taps, ruled=ruled)
        return self._passes[id(image)][1]

    def explain(
        self, explainer: Explainer, image: Tensor, target: Target = None, *, differentiable: bool = True
    ) -> Tensor:
        """(B, *spatial) map of `target` on `image`; see `Pass.target` for what a target may be.

        With `differentiable=False` it is a constant, which for maps of the image itself spares the second derivative.
        """
        key = (explainer, id(image), id(target))
        if (*key, True) in self._maps:
            known = self._maps[*key, True][1]
            return known if differentiable else known.detach()
        if (*key, differentiable) not in self._maps:
            drawn = explainer(self.run(image), target, differentiable=differentiable)
            self._maps[*key, differentiable] = (target, drawn)
        return self._maps[*key, differentiable][1]

    def known(self, label: Tensor) -> Tensor:
        """`label` with class 0 for -1; the same tensor whoever asks."""
        if id(label) not in self._labels:
            self._labels[id(label)] = label, label.clamp(min=0)
        return self._labels[id(label)][1]

    def random(self, name: str) -> torch.Generator:
        """A fresh CPU generator for the objective called `name`: what others draw beside it changes nothing."""
        return torch.Generator().manual_seed(self.seed ^ crc32(name.encode()))
