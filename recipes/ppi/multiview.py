"""A network of several views (Su et al., ICCV 2015): one network for each of them, and the largest of every feature."""

from collections.abc import Sequence

from torch import Tensor, nn


class MultiView(nn.Module):
    """Convolutional blocks that every view goes through, a maximum over views and a linear layer.

    Args:
        num_classes: number of logits.
        filters: output channels of each block, which halves the sides.
    """

    def __init__(self, num_classes: int, filters: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        widths = zip([1, *filters], filters, strict=False)
        self.body = nn.Sequential(*(layer for width, out in widths for layer in _block(width, out)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(filters[-1], num_classes)

    def forward(self, views: Tensor) -> Tensor:
        """(B, classes) logits of (B, views, 1, H, W)."""
        features = self.pool(self.body(views.flatten(0, 1))).flatten(1)
        return self.head(features.unflatten(0, views.shape[:2]).amax(1))


def _block(width: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
