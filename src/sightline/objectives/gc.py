"""GC: in a 2x2 composite, the map of an image's class is that image's own map in its cell, and nothing elsewhere."""

from collections import Counter
from collections.abc import Sequence, Set
from itertools import product
from random import Random
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.arguments import one_of
from sightline.errors import SightlineError
from sightline.explainers import GradCAM
from sightline.layers import probe
from sightline.maps import normalize, resize
from sightline.objectives.base import Objective, nonnegative, single_label
from sightline.objectives.ranks import pooled_mean
from sightline.objectives.step import Step
from sightline.objectives.weights import Weight
from sightline.passes import evaluating
from sightline.types import Batch
from sightline.views import composite, quadrant

Reduction = Literal["mean", "sum"]


def gc_loss(maps: Tensor, composite_maps: Tensor, cell: Tensor, reduction: Reduction = "mean") -> Tensor:
    """``|g_c - g_x in its cell|_1`` for each image: what its composite's map has elsewhere, or otherwise (GC, eq. 4-5).

    Args:
        maps: (B, *spatial) maps g_x of the images, each of sum 1.
        composite_maps: (B, *spatial) maps g_c of the composites for the same classes, each of sum 1; twice as large
            along the last two axes.
        cell: (B,) int64 in 0 to 3, row by row: where in its composite the image is.
        reduction: over positions: "mean", as in the authors' code, or the formula's "sum".

    Returns:
        (B,); the sum is in [0, 2].
    """
    gap = (composite_maps - quadrant(maps, cell)).abs().flatten(1)
    return gap.mean(1) if reduction == "mean" else gap.sum(1)


class GC(Objective):
    """Grad-CAM consistency on composites (Pillai and Pirsiavash, AAAI 2021). Needs labels, no masks. Term: "gc".

    An image and three distractors, images of the batch without its class, make a 2x2 composite. The element-wise
    Grad-CAM of the image's label on the composite is to be that on the image alone, put into its cell. Images labelled
    -1, or without a positive class, take no part; where images have several classes, one of an anchor's is drawn and
    its distractors lack that one (the authors draw among annotations). Logged beside the term: "gc_left_out", the share
    of labelled images for which the batch holds no distractor. Where all are left out the term is 0.

    One forward serves all composites of a step. "shared" composites, of four images each of which lacks the others'
    classes, serve all four: together they have the batch's pixels where "own" composites have four times as many. The
    images left of such groups get composites of their own.

    Args:
        weight: lambda; 25 in the paper, for 14 x 14 maps and the mean over positions.
        composites: "shared", or "own" as in the paper: one per image.
        reduction: over positions, see `gc_loss`; a sum over n positions takes a weight n times smaller.
        detach_target: hold the map of the image alone constant.
        bn_update: normalisation layers learn running statistics from "all" passes, as in the authors' code, or only
            from the "clean" ones.
        layer: where the maps live; None lets `find_layer` choose.
        cells: "full" keeps the size of the images, so that the composite is twice as large. "half" shrinks it to the
            images' size, for networks that take one size only, such as vision transformers.
        official_alexnet: where the composite's map is not exactly twice the image's, both are resized to their images
            and then scaled to sum 1. The authors' AlexNet does this in the reverse order.

    Raises:
        SightlineError: an unknown choice, a weight that is none, or a network that takes no composites.
    """

    teaches = False

    def __init__(
        self,
        weight: Weight = 25.0,
        composites: Literal["shared", "own"] = "shared",
        reduction: Reduction = "mean",
        detach_target: bool = False,
        bn_update: Literal["all", "clean"] = "all",
        layer: str | None = None,
        cells: Literal["full", "half"] = "full",
        official_alexnet: bool = False,
    ) -> None:
        super().__init__()
        self.weights = nonnegative(gc=weight)
        self.explainers = (GradCAM(layer, elementwise=True),)
        self.composites, self.bn_update, self.cells = composites, bn_update, cells
        self.reduction: Reduction = reduction
        self.detach_target, self.official_alexnet = detach_target, official_alexnet
        one_of(self, "composites", self.composites, ("shared", "own"))
        one_of(self, "reduction", self.reduction, ("mean", "sum"))
        one_of(self, "bn_update", self.bn_update, ("all", "clean"))
        one_of(self, "cells", self.cells, ("full", "half"))

    def bind(self, model: nn.Module, size: int | Sequence[int]) -> None:
        super().bind(model, size)
        if self.cells == "full":
            _check_sizes(model, probe(model, size))

    def forward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        generator = step.random("gc")
        present, target = _labels(step, batch, generator)
        plan = plan_composites(present.cpu(), target.cpu(), self.composites == "shared", _seeded(generator))
        images = self._composites(batch.image, plan, step.run(batch.image).size)
        # Made even of nothing, so that processes which synchronise in their forwards keep in step.
        run = step.run(images, self.explainers, update=self.bn_update == "all" and bool(plan.layout))
        losses = self._losses(step, batch.image, target, images, plan)
        return {
            "gc": pooled_mean(torch.cat(losses) if losses else run.logits.flatten()[:0]),
            "gc_left_out": batch.image.new_tensor(plan.left_out / max(1, int(present.any(1).sum()))),
        }

    def _composites(self, image: Tensor, plan: "Plan", size: tuple[int, ...]) -> Tensor:
        images = composite(image, torch.tensor(plan.layout or [[0] * 4]))
        if self.cells == "full":
            return images
        leading = images.shape[: -len(size)]
        shrunk = resize(images.flatten(0, len(leading) - 1), size)
        return shrunk.view(*leading, *size)

    def _losses(self, step: Step, image: Tensor, target: Tensor, images: Tensor, plan: "Plan") -> list[Tensor]:
        """The anchors' losses: those of the composites' first anchors, then of the shared ones' second, and so on."""
        (explainer,) = self.explainers
        losses: list[Tensor] = []
        for turn in range(max(map(len, plan.cells), default=0)):
            # Composites without so many anchors repeat their last, which is then cut off: shared ones come first.
            count = sum(len(cells) > turn for cells in plan.cells)
            cell = torch.tensor([cells[min(turn, len(cells) - 1)] for cells in plan.cells])
            anchor = torch.tensor(plan.layout).gather(1, cell.unsqueeze(1)).squeeze(1).to(target.device)
            maps = step.explain(explainer, image, target, differentiable=not self.detach_target)[anchor[:count]]
            drawn = step.explain(explainer, images, target[anchor])[:count]
            losses.append(gc_loss(*self._fitted(maps, drawn, step.run(image).size), cell[:count], self.reduction))
        return losses

    def _fitted(self, maps: Tensor, composite_maps: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Both of sum 1, the second twice as large as the first: resized to the images where that is not so already."""
        *depth, height, width = composite_maps.shape[-len(size) :]
        cell = (*depth, height // 2, width // 2)
        even = height % 2 == width % 2 == 0
        if even and (self.cells == "half" or cell == maps.shape[-len(size) :]):
            return normalize(resize(maps, cell)), normalize(composite_maps)
        double = (*size[:-2], 2 * size[-2], 2 * size[-1])
        if self.official_alexnet:
            return resize(normalize(maps), size), resize(normalize(composite_maps), double)
        return normalize(resize(maps, size)), normalize(resize(composite_maps, double))


class Plan(NamedTuple):
    """Which composites to make of a batch."""

    layout: list[list[int]]
    """The image in each of the four cells of every composite, row by row."""
    cells: list[list[int]]
    """The cells whose images' maps are compared: all four of the shared composites, which come first, or one."""
    left_out: int
    """How many labelled images found no distractor."""


def plan_composites(present: Tensor, target: Tensor, shared: bool, random: Random) -> Plan:
    """Composites for the images of a batch, each in a cell drawn uniformly.

    Args:
        present: (B, classes) bool, the classes each image shows; images without any are left alone.
        target: (B,) int64, the class to be explained.
        shared: whether four images may share a composite.
        random: source of all draws.
    """
    images = present.any(1).nonzero().flatten().tolist()
    shown = present[:, target] & present.any(1)  # [i, j]: whether image i shows the class explained of image j
    clash = [set(row.nonzero().flatten().tolist()) for row in shown | shown.T]
    groups = groups_of_four(images, target.tolist(), clash, random) if shared else []
    layout, cells = [random.sample(group, 4) for group in groups], [[0, 1, 2, 3] for _ in groups]
    shows, left_out = shown.tolist(), 0
    for image in set(images).difference(*groups):
        distractors = [other for other in images if not shows[other][image]]
        if not distractors:
            left_out += 1
            continue
        # Fewer than three distractors show more than once.
        row = random.sample(distractors, 3) if len(distractors) > 2 else random.choices(distractors, k=3)
        cell = random.randrange(4)
        layout.append([*row[:cell], image, *row[cell:]])
        cells.append([cell])
    return Plan(layout, cells, left_out)


def groups_of_four(
    images: Sequence[int], classes: Sequence[int], clash: Sequence[Set[int]], random: Random
) -> list[list[int]]:
    """Disjoint groups of four images, no two of which clash; where images show one class each, as many as can be.

    m groups need ``sum over classes of min(m, its images) >= 4 m``. Where only equal classes clash that is enough:
    dealt class by class to the least full groups, these never differ by more than one image.

    Args:
        images: those to be grouped, as indices into what follows.
        classes: of each image; images of one class clash.
        clash: of each image, those it clashes with; symmetric.
        random: source of all draws.
    """
    counts = Counter(classes[image] for image in images).values()
    most = next(m for m in range(len(images) // 4, -1, -1) if sum(min(m, count) for count in counts) >= 4 * m)
    order = _fewest_clashes_first(images, classes, clash, random)
    best: list[list[int]] = []
    for goal, start in product(range(most, 0, -1), (order, order[::-1])):
        if len(best) < goal:
            best = max(best, _dealt(start, goal, clash, random), key=len)
    return best


def _fewest_clashes_first(
    images: Sequence[int], classes: Sequence[int], clash: Sequence[Set[int]], random: Random
) -> list[int]:
    """By the number of clashes; classes of as many come in random order, but each in one piece."""
    order = random.sample(images, len(images))
    rank = {c: i for i, c in enumerate(dict.fromkeys(classes[image] for image in order))}
    return sorted(order, key=lambda image: (len(clash[image]), rank[classes[image]]))


def _dealt(order: Sequence[int], count: int, clash: Sequence[Set[int]], random: Random) -> list[list[int]]:
    """The full ones of `count` groups, where each image went to one of the least full in which it clashed with none."""
    by_size: list[list[list[int]]] = [[[] for _ in range(count)], [], [], [], []]
    for image in order:
        fits = ([group for group in groups if clash[image].isdisjoint(group)] for groups in by_size[:4])
        if fit := next(filter(None, fits), None):
            group = random.choice(fit)
            by_size[len(group)].remove(group)
            by_size[len(group) + 1].append([*group, image])
    return by_size[4]


def _labels(step: Step, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(B, classes) bool: the classes each image shows, and (B,) the one to be explained, 0 where there is none."""
    if batch.label.ndim == 1:
        known = single_label(step, batch, "GC")
        return F.one_hot(known).bool() & (batch.label >= 0).unsqueeze(1), known
    present = batch.label > 0
    draws = 1 + torch.rand(present.shape, generator=generator)
    return present, (draws.to(present.device) * present).argmax(1)


def _seeded(generator: torch.Generator) -> Random:
    return Random(int(torch.randint(2**31, (), generator=generator)))


def _check_sizes(model: nn.Module, image: Tensor) -> None:
    """Raise if `model` runs on images but not on composites of them."""
    images = composite(image, torch.zeros(1, 4, dtype=torch.long))
    with evaluating(model), torch.no_grad():
        error = _failure(model, images)
        if error and not _failure(model, image):
            raise SightlineError(
                f"GC: the model runs on images of shape {tuple(image.shape[1:])} but not on 2x2 composites of shape "
                f'{tuple(images.shape[1:])}: {error}. Pass GC(cells="half"), which shrinks them to the image\'s size.'
            )


def _failure(model: nn.Module, image: Tensor) -> str:
    """What `model` says of images that it does not take; nothing if it runs."""
    try:
        model(image)
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        return str(error) or type(error).__name__
    return ""
