"""Masks drawn through the page of `sightline annotate`, as a person would, and how well they match known ones.

Run:  PYTHONPATH=tests .venv/bin/python benchmarks/annotate_walk.py DIR KNOWN --count 30 --seed 0 --json walk.json
      (needs Chromium or Chrome, and pip install 'sightline[dev]')

DIR is a folder of images as docs/data.md describes it; masks are drawn into it. KNOWN is the same folder with masks.
Images are drawn at random from those that have a known mask, the same number of each class as far as possible. Each is
opened in the page; the outlines of the largest `--parts` of its known mask, each simplified to at most `--corners`
corners, are clicked with the polygon tool and closed with Enter, `--pause` seconds after each click. Seconds are those
that the page reports: the pace is the robot's, not a person's.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
from skimage.measure import approximate_polygon, find_contours, label

from annotating import SCREEN, Hand, Point, chromium, serving
from sightline.files import write_json
from sightline.listing import Entry, list_entries
from sightline.pictures import Flags, size_of
from sightline.regions import Region

NEAR = 12
"""Pixels of the screen that corners lie apart, at least: two quick clicks at one place would close the outline."""


class Walked(NamedTuple):
    """One image."""

    image: str
    label: str
    corners: int
    seconds: float
    iou: float
    """Of what was drawn with the known mask."""
    iou_parts: float
    """With those parts of the known mask that were to be drawn."""


def chosen(entries: Sequence[Entry], count: int, seed: int) -> list[Entry]:
    """The same number of each class, as far as possible."""
    classes: defaultdict[Any, list[Entry]] = defaultdict(list)
    for entry in random.Random(seed).sample(entries, len(entries)):
        classes[entry.label].append(entry)
    rounds = zip_longest(*(classes[name] for name in sorted(classes)))
    return [entry for entry in chain.from_iterable(rounds) if entry][:count]


def largest(mask: Flags, count: int) -> list[Flags]:
    """The parts of a mask that hang together and have most pixels."""
    parts = label(mask)
    sizes = np.bincount(parts[mask])
    return [np.asarray(parts == part) for part in np.argsort(-sizes)[:count] if sizes[part]]


def outline(part: Flags, most: int) -> list[Point]:
    """At most so many corners (x, y) around a part."""
    contour = max(find_contours(np.pad(part, 1).astype(float), 0.5), key=len) - 0.5
    tolerance = 0.5
    while len(corners := approximate_polygon(contour, tolerance)[:-1]) > most:
        tolerance *= 1.1
    return [(float(x), float(y)) for y, x in corners]


def apart(hand: Hand, corners: Sequence[Point]) -> list[Point]:
    """The corners, but for those too near to the one before, or to the first, on the screen."""
    kept, places = [corners[0]], [hand.at(corners[0])]
    for corner in corners[1:]:
        place = hand.at(corner)
        if min(np.hypot(*np.subtract(place, other)) for other in (places[0], places[-1])) >= NEAR:
            kept, places = [*kept, corner], [*places, place]
    return kept


def draw(hand: Hand, name: str, outlines: Sequence[Sequence[Point]], pause: float) -> int:
    """Draw one mask; how many corners it took."""
    hand.page.evaluate("name => { location.hash = encodeURIComponent(name) }", name)
    hand.opened(name)
    clicked = [apart(hand, corners) for corners in outlines]
    for corners in clicked:
        hand.polygon(corners, pause)
    hand.saved()
    return sum(map(len, clicked))


def regions(folder: Path) -> Mapping[str, Region]:
    """The masks of a folder by the ids of their images."""
    return {entry.id: entry.region for entry in list_entries(folder) if isinstance(entry.region, Region)}


def walk(
    folder: Path, known: Path, split: str | None, count: int, seed: int, parts: int, most: int, pause: float
) -> list[Walked]:
    """Draw masks of a folder's images, and compare them with known ones."""
    masks = regions(known)
    there = [entry for entry in list_entries(folder) if entry.id in masks and split in (None, entry.split)]
    entries = chosen(there, count, seed)
    wanted = {entry.id: masks[entry.id].draw(size_of(entry.image)) for entry in entries}
    traced = {name: largest(mask, parts) for name, mask in wanted.items()}
    outlines = {name: [outline(part, most) for part in its] for name, its in traced.items()}
    with chromium() as browser, serving(folder) as served:
        hand = Hand(browser.new_context(viewport=SCREEN), served.links[0])
        corners = [draw(hand, name, its, pause) for name, its in outlines.items()]
        overview = hand.page.request.get(f"{hand.home}api/project").json()
    seconds = {image["id"]: image["seconds"] for image in overview["images"]}
    drawn = regions(folder)
    walked = []
    for entry, n in zip(entries, corners, strict=True):
        mask = drawn[entry.id].draw(wanted[entry.id].shape)
        overlaps = iou(mask, wanted[entry.id]), iou(mask, np.any(traced[entry.id], axis=0))
        walked.append(Walked(entry.id, str(entry.label), n, seconds[entry.id], *overlaps))
    return walked


def iou(a: Flags, b: Flags) -> float:
    """Intersection over union."""
    return float((a & b).sum() / (a | b).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("known", type=Path, metavar="KNOWN")
    parser.add_argument("--split", help="draw in this split alone")
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--corners", type=int, default=18)
    parser.add_argument("--pause", type=float, default=0.1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    walked = walk(args.folder, args.known, args.split, args.count, args.seed, args.parts, args.corners, args.pause)
    for one in walked:
        print(
            f"{one.image:20} {one.label:20} {one.corners:3} corners {one.seconds:6.1f} s  "
            f"IoU {one.iou:.3f}, of the parts {one.iou_parts:.3f}"
        )
    seconds, whole, parts = (mean(values) for values in list(zip(*walked, strict=True))[3:])
    print(f"{len(walked)} masks, {seconds:.1f} s each: IoU {whole:.3f}, of the parts {parts:.3f}")
    if args.json:
        write_json(args.json, [one._asdict() for one in walked])


if __name__ == "__main__":
    main()
