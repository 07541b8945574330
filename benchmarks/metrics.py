"""What metrics and statistics cost: insertion and deletion, scores of many maps, DeLong, a whole audit and its memory.

Run:  .venv/bin/python benchmarks/metrics.py --json benchmarks/metrics.json        (one thread; some 15 minutes)
      (pip install quantus for its pixel flipping; left out where it is missing)

Contestants take turns in one process; a ratio is taken within a round, and its median over the rounds is shown. The
audit is held against the passes it cannot do without: it counts the images that went forwards, and forwards and
backwards, through the model, and the floor is that many of each, timed in the same process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sightline import load_model
from sightline.audit import Subject, audit
from sightline.data import Source
from sightline.explainers import LRP, WBP, GradCAM, Gradient, LayerCAM, bind
from sightline.explainers.base import mapped
from sightline.metrics import content_heatmap, deletion, insertion, pointing_game, stochastic_pointing_game
from sightline.metrics.names import GROUPS, named
from sightline.stats import delong

Row = dict[str, Any]
PARTS = ("pixels", "maps", "delong", "audit", "memory")


def seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def interleaved(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    for work in contestants.values():
        work()
    taken = [{name: seconds(work) for name, work in contestants.items()} for _ in range(rounds)]
    return {name: [of[name] for of in taken] for name in contestants}


def against(taken: dict[str, list[float]], ours: str) -> Row:
    """Seconds, and each contestant's time over ours."""
    return {
        name: {
            "seconds": round(median(of), 4),
            "over_ours": round(median(a / b for a, b in zip(of, taken[ours], strict=True)), 2),
        }
        for name, of in taken.items()
    }


# Insertion and deletion -----------------------------------------------------------------------------------------------


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 10),
    ).eval()  # fmt: skip


def one_by_one(method: Callable[..., Tensor], net: nn.Module, image: Tensor, maps: Tensor, step: int) -> None:
    """RISE's published procedure: one image at a time, one forward for each step."""
    for i in range(len(image)):
        method(net, image[i : i + 1], maps[i : i + 1], step=step)


def flipping(net: nn.Module, image: Tensor, maps: Tensor, step: int) -> Callable[[], Any]:
    import quantus

    np.trapz = getattr(np, "trapz", np.trapezoid)  # which it calls, and NumPy 2 has renamed
    x, a = image.numpy(), maps.unsqueeze(1).numpy()
    y = net(image).argmax(1).numpy()
    metric = quantus.PixelFlipping(
        features_in_step=step, perturb_baseline="black", display_progressbar=False, disable_warnings=True, abs=False,
        normalise=False,
    )  # fmt: skip
    return lambda: metric(model=net, x_batch=x, y_batch=y, a_batch=a, device="cpu", batch_size=len(x))


def pixels(rounds: int) -> Row:
    found = {}
    for name, net, count, size in (
        ("small CNN, 32 images of 64 px", small_net(), 32, 64),
        ("ResNet18, 4 images of 224 px", load_model("torchvision:resnet18").net.eval(), 4, 224),
    ):
        image, maps = torch.rand(count, 3, size, size), torch.rand(count, size, size)
        step = size * size // 64 if size == 64 else 8 * size
        contestants: dict[str, Callable[[], Any]] = {
            "deletion": partial(deletion, net, image, maps, step=step),
            "deletion, image by image": partial(one_by_one, deletion, net, image, maps, step),
            "insertion": partial(insertion, net, image, maps, step=step),
            "insertion, image by image": partial(one_by_one, insertion, net, image, maps, step),
        }
        try:
            contestants["Quantus' pixel flipping"] = flipping(net, image, maps, step)
        except ImportError:
            print("   Quantus is not installed: its pixel flipping is left out")
        found[name] = against(interleaved(contestants, rounds), "deletion")
    return found


# Scores of maps -------------------------------------------------------------------------------------------------------


def scores(count: int) -> Row:
    """`count` Grad-CAMs at 224 px scored, against the time it takes to make them (measured on 64)."""
    net = load_model("torchvision:resnet18").net.eval()
    explainer = bind(GradCAM(), net, 224)
    image, mask = torch.rand(32, 3, 224, 224), torch.zeros(32, 224, 224)
    mask[:, 60:160, 80:170] = 1
    maps = mapped(explainer, net, image, 3)
    each = median(seconds(lambda: mapped(explainer, net, image, 3)) for _ in range(5)) / 32
    metrics = {
        "CH": lambda: content_heatmap(maps, mask),
        "PG": lambda: pointing_game(maps, mask),
        "SPG, 100 points": lambda: stochastic_pointing_game(maps, mask, index=torch.arange(32)),
        "SPG, exact": lambda: stochastic_pointing_game(maps, mask, points=None),
    }
    found: Row = {"Grad-CAM": {"seconds": round(each * count, 1)}}
    for name, work in metrics.items():
        taken = seconds(lambda work=work: [work() for _ in range(count // 32)])
        found[name] = {"seconds": round(taken, 1), "of_the_maps_time": round(taken / (each * count), 3)}
    return found


def ranks(count: int, rounds: int) -> Row:
    generator = np.random.default_rng(0)
    labels = generator.random(count) < 0.3
    a = generator.normal(size=count) + labels
    b = a + generator.normal(size=count)
    contestants = {
        "a sort": lambda: np.argsort(a),
        "DeLong, one": lambda: delong(labels, a),
        "DeLong, paired": lambda: delong(labels, a, b),
    }
    return against(interleaved(contestants, rounds), "a sort")


# A whole audit --------------------------------------------------------------------------------------------------------


class Noise(Source):
    """Noise with a square for evidence: as many images as are asked for, none of them held."""

    name, splits, channels = "Noise", ("test",), 3
    classes = tuple(map(str, range(10)))

    def __init__(self, count: int, side: int, split: str = "test") -> None:
        super().__init__(split, 1.0, 0)
        self.count, self.side, self.size = count, side, (side, side)
        self.ids = tuple(map(str, range(count)))
        self.labels = np.arange(count) % 10
        self.groups = np.array([""] * count)
        self.annotate(np.ones(count, bool))

    def content(self, index: int) -> bytes:
        return self.ids[index].encode()

    def read(self, index: int) -> tuple[Any, Any]:
        image = np.random.default_rng(index).integers(0, 256, (self.side, self.side, 3), np.uint8)
        mask = np.zeros((self.side, self.side), np.uint8)
        mask[self.side // 4 : self.side // 2, self.side // 3 : -self.side // 4] = 1
        return image, mask


class Counted(nn.Module):
    """A model that knows how many images went through it, and for how many a gradient was taken."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.pixels = {"forward": 0, "backward": 0}

    def forward(self, image: Tensor) -> Tensor:
        self.pixels["forward"] += image[:, 0].numel()
        logits: Tensor = self.net(image)
        if logits.requires_grad:
            logits.register_hook(lambda grad: self._note(image))
        return logits

    def _note(self, image: Tensor) -> None:
        self.pixels["backward"] += image[:, 0].numel()


EXPLAINERS = (GradCAM(elementwise=True), LayerCAM(), Gradient(), WBP(), LRP("epsilon_plus"))


def whole(images: int, side: int) -> Row:
    """An audit with five explainers and every metric, over the passes that it makes.

    "ratio" takes each pass for an ordinary one; "ratio_to_maps" counts those of the rule-based explainers, which do
    more, as what a map of theirs costs alone.
    """
    net = load_model("torchvision:resnet18", num_classes=10).eval()
    image = torch.rand(images, 3, side, side)

    def both() -> None:
        x = image.clone().requires_grad_()
        torch.autograd.grad(net(x).sum(), x)

    def forward() -> None:
        with torch.no_grad():
            net(image)

    target = torch.arange(images) % 10
    drawn = {repr(e): partial(mapped, bind(e, net, (side, side)), net, image, target) for e in EXPLAINERS}
    alone: dict[str, Callable[[], Any]] = {"both": both, "forward": forward} | drawn
    before = interleaved(alone, 5)
    model = Counted(net)
    metrics = [metric for group in GROUPS for metric in named(group)]
    with tempfile.TemporaryDirectory() as out, redirect_stderr(StringIO()):
        taken = seconds(
            lambda: audit(
                Subject(model, "r18", "r18"), Noise(images, side), out, explainers=EXPLAINERS, metrics=metrics,
                batch_size=images,
            )
        )  # fmt: skip
    after = interleaved(alone, 5)  # a shared machine has slow and fast minutes
    each = {name: median(before[name] + after[name]) for name in alone}
    passes = {name: count / image[:, 0].numel() for name, count in model.pixels.items()}
    floor = passes["forward"] * each["forward"] + passes["backward"] * (each["both"] - each["forward"])
    maps = passes["backward"] * sum(each[name] for name in drawn) / len(drawn)
    return {
        "images": images,
        "forwards_per_image": round(passes["forward"], 1),
        "backwards_per_image": round(passes["backward"], 1),
        "seconds": round(taken, 1),
        "floor_seconds": round(floor, 1),
        "ratio": round(taken / floor, 3),
        "ratio_to_maps": round(taken / (maps + (passes["forward"] - passes["backward"]) * each["forward"]), 3),
    }


def memory(count: int) -> float:
    """MiB at the peak of an audit of `count` images, in this process."""
    explainers = EXPLAINERS[:4]
    metrics = [
        metric for group in ("localisation", "faithfulness") for metric in named(group) if metric.key != "sanity"
    ]
    with tempfile.TemporaryDirectory() as out:
        audit(
            Subject(small_net(), "small", "small"), Noise(count, 64), out, explainers=explainers, metrics=metrics,
            maps=Path(out) / "maps",
        )  # fmt: skip
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--maps", type=int, default=50_000)
    parser.add_argument("--audit", type=int, default=2, help="images of the whole audit")
    parser.add_argument("--side", type=int, default=224, help="and their side")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", help="write the numbers here, beside those of other parts")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if args.peak:
        print(memory(args.peak))
        return
    found: Row = json.loads(Path(args.json).read_text()) if args.json and Path(args.json).exists() else {}
    steps: dict[str, tuple[str, Callable[[], Row]]] = {
        "pixels": ("insertion and deletion", lambda: pixels(args.rounds)),
        "maps": (f"scores of {args.maps:,} maps at 224 px", lambda: scores(args.maps)),
        "delong": ("DeLong, 1,000,000 scores", lambda: ranks(1_000_000, args.rounds)),
        "audit": ("a whole audit", lambda: whole(args.audit, args.side)),
        "memory": ("memory of an audit, MiB", lambda: {str(count): peak(count) for count in (500, 5000)}),
    }
    for part in args.parts:
        name, step = steps[part]
        found[name] = step()
        print(f"\n{name}\n{json.dumps(found[name], indent=2)}", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(found | {"torch": torch.__version__}, indent=2) + "\n", encoding="utf-8")


def peak(count: int) -> float:
    said = subprocess.run([sys.executable, __file__, "--peak", str(count)], capture_output=True, text=True, check=True)
    return round(float(said.stdout), 1)


if __name__ == "__main__":
    main()
