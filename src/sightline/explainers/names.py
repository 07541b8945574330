"""Explainers as they are typed: a name, then arguments."""

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast

from sightline.explainers.base import Explainer
from sightline.naming import apart
from sightline.words import made


def named(spec: str) -> Explainer:
    """The explainer that `spec` describes: one of `sightline.explainers`, then its arguments.

    >>> named("GradCAM:elementwise=true,layer=net.layer3")
    GradCAM(layer='net.layer3', elementwise=True)

    Raises:
        SightlineError: an unknown name or argument, or a value that does not fit its type; the message names it.
    """
    return cast(Explainer, made(spec, _kinds(), "explainer"))


def spelt(explainer: Explainer) -> str:
    """What `named` makes this explainer of: its name and those of its arguments that are not at their default.

    >>> from sightline.explainers import GradCAM
    >>> spelt(GradCAM(elementwise=True))
    'GradCAM:elementwise=true'
    """
    given = {f.name: getattr(explainer, f.name) for f in fields(cast(Any, explainer)) if f.init}
    usual = {f.name: f.default for f in fields(cast(Any, explainer))}
    pairs = [f"{key}={_plain(value)}" for key, value in given.items() if value != usual[key]]
    return ":".join([type(explainer).__name__, *([",".join(pairs)] if pairs else [])])


def told_apart(explainers: Sequence[Explainer]) -> dict[str, Explainer]:
    """Each by the name of its class, with a number from the second of its kind on."""
    return dict(zip(apart([type(explainer).__name__ for explainer in explainers], "{}-{}"), explainers, strict=True))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _kinds() -> dict[str, type[Any]]:
    from sightline import explainers

    exports = {name: getattr(explainers, name) for name in explainers.__all__}
    return {name: kind for name, kind in exports.items() if _is_explainer(kind)}


def _is_explainer(export: object) -> bool:
    return isinstance(export, type) and is_dataclass(export) and hasattr(export, "taps")
