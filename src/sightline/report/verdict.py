"""The verdict: from signs, intervals and p-values to plain sentences. Nothing here knows what to expect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sightline.catalogue import Metric
from sightline.report.numbers import (
    ACCURACY,
    CH,
    Difference,
    Estimate,
    known,
    p_value,
    percent,
    points,
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

    def __str__(self) -> str:
        return " ".join(filter(None, (self.run, self.said, self.conclusion)))


def hardest(splits: Sequence[Split]) -> Split:
    """The split on which its baseline decides worst; the first one where nothing is known of decisions."""
    return min(splits, key=lambda split: known(split.estimate(split.decision.key, split.baseline).value, 2.0))


def judged(splits: Sequence[Split]) -> Split:
    """The split on which maps are judged: of those with a CH, the one on which the baseline decides best.

    Maps are of the label. Where a model answers something else, its label's map says little of what it looks at.
    """
    hard = hardest(splits)
    having = [split for split in splits if split.estimate("ch", split.baseline).value is not None]
    return max(having, key=lambda split: _decided(split, hard, hard.baseline), default=hard)


def verdict(splits: Sequence[Split]) -> list[Sentence]:
    """One sentence on the baseline, then one on each run compared with it.

    Decisions are those on the hardest split, maps those of the split on which they are `judged`.
    """
    hard = hardest(splits)
    return [_baseline(splits, hard)] + [_compared(splits, hard, run) for run in hard.differences]


def _baseline(splits: Sequence[Split], hard: Split) -> Sentence:
    of, here, easy = hard.decision, hard.estimate(hard.decision.key, hard.baseline), _easiest(splits, hard)
    looks = _looks(judged(splits), several=len(splits) > 1)
    if easy is None:
        return Sentence(hard.baseline, f"{_reaches(of, here, hard)}{looks}.", _one_answer(hard, hard.baseline))
    there = easy.estimate(of.key, hard.baseline)
    joint = "but only" if _below(here, there) else "and"
    said = f"{_reaches(of, there, easy)}, {joint} {_level(of, here, hard)}{looks}."
    return Sentence(hard.baseline, said, _one_answer(hard, hard.baseline))


def _one_answer(split: Split, run: str) -> str:
    one = split.one_answer(run)
    return f"It answers {one['class']} to {percent(one['share'])} of the images, whatever they show." if one else ""


def _reaches(of: Metric, estimate: Estimate, split: Split) -> str:
    if of is ACCURACY:
        return f"answers {of.written(estimate.value)} % of the images of {split.name} correctly"
    return f"reaches {of.title} {_level(of, estimate, split)}"


def _level(of: Metric, estimate: Estimate, split: Split) -> str:
    return f"{of.written(estimate.value)} {'% of' if of is ACCURACY else 'on'} {split.name}"


def _easiest(splits: Sequence[Split], hard: Split) -> Split | None:
    """Of the other splits, the one on which the baseline decides best."""
    others = [split for split in splits if split is not hard and hard.baseline in split.audits]
    return max(
        others, key=lambda split: known(split.estimate(hard.decision.key, hard.baseline).value, 0.0), default=None
    )


def _looks(split: Split, several: bool) -> str:
    ch, empty = split.estimate("ch", split.baseline).value, split.empty_maps(split.baseline)
    if ch is None:
        return ""
    where = f" on {split.name}" if several else ""
    return f"; {100 * ch:.0f} % of its map{where} lies on the evidence" + (
        f", leaving out {empty} empty map{'s' if empty > 1 else ''}" if empty else ""
    )


def _below(a: Estimate, b: Estimate) -> bool:
    """Whether the intervals are known and do not overlap."""
    return a.high is not None and b.low is not None and a.high < b.low


# What follows from how map and decisions moved: (sign for CH, sign for decisions).
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
MAPS = {1: "the map moved", 0: "the map did not move measurably", -1: "the map got worse"}
DECISIONS = {1: "better", 0: "not measurably different", -1: "worse"}


def _compared(splits: Sequence[Split], hard: Split, run: str) -> Sentence:
    maps = judged(splits)
    decision, ch = (of.difference(key, run) or Difference() for of, key in ((hard, hard.decision.key), (maps, "ch")))
    decided, moved = decision.sign(hard.level), ch.sign(maps.level)
    clauses = [_decision(decision, decided, hard)]
    if "ch" in maps.metrics:
        clauses.append(_map(ch, moved, maps, several=len(splits) > 1))
    if not decided:
        # What changed comes first, what did not is the contrast.
        clauses.reverse()
    said = (" and " if moved == decided else ", but ").join(clauses)
    others = {split.name: split for split in splits if split is not hard and _changed(split, run)}
    gains = [_gain(split, run) for split in others.values()]
    signs = {name: _changed(split, run) for name, split in others.items()}
    concluded = _concluded(moved, decided, hard.name, signs)
    conclusion = " ".join(filter(None, (concluded, _remains(splits, hard, run), _one_answer(hard, run))))
    return Sentence(run, "; ".join([said, *gains]) + ":", conclusion)


def _remains(splits: Sequence[Split], hard: Split, run: str) -> str:
    """What a gain must not hide: that most of the baseline's gap between the splits is still there."""
    easy = _easiest(splits, hard)
    if easy is None or run not in easy.audits:
        return ""
    of = hard.decision
    there, here = easy.estimate(of.key, run), hard.estimate(of.key, run)
    if not _below(here, there) or _gap(easy, hard, run) <= _gap(easy, hard, hard.baseline) / 2:
        return ""
    return f"Most of the gap between the splits remains: {_level(of, here, hard)} against {_level(of, there, easy)}."


def _gap(easy: Split, hard: Split, run: str) -> float:
    return _decided(easy, hard, run) - _decided(hard, hard, run)


def _decided(split: Split, hard: Split, run: str) -> float:
    """How well a run decides on `split`, by what counts on the hardest one."""
    return known(split.estimate(hard.decision.key, run).value, 0.0)


def _changed(split: Split, run: str) -> int:
    """The sign of a clear change of decisions, 0 without one."""
    difference = split.difference(split.decision.key, run) or Difference()
    return difference.sign(split.level) or 0


def _gain(split: Split, run: str) -> str:
    of = split.decision
    difference = split.difference(of.key, run) or Difference()
    gains = "gains" if _changed(split, run) == 1 else "loses"
    size = points(abs(known(difference.value, 0.0)), of).removeprefix("+")
    return f"on {split.name} it {gains} {size} ({_evidence(difference, split.level, of)})"


def _concluded(moved: int | None, decided: int | None, hard: str, others: Mapping[str, int]) -> str:
    """One conclusion where the splits agree, else the splits one by one: what a gain costs must not be left out."""
    if moved is not None and decided is not None and set(others.values()) <= {decided}:
        return CONCLUSIONS[moved, decided]
    signs = others if decided is None else {hard: decided, **others}
    decisions = f"decisions were {_one_by_one(signs)}" if signs else "nothing is known of the decisions"
    return f"{'nothing is known of the map' if moved is None else MAPS[moved]}; {decisions}."


def _one_by_one(signs: Mapping[str, int]) -> str:
    """Better on a and b, worse on c."""
    found = {sign: [name for name in signs if signs[name] == sign] for sign in signs.values()}
    return ", ".join(f"{DECISIONS[sign]} on {' and '.join(names)}" for sign, names in found.items())


def _decision(difference: Difference, sign: int | None, split: Split) -> str:
    of, evidence = split.decision, _evidence(difference, split.level, split.decision)
    title = "accuracy" if of is ACCURACY else of.title
    if sign is None:
        return f"has no {title} on {split.name} to compare"
    if sign == 0:
        return f"does not change {title} on {split.name} measurably ({points(difference.value, of)}, {evidence})"
    size = of.written(abs(known(difference.value, 0.0)))
    if of is not ACCURACY:
        return f"{'raises' if sign > 0 else 'lowers'} {title} on {split.name} by {size} ({evidence})"
    more = "more" if sign > 0 else "fewer"
    return f"answers {size} points {more} images of {split.name} correctly than {split.baseline} ({evidence})"


def _map(difference: Difference, sign: int | None, split: Split, several: bool) -> str:
    if sign is None:
        return "has no CH to compare"
    what = (
        "does not move its map measurably",
        "moves its map towards the evidence",
        "moves its map away from the evidence",
    )
    fewer = None not in (difference.n, split.images) and difference.n != split.images
    where = f", on the {difference.n} images where both have one" if fewer else ""
    ch = f"CH on {split.name}" if several else "CH"
    return f"{what[sign]} ({signed(difference.value, CH)} {ch}, {_evidence(difference, split.level, CH)}{where})"


def _evidence(difference: Difference, level: float, metric: Metric) -> str:
    """The p-value, or the interval where nothing was tested."""
    bounds = signed_interval(difference, metric)
    return p_value(difference.p) or (f"{percent(level)} interval {bounds}" if bounds else "untested")
