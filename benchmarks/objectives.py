"""What a guided training step costs in time and peak memory, as ratios to a plain cross-entropy step.

Run:  .venv/bin/python benchmarks/objectives.py        (one thread; medians of interleaved steps)

Each row is CE beside one objective; "sum" is what the rows of "composed" would cost if they shared only the plain step.
The published code of CGC costs 3.03 plain steps in this setting (`CGC official` is its form), that of GC
5.79 (`GC own`). Memory is a process's peak above what it held before its first step, a process for each row.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from tqdm import tqdm

from sightline import Guided, load_model
from sightline.explainers import GradCAM, Gradient
from sightline.objectives import (
    CE,
    CFCN,
    CGC,
    GAIN,
    GC,
    PPI,
    RRR,
    ContextConsistency,
    ContextSwap,
    Energy,
    Objective,
    Outside,
)
from sightline.types import Batch

ROWS: dict[str, Callable[[], list[Objective]]] = {
    "CE": list,
    "CGC paper": lambda: [CGC("paper")],
    "CGC official": lambda: [CGC("official")],
    "GC shared": lambda: [GC()],
    "GC own": lambda: [GC(composites="own")],
    "PPI first order": lambda: [PPI(differentiable=False, w2=0)],
    "PPI second order": lambda: [PPI()],
    "PPI second order, Gradient": lambda: [PPI(Gradient(reduce=None))],
    "PPI Grad-CAM": lambda: [PPI(GradCAM())],
    "CFCN-F": lambda: [CFCN("F")],
    "CFCN-C": lambda: [CFCN("C")],
    "GAIN": lambda: [GAIN()],
    "GAIN-ext": lambda: [GAIN(external=10)],
    "RRR": lambda: [RRR()],
    "RRR Grad-CAM": lambda: [RRR(explainer=GradCAM())],
    "Energy": lambda: [Energy()],
    "ContextSwap": lambda: [ContextSwap()],
    "ContextConsistency": lambda: [ContextConsistency()],
    "Outside": lambda: [Outside()],
}
COMPOSED = ("CGC paper", "GC shared", "PPI second order", "CFCN-C", "GAIN-ext")


def batch(count: int, size: int, classes: int) -> Batch:
    """Random images, labels and half-image masks."""
    mask = torch.zeros(count, size, size)
    mask[:, : size // 2] = 1
    guided = torch.ones(count, dtype=torch.bool)
    image = torch.rand(count, 3, size, size)
    return Batch(image, torch.arange(count) % classes, mask, guided, torch.arange(count))


def objectives(name: str) -> list[Objective]:
    """CE and the objectives of one row; "composed" are those of `COMPOSED`."""
    return [CE(), *(o for row in (COMPOSED if name == "composed" else (name,)) for o in ROWS[row]())]


def trainer(name: str, args: argparse.Namespace) -> Callable[[Batch], float]:
    """One optimisation step of a fresh model, as a function of a batch; returns its seconds."""
    torch.manual_seed(0)
    model = load_model(f"torchvision:{args.model}", num_classes=10)
    guided = Guided(model, objectives(name), args.size).train()
    if args.channels_last:
        guided.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(guided.parameters(), lr=1e-3)

    def step(images: Batch) -> float:
        begin = time.perf_counter()
        optimizer.zero_grad()
        guided(images)[0].backward()
        optimizer.step()
        return time.perf_counter() - begin

    return step


def peak(name: str, args: argparse.Namespace) -> float:
    """MiB that two steps of a row need at their peak, measured in this process."""
    step, images = trainer(name, args), laid_out(args)
    before = held("VmRSS")
    for _ in range(2):
        step(images)
    return held("VmHWM") - before


def held(field: str) -> float:
    """MiB this process holds now ("VmRSS") or held at its peak ("VmHWM", which unlike getrusage's is its own)."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))


def laid_out(args: argparse.Namespace) -> Batch:
    """The batch in the memory format of the run."""
    images = batch(args.batch_size, args.size, 10)
    memory = torch.channels_last if args.channels_last else torch.contiguous_format
    return images._replace(image=images.image.contiguous(memory_format=memory))


def timed(names: list[str], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds of each row and its ratio to the CE step right ahead of it, medians."""
    steps, images = {name: trainer(name, args) for name in names}, laid_out(args)
    for step in steps.values():
        step(images)
    # Interleaved, so that a machine that slows down slows every row.
    pairs = {name: [] for name in names}
    for _ in tqdm(range(args.rounds), "rounds"):
        for name, step in steps.items():
            pairs[name].append((steps["CE"](images), step(images)))
    return {
        name: {
            "seconds": round(median(own for _, own in of), 3),
            "ratio": round(median(own / plain for plain, own in of), 3),
        }
        for name, of in pairs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, "composed"], default=[*ROWS, "composed"])
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--json", help="write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(peak(args.peak, args))
        return
    rows = list(dict.fromkeys(["CE", *args.rows]))
    result = timed(rows, args)
    for name in tqdm(rows, "memory"):
        told = subprocess.run([sys.executable, *sys.argv, "--peak", name], check=True, capture_output=True, text=True)
        result[name]["mebibytes"] = round(float(told.stdout))
    setting = f"{args.model}, batch {args.batch_size}, {args.size} px, {args.threads} thread(s)"
    print(f"{setting}{', channels last' * args.channels_last}, {platform.machine()}")
    print(f"torch {torch.__version__}, medians of {args.rounds}")
    for name, of in result.items():
        print(f"{name:28} {of['seconds']:7.3f} s   {of['ratio']:.2f} x CE   {of['mebibytes']:6,.0f} MiB")
    if set(COMPOSED) <= set(rows):
        print(f"{'sum':28} {'':11} {1 + sum(result[name]['ratio'] - 1 for name in COMPOSED):.2f} x CE")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            kept = {name: value for name, value in vars(args).items() if name not in ("json", "peak")}
            json.dump({"arguments": kept, "torch": torch.__version__, "steps": result}, file, indent=2)


if __name__ == "__main__":
    main()
