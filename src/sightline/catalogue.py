"""Every number an audit gives: what it is called, how it is written, what it shows and what it cannot show."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Metric:
    """How a metric is called, written and read."""

    key: str
    title: str
    scale: int = 1
    digits: int = 3
    higher: bool = True
    """Whether higher is better."""
    proportion: bool = False
    """Whether an image scores 0 or 1."""
    shows: str = ""
    cannot: str = ""
    span: str = "0 to 1"
    """What values a scale of 1 can take."""

    @property
    def unit(self) -> str:
        """Of the values as they are written."""
        return "%" if self.scale == 100 else self.span

    @property
    def heading(self) -> str:
        """The title, with the sign of per cents, which cells leave out, and with ↓ where lower is better."""
        return self.title + " %" * (self.scale == 100) + " ↓" * (not self.higher)

    def written(self, value: float | None) -> str:
        """A value in the metric's unit.

        >>> metric("accuracy").written(0.3104), metric("ch").written(None)
        ('31.0', '–')
        """
        return "–" if value is None else f"{self.scale * value:.{self.digits}f}"

    def give_or_take(self, entry: Mapping[str, Any]) -> str:
        """The value of an audit's entry, and half the width of its interval if it has one.

        >>> metric("ch").give_or_take({"value": 0.5, "low": 0.4, "high": 0.6})
        '0.500 ±.100'
        """
        value, low, high = (entry[end] for end in ("value", "low", "high"))
        return self.written(value) + ("" if low is None else f" ±{self.written((high - low) / 2).removeprefix('0')}")


def percent(key: str, title: str, *, higher: bool = True, proportion: bool = True, shows: str, cannot: str) -> Metric:
    """A metric that is written in per cent."""
    return Metric(key, title, 100, 1, higher, proportion, shows, cannot)


_SAME_WRONG_REASON = "Whether it is right for the right reason: a shortcut that holds in this split is rewarded."
_OFF_MANIFOLD = "The altered images are unlike any the model was trained on: part of the effect is that."

CATALOGUE = {
    metric.key: metric
    for metric in (
        percent(
            "accuracy",
            "Accuracy",
            shows="The share of images whose most probable class is the label.",
            cannot=_SAME_WRONG_REASON,
        ),
        percent(
            "worst_group",
            "Worst group",
            proportion=False,
            shows="The accuracy of the group of images that is answered worst. Those of fewer than five images are "
            "left out, and their images counted below.",
            cannot="How a group of few images fares: the worst of many small ones is low by chance.",
        ),
        percent(
            "worst_class",
            "Worst class",
            proportion=False,
            shows="The accuracy on the images of the class that is answered worst.",
            cannot=_SAME_WRONG_REASON,
        ),
        Metric(
            "ch",
            "CH",
            shows="Content heatmap: the share of the map that lies on the evidence mask.",
            cannot="Whether the decision rests there. Empty maps are left out and counted beside it.",
        ),
        percent(
            "pg",
            "PG",
            shows="Pointing game: whether the map's brightest point lies on the evidence, or within the margin of it.",
            cannot="Where the rest of the map lies; a large object is hit by chance.",
        ),
        percent(
            "fgsm",
            "FGSM",
            proportion=False,
            shows="The accuracy when every pixel moves a little the way that hurts most, the mean over how far.",
            cannot="Whether a stronger attack succeeds. " + _OFF_MANIFOLD,
        ),
        percent(
            "pgd",
            "PGD",
            proportion=False,
            shows="The accuracy when every pixel moves a little, in steps that hurt most; the mean over how far.",
            cannot="That no attack succeeds: one of more steps, or of another kind, may. " + _OFF_MANIFOLD,
        ),
        percent(
            "composite_accuracy",
            "Accuracy in composites",
            shows="The share of images whose class, with three images of other classes beside it, scores above every "
            "class that is not there.",
            cannot="Whether it would be told from the classes beside it. " + _OFF_MANIFOLD,
        ),
        percent(
            "flips_background",
            "Flips, background",
            higher=False,
            shows="The share of images whose prediction changes when another image's surroundings replace their own.",
            cannot="Whether the prediction was right. The other image's object may show in the new background.",
        ),
        percent(
            "flips_brightness",
            "Flips, brightness",
            higher=False,
            proportion=False,
            shows="The share of predictions that change when the image is made darker or brighter.",
            cannot="Whether the prediction was right. Bright images lose detail when they are made brighter.",
        ),
        Metric(
            "stability_background",
            "Stability, background",
            shows="The cosine similarity of the maps before and after another image's surroundings replace the own.",
            cannot="Whether the map is right: one that never changes scores 1. Empty maps are left out.",
        ),
        Metric(
            "stability_brightness",
            "Stability, brightness",
            shows="The cosine similarity of the maps before and after the image is made darker or brighter.",
            cannot="Whether the map is right: one that never changes scores 1. Empty maps are left out.",
        ),
        Metric(
            "insertion",
            "Insertion",
            shows="The area under the class's probability as the map's brightest pixels return to a blurred image.",
            cannot="Whether the class is right. " + _OFF_MANIFOLD,
        ),
        Metric(
            "deletion",
            "Deletion",
            higher=False,
            shows="The area under the class's probability as the map's brightest pixels are taken from the image.",
            cannot="Whether the class is right. A model that any small damage upsets scores well. " + _OFF_MANIFOLD,
        ),
        Metric(
            "topk",
            "Top-k drop",
            span="-1 to 1",
            shows="How much the class's probability falls without the map's k largest entries, the mean over k.",
            cannot="Whether the map is right or the model frail: one that any small damage upsets scores well. "
            + _OFF_MANIFOLD,
        ),
        Metric(
            "cgc_loss",
            "CGC loss",
            higher=False,
            span="0 and up",
            shows="How badly the map of a cropped image is told, among 32, by the crop of the whole image's map.",
            cannot="Whether the maps are right: consistent ones may lie beside the object.",
        ),
        Metric(
            "sensitivity",
            "Sensitivity",
            higher=False,
            span="0 and up",
            shows="How far the map moves, relative to itself, under the worst of ten draws of faint noise.",
            cannot="Whether the map is right: one that never changes scores 0.",
        ),
        Metric(
            "infidelity",
            "Infidelity",
            higher=False,
            shows="How badly the map's sum over a square predicts what removing the square costs the class's logit.",
            cannot="What happens at scales other than the squares'. " + _OFF_MANIFOLD,
        ),
        Metric(
            "sanity",
            "Sanity check",
            higher=False,
            span="-1 to 1",
            shows="The rank correlation of the map with those of the same model with ever more random weights.",
            cannot="Whether the map is right: noise, too, changes with the weights.",
        ),
        percent(
            "spg",
            "SPG",
            proportion=False,
            shows="Stochastic pointing game: the share of points drawn from the map that lie on the evidence, or "
            "within the margin of it.",
            cannot="Whether the decision rests there; a large object is hit by chance.",
        ),
        Metric(
            "iou",
            "IoU",
            shows="Intersection over union of the evidence and the map, cut at a share of its maximum.",
            cannot="Whether the decision rests there: a map may be right and cover only the part that decides. It "
            "depends on the share.",
        ),
        Metric(
            "dice",
            "Dice",
            shows="Dice coefficient of the evidence and the map, cut at a share of its maximum: twice their overlap, "
            "over the sum of their areas.",
            cannot="Anything that IoU cannot: it puts any two maps in the same order.",
        ),
        percent(
            "nqh",
            "NQH",
            higher=False,
            proportion=False,
            shows="Negative quadrants heatmap: the share of the map that leaves the image for three of other classes "
            "beside it. 75 % is chance.",
            cannot="Whether the map is right within the image. A model that was not trained on composites has never "
            "seen any.",
        ),
        Metric(
            "wrong",
            "Wrong-reason mass",
            higher=False,
            shows="The share of the map that lies on a known confounder.",
            cannot="Whether the rest of the map lies on the evidence, and whether another shortcut is used.",
        ),
        Metric(
            "macro_f1",
            "Macro-F1",
            shows="The mean over classes of F1, the harmonic mean of precision and recall.",
            cannot=_SAME_WRONG_REASON,
        ),
        Metric(
            "auroc",
            "AUROC",
            shows="The chance that an image of a class is ranked above one of another class; the mean over classes.",
            cannot="How many errors are made at the threshold in use.",
        ),
        percent(
            "top5",
            "Top-5",
            shows="The share of images whose label is among the five most probable classes.",
            cannot=_SAME_WRONG_REASON,
        ),
        Metric(
            "f1_per_class",
            "F1-PerClass",
            shows="The mean over all classes of F1, where a class is predicted above a probability of one half.",
            cannot="How rare a class is: one that is never found counts 0.",
        ),
        Metric(
            "f1_overall",
            "F1-Overall",
            shows="F1 of all decisions of all classes taken together.",
            cannot="How rare classes fare: the frequent ones decide it.",
        ),
    )
}


def metric(key: str) -> Metric:
    """How the numbers called `key` are written: "ch", "pg-2", "ch@WBP"; by their own name where nobody knows them.

    >>> metric("ch@WBP").title, metric("pg-2").title, metric("mine").title
    ('CH, WBP', 'PG (2)', 'mine')
    """
    of, _, explainer = key.partition("@")
    name = base(key)
    known, number = CATALOGUE.get(name, Metric(name, name)), of.removeprefix(name).removeprefix("-")
    title = f"{known.title} ({number})" if number else known.title
    return replace(known, key=key, title=f"{title}, {explainer}" if explainer else title)


def base(key: str) -> str:
    """The metric behind the key of one of its variants.

    >>> base("pg-2@WBP"), base("ch"), base("mine-x")
    ('pg', 'ch', 'mine-x')
    """
    of = key.partition("@")[0]
    start, _, number = of.rpartition("-")
    return start if number.isdecimal() else of
