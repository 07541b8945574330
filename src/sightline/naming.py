"""Names that have to differ."""

from collections.abc import Sequence


def apart(names: Sequence[str], pattern: str = "{} ({})") -> list[str]:
    """The names in their order, repeated ones numbered from 2 on.

    >>> apart(["a", "b", "a"])
    ['a', 'b', 'a (2)']
    """
    found: list[str] = []
    for name in names:
        numbered = [name, *(pattern.format(name, number) for number in range(2, len(names) + 2))]
        found.append(next(one for one in numbered if one not in found))
    return found
