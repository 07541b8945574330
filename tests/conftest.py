"""What every test may use, and what no test may leave behind."""

import json
import math
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sightline.compat import repair_torchvision

REPOSITORY = Path(__file__).resolve().parents[1]
CACHES = {".git", ".hypothesis", ".pytest_cache", ".venv", "__pycache__"}

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material beside the repository."""
    path = REPOSITORY.parent / "shared"
    return path if path.is_dir() else pytest.skip("there is no folder of reference material beside the repository")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder that holds the real data sets."""
    path = Path(os.environ.get("SIGHTLINE_DATA", REPOSITORY.parent / "shared" / "data"))
    return path if path.is_dir() else pytest.skip("no data sets: SIGHTLINE_DATA names no folder")


@pytest.fixture(scope="session")
def oracle(shared: Path) -> Callable[[str], dict[str, Any]]:
    """Reference values by name: the arrays of one file, and under "meta" a dict of the facts that made them."""
    folder = shared / "oracles"
    if not folder.is_dir():
        pytest.skip("there are no reference values beside the repository")

    def load(name: str) -> dict[str, Any]:
        with np.load(folder / f"{name}.npz") as arrays:
            return {**arrays, "meta": json.loads(str(arrays["meta"]))}

    return load


def rebuild_net(meta: dict[str, Any]) -> nn.Module:
    """The float64 network behind a reference file: its architecture, with weights that depend on its seed alone."""
    net = _weigh(_operate(_build(meta), meta).double(), meta["seed"])
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    for parameter in nn.ModuleList(linear[-1:]).parameters():
        parameter.data *= meta.get("head", 1)
    for module in net.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return net.train(meta.get("mode") == "train")


def images(meta: dict[str, Any], key: str = "img") -> Tensor:
    """The float64 images (n, 3, h, w) behind a reference file."""
    facts = meta[key]
    size = facts["n"], 3, facts["h"], facts.get("w", facts["h"])
    drawn = torch.rand(size, generator=torch.Generator().manual_seed(facts["seed"]), dtype=torch.float64)
    return 4 * drawn - 2 if facts.get("kind") == "signed" else drawn


def _build(meta: dict[str, Any]) -> nn.Module:
    torch.manual_seed(meta["seed"])
    classes, options = meta.get("num_classes", 10), meta.get("kwargs", {})
    if meta.get("lib") == "sequential":
        return eval(meta["spec"], vars(nn).copy())
    repair_torchvision()
    if meta.get("lib") == "timm":
        return pytest.importorskip("timm").create_model(meta["name"], num_classes=classes, **options)
    return pytest.importorskip("torchvision").models.get_model(meta["name"], num_classes=classes, **options)


def _operate(net: nn.Module, meta: dict[str, Any]) -> nn.Module:
    surgery = meta.get("surgery")
    if surgery == "gmp":
        net.avgpool = nn.AdaptiveMaxPool2d(1)
    elif surgery:
        side = int(surgery.removeprefix("slim"))
        features = side**2 * (256 if meta["name"] == "alexnet" else 512)
        hidden = [nn.Linear(features, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout()]
        net.avgpool = nn.AdaptiveAvgPool2d(side)
        net.classifier = nn.Sequential(*hidden, nn.Linear(64, meta.get("num_classes", 10)))
    return net


def _weigh(net: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator, dtype=torch.float64)

    for name, parameter in net.named_parameters():
        bound = math.sqrt(6 * parameter.shape[0] / parameter.numel())
        vector = (0.5, 1.5) if name.endswith("weight") else (-0.1, 0.1)
        parameter.data = uniform(parameter, *((-bound, bound) if parameter.ndim > 1 else vector))
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.data = uniform(buffer, -0.2, 0.2)
        elif name.endswith("running_var"):
            buffer.data = uniform(buffer, 0.5, 1.5)
    return net


@pytest.fixture(autouse=True)
def same_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every test starts from the same seeds, in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def clean_end() -> Iterator[None]:
    """No test may leave torch changed for the next one."""
    yield
    hooks = [kind for name, kind in vars(nn.modules.module).items() if re.fullmatch("_global_.*_hooks", name)]
    left = torch.is_grad_enabled(), torch.get_default_dtype(), sum(map(len, hooks))
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    for kind in hooks:
        kind.clear()
    assert left == (True, torch.float32, 0), f"left behind: gradients enabled, default type, global hooks = {left}"


_guarding = False


@pytest.fixture(autouse=True)
def repository_is_read_only() -> Iterator[None]:
    """A test that writes into the repository fails at the line that does it."""
    global _guarding
    _guarding = True
    yield
    _guarding = False


def _refuse_writes(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _guarding:
        return
    path, _, flags = arguments
    if isinstance(path, str | bytes) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and _in_repository(path):
        raise PermissionError(f"a test wrote {os.fsdecode(path)}: write below tmp_path instead")


def _in_repository(path: str | bytes) -> bool:
    full = Path(os.path.abspath(os.fsdecode(path)))
    return full.is_relative_to(REPOSITORY) and CACHES.isdisjoint(full.parts)


sys.addaudithook(_refuse_writes)
