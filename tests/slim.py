"""Networks with the modules of well-known ones by name, and next to no weights: they stand in for those in tests."""

import torch
from torch import Tensor, nn


def stage(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, out, 3, 2, padding=1), nn.BatchNorm2d(out), nn.ReLU())


class ResNet(nn.Module):
    """`layer4`, a global average and `fc`."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3, self.layer4 = stage(3, 4), stage(4, 4), stage(4, 6), stage(6, 8)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.layer4(self.layer3(self.layer2(self.layer1(image))))
        return self.fc(self.avgpool(maps).flatten(1))


class VGG(nn.Module):
    """`features`, which end in a pool, an average over cells and a `classifier` of two layers. AlexNet has the same."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        first, second = nn.Conv2d(3, 4, 3, 2, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.features = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.MaxPool2d(2))
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, num_classes))

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(image)), 1))
