"""Metrics as they are typed: a key or the name of a class, then arguments."""

from typing import Any

from sightline.errors import SightlineError
from sightline.metrics.per_image import PerImage
from sightline.words import made

GROUPS = {
    "localisation": ("ch", "pg", "spg", "iou", "dice", "nqh"),
    "faithfulness": ("insertion", "deletion", "topk", "cgc_loss", "sensitivity", "infidelity", "sanity"),
    "robustness": ("fgsm", "flips_background", "flips_brightness", "stability_background", "stability_brightness"),
}
"""What can be asked for by one word."""

VARIANTS = {
    f"{key}_{under}": f"{key}:under={under}" for key in ("flips", "stability") for under in ("background", "brightness")
}
"""Keys that an argument is part of, and what they stand for."""


ALWAYS = ("accuracy", "top5", "macro_f1", "auroc", "worst_group", "worst_class", "f1_per_class", "f1_overall")
"""What an audit makes of decisions, asked or not."""


def named(spec: str, **usual: Any) -> list[PerImage]:
    """The metrics that `spec` describes: one of `sightline.metrics` by its key or name, then its arguments; or a group.

    >>> named("pg:margin=5")
    [PointingGame(margin=5.0, average='overall', classes=None)]
    >>> [metric.key for metric in named("localisation")]
    ['ch', 'pg', 'spg', 'iou', 'dice', 'nqh']

    Args:
        spec: KEY, NAME or KEY:key=value,key=value; "localisation", "faithfulness", "robustness", or "all" of them.
        usual: arguments that a metric is given where it takes them and `spec` does not say otherwise.

    Raises:
        SightlineError: an unknown name or argument, or a value that does not fit its type; the message names it.
    """
    if spec in ALWAYS:
        raise SightlineError(f"{spec} is part of every audit of what it can be told of: leave it out.")
    groups = GROUPS | {"all": tuple(key for keys in GROUPS.values() for key in keys)}
    return [made(VARIANTS.get(key, key), _kinds(), "metric", **usual) for key in groups.get(spec, (spec,))]


def _kinds() -> dict[str, type[PerImage]]:
    from sightline import metrics

    exports = (getattr(metrics, name) for name in metrics.__all__)
    kinds = [kind for kind in exports if isinstance(kind, type) and issubclass(kind, PerImage) and hasattr(kind, "key")]
    return {kind.__name__: kind for kind in kinds} | {kind.key: kind for kind in kinds}
