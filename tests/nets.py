"""Small networks the tests share."""

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """In-place activations, one of them reused, BatchNorm and a residual add, under a pool and a linear head."""

    def __init__(self, pool: nn.Module | None = None, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.body = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.act = nn.ReLU(inplace=True)
        self.pool = pool or nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.act(self.stem(image))
        x = self.act(self.body(x) + x)
        return self.head(self.pool(x).flatten(1))


class Deep(nn.Sequential):
    """A head of two layers: no closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(5, 6, 3), nn.ReLU()
        )
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 4)
        )


class Volume(nn.Sequential):
    """A network of volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 6, 3, padding=1), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.flat = nn.Flatten()
        self.head = nn.Linear(6, 4)


class Views(nn.Module):
    """Several views of each image through one network of images, their features averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(6, 4)

    def forward(self, image: Tensor) -> Tensor:
        features = self.body(image.flatten(0, 1)).mean((2, 3))
        return self.head(features.unflatten(0, image.shape[:2]).mean(1))


class Sum(nn.ModuleList):
    """Branches of one input, added; an Identity among them makes it a residual block."""

    def forward(self, x: Tensor) -> Tensor:
        first, *others = (branch(x) for branch in self)
        for other in others:
            first = first + other
        return first


class Concat(nn.ModuleList):
    """Branches of one input, side by side."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], 1)


class Gated(nn.Module):
    """Its input times what `gate` makes of it, as in squeeze-and-excitation."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def double(net: nn.Module, seed: int = 0) -> nn.Module:
    """The net in float64 with weights from `seed`, biases included, so that nothing is exactly zero."""
    generator = torch.Generator().manual_seed(seed)
    net = net.double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / parameter[0].numel() ** 0.5
            )
    return net
