"""What people do to a mask: strokes, boxes and polygons, and which of them they take back."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sightline.errors import SightlineError, did_you_mean
from sightline.pictures import Flags
from sightline.regions import Boxes, Polygons, Region, Scribbles, Size

Point = tuple[float, float]

FEWEST = {"brush": 1, "erase": 1, "box": 2, "polygon": 3}
"""Points of each kind that marks pixels."""

TURNS = ("undo", "redo")

BATCH = 100
"""Most operations in one request."""

POINTS = 10_000
"""Most points of one operation."""

BEYOND = 10_000
"""Pixels by which a point may lie outside its image."""

LONGEST = 600.0
"""Seconds that one request can add to the time spent on an image."""

NAME = re.compile(r"[\w-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Operation:
    """One line of an image's log."""

    id: str
    kind: str
    """A key of `FEWEST`, or one of `TURNS`."""
    points: tuple[Point, ...] = ()
    """(x, y) in pixels of the image. Of a box two opposite corners."""
    radius: float = 0.0
    """Of a brush, in pixels."""
    erase: bool = False
    of: str = ""
    """The operation that an undo or a redo turns."""
    by: str = ""
    time: str = ""

    @property
    def erases(self) -> bool:
        """Whether it takes pixels away."""
        return self.erase or self.kind == "erase"

    def region(self) -> Region:
        """The pixels it marks or takes away."""
        if self.kind == "box":
            (left, right), (top, bottom) = (sorted(axis) for axis in zip(*self.points, strict=True))
            return Boxes(((left, top, right, bottom),))
        ring = tuple(value for point in self.points for value in point)
        return Polygons((ring,)) if self.kind == "polygon" else Scribbles((ring,), 2 * self.radius)

    def line(self) -> dict[str, Any]:
        """What the log says of it."""
        left_out = ("points", "radius", "erase") if self.kind in TURNS else ("of",)
        return {key: value for key, value in asdict(self).items() if key not in left_out}


def applied(mask: Flags, operation: Operation) -> Flags:
    """The mask (H, W) after one operation that marks pixels; unchanged if it lies outside the image."""
    try:
        marked = operation.region().draw((mask.shape[0], mask.shape[1]))
    except SightlineError:
        return mask
    return mask & ~marked if operation.erases else mask | marked


def standing(log: Iterable[Operation]) -> list[Operation]:
    """The operations that mark pixels and are not taken back, in their order."""
    drawn = {operation.id: operation for operation in log if operation.kind not in TURNS}
    undone = {operation.of: operation.kind == "undo" for operation in log if operation.kind in TURNS}
    return [operation for name, operation in drawn.items() if not undone.get(name)]


# From JSON ------------------------------------------------------------------------------------------------------------


def parsed(text: bytes) -> Any:
    """JSON without NaN and infinity.

    Raises:
        SightlineError: it is none, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SightlineError(f"the request is no JSON: {error}.") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def operations(value: Any, size: Size, by: str, time: str) -> list[Operation]:
    """The operations of a request on an image of `size` (H, W), signed with `by` and `time`.

    Raises:
        SightlineError: a field is missing, unknown, of another type or out of range; the message names it.
    """
    if not isinstance(value, list) or len(value) > BATCH:
        raise SightlineError(f"operations must be a list of at most {BATCH} operations.")
    return [operation(fields, size, by, time) for fields in value]


def operation(value: Any, size: Size, by: str, time: str) -> Operation:
    """One operation; see `operations`."""
    fields = checked(value, ("id", "kind", "points", "radius", "erase", "of", "by"))
    kind, erase = fields.get("kind"), fields.get("erase", False)
    if kind not in (*FEWEST, *TURNS):
        raise SightlineError(f"there is no kind {str(kind)[:64]!r}. Known: {', '.join((*FEWEST, *TURNS))}.")
    if not isinstance(erase, bool):
        raise SightlineError("erase must be true or false.")
    name, by = _name(fields, "id"), _name(fields, "by") if "by" in fields else by
    if kind in TURNS:
        return Operation(name, kind, of=_name(fields, "of"), by=by, time=time)
    points = _points(fields.get("points"), kind, size)
    radius = number(fields, "radius", 0, max(size)) if kind in ("brush", "erase") else 0.0
    return Operation(name, kind, points, radius, erase, by=by, time=time)


def checked(value: Any, known: Sequence[str]) -> Mapping[str, Any]:
    """`value` if it is an object without unknown fields.

    Raises:
        SightlineError: it is not.
    """
    if not isinstance(value, dict):
        raise SightlineError("expected a JSON object.")
    for key in value:
        if key not in known:
            raise SightlineError(f"unknown field {key[:64]!r}. {did_you_mean(key[:64], known)}")
    return value


def number(fields: Mapping[str, Any], name: str, low: float, high: float) -> float:
    """A field that is a number from `low` to `high`.

    Raises:
        SightlineError: it is not.
    """
    value = fields.get(name)
    if not _between(value, low, high):
        raise SightlineError(f"{name} must be a number from {low:g} to {high:g}.")
    return float(fields[name])


def seconds(fields: Mapping[str, Any]) -> float:
    """The time spent, at most `LONGEST`; 0 where nothing is said.

    Raises:
        SightlineError: it is no number, or negative.
    """
    return min(number({"seconds": 0.0, **fields}, "seconds", 0, math.inf), LONGEST)


def _between(value: Any, low: float, high: float) -> bool:
    # An int beyond every float compares, but does not convert.
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= min(high, 1e12)


def _name(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise SightlineError(f"{key} must be a name of at most 64 letters, digits and dashes, such as a UUID.")
    return value


def _points(value: Any, kind: str, size: Size) -> tuple[Point, ...]:
    fewest, most = FEWEST[kind], 2 if kind == "box" else POINTS
    if not isinstance(value, list) or not fewest <= len(value) <= most:
        raise SightlineError(f"points of a {kind} must be a list of {fewest} to {most} points [x, y].")
    return tuple(_point(point, size) for point in value)


def _point(value: Any, size: Size) -> Point:
    height, width = size
    if not (
        isinstance(value, list)
        and len(value) == 2
        and _between(value[0], -BEYOND, width + BEYOND)
        and _between(value[1], -BEYOND, height + BEYOND)
    ):
        raise SightlineError(
            f"a point must be [x, y], two numbers at most {BEYOND} pixels outside the image of {width} x {height}."
        )
    return float(value[0]), float(value[1])
