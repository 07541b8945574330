"""Explainers as they are typed: a name, then arguments."""

import json
import re
from dataclasses import fields, is_dataclass
from typing import Any, cast

from jsonargparse import ArgumentError, ArgumentParser

from sightline.errors import SightlineError, did_you_mean
from sightline.explainers.base import Explainer


def named(spec: str) -> Explainer:
    """The explainer that `spec` describes: one of `sightline.explainers`, then its arguments.

    >>> named("GradCAM:elementwise=true,layer=net.layer3")
    GradCAM(layer='net.layer3', elementwise=True)

    Raises:
        SightlineError: an unknown name or argument, or a value that does not fit its type; the message names it.
    """
    name, _, arguments = spec.partition(":")
    if name not in (kinds := _kinds()):
        raise SightlineError(f"there is no explainer {name!r}. {did_you_mean(name, kinds)}")
    kind = kinds[name]
    known = [field.name for field in fields(kind) if field.init]
    # A comma inside a value, as in a list, has no key behind it.
    pairs = [_pair(text, spec) for text in re.split(r",(?=\s*\w+\s*=)", arguments) if text]
    for key, _ in pairs:
        if key not in known:
            raise SightlineError(f"explainer {spec!r}: {name} takes no argument {key!r}. {did_you_mean(key, known)}")
    return cast(Explainer, kind(**_typed(kind, pairs, spec)))


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


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _kinds() -> dict[str, type[Any]]:
    from sightline import explainers

    exports = {name: getattr(explainers, name) for name in explainers.__all__}
    return {name: kind for name, kind in exports.items() if _is_explainer(kind)}


def _is_explainer(export: object) -> bool:
    return isinstance(export, type) and is_dataclass(export) and hasattr(export, "taps")


def _pair(text: str, spec: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise SightlineError(f"explainer {spec!r}: {text!r} is no key=value. Write NAME:key=value,key=value.")
    return key.strip(), value.strip()


def _typed(kind: type[Any], pairs: list[tuple[str, str]], spec: str) -> dict[str, Any]:
    """The values, read as the types of the constructor's arguments."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        typed = vars(parser.instantiate(parser.parse_args([f"--{key}={value}" for key, value in pairs])))
    except ArgumentError as error:
        raise SightlineError(f"explainer {spec!r}: {' '.join(str(error).split())}") from error
    return {key: typed[key] for key, _ in pairs}
