"""Objects as they are typed: a name, then arguments. "GradCAM:elementwise=true,layer=net.layer3"."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from sightline.errors import SightlineError, did_you_mean


def made(spec: str, kinds: Mapping[str, type[Any]], what: str, **usual: Any) -> Any:
    """The object that `spec` describes: the name of one of `kinds`, then its constructor's arguments.

    Args:
        spec: NAME or NAME:key=value,key=value.
        kinds: the classes that can be named.
        what: they are, for messages.
        usual: arguments that the object is given where it takes them and `spec` does not say otherwise.

    Raises:
        SightlineError: an unknown name or argument, or a value that does not fit its type; the message names it.
    """
    name, _, arguments = spec.partition(":")
    if name not in kinds:
        raise SightlineError(f"there is no {what} {name!r}. {did_you_mean(name, kinds)}")
    known = [p.name for p in inspect.signature(kinds[name]).parameters.values() if p.kind is not p.VAR_KEYWORD]
    # A comma inside a value, as in a list, has no key behind it.
    pairs = [_pair(text, spec, what) for text in re.split(r",(?=\s*\w+\s*=)", arguments) if text]
    for key, _ in pairs:
        if key not in known:
            raise SightlineError(f"{what} {spec!r}: {name} takes no argument {key!r}. {did_you_mean(key, known)}")
    taken = {key: value for key, value in usual.items() if key in known}
    return kinds[name](**taken | _typed(kinds[name], pairs, f"{what} {spec!r}"))


def _pair(text: str, spec: str, what: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise SightlineError(f"{what} {spec!r}: {text!r} is no key=value. Write NAME:key=value,key=value.")
    return key.strip(), value.strip()


def _typed(kind: type[Any], pairs: list[tuple[str, str]], said: str) -> dict[str, Any]:
    """The values, read as the types of the constructor's arguments."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        typed = vars(parser.instantiate(parser.parse_args([f"--{key}={value}" for key, value in pairs])))
    except ArgumentError as error:
        raise SightlineError(f"{said}: {plain(str(error))}") from error
    return {key: typed[key] for key, _ in pairs}


def plain(message: str) -> str:
    """jsonargparse's message on one line, in words of users who do not know its types.

    >>> plain("Expected a typing.Literal['double', 'same']")
    "Expected one of 'double', 'same'"
    """
    return re.sub(r"a typing\.Literal\[(.*?)\]", r"one of \1", " ".join(message.split()))
