"""The verdict: from signs, intervals and p-values to plain sentences. Nothing here knows what to expect."""

from collections.abc import Sequence
from dataclasses import dataclass

from sightline.report.numbers import (
    ACCURACY,
    CH,
    Difference,
    Estimate,
    Metric,
    p_value,
    percent,
    shown,
    signed,
    signed_interval,
)
from sightline.report.read import Split


@dataclass(frozen=True)
class Sentence:
    """What is said of one run, the sentence's subject."""

    run: str
    said: str
    """Ends with a full stop, or with a colon before the conclusion."""
    conclusion: str = ""
    elsewhere: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.run, self.said, self.conclusion, self.elsewhere)))


def hardest(splits: Sequence[Split]) -> Split:
    """The split on which its baseline is least often right; the first one where no accuracy is known."""
    return min(splits, key=lambda split: _or(split.estimate("accuracy", split.baseline).value, 2.0))


def verdict(splits: Sequence[Split]) -> list[Sentence]:
    """One sentence on the baseline, then one on each run compared with it on the hardest split."""
    hard = hardest(splits)
    return [_baseline(splits, hard)] + [_compared(splits, hard, run) for run in hard.differences]


def _baseline(splits: Sequence[Split], hard: Split) -> Sentence:
    here = hard.estimate("accuracy", hard.baseline)
    correct = f"{shown(here.value, ACCURACY)} % of"
    others = [split for split in splits if split is not hard and hard.baseline in split.audits]
    easy = max(others, key=lambda split: _or(split.estimate("accuracy", hard.baseline).value, 0.0), default=None)
    if easy is None:
        said = f"answers {correct} the images of {hard.name} correctly"
    else:
        there = easy.estimate("accuracy", hard.baseline)
        joint = "but only" if _below(here, there) else "and"
        said = (
            f"answers {shown(there.value, ACCURACY)} % of the images of {easy.name} correctly, "
            f"{joint} {correct} {hard.name}"
        )
    ch = hard.estimate("ch", hard.baseline).value
    return Sentence(
        hard.baseline, said + (f"; {100 * ch:.0f} % of its map lies on the evidence." if ch is not None else ".")
    )


def _below(a: Estimate, b: Estimate) -> bool:
    """Whether the intervals are known and do not overlap."""
    return a.high is not None and b.low is not None and a.high < b.low


# What follows from how map and decisions moved: (sign for CH, sign for accuracy).
CONCLUSIONS = {
    (1, 1): "map and decisions both improved.",
    (1, 0): "the map moved, the decisions did not measurably.",
    (1, -1): "a better map came with worse decisions.",
    (0, 1): "the decisions improved, the map does not show it.",
    (0, 0): "no difference could be shown.",
    (0, -1): "the decisions got worse, the map does not show it.",
    (-1, 1): "better decisions came with a worse map.",
    (-1, 0): "the map got worse, the decisions did not measurably.",
    (-1, -1): "map and decisions both got worse.",
}


def _compared(splits: Sequence[Split], hard: Split, run: str) -> Sentence:
    accuracy, ch = (hard.difference(key, run) or Difference() for key in ("accuracy", "ch"))
    decided, moved = accuracy.sign(hard.level), ch.sign(hard.level)
    clauses = [_decision(accuracy, decided, hard), _map(ch, moved, hard.level)]
    if not decided:
        # What changed comes first, what did not is the contrast.
        clauses.reverse()
    conclusion = "of one of the two nothing is known."
    if moved is not None and decided is not None:
        conclusion = CONCLUSIONS[moved, decided]
    joint = " and " if moved == decided else ", but "
    return Sentence(run, joint.join(clauses) + ":", conclusion, _elsewhere(splits, hard, run))


def _decision(difference: Difference, sign: int | None, split: Split) -> str:
    evidence = _evidence(difference, split.level)
    if sign is None:
        return f"has no accuracy on {split.name} to compare"
    if sign == 0:
        change = signed(difference.value, ACCURACY)
        return f"does not change accuracy on {split.name} measurably ({change} points, {evidence})"
    more = "more" if sign > 0 else "fewer"
    return (
        f"answers {_size(difference)} points {more} images of {split.name} correctly than {split.baseline} ({evidence})"
    )


def _map(difference: Difference, sign: int | None, level: float) -> str:
    if sign is None:
        return "has no CH to compare"
    what = (
        "does not move its map measurably",
        "moves its map towards the evidence",
        "moves its map away from the evidence",
    )
    return f"{what[sign]} ({signed(difference.value, CH)} CH, {_evidence(difference, level, CH)})"


def _elsewhere(splits: Sequence[Split], hard: Split, run: str) -> str:
    """Clear gains and losses of accuracy on the other splits: what an improvement costs must not be left out."""
    others = [split for split in splits if split is not hard]
    return " ".join(filter(None, (_gain(split, split.difference("accuracy", run)) for split in others)))


def _gain(split: Split, difference: Difference | None) -> str:
    sign = difference.sign(split.level) if difference else 0
    if difference is None or not sign:
        return ""
    gains = "gains" if sign > 0 else "loses"
    return f"On {split.name} it {gains} {_size(difference)} points ({_evidence(difference, split.level)})."


def _size(difference: Difference) -> str:
    return shown(abs(_or(difference.value, 0.0)), ACCURACY)


def _evidence(difference: Difference, level: float, metric: Metric = ACCURACY) -> str:
    """The p-value, or the interval where nothing was tested."""
    bounds = signed_interval(difference, metric)
    return p_value(difference.p) or (f"{percent(level)} interval {bounds}" if bounds else "untested")


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
