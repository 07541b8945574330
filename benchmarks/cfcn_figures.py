"""CFCN's figures 6, 7, 8 and 11: what is measured of runs, and the pictures of it.

Run:  .venv/bin/python benchmarks/cfcn_figures.py measure runs/grid --split test shifted --json GRID.json
      .venv/bin/python benchmarks/cfcn_figures.py grid GRID.json --out grid.svg
      .venv/bin/python benchmarks/cfcn_figures.py alpha SWEEP.json --out alpha.svg
      .venv/bin/python benchmarks/cfcn_figures.py convergence RUN RUN --out convergence.svg
      .venv/bin/python benchmarks/cfcn_figures.py classmaps RUN RUN --out class_maps.png

Runs of the grid are called n<images>_m<masks>-<seed>, those of the sweep f<alpha>-<seed>, c<alpha>-<seed> and
ce-<seed>.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from drawing import COLOURS, save
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from results import Results, Runs, by_method, merge, minutes
from torch.utils.data import DataLoader

from sightline.audit import of_run
from sightline.files import read_json, whole
from sightline.objectives import CE, CFCN, Guided

Pixels = npt.NDArray[np.floating[Any]]

MARKS = "os^D"

BATCH = 500
DIGITS = (0, 9, 3)
"""What the class maps are drawn of: the paper's two digits and one more."""
SIDE = 56
"""Of a tile of theirs, in pixels."""


def measured(run: Path, split: str) -> dict[str, float]:
    """Accuracy, cross-entropy and both causally focused losses of a run, whether it was trained with them or not."""
    subject, data = of_run(run, split)
    model = subject.model.eval()
    features, classes = Guided(model, [CE(), CFCN("F")], data.size), Guided(model, [CFCN("C")], data.size)
    sums = dict.fromkeys(("accuracy", "ce", "outside_f", "outside_c"), 0.0)
    for batch in DataLoader(data, BATCH):
        terms = features(batch)[1]
        losses = {"ce": terms["ce"], "outside_f": terms["cfcn"], "outside_c": classes(batch)[1]["cfcn"]}
        sums["accuracy"] += int((model(batch.image).argmax(1) == batch.label).sum())
        for key, loss in losses.items():
            sums[key] += len(batch.label) * float(loss)
    return {key: value / len(data) for key, value in sums.items()}


def measure(folder: Path, splits: Sequence[str]) -> Results:
    """What is measured of all runs of a folder."""
    runs = sorted(path.parent for path in folder.glob("*-*/model.safetensors"))
    return by_method(runs, lambda run: {"minutes": minutes(run)} | {split: measured(run, split) for split in splits})


def grid(results: Results) -> Figure:
    """Figure 8: accuracy and mean loss by training images, a line for each number of masks."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, split in zip(panels, ("test", "shifted"), strict=False):
        draw_grid(axes, results, lambda run, split=split: run[split]["accuracy"])
        axes.set_title(f"accuracy, {split}")
    draw_grid(panels[2], results, lambda run: (run["test"]["ce"] + run["test"]["outside_f"]) / 2)
    panels[2].set_title("mean of both losses, test")
    panels[0].legend(title="masks")
    return figure


def draw_grid(axes: Axes, results: Results, value: Any) -> None:
    """A line for each number of masks."""
    cells = {
        tuple(int(part[1:]) for part in name.split("_")): list(map(value, runs.values()))
        for name, runs in results.items()
    }
    for masks, colour, mark in zip(sorted({masks for _, masks in cells}), COLOURS, MARKS, strict=False):
        curve(axes, {images: of for (images, m), of in sorted(cells.items()) if m == masks}, str(masks), colour, mark)
    axes.set_xlabel("training images")


def curve(axes: Axes, of: Mapping[float, Sequence[float]], label: str, colour: str, mark: str) -> None:
    """A line through the means, and a small mark for each value."""
    axes.plot(list(of), [mean(values) for values in of.values()], color=colour, marker=mark, ms=4, label=label)
    for at, values in of.items():
        axes.plot([at] * len(values), values, mark, color=colour, ms=2.5, alpha=0.5)


def alpha(results: Results) -> Figure:
    """Figure 7: what decisions and maps do as alpha grows from 0, plain training."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    panels = figure.subplots(1, 3)
    for variant, colour, mark in zip("fc", COLOURS[1:], MARKS[1:], strict=False):
        places = (("test", "accuracy"), ("shifted", "accuracy"), ("test", f"outside_{variant}"))
        for axes, (split, key) in zip(panels, places, strict=True):
            of = {w: [run[split][key] for run in runs.values()] for w, runs in sweep(results, variant).items()}
            curve(axes, of, f"CFCN-{variant.upper()}", colour, mark)
    for axes, title in zip(panels, ("accuracy, test", "accuracy, shifted", "causally focused loss, test"), strict=True):
        axes.set_title(title)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlabel("alpha")
    panels[0].legend()
    return figure


def sweep(results: Results, variant: str) -> dict[int, Runs]:
    """alpha -> the runs trained with it, in order."""
    found = {int(name[1:]): runs for name, runs in results.items() if name[0] == variant and name[1:].isdigit()}
    return {0: results["ce"], **dict(sorted(found.items()))}


LOGGED = {"ce": "classification loss", "cfcn": "causally focused loss"}


def convergence(runs: Sequence[Path]) -> Figure:
    """Figure 6: both losses over the epochs, means of what was logged in each, a line for each run."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    panels = figure.subplots(1, len(LOGGED))
    for run, colour, mark in zip(runs, COLOURS, MARKS, strict=False):
        epochs = pd.read_csv(run / "metrics.csv").groupby("epoch").mean()
        for axes, column in zip(panels, LOGGED, strict=True):
            if column in epochs:
                axes.plot(epochs.index + 1, epochs[column], color=colour, marker=mark, ms=4, label=run.name)
    for axes, title in zip(panels, LOGGED.values(), strict=True):
        axes.set_title(title)
        axes.set_xlabel("epoch")
    panels[0].legend()
    return figure


def classmaps(runs: Sequence[Path]) -> Image.Image:
    """Figure 11: images, each beside the maps of all classes that one forward of an all-convolutional network gives."""
    rows = [row(image, maps) for run in runs for image, maps in of_classes(run)]
    return Image.fromarray((255 * np.vstack(rows)).astype(np.uint8))


def row(image: Pixels, maps: Pixels) -> Pixels:
    """Tiles side by side: an image (H, W) in grey, and its maps (classes, h, w) in colours on one scale."""
    tiles = [np.repeat(image[..., None], 3, 2), *colormaps["viridis"](maps / maps.max())[..., :3]]
    return np.hstack([np.pad(enlarged(tile), ((2, 2), (2, 2), (0, 0)), constant_values=1) for tile in tiles])


def enlarged(tile: Pixels) -> Pixels:
    """(SIDE, SIDE, 3), where SIDE is a multiple of the tile's own."""
    factor = SIDE // len(tile)
    return tile.repeat(factor, 0).repeat(factor, 1)


def of_classes(run: Path) -> Iterator[tuple[Pixels, Pixels]]:
    """An image (H, W) in [0, 1] and its maps (classes, h, w), for the first image of some digits."""
    subject, data = of_run(run, "plain")
    images = torch.stack([data[int(np.argmax(data.labels == digit))].image for digit in DIGITS])
    kept: list[torch.Tensor] = []
    subject.model.eval().get_submodule("net.maps").register_forward_hook(lambda *seen: kept.append(seen[-1]))
    with torch.no_grad():
        subject.model(images)
    yield from zip(images[:, 0].numpy(), kept[0].numpy(), strict=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "grid", "alpha", "convergence", "classmaps"])
    parser.add_argument("paths", nargs="+", type=Path, help="a folder of runs, what was measured, or runs")
    parser.add_argument("--split", nargs="+", default=["test"], help="to measure on")
    parser.add_argument("--json", type=Path, help="where what is measured goes, beside that of others")
    parser.add_argument("--out", type=Path, help="the figure: .svg, of class maps .png")
    args = parser.parse_args()
    if args.what == "measure":
        merge(args.json, measure(args.paths[0], args.split))
    elif args.what in ("grid", "alpha"):
        save({"grid": grid, "alpha": alpha}[args.what](read_json(args.paths[0])), args.out)
    elif args.what == "convergence":
        save(convergence(args.paths), args.out)
    else:
        with whole(args.out) as temporary:
            classmaps(args.paths).save(temporary, format="png")


if __name__ == "__main__":
    main()
