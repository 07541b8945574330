"""An explainer is a frozen dataclass: say what its pass must have recorded, and make a map of the pass."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sightline import explain, load_model


@dataclass(frozen=True)
class GuidedBackprop:
    """The gradient with a ReLU that sends nothing negative back (Springenberg et al., ICLR 2015 workshop)."""

    taps: ClassVar[tuple[str, ...]] = ("image",)  # gradients of the image; a layer's name asks for its activation
    ruled: ClassVar[bool] = True  # its pass must let operations answer with a rule

    def __call__(self, run, target=None, *, differentiable=False):
        gradient = run.grad(target, "image", rules=rule, differentiable=differentiable)
        return gradient.abs().amax(run.channel)  # (B, H, W)


def rule(op, arrived):
    return [arrived.relu() * (op.x > 0)] if op.name == "relu" else None  # None: its gradient


model = load_model("torchvision:resnet18", num_classes=10)
print(explain(model, torch.rand(4, 3, 64, 64), explainer=GuidedBackprop()).shape)
