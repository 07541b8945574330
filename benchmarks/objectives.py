"""What a guided training step costs, as a ratio to a plain cross-entropy step on the same images.

Run:  .venv/bin/python benchmarks/objectives.py        (one thread; medians of interleaved steps)

Peers: the three forwards and cross-entropies of CGC's public code are `CE + CGC official`; its published ratio on the
same setting is 3.03.
"""

import argparse
import json
import platform
import time
from statistics import median

import torch

from sightline import Guided, load_model
from sightline.objectives import CE, CFCN, CGC, ContextSwap
from sightline.types import Batch

STEPS = {
    "CE": lambda: [CE()],
    "CE + CGC paper": lambda: [CE(), CGC("paper")],
    "CE + CGC official": lambda: [CE(), CGC("official")],
    "CE + CFCN-F": lambda: [CE(), CFCN("F")],
    "CE + CFCN-C": lambda: [CE(), CFCN("C")],
    "CE + ContextSwap": lambda: [CE(), ContextSwap()],
    "CE + CGC paper + CFCN-C + ContextSwap": lambda: [CE(), CGC("paper"), CFCN("C"), ContextSwap()],
}


def batch(count: int, size: int, classes: int) -> Batch:
    """Random images, labels and half-image masks."""
    mask = torch.zeros(count, size, size)
    mask[:, : size // 2] = 1
    guided = torch.ones(count, dtype=torch.bool)
    image = torch.rand(count, 3, size, size)
    return Batch(image, torch.arange(count) % classes, mask, guided, torch.arange(count))


def trainer(objectives, args):
    """One optimisation step of a fresh model, as a function of a batch."""
    torch.manual_seed(0)
    model = load_model(f"torchvision:{args.model}", num_classes=10)
    guided = Guided(model, objectives, args.size).train()
    optimizer = torch.optim.SGD(guided.parameters(), lr=1e-3)

    def step(images: Batch) -> float:
        begin = time.perf_counter()
        optimizer.zero_grad()
        guided(images)[0].backward()
        optimizer.step()
        return time.perf_counter() - begin

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    steps = {name: trainer(make(), args) for name, make in STEPS.items()}
    images = batch(args.batch_size, args.size, 10)
    for step in steps.values():
        step(images)
    # Interleaved, so that a machine that slows down slows every row; ratios are taken within a round.
    rounds = [{name: step(images) for name, step in steps.items()} for _ in range(args.rounds)]
    result = {
        name: {
            "seconds": round(median(r[name] for r in rounds), 3),
            "ratio": round(median(r[name] / r["CE"] for r in rounds), 3),
        }
        for name in steps
    }
    print(f"{args.model}, batch {args.batch_size}, {args.size} px, {args.threads} thread(s), {platform.machine()}")
    print(f"torch {torch.__version__}, medians of {args.rounds}")
    for name, numbers in result.items():
        print(f"{name:40} {numbers['seconds']:7.3f} s   {numbers['ratio']:.2f} x CE")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"arguments": vars(args), "torch": torch.__version__, "steps": result}, file, indent=2)


if __name__ == "__main__":
    main()
