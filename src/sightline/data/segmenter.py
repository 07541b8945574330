"""A small network that learns masks from a few annotated images."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.progress import progress_bar

BATCH = 32
LEARNING_RATE = 3e-3

Draw = Callable[..., Tensor]
"""`torch.rand` of a generator of its own."""


class UNet(nn.Module):
    """(B, C, H, W) images to (B, K, H, W) logits of K masks (Ronneberger et al., MICCAI 2015), for sides of 8 and more.

    Args:
        channels: C.
        masks: K.
        width: channels of the finest of its four levels; each coarser one has twice as many.
    """

    def __init__(self, channels: int, masks: int, width: int = 16) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        self.down = nn.ModuleList(_block(i, o) for i, o in pairwise([channels, *widths]))
        self.up = nn.ModuleList(_block(fine + coarse, fine) for coarse, fine in pairwise(widths[::-1]))
        self.head = nn.Conv2d(width, masks, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine: list[Tensor] = []
        for block in self.down:
            fine.append(block(F.max_pool2d(fine[-1], 2) if fine else image))
        x = fine.pop()
        for block in self.up:
            beside = fine.pop()
            x = block(torch.cat([beside, F.interpolate(x, beside.shape[-2:])], 1))
        mask: Tensor = self.head(x)
        return mask


def fit(images: Tensor, masks: Tensor, steps: int, width: int = 16, seed: int = 0) -> UNet:
    """A `UNet` trained on annotated images.

    The loss is `mask_loss`. Images are mirrored, moved and recoloured at random, and half of them
    are pasted, by their masks, onto another annotated image: few masks then stand on many backgrounds (copy-paste,
    Ghiasi et al., CVPR 2021).

    Args:
        images: (N, C, H, W) uint8.
        masks: (N, K, H, W) uint8 of zeros and ones.
        steps: batches of 32.
        width: of the network.
        seed: of the weights and of all draws; the global random state stays as it is.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(seed)
        net = UNet(images.shape[1], masks.shape[1], width)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
        for _ in progress_bar(range(steps), desc="learning the masks", unit=" steps"):
            image, mask = _batch(images, masks, generator)
            loss = mask_loss(net(image.contiguous(memory_format=torch.channels_last)), mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()
    return net


def mask_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean binary cross-entropy plus ``1 - Dice`` of the masks and of what they leave out; (B, K, H, W).

    Both, because what is rare has to count: a patch in a corner beside evidence that is all the rest.
    """
    p = logits.sigmoid()
    return F.binary_cross_entropy_with_logits(logits, mask) + 2 - _dice(p, mask) - _dice(1 - p, 1 - mask)


def _dice(p: Tensor, mask: Tensor) -> Tensor:
    """Mean over masks of ``(2 p·m + 1) / (sum p + sum m + 1)``."""
    return ((2 * (p * mask).sum((2, 3)) + 1) / ((p + mask).sum((2, 3)) + 1)).mean()


@torch.no_grad()
def predict(net: UNet, images: Tensor) -> Tensor:
    """(N, K, H, W) bool, where the network finds each mask in (N, C, H, W) uint8 images."""
    return torch.cat([net(part.float() / 255) > 0 for part in images.split(BATCH)])


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """(N,) intersection over union of masks (N, K, H, W), or of what they leave out, whichever is less.

    1 where both are empty, or full. Masks of nearly everything overlap however little they say.
    """
    first, second = first.bool().flatten(1), second.bool().flatten(1)
    return torch.minimum(_jaccard(first, second), _jaccard(~first, ~second))


def _jaccard(first: Tensor, second: Tensor) -> Tensor:
    union = (first | second).sum(1)
    return torch.where(union > 0, (first & second).sum(1) / union.clamp(min=1), 1.0)


def _block(channels: int, width: int) -> nn.Sequential:
    layers: Sequence[nn.Module] = [
        layer
        for i in (channels, width)
        for layer in (nn.Conv2d(i, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    ]
    return nn.Sequential(*layers)


def _batch(images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch (B, C, H, W) in [0, 1] with its masks (B, K, H, W), altered at random."""

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    (image, mask), (ground, its_mask) = (_drawn(images, masks, draw) for _ in range(2))
    height, width = image.shape[2:]
    shift = [int(side * (draw(1) - 0.5)) for side in (height, width)]
    image, mask = image.roll(shift, (2, 3)), mask.roll(shift, (2, 3))
    keep = torch.maximum(mask.amax(1, keepdim=True), (draw(BATCH, 1, 1, 1) < 0.5).float())
    pasted = torch.lerp(ground, image, keep)
    gain, offset = 0.7 + 0.6 * draw(BATCH, image.shape[1], 1, 1), 0.2 * draw(BATCH, image.shape[1], 1, 1) - 0.1
    return (pasted * gain + offset).clamp(0, 1), torch.maximum(mask, its_mask * (1 - keep))


def _drawn(images: Tensor, masks: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """A batch of images in [0, 1] and their masks, some of them mirrored."""
    chosen = (draw(BATCH) * len(images)).long()
    mirrored = (draw(BATCH) < 0.5).view(-1, 1, 1, 1)
    image, mask = images[chosen].float() / 255, masks[chosen].float()
    return torch.where(mirrored, image.flip(3), image), torch.where(mirrored, mask.flip(3), mask)
