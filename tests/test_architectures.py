"""Every objective trains the usual families of networks: five steps, no NaN, the loss falls, all weights take part."""

import pytest
import torch

from sightline import Guided, load_model
from sightline.compat import repair_torchvision
from sightline.explainers import GradCAM
from sightline.objectives import (
    CE,
    CFCN,
    CGC,
    GAIN,
    GC,
    L1,
    PPI,
    RRR,
    ContextConsistency,
    ContextSwap,
    Energy,
    GroupDRO,
    Outside,
)
from sightline.types import Batch

CLASSES = 4
NETWORKS = {
    "resnet18": ("torchvision:resnet18", {}, (48, 48)),
    "vgg11_bn": ("file:vgg.py:build", {}, (32, 32)),
    "densenet121": ("torchvision:densenet121", {}, (64, 64)),
    "convnext_tiny": ("torchvision:convnext_tiny", {}, (64, 64)),
    "vit_tiny": ("timm:vit_tiny_patch16_224", {"img_size": 64}, (64, 64)),
    "resnet3d_18": ("file:resnet3d.py:build", {}, (8, 32, 32)),
}
OBJECTIVES = {
    "CE": lambda: [CE()],
    "PPI": lambda: [CE(), PPI()],
    "PPI Grad-CAM": lambda: [CE(), PPI(GradCAM(), mask="hard_box", differentiable=False, w2=0)],
    "GC": lambda: [CE(), GC(0.128, reduction="sum")],
    "GC own": lambda: [CE(), GC(0.128, "own", reduction="sum")],
    "CGC": lambda: [CE(), CGC()],
    "CGC official": lambda: [CE(), CGC("official")],
    "CFCN-F": lambda: [CE(), CFCN("F")],
    "CFCN-C": lambda: [CE(), CFCN("C")],
    "GAIN-ext": lambda: [CE(), GAIN(external=10)],
    "RRR": lambda: [CE(), RRR()],
    "RRR Grad-CAM": lambda: [CE(), RRR(explainer=GradCAM())],
    "Energy": lambda: [CE(), Energy()],
    "L1": lambda: [CE(), L1()],
    "ContextSwap": lambda: [CE(), ContextSwap()],
    "ContextSwap blur": lambda: [CE(), ContextSwap(outside="blur")],
    "ContextConsistency": lambda: [CE(), ContextConsistency()],
    "Outside": lambda: [CE(), Outside()],
    "GroupDRO": lambda: [GroupDRO()],
}


@pytest.fixture
def network(request, tmp_path):
    """One untrained network and the size of its images."""
    repair_torchvision()
    spec, arguments, size = NETWORKS[request.param]
    pytest.importorskip("timm" if spec.startswith("timm") else "torchvision")
    (tmp_path / "resnet3d.py").write_text(
        "from torchvision.models.video import r3d_18\n"
        "def build(num_classes):\n    return r3d_18(weights=None, num_classes=num_classes)\n"
    )
    (tmp_path / "vgg.py").write_text(
        "from torch import nn\nfrom torchvision.models.vgg import VGG, cfgs, make_layers\n"
        "def build(num_classes):\n"
        "    net = VGG(make_layers(cfgs['A'], batch_norm=True), init_weights=False)\n"
        "    wide, relu, dropout = net.classifier[:3]\n"
        "    narrow = nn.Linear(wide.in_features, 64)  # 4096 features take seconds a step and test nothing more\n"
        "    net.classifier = nn.Sequential(narrow, relu, dropout, nn.Linear(64, num_classes))\n"
        "    return net\n"
    )
    torch.manual_seed(0)
    return load_model(spec, num_classes=CLASSES, arguments=arguments), size


def batch(size):
    """Eight images of four classes, six with a mask."""
    mask = torch.zeros(8, *size)
    mask[..., : size[-1] // 2] = 1
    has_mask = torch.arange(8) < 6
    mask[~has_mask] = 1
    image = torch.rand(8, 3, *size, generator=torch.Generator().manual_seed(0))
    return Batch(image, torch.arange(8) % CLASSES, mask, has_mask, torch.arange(8))


def cases():
    for network in NETWORKS:
        for objective in OBJECTIVES:
            marks = [] if network == "resnet18" else [pytest.mark.slow]
            yield pytest.param(network, objective, marks=marks, id=f"{network}-{objective}")


@pytest.mark.parametrize(("network", "objective"), [*cases()], indirect=["network"])
def test_five_steps(network, objective):
    model, size = network
    images, objectives = batch(size), OBJECTIVES[objective]()
    for part in objectives:
        if isinstance(part, GC):
            part.cells = "half" if size == (64, 64) else "full"
    guided = Guided(model, objectives, size).train()
    guided.meet([str(label % 2) for label in images.label.tolist()])
    optimizer = torch.optim.SGD(guided.parameters(), lr=2e-3)
    losses = []
    for _ in range(6):
        torch.manual_seed(1)  # the same crops, partners and dropout: only the weights differ
        optimizer.zero_grad()
        loss, terms = guided(images)
        loss.backward()
        assert all(torch.isfinite(value) for value in terms.values())
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in guided.parameters())
        torch.nn.utils.clip_grad_norm_(guided.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
