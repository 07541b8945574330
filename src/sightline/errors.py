"""The one exception a user's mistake raises; the command line prints it without a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class SightlineError(ValueError):
    """Bad input. The message names the file or argument at fault, what was expected and what to do."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that lists the nearest known words, or all of them if none is near.

    >>> did_you_mean("layer5", ["layer4", "conv1"])
    "Did you mean 'layer4'?"
    """
    known = list(known)
    of = {name.lower(): name for name in known}
    near = [of[name] for name in get_close_matches(word.lower(), of, n=3, cutoff=0.6)]
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    shown = ", ".join(map(repr, known[:20])) + (", ..." if len(known) > 20 else "")
    return f"Known: {shown or 'none'}."
