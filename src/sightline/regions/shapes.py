"""Boxes, polygons, points and lines, in pixels of the image; what sticks out of it is cut off.

A shape that lies in the image marks at least one pixel of it, however small it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, cos, floor, pi, radians, sin
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from sightline.errors import SightlineError
from sightline.pictures import Flags
from sightline.regions.base import Region, Size, Sourced

Ring = tuple[float, ...]
"""x and y of each vertex in turn, as COCO writes them."""
Array = npt.NDArray[Any]

HALF_DIAGONAL = 0.5**0.5
"""From the centre of a pixel to its corner: a disc of this radius holds a centre wherever it lies."""

FAR = 1e9
"""Pixels beyond which nothing lies in an image: larger numbers, whose squares overflow, count as this."""


class Shape(Region, Protocol):
    """A region whose coordinates can be scaled."""

    def scaled(self, x: float, y: float) -> Self:
        """The same shape with its coordinates multiplied; radii and widths stay."""
        ...


@dataclass(frozen=True)
class Boxes(Sourced):
    """The union of boxes (left, top, right, bottom) in pixels, the last two exclusive, their edges rounded."""

    boxes: tuple[tuple[float, float, float, float], ...]

    def draw(self, size: Size) -> Flags:
        marked = np.zeros(size, np.bool_)
        for left, top, right, bottom in self.boxes:
            marked[between(top, bottom), between(left, right)] = True
        edges = ", ".join("({:g}, {:g}) to ({:g}, {:g})".format(*box) for box in self.boxes)
        return inside(marked, self.source, f"box {edges}")

    def scaled(self, x: float, y: float) -> Self:
        return replace(self, boxes=tuple((a * x, b * y, c * x, d * y) for a, b, c, d in self.boxes))


@dataclass(frozen=True)
class Polygons(Sourced):
    """The union of rings: of each, the pixels whose centre it goes round an odd number of times."""

    rings: tuple[Ring, ...]

    def draw(self, size: Size) -> Flags:
        marked = np.zeros(size, np.bool_)
        for ring in self.rings:
            fill(marked, vertices(ring))
        return inside(marked, self.source, "polygon")

    def scaled(self, x: float, y: float) -> Self:
        return replace(self, rings=tuple(stretch(ring, x, y) for ring in self.rings))


@dataclass(frozen=True)
class Points(Sourced):
    """Discs around points: pixels whose centre is at most `radius` pixels away, and the one the point lies in."""

    points: Ring
    radius: float = 0.0

    def draw(self, size: Size) -> Flags:
        marked = np.zeros(size, np.bool_)
        for point in vertices(self.points):
            trace(marked, point, point, self.radius)
        return inside(marked, self.source, f"point {self.points}")

    def scaled(self, x: float, y: float) -> Self:
        return replace(self, points=stretch(self.points, x, y))


@dataclass(frozen=True)
class Scribbles(Sourced):
    """Lines through points: pixels whose centre is at most half of `width` pixels away, or half a pixel's diagonal."""

    lines: tuple[Ring, ...]
    width: float = 1.0

    def draw(self, size: Size) -> Flags:
        marked = np.zeros(size, np.bool_)
        for line in self.lines:
            points = vertices(line)
            for start, end in zip(points, points[1:] if len(points) > 1 else points, strict=False):
                trace(marked, start, end, self.width / 2)
        return inside(marked, self.source, "line")

    def scaled(self, x: float, y: float) -> Self:
        return replace(self, lines=tuple(stretch(line, x, y) for line in self.lines))


def ellipse(x: float, y: float, across: float, down: float, turned: float = 0.0) -> Ring:
    """A ring of 120 points around (x, y) with the given radii, turned clockwise by degrees."""
    angles = [pi * step / 60 for step in range(120)]
    return turn(tuple(v for a in angles for v in (x + across * cos(a), y + down * sin(a))), x, y, turned)


def turn(ring: Ring, x: float, y: float, degrees: float) -> Ring:
    """A ring turned clockwise around (x, y)."""
    c, s = cos(radians(degrees)), sin(radians(degrees))
    away = [(a - x, b - y) for a, b in zip(ring[::2], ring[1::2], strict=True)]
    return tuple(value for a, b in away for value in (x + a * c - b * s, y + a * s + b * c))


def inside(marked: Flags, source: str, shape: str) -> Flags:
    """`marked` if it marks anything.

    Raises:
        SightlineError: it does not: the shape lies outside.
    """
    if not marked.any():
        raise SightlineError(
            f"{source}: {shape} lies outside its image of {marked.shape[1]} x {marked.shape[0]} pixels. Expected "
            "pixels of the image as it stands in its file, turned as EXIF says."
        )
    return marked


def vertices(ring: Ring) -> Array:
    """(N, 2) x and y."""
    return np.array(ring, np.float64).reshape(-1, 2).clip(-FAR, FAR)


def stretch(ring: Sequence[float], x: float, y: float) -> Ring:
    """x and y in turn, multiplied."""
    return tuple(value * (y if place % 2 else x) for place, value in enumerate(ring))


def between(low: float, high: float) -> slice:
    """The pixels between two edges, at least the one `low` lies in."""
    start, stop = round(low), round(high)
    if start == stop and low < high:
        start, stop = floor(low), floor(low) + 1
    return slice(max(0, start), max(0, stop))


def fill(marked: Flags, points: Array) -> None:
    """Mark the pixels whose centre lies in the polygon `points` (N, 2), or else those its vertices lie in."""
    rows, columns = frame(points)
    window = marked[rows, columns]
    # Not moved to the window first: that rounds, and a centre on an edge would fall to the other side.
    enclosed = even_odd(points, (rows.start, columns.start), window.shape)
    window |= enclosed if enclosed.any() else at(points - (columns.start, rows.start), window.shape)


def frame(points: Array, margin: float = 0.0) -> tuple[slice, slice]:
    """The rows and columns in which points (N, 2) lie, and so much around them."""
    (left, top), (right, bottom) = np.floor(points.min(0) - margin), np.floor(points.max(0) + margin) + 1
    return slice(max(0, int(top)), max(0, int(bottom))), slice(max(0, int(left)), max(0, int(right)))


def even_odd(points: Array, corner: Size, size: Size) -> Flags:
    """Pixels whose centre the polygon `points` (N, 2) goes round an odd number of times.

    Of the window of `size` whose first pixel lies in the row and column `corner`. Row by row: a pixel is inside if an
    odd number of edges crosses its row on its left. skimage asks every edge for every pixel, which takes seconds on a
    photograph; Pillow rounds vertices and adds the outline.
    """
    flips = np.zeros((size[0], size[1] + 1), np.bool_)
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        rows, columns = crossings(start, end, corner, size)
        flips[rows, columns] ^= True
    return np.logical_xor.accumulate(flips, axis=1)[:, :-1]


def crossings(start: Array, end: Array, corner: Size, size: Size) -> tuple[Array, Array]:
    """Rows of the window whose centre line the edge crosses, and of each the first column whose centre lies beyond."""
    (x0, y0), (x1, y1) = (start, end) if start[1] <= end[1] else (end, start)
    top, left = corner
    rows = np.arange(max(top, ceil(y0 - 0.5)), min(top + size[0], ceil(y1 - 0.5)))
    x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0) if y1 > y0 else 0.0)
    return rows - top, (np.ceil(x - 0.5).astype(np.int64) - left).clip(0, size[1])


def at(points: Array, size: Size) -> Flags:
    """The pixels the points lie in."""
    marked = np.zeros(size, np.bool_)
    columns, rows = np.floor(points).T
    held = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    marked[rows[held].astype(np.int64), columns[held].astype(np.int64)] = True
    return marked


def trace(marked: Flags, start: Array, end: Array, radius: float) -> None:
    """Mark the pixels whose centre is within `radius` of the line from `start` to `end`, both (x, y)."""
    radius = min(max(radius, HALF_DIAGONAL), FAR)
    rows, columns = frame(np.stack([start, end]), radius)
    window = marked[rows, columns]
    x = np.arange(window.shape[1]) + columns.start + 0.5 - start[0]
    y = (np.arange(window.shape[0]) + rows.start + 0.5 - start[1])[:, None]
    (dx, dy), length = end - start, max(((end - start) ** 2).sum(), 1e-12)
    along = ((x * dx + y * dy) / length).clip(0, 1)
    window |= (x - along * dx) ** 2 + (y - along * dy) ** 2 <= radius**2
