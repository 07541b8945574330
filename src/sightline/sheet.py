"""A contact sheet: pictures in a grid, one row per image, each with two lines of text below it."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sightline.colours import Floats

CELL = 240
"""Longest side of a picture in pixels."""

NARROW = 160
"""Least width of a cell: its text must say something."""

GAP, MARGIN, LINE, BAR = 12, 24, 18, 10
TITLE, NAME, TEXT, SMALL, LEADING = 20, 15, 13, 12, 6
WIDE, HIGH = 1800, 12_000
"""Pixels from which rows stand no longer side by side, and from which a sheet goes on on another page."""

FEW = 4
"""Rows that stand below each other before any stand side by side."""

INK, SOFT, PAPER = "#1a1a1a", "#5c5c5c", "#ffffff"


class Picture(NamedTuple):
    """One cell: a small picture, a caption and a softer line below it."""

    image: Image.Image
    caption: str
    detail: str

    @classmethod
    def of(cls, pixels: Floats, caption: str, detail: str) -> "Picture":
        """From pixels (H, W, 3) in 0..255 of any size."""
        height, width = (max(1, round(CELL * side / max(pixels.shape[:2]))) for side in pixels.shape[:2])
        return cls(to_image(pixels).resize((width, height), Image.Resampling.LANCZOS), caption, detail)


class Column(NamedTuple):
    """What heads a column: a name, its details, and the colours of its maps with a word at each end."""

    name: str
    detail: str
    bar: Floats | None = None
    ends: tuple[str, str, str] = ("", "", "")
    """Below the bar: left, middle and right."""


def draw(
    title: str, note: str, columns: Sequence[Column], rows: Iterable[Sequence[Picture]], count: int
) -> Iterator[Image.Image]:
    """The pages of a contact sheet of `count` rows, nearly always one.

    A row holds one picture for each column, all of the same size. Where the columns are few, rows stand side by side.
    No more rows are in memory than a page holds.
    """
    first, rows = _peeked(iter(rows))
    grid = _Grid.of(first, count)
    while page := list(islice(rows, grid.rows)):
        yield _page(title, note, columns, page, grid)


def _peeked(rows: Iterator[Sequence[Picture]]) -> tuple[Sequence[Picture], Iterator[Sequence[Picture]]]:
    first = next(rows)
    return first, chain([first], rows)


class _Grid(NamedTuple):
    """Where the cells lie: `abreast` rows side by side, each of `columns` cells of (width, height)."""

    abreast: int
    columns: int
    width: int
    height: int

    @classmethod
    def of(cls, row: Sequence[Picture], count: int) -> "_Grid":
        width, height = row[0].image.size
        width = max(width, NARROW)
        abreast = WIDE // (len(row) * (width + GAP) + MARGIN)
        return cls(max(1, min(-(-count // FEW), abreast)), len(row), width, height + 2 * LINE + GAP)

    @property
    def rows(self) -> int:
        """Of a page."""
        return self.abreast * max(1, HIGH // self.height)

    def lines(self, rows: int) -> int:
        """How many lines so many rows take."""
        return -(-rows // self.abreast)

    @property
    def span(self) -> int:
        """Width of the sheet without its margins."""
        return self.abreast * (self.columns * (self.width + GAP) + MARGIN) - MARGIN - GAP

    def left(self, row: int, column: int) -> int:
        """Where a cell begins."""
        place = row % self.abreast
        return MARGIN + (place * self.columns + column) * (self.width + GAP) + place * MARGIN


def _page(
    title: str, note: str, columns: Sequence[Column], rows: Sequence[Sequence[Picture]], grid: _Grid
) -> Image.Image:
    lines = [(text, TITLE, INK) for text in _wrapped(title, _font(TITLE, bold=True), grid.span)]
    lines += [(text, TEXT, SOFT) for text in _wrapped(note, _font(TEXT), grid.span)]
    top = MARGIN + sum(size + LEADING for _, size, _ in lines) + GAP
    first = top + 3 * LINE + BAR + GAP
    page = Image.new("RGB", (grid.span + 2 * MARGIN, first + grid.lines(len(rows)) * grid.height + MARGIN), PAPER)
    pen = ImageDraw.Draw(page)
    y = MARGIN
    for text, size, ink in lines:
        pen.text((MARGIN, y), text, ink, _font(size, bold=size == TITLE))
        y += size + LEADING
    for row in range(min(len(rows), grid.abreast)):
        for j, column in enumerate(columns):
            _head(page, pen, column, (grid.left(row, j), top), grid.width)
    for i, pictures in enumerate(rows):
        for j, picture in enumerate(pictures):
            _cell(page, pen, picture, (grid.left(i, j), first + i // grid.abreast * grid.height), grid)
    return page


def _head(page: Image.Image, pen: ImageDraw.ImageDraw, column: Column, at: tuple[int, int], width: int) -> None:
    x, y = at
    pen.text((x, y), _elided(column.name, _font(NAME, bold=True), width), INK, _font(NAME, bold=True))
    pen.text((x, y + LINE + 2), _elided(column.detail, _font(SMALL), width), SOFT, _font(SMALL))
    if column.bar is None:
        return
    page.paste(to_image(column.bar).resize((width, BAR)), (x, y + 2 * LINE + 4))
    for text, anchor, place in zip(column.ends, "lmr", (x, x + width // 2, x + width), strict=True):
        pen.text((place, y + 2 * LINE + BAR + 7), text, SOFT, _font(SMALL), anchor=f"{anchor}a")


def _cell(page: Image.Image, pen: ImageDraw.ImageDraw, picture: Picture, at: tuple[int, int], grid: _Grid) -> None:
    x, y = at
    page.paste(picture.image, at)
    below = y + grid.height - 2 * LINE - GAP + 3
    pen.text((x, below), _elided(picture.caption, _font(TEXT), grid.width), INK, _font(TEXT))
    pen.text((x, below + LINE - 1), _elided(picture.detail, _font(SMALL), grid.width), SOFT, _font(SMALL))


def to_image(pixels: Floats) -> Image.Image:
    """(H, W, 3) of 0..255 as Pillow's image."""
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _elided(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text without its middle, if it is too long: what tells names apart, and a probability, stand at the end."""
    shown, kept = text, len(text)
    while font.getlength(shown) > width and kept:
        kept -= 1
        shown = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
    return shown


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [_elided(line, font, width) for line in lines if line]


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVuSans{'-Bold' * bold}.ttf")
    return ImageFont.truetype(str(file), size)
