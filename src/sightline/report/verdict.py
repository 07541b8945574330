"""The verdict: from signs, intervals and p-values to plain sentences. Nothing here knows what to expect."""

from collections.abc import Sequence
from dataclasses import dataclass

from sightline.report.numbers import ACCURACY, CH, Difference, Metric, interval, p_value, percent, shown
from sightline.report.numbers import signed, signed_interval
from sightline.report.read import Split


@dataclass(frozen=True)
class Sentence:
    """What is said of one run; `run` is the sentence's subject."""

    run: str
    text: str


def hardest(splits: Sequence[Split]) -> Split:
    """The split on which its baseline is least often right; the first one where none has an accuracy."""
    return min(splits, key=lambda split: _accuracy(split) if _accuracy(split) is not None else 2.0)


def verdict(splits: Sequence[Split]) -> list[Sentence]:
    """One sentence on the baseline, then one on each run compared with it, on the hardest split."""
    hard = hardest(splits)
    compared = [run for run in hard.audits if run in hard.differences]
    return [_baseline(splits, hard)] + [Sentence(run, _moved(hard, run) + _elsewhere(splits, hard, run)) for run in compared]


def _accuracy(split: Split) -> float | None:
    return split.estimate("accuracy", split.baseline).value


def _baseline(splits: Sequence[Split], hard: Split) -> Sentence:
    run, here = hard.baseline, hard.estimate("accuracy", hard.baseline)
    others = [s for s in splits if s is not hard and s.estimate("accuracy", run).value is not None]
    easy = max(others, key=lambda s: s.estimate("accuracy", run).value or 0, default=None)
    if easy is None:
        text = f"answers {shown(here.value, ACCURACY)} % of the images of {hard.name} correctly{_within(hard)}"
    else:
        there = easy.estimate("accuracy", run)
        apart = None not in (here.high, there.low) and (here.high or 0) < (there.low or 0)
        text = (
            f"answers {shown(there.value, ACCURACY)} % of the images of {easy.name} correctly, "
            f"{'but only' if apart else 'and'} {shown(here.value, ACCURACY)} % of {hard.name}{_within(hard)}"
        )
    return Sentence(run, f"{text}{_looks(hard)}.")


def _within(split: Split) -> str:
    bounds = interval(split.estimate("accuracy", split.baseline), ACCURACY)
    return f" ({percent(split.level)} interval {bounds})" if bounds else ""


def _looks(split: Split) -> str:
    value = split.estimate("ch", split.baseline).value
    return "" if value is None else f"; {100 * value:.0f} % of its map lies on the evidence (CH {shown(value, CH)})"


# What is concluded from how map and accuracy moved: (sign of CH, sign of accuracy).
CONCLUSIONS = {
    (1, 1): "map and decisions both improved",
    (1, 0): "the map moved, the decisions did not measurably",
    (1, -1): "a better map came with worse decisions",
    (0, 1): "the decisions improved, the map does not show it",
    (0, 0): "no difference could be shown",
    (0, -1): "the decisions got worse, the map does not show it",
    (-1, 1): "better decisions came with a worse map",
    (-1, 0): "the map got worse, the decisions did not measurably",
    (-1, -1): "map and decisions both got worse",
    (None, 1): "the decisions improved; nothing is known of the map",
    (None, 0): "no difference could be shown; nothing is known of the map",
    (None, -1): "the decisions got worse; nothing is known of the map",
}


def _moved(split: Split, run: str) -> str:
    decision, moved = (split.difference(key, run) or Difference() for key in ("accuracy", "ch"))
    on_decision, on_map = decision.sign(split.level) or 0, moved.sign(split.level)
    clauses = [_decision(decision, on_decision, split)]
    if on_map is not None:
        # What changed comes first; a change that could not be shown is the contrast.
        clauses.insert(0 if on_decision == 0 else 1, _map(moved, on_map, split.level))
    joint = " and " if on_map == on_decision else ", but "
    return f"{joint.join(clauses)}: {CONCLUSIONS[on_map, on_decision]}."


def _decision(difference: Difference, sign: int, split: Split) -> str:
    if sign == 0:
        return f"does not change accuracy measurably ({_evidence(difference, ACCURACY, split.level)})"
    points, evidence = shown(abs(difference.value or 0), ACCURACY), _evidence(difference, ACCURACY, split.level, brief=True)
    more = "more" if sign > 0 else "fewer"
    return f"answers {points} points {more} images of {split.name} correctly than {split.baseline} ({evidence})"


def _map(difference: Difference, sign: int, level: float) -> str:
    what = {1: "moves its map onto the evidence", -1: "moves its map off the evidence", 0: "does not move its map measurably"}
    return f"{what[sign]} ({_evidence(difference, CH, level)})"


def _evidence(difference: Difference, metric: Metric, level: float, *, brief: bool = False) -> str:
    size = f"{signed(difference.value, metric)} {metric.points}"
    bounds = signed_interval(difference, metric)
    test = f"{difference.test} {p_value(difference.p)}".strip() if difference.p is not None else ""
    return ", ".join(filter(None, ["" if brief else size, bounds and f"{percent(level)} interval {bounds}", test]))


def _elsewhere(splits: Sequence[Split], hard: Split, run: str) -> str:
    """Clear gains and losses of accuracy on the other splits: what the improvement costs must not be left out."""
    text = ""
    for split in splits:
        difference = split.difference("accuracy", run)
        if split is not hard and difference and (sign := difference.sign(split.level)):
            gains, evidence = "gains" if sign > 0 else "loses", _evidence(difference, ACCURACY, split.level, brief=True)
            text += f" On {split.name} it {gains} {shown(abs(difference.value or 0), ACCURACY)} points ({evidence})."
    return text
