"""The glossary: what every number on the page shows, and what it cannot show."""

from collections.abc import Sequence
from dataclasses import dataclass

from sightline.catalogue import Metric, base
from sightline.report.read import Matrix, Split
from sightline.report.tables import by_theme


@dataclass(frozen=True)
class Word:
    """A metric on the page, and how it was computed, once for each way."""

    metric: Metric
    settings: Sequence[str]


def glossary(splits: Sequence[Split], matrices: Sequence[Matrix] = ()) -> list[Word]:
    """Every metric on the page, in the order of the tables."""
    keys = [key for split in splits for key in split.metrics] + [matrix.metric.key for matrix in matrices]
    every = by_theme(list(dict.fromkeys(map(base, keys))))
    return [Word(metric, _settings(splits, metric.key)) for metrics in every.values() for metric in metrics]


def _settings(splits: Sequence[Split], key: str) -> list[str]:
    """How the audits computed it; of those that do not say, the pointing game's margin."""
    audits = [audit.summary for split in splits for audit in split.audits.values()]
    found = [made for summary in audits for of, made in summary.get("scored_by", {}).items() if base(of) == key]
    if key == "pg":
        found += [f"margin={summary['margin']:.3g}" for summary in audits if summary.get("margin")]
    return list(dict.fromkeys(found))


def anchor(key: str) -> str:
    """Where the glossary speaks of a metric: an id that no space ends.

    >>> anchor("pg-2@WBP")
    'word-pg'
    """
    return f"word-{'-'.join(base(key).split())}"
