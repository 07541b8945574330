"""Plain-text tables."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], numbers: bool = True) -> list[str]:
    """A line per row, its cells in columns; all but the first column to the right where they hold `numbers`.

    >>> aligned([["", "CH"], ["plain", "0.142"]])
    ['          CH', 'plain  0.142']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    place = str.rjust if numbers else str.ljust
    return ["  ".join([row[0].ljust(widths[0]), *map(place, row[1:], widths[1:])]).rstrip() for row in rows]
