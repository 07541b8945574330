"""FGSM and PGD: how little must every pixel change until the model errs?"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import inf, nan
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sightline.errors import SightlineError
from sightline.metrics.per_image import Curve, Scores, drawn
from sightline.types import Evidence, Images, Labels, Logits

Predict = Callable[[Tensor], Tensor]


def fgsm(predict: Predict, image: Images, label: Labels, epsilon: float) -> Images:
    """``clip(x + e/255 sign(d CE(f(x), y) / dx), 0, 1)``, sign(0) = 0; Goodfellow et al. 2015, "FGSM".

    Each image's result is its own, whatever else is in the batch, where `predict` treats them apart. Gradients are
    enabled for it, and no parameter's `.grad` changes.

    Args:
        predict: images -> logits (B, classes), differentiable where gradients are enabled.
        image: (B, C, *spatial) or (B, views, C, *spatial) in [0, 1].
        label: (B,) class numbers.
        epsilon: the most that a value changes by, in 255ths.

    Returns:
        Images like `image`, in [0, 1], without a graph.

    Raises:
        SightlineError: labels that are not one known class each, or logits that do not depend on the images.
    """
    return _moved(image, epsilon, _uphill(predict, image, label))


def pgd(
    predict: Predict, image: Images, label: Labels, epsilon: float, steps: int = 10, start: Tensor | None = None
) -> Images:
    """FGSM in `steps` small steps; Madry et al. 2018, "PGD".

    ``x <- clip(x + 2.5 e / (255 steps) sign(d CE(f(x), y) / dx), x_0 - e/255, x_0 + e/255)``, and within [0, 1].

    Args:
        predict: as in `fgsm`.
        image: as in `fgsm`.
        label: as in `fgsm`.
        epsilon: the most that a value changes by, in 255ths.
        steps: how many.
        start: where to begin, in the shape of `image`: -1 to 1 from one side of the ball to the other; None is x_0.

    Returns:
        Images like `image`, in [0, 1], without a graph.

    Raises:
        SightlineError: as in `fgsm`.
    """
    radius = epsilon / 255
    low, high = (image - radius).clamp(min=0), (image + radius).clamp(max=1)
    moved = (image if start is None else image + radius * start).clamp(low, high)
    for _ in range(steps):
        moved = (moved + 2.5 * radius / steps * _uphill(predict, moved, label)).clamp(low, high)
    return moved.detach()


def _moved(image: Images, epsilon: float, direction: Tensor) -> Images:
    return (image.detach() + epsilon / 255 * direction).clamp(0, 1)


def _uphill(predict: Predict, image: Images, label: Labels) -> Tensor:
    """The sign of the cross-entropy's derivative, in the shape of `image`."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = image.detach().clone().requires_grad_()
        logits = predict(leaf)
        if not logits.requires_grad:
            raise SightlineError(
                "an attack needs the gradient of the logits, and they have none. Let `predict` run the model without "
                "torch.no_grad() and without .detach()."
            )
        return torch.autograd.grad(_margin(logits, _known(label, logits).clone()).sum(), leaf)[0].sign()


def _margin(logits: Logits, label: Labels) -> Scores:
    """``m = logsumexp of the other classes' logits - the label's``."""
    # CE = softplus(m): the same sign, but a model that is sure leaves the CE's derivative no digits, and m's all.
    own = label.unsqueeze(1)
    return (logits.scatter(1, own, -inf).logsumexp(1, keepdim=True) - logits.gather(1, own)).squeeze(1)


def _known(label: Labels, logits: Logits) -> Labels:
    if label.ndim != 1 or label.is_floating_point() or not 0 <= int(label.min()) <= int(label.max()) < logits.shape[1]:
        raise SightlineError(
            f"an attack needs one class per image, 0 to {logits.shape[1] - 1}; got labels {label.tolist()[:8]}."
        )
    return label


class Minimal(NamedTuple):
    """The smallest epsilon that fools the model, image by image."""

    index: Tensor  # type: ignore[assignment]  # a tuple has a method of this name, which nobody needs here
    """(N,) ascending."""
    epsilon: Tensor
    """(N,) in 255ths: 0 if the model errs without an attack, inf if none of those tried fools it, NaN without label."""

    @property
    def never(self) -> int:
        """The number of images whose answer no epsilon changed. The mean says nothing of them."""
        return int(self.epsilon.isinf().sum())

    @property
    def mean(self) -> float:
        """Over the images that some epsilon fooled, or that needed none; NaN if there are none. See `never`."""
        return float(self.epsilon[self.epsilon.isfinite()].mean())

    @property
    def median(self) -> float:
        """Over all images with a label: inf if more than half withstand; NaN if there are none."""
        known = self.epsilon[~self.epsilon.isnan()].sort().values
        return float(known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2 if len(known) else nan


class Attack(Curve):
    """Accuracy under an attack, at each epsilon. A subclass writes `attacked`.

    The curve is 1 where the model still, or only now, answers with the label; the score is the curve's mean. Images
    without a label are not scored.

    Args:
        epsilons: in 255ths, ascending.

    Raises:
        SightlineError: epsilons that do not ascend, or labels that are not one class per image.
    """

    of_map = False
    needs = ("image", "predict")
    clean: list[Tensor]

    def __init__(self, epsilons: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilons = tuple(map(float, epsilons))
        if not self.epsilons or not all(a < b for a, b in pairwise((0.0, *self.epsilons, inf))):
            raise SightlineError(f"{type(self).__name__}: epsilons={epsilons}: expected numbers above 0 that ascend.")
        self.add_state("clean", default=[], dist_reduce_fx="cat")

    @property
    def axis(self) -> tuple[float, ...]:
        """The epsilons."""
        return self.epsilons

    @abstractmethod
    def attacked(self, predict: Predict, evidence: Evidence, label: Labels) -> Iterator[Images]:
        """The images under attack, once for each epsilon."""

    def curve(self, evidence: Evidence) -> Float[Tensor, "b p"]:
        """(B, p) 1 where the model answers with the label, else 0."""
        assert evidence.predict is not None
        label = evidence.label.clamp(min=0)
        images = self.attacked(evidence.predict, evidence, label)
        right = [_right(evidence.predict, moved, label) for moved in images]
        return torch.stack(right, 1).masked_fill(evidence.label.unsqueeze(1) < 0, nan)

    def sum_up(self, curve: Float[Tensor, "b p"]) -> Scores:
        """(B,) mean over the epsilons."""
        return curve.mean(1)

    def update(self, evidence: Evidence) -> None:
        """Attack and score a batch."""
        super().update(evidence)
        self.clean.append(evidence.logits.argmax(1) == evidence.label)

    def minimal(self) -> Minimal:
        """The smallest epsilon that fools the model, for every image; gathered from all processes."""
        with self.sync_context():
            index, curve, clean = (self._distinct(state) for state in (self.index, self.points, self.clean))
        if not len(index):
            return Minimal(index, curve)
        wrong = curve == 0
        smallest = curve.new_tensor(self.axis)[wrong.byte().argmax(1)].masked_fill(~wrong.any(1), inf)
        return Minimal(index, smallest.masked_fill(~clean, 0).masked_fill(curve.isnan().any(1), nan))


def _right(predict: Predict, image: Images, label: Labels) -> Scores:
    with torch.no_grad():
        return (predict(image).argmax(1) == label).float()


class FGSM(Attack):
    """Accuracy under FGSM; the gradient is taken once, on the intact image. See `fgsm` and `Attack`.

    Args:
        epsilons: in 255ths, ascending.

    Raises:
        SightlineError: epsilons that do not ascend, or labels that are not one class per image.
    """

    key = "fgsm"

    def __init__(self, epsilons: Sequence[float] = (1, 2, 4, 8, 16, 32, 64), **kwargs: Any) -> None:
        super().__init__(epsilons, **kwargs)

    def attacked(self, predict: Predict, evidence: Evidence, label: Labels) -> Iterator[Images]:
        """The images under attack, once for each epsilon."""
        assert evidence.image is not None
        direction = _uphill(predict, evidence.image, label)
        return (_moved(evidence.image, epsilon, direction) for epsilon in self.epsilons)


class PGD(Attack):
    """Accuracy under PGD from a random start in each ball, which an image's index seeds. See `pgd` and `Attack`.

    Args:
        epsilons: in 255ths, ascending.
        steps: gradients taken for each epsilon.
        seed: of the starts.

    Raises:
        SightlineError: epsilons that do not ascend, no steps, or labels that are not one class per image.
    """

    key = "pgd"

    def __init__(self, epsilons: Sequence[float] = (1, 2, 4, 8), steps: int = 10, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(epsilons, **kwargs)
        if steps < 1 or seed < 0:
            raise SightlineError(f"PGD: steps={steps}, seed={seed}: expected at least 1 step and a seed of at least 0.")
        self.steps, self.seed = steps, seed

    def attacked(self, predict: Predict, evidence: Evidence, label: Labels) -> Iterator[Images]:
        """The images under attack, once for each epsilon."""
        assert evidence.image is not None
        image, start = evidence.image, self._start(evidence.image, evidence.index)
        return (pgd(predict, image, label, epsilon, self.steps, start) for epsilon in self.epsilons)

    def _start(self, image: Images, index: Tensor) -> Tensor:
        """In the shape of `image`, uniform in [-1, 1]."""
        return drawn(index, self.seed, lambda draws: draws.uniform(-1, 1, image.shape[1:])).to(image)
