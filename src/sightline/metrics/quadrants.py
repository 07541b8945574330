"""2x2 composites: how much of a map leaves its image for the distractors, and whether its class is still found."""

from abc import abstractmethod
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sightline.arguments import one_of
from sightline.errors import SightlineError
from sightline.maps import resize
from sightline.metrics.content import content_heatmap
from sightline.metrics.per_image import PerImage, Scores, drawn
from sightline.types import Evidence, Images, Labels, Logits, Maps
from sightline.views import composite, quadrant

Size = Literal["double", "same"]


def nqh(maps: Maps, cell: Int[Tensor, " b"], size: tuple[int, int] | None = None) -> Scores:
    """``sum(map outside the cell) / sum(map)``; Pillai and Pirsiavash 2021, "Negative Quadrants Heatmap".

    Args:
        maps: (B, ..., H, W) maps of 2x2 composites at any resolution, negative values cut off.
        cell: (B,) int64 in 0 to 3, row by row: where in its composite the explained image is.
        size: even (height, width), to which maps are resized where H or W is odd and cells would share a row or column.

    Returns:
        (B,) in [0, 1], lower is better, free of the maps' scale; NaN for an all-zero map. A uniform map has 0.75. The
        paper prints per cent.

    Raises:
        SightlineError: maps of fewer axes, or that cannot be split into quadrants.
    """
    height, width = maps.shape[-2:]
    if height % 2 or width % 2:
        height, width = size or (height, width)
    if maps.ndim < 3 or height % 2 or width % 2:
        raise SightlineError(
            f"maps of shape {tuple(maps.shape)} have no quadrants: expected (B, ..., H, W) with even H and W. Give an "
            "even size to resize them to."
        )
    cells = maps.new_ones(*maps.shape[:-2], height // 2, width // 2)
    return content_heatmap(maps, 1 - quadrant(cells, cell))


class Composed(PerImage):
    """What a metric of 2x2 composites has. A subclass writes `found`.

    Each image makes a composite with three of other classes, in a layout that depends on its index and the seed alone.
    Volumes and views are tiled along their last two axes. A composite has four times the pixels of its image, and costs
    as much more.

    Args:
        size: "double": the composite is twice as high and wide as the image. "same": it is resized to the image's size,
            for models that take no other.
        seed: of the layouts, 0 or more.

    Raises:
        SightlineError: an unusable argument, or composites that the model does not take.
    """

    def __init__(self, size: Size = "double", seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if seed < 0:
            raise SightlineError(f"{type(self).__name__}: seed={seed} must be 0 or more.")
        self.size, self.seed = one_of(self, "size", size, Size), seed

    @abstractmethod
    def found(self, evidence: Evidence, shown: Images, cell: Int[Tensor, " b"], size: tuple[int, int]) -> Scores:
        """(B,) score of composites as they are shown, each with its image in a `cell`; `size` is that of the tiles."""

    def score(self, evidence: Evidence) -> Scores:
        """(B,) score of each image's composite."""
        image, others = evidence.image, evidence.others
        assert image is not None
        assert others is not None
        order = self._layouts(evidence.index)
        tiled = composites(image, others, order)
        height, width = tiled.shape[-2:]
        shown = tiled if self.size == "double" else _resized(tiled, image.shape)
        try:
            return self.found(evidence, shown, order.argmin(1), (height, width))
        except SightlineError:
            raise
        except (AssertionError, RuntimeError, ValueError) as error:
            of = "x".join(map(str, shown.shape[-2:]))
            raise SightlineError(
                f"{type(self).__name__}: the model does not take composites of {of}: {error} If it takes images of one "
                "size only, or memory is short, use size='same'."
            ) from error

    def _layouts(self, index: Int[Tensor, " b"]) -> Int[Tensor, "b 4"]:
        """Which of an image (0) and its distractors (1 to 3) is in each cell."""
        return drawn(index, self.seed, lambda draws: draws.permutation(4))


class NQH(Composed):
    """NQH: the mean share of the maps of 2x2 composites that lies on the distractors. No masks are needed.

    What is explained in a composite is the class of its image; see `Composed`. NaN where the map is zero.

    Args:
        size: "double" or "same".
        seed: of the layouts, 0 or more.

    Raises:
        SightlineError: an unusable argument, or composites that cannot be explained.
    """

    key = "nqh"
    needs = ("image", "others", "explain")
    higher_is_better = False

    def found(self, evidence: Evidence, shown: Images, cell: Int[Tensor, " b"], size: tuple[int, int]) -> Scores:
        """(B,) share of each map outside of its cell."""
        assert evidence.explain is not None
        return nqh(evidence.explain(shown), cell, size)


class CompositeAccuracy(Composed):
    """The share of images whose class, in a 2x2 composite, scores above every class that is not there.

    The decision beside NQH's map, on the same composites; see `Composed`. The classes of the distractors are there too,
    so that the model may score them as high as it likes. No masks are needed. An answer at random is right once in one
    more than the classes that are absent. NaN where none is.

    Args:
        size: "double" or "same".
        seed: of the layouts, 0 or more.

    Raises:
        SightlineError: an unusable argument, or composites that the model does not take.
    """

    key = "composite_accuracy"
    needs = ("image", "others", "present", "predict")
    of_map = False

    def found(self, evidence: Evidence, shown: Images, cell: Int[Tensor, " b"], size: tuple[int, int]) -> Scores:
        """(B,) 1 where the class of the image is above all absent ones, else 0."""
        assert evidence.predict is not None
        assert evidence.present is not None
        with torch.no_grad():
            return above_absent(evidence.predict(shown), evidence.label, evidence.present)


def above_absent(logits: Logits, label: Labels, present: Bool[Tensor, "b classes"]) -> Scores:
    """(B,) 1 where ``z_label > max over classes c not present of z_c``, else 0; NaN where no class is absent.

    Args:
        logits: (B, classes).
        label: (B,) int64.
        present: (B, classes) bool.
    """
    absent = logits.masked_fill(present, -torch.inf).amax(1)
    above = logits.gather(1, label.unsqueeze(1)).squeeze(1) > absent
    return above.float().masked_fill(present.all(1), torch.nan)


def composites(image: Tensor, others: Tensor, order: Int[Tensor, "b 4"]) -> Tensor:
    """Each image (B, ..., H, W) and its three `others` (B, 3, ..., H, W) in the cells of a (B, ..., 2H, 2W) grid.

    Args:
        image: in cell c where `order` is 0.
        others: k of them, from 1 on, in cell c where `order` is k.
        order: (B, 4) permutations of 0 to 3, cells row by row.
    """
    four = torch.cat([image.unsqueeze(1), others], 1)
    return composite(four.flatten(0, 1), order + 4 * torch.arange(len(order)).unsqueeze(1))


def _resized(images: Tensor, shape: torch.Size) -> Tensor:
    """Images (B, ..., H, W) at the last two sizes of `shape`."""
    return resize(images.flatten(0, -4), shape[-2:]).view(shape)
