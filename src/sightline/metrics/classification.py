"""What classifiers are always measured by, from torchmetrics: accuracy, top-5, F1 and AUROC."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from sightline.compat import repair_torchvision
from sightline.errors import SightlineError
from sightline.types import Labels, Logits

repair_torchvision()
from torchmetrics import Metric, MetricCollection  # noqa: E402
from torchmetrics.classification import (  # noqa: E402
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassF1Score,
    MultilabelAUROC,
    MultilabelF1Score,
)
from torchmetrics.functional.classification import multilabel_auroc  # noqa: E402
from torchmetrics.utilities import dim_zero_cat  # noqa: E402

Marks = Labels | Int[Tensor, "b classes"]


def classification(classes: int, multilabel: bool = False, top: int = 5) -> MetricCollection:
    """Metrics of decisions, to be updated with logits (B, classes) and labels.

    For one class per image, labels (B,): "accuracy"; "top5", where there are more classes than that; "macro_f1", the
    mean of the classes' F1, without classes that are neither labelled nor predicted; "auroc", one class against the
    rest.

    For several, labels (B, classes) of 0 and 1, a class being predicted where its logit is above 0:

    * "f1_per_class", the consistency papers' F1-PerClass: ``1/C sum_c 2 TP_c / (2 TP_c + FP_c + FN_c)`` over all
      classes, 0 for one without a true positive. Much of the literature's "CF1" is another number: the harmonic mean of
      the mean precision and the mean recall, which is never smaller than F1-PerClass.
    * "f1_overall", F1-Overall or micro-F1: the same of the counts of all classes taken together.
    * "auroc", the mean of the classes' AUROC.

    AUROC is exact, so the probabilities of all images are kept; classes without a positive or without a negative have
    none and are left out. The values are those of an audit's summary.

    Args:
        classes: how many.
        multilabel: whether an image may have several classes.
        top: the k of "top<k>".

    Raises:
        SightlineError: fewer than two classes for one class per image, or fewer than one; and later, from `update`,
            logits or labels of another shape, or labels that are no classes.
    """
    if classes < (1 if multilabel else 2) or top < 1:
        raise SightlineError(
            f"classification: classes={classes}, top={top}: expected at least 2 classes and a top of 1."
        )
    return _Decisions(_several(classes) if multilabel else _single(classes, top), classes, multilabel)


def _single(classes: int, top: int) -> dict[str, Metric]:
    found: dict[str, Metric] = {"accuracy": MulticlassAccuracy(classes, average="micro")}
    if classes > top > 1:
        found[f"top{top}"] = MulticlassAccuracy(classes, top_k=top, average="micro")
    return found | {"macro_f1": MulticlassF1Score(classes), "auroc": _OneVersusRest(classes)}


def _several(classes: int) -> dict[str, Metric]:
    return {
        "f1_per_class": MultilabelF1Score(classes, average="macro"),
        "f1_overall": MultilabelF1Score(classes, average="micro"),
        "auroc": _PerLabel(classes),
    }


class _Decisions(MetricCollection):
    """Metrics that take logits: torchmetrics' own take them for probabilities where all of a batch lie in [0, 1]."""

    def __init__(self, metrics: dict[str, Metric], classes: int, multilabel: bool) -> None:
        # In groups, metrics whose states agree after the first batch share one state from then on.
        super().__init__({**metrics}, compute_groups=False)
        self.classes, self.multilabel = classes, multilabel

    def forward(self, logits: Logits, label: Marks) -> dict[str, Any]:
        """Their values of this batch alone; it is kept, too."""
        return super().forward(*self._probable(logits, label))

    def update(self, logits: Logits, label: Marks) -> None:  # type: ignore[override]
        """Keep a batch."""
        super().update(*self._probable(logits, label))

    def _probable(self, logits: Logits, label: Marks) -> tuple[Tensor, Tensor]:
        _refuse_unfit(logits, label, self.classes, self.multilabel)
        logits = logits.detach().double()
        return logits.sigmoid() if self.multilabel else logits.softmax(1), label.long()


def _refuse_unfit(logits: Logits, label: Marks, classes: int, multilabel: bool) -> None:
    shape = (len(logits), classes) if multilabel else (len(logits),)
    if logits.shape[1] != classes or tuple(label.shape) != shape:
        raise SightlineError(
            f"classification: logits of shape {tuple(logits.shape)} and labels of shape {tuple(label.shape)}; expected "
            f"{(len(logits), classes)} and {shape}."
        )
    most = 1 if multilabel else classes - 1
    if ((label < 0) | (label > most) | (label != label.round())).any():
        given = sorted(set(label.flatten().tolist()))[:8]
        raise SightlineError(f"classification: expected labels of 0 to {most}, got {given}.")


class _OneVersusRest(MulticlassAUROC):
    def compute(self) -> Tensor:  # type: ignore[override]
        """Mean over the classes that have an AUROC."""
        return _mean_auroc(dim_zero_cat(self.preds), F.one_hot(dim_zero_cat(self.target), self.num_classes))


class _PerLabel(MultilabelAUROC):
    def compute(self) -> Tensor:  # type: ignore[override]
        """Mean over the classes that have an AUROC."""
        return _mean_auroc(dim_zero_cat(self.preds), dim_zero_cat(self.target))


def _mean_auroc(score: Tensor, has: Tensor) -> Tensor:
    """torchmetrics counts a class without positives as 0: it has to be left out beforehand."""
    known = (has > 0).any(0) & (has == 0).any(0)
    if not known.any():
        return torch.tensor(torch.nan)
    return multilabel_auroc(score[:, known], has[:, known], int(known.sum()))
