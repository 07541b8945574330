"""From numbers to findings: what counts, how much, and what to do about it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sightline.datacheck.copies import Copies
from sightline.datacheck.counts import Table
from sightline.datacheck.facts import DEEPER, FULL, SMALL, Facts
from sightline.datacheck.probes import Probe
from sightline.datacheck.samples import Sample
from sightline.listing import some
from sightline.stats import holm

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")

ALPHA = 0.05
"""Chance, at most, that any probe of a dataset is believed whose labels are noise (Holm)."""

LIFT = 0.1
"""Share of what there is to gain over chance that a shortcut gives at least, at its interval's lower end: less would
not pay for a network either."""

BESIDE = 0.25
"""The same, as a share of what the best of the whole image, its centre and the evidence gives: what a border tells may
be large beside chance and still be crumbs of what the object tells."""

LINKED = 0.3
"""Cramér's V from which two words are called linked, at its interval's lower end; Cohen's "medium" for one degree of
freedom."""

UNEVEN = 10
"""Images of the largest class for one of the smallest, from which classes are called imbalanced."""

FORM, WEIGHT, NAMES, COLOUR = "size and form", "weight of the file", "number in the file name", "mean colour"
"""What files tell; all but their form may have a good reason, and is noted only."""


@dataclass(frozen=True)
class Finding:
    """One thing to look at."""

    level: Level
    key: str
    """Stable, for machines."""
    title: str
    detail: str
    todo: str
    ids: Sequence[str] = field(default_factory=tuple)
    """The images it is about."""


def files(samples: Sequence[Sample], facts: Sequence[Facts]) -> Iterator[Finding]:
    """Images and masks that cannot be used."""
    broken = [(s, f.broken) for s, f in zip(samples, facts, strict=True) if f.broken]
    if broken:
        yield Finding(
            "error", "broken_images", f"{plural(len(broken), 'image')} cannot be read", _reasons(broken),
            "Replace the files, or take them out of the list.", _ids(s for s, _ in broken),
        )  # fmt: skip
    bad = [(s, "; ".join(f.bad_masks)) for s, f in zip(samples, facts, strict=True) if f.bad_masks]
    if bad:
        yield Finding(
            "error", "bad_masks", f"{plural(len(bad), 'mask')} cannot be used", _reasons(bad),
            "Draw them again at their image's size, or delete those nobody drew.", _ids(s for s, _ in bad),
        )  # fmt: skip
    deep = [s for s, f in zip(samples, facts, strict=True) if DEEPER in f.odd]
    if deep:
        yield Finding(
            "error", "deep_images", f"{plural(len(deep), 'image')} of more than 8 bits per channel",
            f"Training refuses them: {some(_ids(deep))}.", "Scale them to 8 bits and save them again.", _ids(deep),
        )  # fmt: skip


def masks(samples: Sequence[Sample], facts: Sequence[Facts]) -> Iterator[Finding]:
    """Masks that can be used and say little."""
    tests: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
        ("tiny_masks", f"less than {100 * SMALL:.1g} % of the image", lambda share: share < SMALL),
        ("full_masks", f"more than {100 * FULL:.0f} % of the image", lambda share: share > FULL),
    )
    for key, words, test in tests:
        found = [s for s, f in zip(samples, facts, strict=True) if f.covered is not None and test(f.covered)]
        if found:
            yield Finding(
                "warning", key, f"{plural(len(found), 'mask')} cover{'s' if len(found) == 1 else ''} {words}",
                f"{some(_ids(found))}.", "Look at them: stray pixels, or a mask turned inside out?", _ids(found),
            )  # fmt: skip


def oddities(
    samples: Sequence[Sample], facts: Sequence[Facts], tables: Mapping[str, Mapping[str, Table]]
) -> Iterator[Finding]:
    """Kinds of files that go with a class or a split, and those that are rare."""
    for kind, against in tables.items():
        ids = _ids(s for s, f in zip(samples, facts, strict=True) if kind in f.odd)
        linked = [what for what, table in against.items() if is_linked(table)]
        if linked:
            strength = ", ".join(f"Cramér’s V {_value(against[what])} with the {what}" for what in linked)
            yield Finding(
                "warning", f"linked_{_slug(kind)}", f"“{kind}” goes with the {' and the '.join(linked)}",
                f"{plural(len(ids), 'image')}; {strength}. A network can see it, and guess from it.",
                "Bring all images into one form before training, and find out why they differ.", ids,
            )  # fmt: skip
        elif len(ids) < len(facts) / 2 and kind != DEEPER:
            yield Finding(
                "note", f"odd_{_slug(kind)}", f"{plural(len(ids), 'image')}: {kind}", f"{some(ids)}.",
                "Nothing, if that is meant.", ids,
            )  # fmt: skip


def leaks(samples: Sequence[Sample], train: str, copies: Copies, individuals: bool) -> Iterator[Finding]:
    """Pictures and groups in the split `train` and in another."""
    pairs = [(samples[a], samples[b]) for a, b in copies.pairs]
    crossing = [pair for pair in pairs if _crosses(*pair, train)]
    if crossing:
        yield Finding(
            "error", "copies_across_splits", f"{plural(len(crossing), 'picture')} of {train}: copies in another split",
            f"{_pairs(crossing)}. Their score is memory.", "Keep one of each, in one split.", _of_pairs(crossing),
        )  # fmt: skip
    torn = [(a, b) for a, b in pairs if a.labels != b.labels]
    if torn:
        yield Finding(
            "warning", "copies_across_classes", f"{plural(len(torn), 'picture')} under two labels", f"{_pairs(torn)}.",
            "Decide which label is right and delete the other copy.", _of_pairs(torn),
        )  # fmt: skip
    rest = [(a, b) for a, b in pairs if not _crosses(a, b, train) and a.labels == b.labels]
    if rest:
        yield Finding(
            "note", "copies", f"{plural(len(rest), 'pair')} of copies that leak nothing",
            f"{_pairs(rest)}. They lie in one split, or in two that are not trained on.",
            "Delete them if they are not meant: they count twice.", _of_pairs(rest),
        )  # fmt: skip
    shared = _shared(samples, train) if individuals else []
    if shared:
        yield Finding(
            "error", "groups_across_splits", f"{plural(len(shared), 'group')} of {train} occur in another split",
            f"{some(shared)}. Groups here are small or mostly keep to one split, as patients do: who is known from "
            "training is recognised.", "Split by group. If groups are sites or backgrounds, this is meant.", shared,
        )  # fmt: skip


def counts(samples: Sequence[Sample], train: str, classes: Sequence[str], groups: Table | None) -> Iterator[Finding]:
    """Classes that are rare or absent, above all from the split `train`; groups that go with classes."""
    splits = list(dict.fromkeys(sample.split for sample in samples))
    of = Counter((sample.split, label) for sample in samples for label in sample.labels)
    absent = [(label, split) for split in splits for label in classes if not of[split, label]]
    if absent:
        yield Finding(
            "error" if any(split == train for _, split in absent) else "warning", "absent_classes",
            "Classes are absent from a split", f"{some([f'{label} in {split}' for label, split in absent])}.",
            "Split again, stratified by class, or leave the class out.",
        )  # fmt: skip
    size = Counter(label for sample in samples for label in sample.labels).most_common()
    if size and size[0][1] >= UNEVEN * size[-1][1]:
        (most, n), (least, m) = size[0], size[-1]
        yield Finding(
            "note", "imbalance", f"{most} has {n:,} images, {least} has {m:,}",
            "Accuracy will be that of the large classes.",
            "Report balanced accuracy or F1 per class; weigh or resample the classes.",
        )  # fmt: skip
    if groups is not None and is_linked(groups):
        yield Finding(
            "warning", "groups_tell_classes", f"Groups go with classes: Cramér’s V {_value(groups)}",
            f"{_one_class(groups)}A network that recognises the group knows the class.",
            "Audit the worst group and train against it (GroupDRO, DFR, context swap); test where the habit is broken.",
        )  # fmt: skip


def shortcuts(regions: Sequence[Probe], facts: Sequence[Probe], references: Sequence[Probe]) -> Iterator[Finding]:
    """What tells the class and should not; see `telling`."""
    seen, filed = telling([*regions, *facts], references), {probe.name for probe in facts}
    beside = f"Beside it: {', '.join(f'{p.name} {p.score.value:.2f}' for p in references)}."
    where = sorted((p for p in seen if p.name not in filed), key=lambda p: -p.lift)
    if where:
        yield Finding(
            "warning", "shortcut_region",
            f"The label can be told from the {where[0].name}: {_scored(where[0])}",
            _sentences(_others(where[1:]), beside, _elsewhere(where[0])),
            "See the heat map. Train with masks of the evidence or with context swap; audit where the habit is broken.",
        )  # fmt: skip
    for probe in (p for p in seen if p.name in filed):
        yield Finding(
            "warning" if probe.name == FORM else "note", f"shortcut_{_slug(probe.name)}",
            f"The label can be told from the {probe.name}: {_scored(probe)}",
            _sentences(beside, _elsewhere(probe)), ADVICE[probe.name],
        )  # fmt: skip


ADVICE = {
    FORM: "Crop, resize and save all classes alike; find out why their files differ.",
    WEIGHT: "Often what is shown. If it is how files were saved, save all again in one way, from the originals.",
    NAMES: "No network sees names, but what changed while files were collected follows their order: compare early with "
    "late files.",
    COLOUR: "Often the object itself; if it is light or stain, normalise it or vary it in training.",
}
"""What to do about each fact that tells the label."""


def telling(judged: Sequence[Probe], references: Sequence[Probe]) -> list[Probe]:
    """The probes that are believed (Holm) and give enough beside chance and beside what may tell the class."""
    adjusted = dict(zip((probe.name for probe in judged), holm([probe.p for probe in judged]), strict=True))
    best = max((probe.lift for probe in references), default=0.0)
    return [
        probe
        for probe in judged
        if adjusted[probe.name] < ALPHA and probe.surely >= LIFT and probe.lift >= BESIDE * best
    ]


def is_linked(table: Table) -> bool:
    """Whether two words have much to do with each other, and not by chance."""
    return table.p < ALPHA and table.v.low is not None and table.v.low >= LINKED


def spoken(value: float | None, low: float | None, high: float | None) -> str:
    """A value with its interval."""
    return "–" if value is None else f"{value:.2f}" + ("" if low is None else f" ({low:.2f}–{high:.2f})")


def plural(count: int, noun: str) -> str:
    """A number and its noun.

    >>> plural(1, "image"), plural(1200, "image")
    ('1 image', '1,200 images')
    """
    head, _, rest = noun.partition(" of ")
    return f"{count:,} {head}{'' if count == 1 else 's'}{f' of {rest}' if rest else ''}"


def _scored(probe: Probe) -> str:
    score = probe.score
    return f"balanced accuracy {spoken(score.value, score.low, score.high)}, chance {probe.chance:.2f}"


def _value(table: Table) -> str:
    return spoken(table.v.value, table.v.low, table.v.high)


def _sentences(*parts: str) -> str:
    return " ".join(filter(None, parts))


def _others(probes: Sequence[Probe]) -> str:
    return f"Also: {', '.join(f'{p.name} {p.score.value:.2f}' for p in probes)}." if probes else ""


def _elsewhere(probe: Probe) -> str:
    """Whether the other splits would show who uses it."""
    found = {name: value for name, value in probe.elsewhere.items() if value is not None}
    if not found:
        return ""
    half = (probe.chance + (probe.score.value or 0.0)) / 2
    holds = [name for name, value in found.items() if value >= half]
    scores = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    verdict = f"it pays on {', '.join(holds)}, which cannot show who uses it" if holds else "it pays on none of them"
    return f"On other splits: {scores}; {verdict}."


def _one_class(groups: Table) -> str:
    single = [group for group, column in zip(groups.columns, groups.counts.T, strict=True) if (column > 0).sum() == 1]
    return f"Of one class only: {some(single)}. " if single else ""


def _crosses(a: Sample, b: Sample, train: str) -> bool:
    """Whether one is trained on and the other tested."""
    return a.split != b.split and train in (a.split, b.split)


def _shared(samples: Sequence[Sample], train: str) -> list[str]:
    known = {sample.group for sample in samples if sample.split == train and sample.group}
    return sorted(known & {sample.group for sample in samples if sample.split != train})


def _reasons(bad: Sequence[tuple[Sample, str]]) -> str:
    more = [f"And {len(bad) - 3:,} more."] if len(bad) > 3 else []
    return "\n".join([f"{sample.id}: {reason}" for sample, reason in bad[:3]] + more)


def _pairs(pairs: Sequence[tuple[Sample, Sample]]) -> str:
    return some([f"{a.id} ({a.split}) = {b.id} ({b.split})" for a, b in pairs])


def _of_pairs(pairs: Sequence[tuple[Sample, Sample]]) -> tuple[str, ...]:
    return tuple(f"{a.split}/{a.id} = {b.split}/{b.id}" for a, b in pairs)


def _ids(samples: Iterable[Sample]) -> tuple[str, ...]:
    return tuple(f"{s.split}/{s.id}" for s in samples)


def _slug(words: str) -> str:
    return words.replace(" ", "_").lower()
