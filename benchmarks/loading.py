"""What share of its time training waits for images: JPEGs with masks, decoded and augmented anew in each epoch.

Run:  .venv/bin/python benchmarks/loading.py        (one thread for the model; medians of interleaved epochs)

A ResNet-18 takes 128-pixel images that are stored at 256. Workers are processes beside the one that trains; "kept"
reads no files, since the decoded images fit in memory. The first steps of each epoch, while workers start, are not
counted. "processor" is what each part of an image's way takes of one core, whatever else runs on the machine.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from skimage import data as photographs
from torch.utils.data import DataLoader, DistributedSampler
from tqdm import tqdm

from sightline import Guided, load_model
from sightline.augment import Augmented, v2
from sightline.data import Folder, Source
from sightline.loading import Seeded
from sightline.objectives import CE
from sightline.types import Batch

ROWS = {
    "workers 0": (False, 0),
    "workers 1": (False, 1),
    "workers 2": (False, 2),
    "kept, workers 0": (True, 0),
}
"""Whether the decoded images stay in memory, and how many workers there are."""

WARM = 2
"""Steps of each epoch that are not counted."""


def write_images(root: Path, count: int, side: int) -> None:
    """Crops of a photograph in two classes, as JPEG, each with half of it as its mask."""
    photograph = Image.fromarray(photographs.chelsea()).resize((2 * side, 2 * side))
    mask = np.zeros((side, side), np.uint8)
    mask[: side // 2] = 255
    lines = ["id,class,split"]
    for label in "ab":
        for kind in ("images", "masks"):
            (root / kind / label).mkdir(parents=True)
    for number, (left, top) in enumerate(np.random.default_rng(0).integers(0, side, (count, 2)).tolist()):
        label = "ab"[number % 2]
        photograph.crop((left, top, left + side, top + side)).save(root / f"images/{label}/{number}.jpg", quality=90)
        Image.fromarray(mask).save(root / f"masks/{label}/{number}.png")
        lines.append(f"{number},{label},train")
    (root / "splits.csv").write_text("\n".join(lines) + "\n")


def augmented(data: Source, size: int) -> Augmented:
    """The data under the augmentation that is common for photographs."""
    crop = v2.RandomResizedCrop(size, (0.5, 1))
    chain = [v2.RandomHorizontalFlip(), crop, v2.RandomAffine(15, (0.1, 0.1)), v2.ColorJitter(0.2, 0.2)]
    return Augmented(data, chain, data.channels)


def loader(data: Augmented, batch_size: int, workers: int) -> "DataLoader[Batch]":
    """As training makes it."""
    sampler = Seeded(DistributedSampler(data, 1, 0))
    return DataLoader(data, batch_size, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)


def trainer(model: str) -> Callable[[Batch], None]:
    """One optimisation step as a function of a batch."""
    torch.manual_seed(0)
    guided = Guided(load_model(f"torchvision:{model}", num_classes=2), [CE()], 128).train()
    optimizer = torch.optim.SGD(guided.parameters(), lr=1e-3)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        guided(batch)[0].backward()
        optimizer.step()

    return step


def epoch(batches: "DataLoader[Batch]", step: Callable[[Batch], None]) -> tuple[float, float]:
    """Seconds of waiting and of stepping."""
    waited, stepped = [], []
    iterator = iter(batches)
    for _ in range(len(batches)):
        begin = time.perf_counter()
        batch = next(iterator)
        ready = time.perf_counter()
        step(batch)
        waited.append(ready - begin)
        stepped.append(time.perf_counter() - ready)
    return sum(waited[WARM:]), sum(stepped[WARM:])


def processor(call: Callable[[int], object], times: int) -> float:
    """Milliseconds of processor time of a call with each of the first whole numbers, median."""
    spent = []
    for number in range(times):
        begin = time.thread_time()
        call(number)
        spent.append(time.thread_time() - begin)
    return 1000 * median(spent)


def measure(root: Path, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Of each row the share of waiting and the milliseconds of waiting and stepping per image."""
    sources = {kept: Folder(str(root), size=args.size, verify=kept) for kept in (False, True)}
    loaders = {
        name: loader(augmented(sources[kept], args.size), args.batch_size, workers)
        for name, (kept, workers) in ROWS.items()
    }
    step = trainer(args.model)
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in ROWS}
    for turn in tqdm(range(args.rounds + 1), "rounds"):  # the first starts the workers
        for name in list(ROWS)[:: 1 if turn % 2 else -1]:
            loaders[name].sampler.set_epoch(turn)
            seen[name].append(epoch(loaders[name], step))
    thousands = args.steps * args.batch_size / 1000
    result = {
        name: {
            "share": round(median(waited / (waited + stepped) for waited, stepped in of[1:]), 4),
            "waits_ms": round(median(waited for waited, _ in of[1:]) / thousands, 2),
            "step_ms": round(median(stepped for _, stepped in of[1:]) / thousands, 2),
        }
        for name, of in seen.items()
    }
    kept, batch = augmented(sources[True], args.size), next(iter(loaders["kept, workers 0"]))
    result["processor"] = {
        "decode_ms": round(processor(sources[False].__getitem__, len(kept)), 2),
        "augment_ms": round(processor(lambda number: kept[number, number], len(kept)), 2),
        "step_ms": round(processor(lambda _: step(batch), 7) / args.batch_size, 2),
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--stored", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="write the numbers here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with TemporaryDirectory() as folder:
        write_images(Path(folder), (args.steps + WARM) * args.batch_size, args.stored)
        result = measure(Path(folder), args)
    print(f"{args.model}, batch {args.batch_size}, {args.size} px of {args.stored}, {platform.machine()}")
    for name, of in result.items():
        print(f"{name:20}" + "".join(f"{key} {value:8.4g}   " for key, value in of.items()))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            kept = {name: value for name, value in vars(args).items() if name != "json"}
            json.dump({"arguments": kept, "torch": torch.__version__, "rows": result}, file, indent=2)


if __name__ == "__main__":
    main()
