"""Data and networks of your own, from training to report."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from sightline import Guided
from sightline.audit import Subject, audit
from sightline.compare import compare, table
from sightline.data import Source
from sightline.metrics import ContentHeatmap, PointingGame
from sightline.objectives import CE, CFCN, Objective
from sightline.report import build


class Squares(Source):
    """A red or a blue square somewhere on noise; its place is the mask."""

    name, splits, classes = "Squares", ("train", "test"), ("red", "blue")
    size, channels = (24, 24), 3

    def __init__(self, split: str = "train", mask_fraction: float = 1.0, seed: int = 0) -> None:
        super().__init__(split, mask_fraction, seed)
        self.labels = np.arange(60) % 2
        self.ids = tuple(f"{split}-{number:02}" for number in range(60))  # stable names: audits are joined by them
        self.groups = np.array(["noise"] * 60)  # "" for none
        self.annotate(np.ones(60, bool))  # which images have a mask

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, C) uint8, mask (H, W) of zeros and ones."""
        draw = np.random.default_rng([self.seed, self.splits.index(self.split), index])
        image, mask = draw.integers(0, 150, (24, 24, 3), np.uint8), np.zeros((24, 24), np.uint8)
        row, column = draw.integers(0, 16, 2)
        image[row : row + 8, column : column + 8, 2 * self.labels[index]] = 220
        mask[row : row + 8, column : column + 8] = 1
        return image, mask


def network() -> nn.Module:
    """Takes images in [0, 1]: a network that wants them normalised begins with that."""
    body = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU()
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


out, data, test = Path(tempfile.mkdtemp()), Squares(), Squares("test")
metrics = [ContentHeatmap(), PointingGame(margin=1)]
runs: dict[str, list[Objective]] = {"plain": [CE()], "guided": [CE(), CFCN("F", weight=0.3)]}
for name, objectives in runs.items():
    torch.manual_seed(0)
    model = network()
    guided, optimizer = Guided(model, objectives, data.size), torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(20):
        for batch in DataLoader(data, batch_size=20, shuffle=True):
            optimizer.zero_grad()
            guided(batch)[0].backward()
            optimizer.step()
    audit(Subject(model, name, "network"), test, out / name, metrics=metrics)
print(table(compare([out / "plain", out / "guided"], out / "compared")))
print(build([out / "compared"], out / "report.html"))
