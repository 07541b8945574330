"""Which metrics stand in which table, and under which heading."""

from collections.abc import Sequence
from dataclasses import dataclass

from sightline import catalogue
from sightline.catalogue import Metric, base
from sightline.report.read import Split

MAIN = ("accuracy", "f1_overall", "worst_group", "ch", "pg")
"""What the first table shows, of what there is."""

THEMES = {
    "Decisions": ("accuracy", "f1_overall", "worst_group", "worst_class", "f1_per_class", "macro_f1", "auroc", "top5"),
    "Where the map lies": ("ch", "pg", "spg", "iou", "dice", "nqh", "wrong"),
    "Whether the map is faithful": ("insertion", "deletion", "topk", "cgc_loss", "sensitivity", "infidelity", "sanity"),
    "Robustness": (
        *("fgsm", "pgd", "composite_accuracy"),
        *("flips_background", "flips_brightness", "stability_background", "stability_brightness"),
    ),
}
OTHER = "Other"


def theme(key: str) -> str:
    """The heading under which a metric stands."""
    return next((name for name, keys in THEMES.items() if base(key) in keys), OTHER)


def by_theme(keys: Sequence[str]) -> dict[str, list[Metric]]:
    """The metrics by their heading, both in the order of `THEMES`."""
    order = [*(key for of in THEMES.values() for key in of)]
    known = sorted(keys, key=lambda key: order.index(base(key)) if base(key) in order else len(order))
    themes = dict.fromkeys(map(theme, known))
    return {name: [catalogue.metric(key) for key in known if theme(key) == name] for name in themes}


def shown(split: Split) -> list[str]:
    """The metrics of the first explainer's maps, and those of no map; a worst group only where there are groups."""
    grouped = any(estimate.value is not None for estimate in split.metrics.get("worst_group", {}).values())
    return [key for key in split.metrics if "@" not in key and (grouped or key != "worst_group")]


def main(splits: Sequence[Split]) -> list[Metric]:
    """The columns of the first table; the first four metrics where none of `MAIN` was audited."""
    found = list(dict.fromkeys(key for split in splits for key in shown(split)))
    return [catalogue.metric(key) for key in [key for key in MAIN if key in found] or found[:4]]


def rest(split: Split, main: Sequence[Metric]) -> dict[str, list[Metric]]:
    """All other metrics of a split by their heading."""
    taken = [metric.key for metric in main]
    return by_theme([key for key in shown(split) if key not in taken])


@dataclass(frozen=True)
class OfExplainers:
    """What several explainers' maps score, explainer by explainer."""

    metrics: Sequence[Metric]
    rows: Sequence[tuple[str, Sequence[tuple[str, Sequence[Metric]]]]]
    """(run, its (explainer, the keys of its scores)); the keys in the order of `metrics`."""


def of_explainers(split: Split) -> OfExplainers | None:
    """The table of explainers against metrics, None where no run was audited with several."""
    keys = list(dict.fromkeys(key.partition("@")[0] for key in split.metrics if "@" in key))
    rows = [(run, _explained(split, run, keys)) for run in split.audits]
    several = [row for row in rows if len(row[1]) > 1]
    return OfExplainers([catalogue.metric(key) for key in keys], several) if several and keys else None


def _explained(split: Split, run: str, keys: Sequence[str]) -> list[tuple[str, list[Metric]]]:
    names = list(split.audits[run].summary.get("explainers", {}))
    suffixes = ["", *(f"@{name}" for name in names[1:])]
    return [
        (name, [catalogue.metric(key + suffix) for key in keys]) for name, suffix in zip(names, suffixes, strict=False)
    ]
