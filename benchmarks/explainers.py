"""What a map costs: ours against other libraries, and against the passes that a map cannot do without.

Run:  .venv/bin/python benchmarks/explainers.py --json benchmarks/explainers.json
      (captum, zennit and grad-cam for the peers: pip install captum zennit grad-cam; a missing one is left out)

All methods of a table take turns in one process, round by round and in changing order; a ratio is taken within a
round, and its median over the rounds is shown. Floors: "forward" is one forward without a graph; "to the input" one
forward and one backward to the image, "to the layer" one backward to the layer, both without gradients of weights.
SmoothGrad, IntegratedGradients and RISE run the model four times here, so their floor is four of these.
"""

import argparse
import json
import platform
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from sightline import explainers as ours
from sightline import load_model
from sightline.explainers import bind
from sightline.explainers.base import mapped

Method = Callable[[], Any]
TARGET = 3
CAMS = ("GradCAM", "GradCAM element-wise", "GradCAM++", "LayerCAM")
OURS = {
    "GradCAM": (ours.GradCAM(), "forward", 1),
    "GradCAM element-wise": (ours.GradCAM(elementwise=True), "forward", 1),
    "GradCAM++": (ours.GradCAMPlusPlus(), "forward", 1),
    "LayerCAM": (ours.LayerCAM(), "forward", 1),
    "MWP": (ours.MWP(), "to the layer", 1),
    "CMWP": (ours.CMWP(), "to the layer", 1),
    "Gradient": (ours.Gradient(), "to the input", 1),
    "InputXGradient": (ours.InputXGradient(), "to the input", 1),
    "WBP": (ours.WBP(), "to the input", 1),
    "SmoothGrad": (ours.SmoothGrad(samples=4), "to the input", 4),
    "IntegratedGradients": (ours.IntegratedGradients(steps=4), "to the input", 4),
    "LRP epsilon": (ours.LRP("epsilon"), "to the input", 1),
    "LRP gamma": (ours.LRP("gamma"), "to the input", 1),
    "LRP epsilon+": (ours.LRP("epsilon_plus"), "to the input", 1),
    "LRP epsilon-gamma-box": (ours.LRP("epsilon_gamma_box"), "to the input", 1),
    "FullGrad": (ours.FullGrad(), "to the input", 1),
    "RISE": (ours.RISE(masks=4), "forward", 4),
}
"""Ours by name, the floor it is measured by, and how many of those it does."""
LARGE = ("GradCAM", "LayerCAM", "Gradient", "WBP", "LRP epsilon", "LRP epsilon+", "FullGrad")


def sightline(model: nn.Module, image: Tensor, explainer: Any) -> Method:
    bound = bind(explainer, model, image.shape[2:])
    return lambda: mapped(bound, model, image, TARGET)


def floors(model: nn.Module, image: Tensor, layer: str) -> dict[str, Method]:
    def forward() -> None:
        with torch.no_grad():
            model(image)

    def to_input() -> None:
        x = image.clone().requires_grad_()
        torch.autograd.grad(model(x)[:, TARGET].sum(), x)

    def to_layer() -> None:
        kept: list[Tensor] = []
        with model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: kept.append(output)):
            logits = model(image)
        torch.autograd.grad(logits[:, TARGET].sum(), kept[0])

    return {"forward": forward, "to the input": to_input, "to the layer": to_layer}


def captum(model: nn.Module, image: Tensor, layer: str) -> dict[str, Method]:
    from captum import attr

    lrp = attr.LRP(model)
    return {
        "GradCAM": lambda: attr.LayerGradCam(model, model.get_submodule(layer)).attribute(image, target=TARGET),
        "Gradient": lambda: attr.Saliency(model).attribute(image, target=TARGET),
        "InputXGradient": lambda: attr.InputXGradient(model).attribute(image, target=TARGET),
        "SmoothGrad": lambda: attr.NoiseTunnel(attr.Saliency(model)).attribute(image, nt_samples=4, target=TARGET),
        "IntegratedGradients": lambda: attr.IntegratedGradients(model).attribute(image, target=TARGET, n_steps=4),
        "LRP epsilon": lambda: lrp.attribute(image, target=TARGET),
    }


def grad_cam(model: nn.Module, image: Tensor, layer: str) -> dict[str, Method]:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def square(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (image.shape[2] // 16, -1))

    module, targets = model.get_submodule(layer), [ClassifierOutputTarget(TARGET)] * len(image)
    reshape = square if hasattr(model, "cls_token") else None
    kinds = dict(zip(CAMS, ("GradCAM", "HiResCAM", "GradCAMPlusPlus", "LayerCAM"), strict=True))
    made = {n: getattr(pytorch_grad_cam, kind)(model, [module], reshape) for n, kind in kinds.items()}
    if len(image) < 8:
        made["FullGrad"] = pytorch_grad_cam.FullGrad(model, [])
    else:
        print("   grad_cam FullGrad is left out: it resizes every channel of every layer, 14 to 20 GB for 32 images")
    return {name: lambda cam=cam: cam(image, targets=targets) for name, cam in made.items()}


def zennit(model: nn.Module, image: Tensor, layer: str) -> dict[str, Method]:
    from zennit import attribution, composites, rules, types
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    merge = [ResNetCanonizer() if hasattr(model, "layer4") else VGGCanonizer()]
    shared = [(types.Activation, rules.Pass()), (types.AvgPool, rules.Norm())]
    made = {
        "LRP epsilon": composites.LayerMapComposite([*shared, (types.Linear, rules.Epsilon())], canonizers=merge),
        "LRP gamma": composites.LayerMapComposite([*shared, (types.Linear, rules.Gamma())], canonizers=merge),
        "LRP epsilon+": composites.EpsilonPlus(canonizers=merge),
        "LRP epsilon-gamma-box": composites.EpsilonGammaBox(0.0, 1.0, canonizers=merge),
    }
    seed = torch.eye(1000)[[TARGET] * len(image)]

    def run(composite: Any) -> None:
        with attribution.Gradient(model, composite) as attributor:
            attributor(image, seed)

    found: dict[str, Method] = {name: lambda composite=c: run(composite) for name, c in made.items()}
    return found | {
        "Gradient": lambda: attribution.Gradient(model)(image, seed),
        "SmoothGrad": lambda: attribution.SmoothGrad(model, n_iter=4)(image, seed),
        "IntegratedGradients": lambda: attribution.IntegratedGradients(model, n_iter=4)(image, seed),
    }


def methods(model: nn.Module, image: Tensor, chosen: tuple[str, ...]) -> dict[tuple[str, str], Method]:
    """By library and name, those that run on this model."""
    layer = bind(ours.GradCAM(), model, image.shape[2:]).layer
    found = {("floor", name): method for name, method in floors(model, image, layer).items()}
    found |= {("sightline", name): sightline(model, image, OURS[name][0]) for name in chosen}
    for peer in (captum, grad_cam, zennit):
        if peer is zennit and hasattr(model, "cls_token"):
            continue  # it has no rules for attention
        try:
            theirs = peer(model, image, layer)
        except ImportError:
            continue
        found |= {(peer.__name__, name): method for name, method in theirs.items() if name in chosen}
    return {key: method for key, method in found.items() if runs(method, key)}


def runs(method: Method, key: tuple[str, str]) -> bool:
    if key[0] in ("floor", "sightline"):
        method()
        return True
    try:
        method()
    except Exception as error:  # a peer that cannot do this model is a fact to print
        print(f"   {' '.join(key)} does not run here: {type(error).__name__}: {str(error)[:90]}")
        return False
    return True


def timed(found: dict[tuple[str, str], Method], rounds: int) -> list[dict[tuple[str, str], float]]:
    def seconds(method: Method) -> float:
        begin = time.perf_counter()
        method()
        return time.perf_counter() - begin

    # In another order each round: whoever follows a method that gave much memory back pays for getting it again.
    order = [random.Random(seed).sample(list(found), len(found)) for seed in range(rounds)]
    measured = [{key: seconds(found[key]) for key in keys} for keys in order]
    return [{key: of[key] for key in found} for of in measured]


def table(rounds: list[dict[tuple[str, str], float]]) -> dict[str, Any]:
    """Per method of ours: seconds, ratio to its floor, and each peer's ratio to ours."""
    rows: dict[str, Any] = {}
    for library, name in rounds[0]:
        if library == "sightline":
            _, floor, times = OURS[name]
            rows[name] = {
                "seconds": round(median(r[library, name] for r in rounds), 4),
                "floor": f"{times} x {floor}",
                "ratio": round(median(r[library, name] / (times * r["floor", floor]) for r in rounds), 2),
                "peers": {
                    peer: round(median(r[peer, name] / r["sightline", name] for r in rounds), 2)
                    for peer, of in rounds[0]
                    if of == name and peer != "sightline"
                },
            }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["torchvision:resnet18", "torchvision:vgg11", "timm:vit_tiny_patch16_224"]
    )
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="write the numbers here; tables that it holds already are kept")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    tables: dict[str, Any] = {}
    if args.json and Path(args.json).exists():
        tables = json.loads(Path(args.json).read_text(encoding="utf-8"))["tables"]
    for threads in args.threads:
        torch.set_num_threads(threads)
        for batch in args.batch_sizes:
            for spec in args.models:
                torch.manual_seed(0)
                model = load_model(spec).net.eval()
                title = f"{spec}, batch {batch}, {threads} thread{'s' * (threads > 1)}"
                print(f"\n{title}, 224 px, torch {torch.__version__}, {platform.machine()}", flush=True)
                found = methods(model, torch.rand(batch, 3, 224, 224), LARGE if batch > 8 else tuple(OURS))
                tables[title] = table(timed(found, args.rounds))
                for name, row in tables[title].items():
                    peers = "  ".join(f"{peer} x {ratio:.2f}" for peer, ratio in row["peers"].items())
                    print(
                        f"{name:24}{row['seconds']:8.3f} s  {row['ratio']:6.2f} of {row['floor']:18}{peers}", flush=True
                    )
                if args.json:
                    write(args.json, tables)


def write(path: str, tables: dict[str, Any]) -> None:
    facts = {"torch": torch.__version__, "machine": platform.machine(), "size": 224, "tables": tables}
    Path(path).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
