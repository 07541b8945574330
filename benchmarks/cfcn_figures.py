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

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results import Results, Runs, merge
from torch.utils.data import DataLoader

from sightline.audit import of_run
from sightline.files import read_json, whole
from sightline.objectives import CE, CFCN, Guided

matplotlib.rcParams |= {
    "svg.hashsalt": "sightline",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
COLOURS = ("#555555", "#e69f00", "#0072b2", "#009e73")
"""Those of Okabe and Ito: they stay apart in every kind of colour blindness."""
MARKS = "os^D"

BATCH = 500
DIGITS = (0, 9, 3)
"""What the class maps are drawn of: the paper's two digits and one more."""


def measured(run: Path, split: str) -> dict[str, float]:
    """Accuracy, cross-entropy and both causally focused losses of a run, whether it was trained with them or not."""
    subject, data = of_run(run, split)
    model = subject.model.eval()
    guided = {name: Guided(model, [CFCN(name.upper())], data.size) for name in "fc"}
    plain = Guided(model, [CE()], data.size)
    sums = dict.fromkeys(("accuracy", "ce", "outside_f", "outside_c"), 0.0)
    for batch in DataLoader(data, BATCH):
        sums["accuracy"] += int((model(batch.image).argmax(1) == batch.label).sum())
        sums["ce"] += len(batch.label) * float(plain(batch)[1]["ce"])
        for name, one in guided.items():
            sums[f"outside_{name}"] += len(batch.label) * float(one(batch)[1]["cfcn"])
    return {key: value / len(data) for key, value in sums.items()}


def measure(folder: Path, splits: Sequence[str]) -> Results:
    """What is measured of all runs of a folder."""
    found: dict[str, dict[str, Any]] = {}
    for run in sorted(path.parent for path in folder.glob("*-*/model.safetensors")):
        method, _, seed = run.name.rpartition("-")
        minutes = read_json(run / "run.json")["minutes"]
        found.setdefault(method, {})[seed] = {"minutes": minutes} | {split: measured(run, split) for split in splits}
    return found


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


LOGGED = {"val_accuracy": "validation accuracy", "ce": "classification loss", "cfcn": "causally focused loss"}


def convergence(runs: Sequence[Path]) -> Figure:
    """Figure 6: accuracy and both losses over the epochs, a panel for each run."""
    figure = Figure(figsize=(4 * len(runs), 3), layout="constrained")
    for axes, run in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        epochs = pd.read_csv(run / "metrics.csv").groupby("epoch").mean()
        for (column, label), colour in zip(LOGGED.items(), COLOURS[1:], strict=True):
            axes.plot(epochs.index + 1, epochs[column], color=colour, label=label)
        axes.set_title(run.name)
        axes.set_xlabel("epoch")
    axes.legend()
    return figure


def classmaps(runs: Sequence[Path]) -> Figure:
    """Figure 11: images, each beside the maps of all classes that one forward of an all-convolutional network gives."""
    pictures = [picture for run in runs for picture in of_classes(run)]
    figure = Figure(figsize=(11, 1.1 * len(pictures)), layout="constrained")
    for row, (name, image, maps) in zip(figure.subplots(len(pictures), 11), pictures, strict=True):
        row[0].imshow(image, cmap="gray")
        row[0].set_ylabel(name)
        for k, (axes, one) in enumerate(zip(row[1:], maps, strict=True)):
            axes.imshow(one, vmin=0, vmax=maps.max())
            axes.set_title(k, fontsize=8)
        for axes in row:
            axes.set(xticks=[], yticks=[])
    return figure


def of_classes(run: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The run's name, an image (H, W) and its maps (classes, h, w), for the first image of some digits."""
    subject, data = of_run(run, "plain")
    images = torch.stack([data[int(np.argmax(data.labels == digit))].image for digit in DIGITS])
    kept: list[torch.Tensor] = []
    subject.model.eval().get_submodule("net.maps").register_forward_hook(lambda *seen: kept.append(seen[-1]))
    with torch.no_grad():
        subject.model(images)
    for image, maps in zip(images, kept[0], strict=True):
        yield run.name, image[0].numpy(), maps.numpy()


def save(figure: Figure, out: Path) -> None:
    """As .svg, without a date, or .png."""
    with whole(out) as temporary:
        metadata = {"Date": None} if out.suffix == ".svg" else {}
        figure.savefig(temporary, format=out.suffix[1:], dpi=80, metadata=metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "grid", "alpha", "convergence", "classmaps"])
    parser.add_argument("paths", nargs="+", type=Path, help="a folder of runs, what was measured, or runs")
    parser.add_argument("--split", nargs="+", default=["test"], help="to measure on")
    parser.add_argument("--json", type=Path, help="where what is measured goes, beside that of others")
    parser.add_argument("--out", type=Path, help="the figure, .svg or .png")
    args = parser.parse_args()
    if args.what == "measure":
        merge(args.json, measure(args.paths[0], args.split))
    elif args.what in ("grid", "alpha"):
        save({"grid": grid, "alpha": alpha}[args.what](read_json(args.paths[0])), args.out)
    else:
        save({"convergence": convergence, "classmaps": classmaps}[args.what](args.paths), args.out)


if __name__ == "__main__":
    main()
