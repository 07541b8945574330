"""The objectives, each with its paper. This is the list."""

from sightline.objectives.base import Objective
from sightline.objectives.ce import CE
from sightline.objectives.cfcn import (
    CFCN,
    causal_focus_loss,
)  # Causally focused convolutional networks, ICLR 2022 submission
from sightline.objectives.cgc import CGC, cgc_loss  # Pillai et al., CVPR 2022
from sightline.objectives.guided import Guided
from sightline.objectives.step import Step
from sightline.objectives.swap import ContextSwap, context_swap
from sightline.objectives.weights import Balanced, Scheduled

__all__ = [
    "CE",
    "CFCN",
    "CGC",
    "Balanced",
    "ContextSwap",
    "Guided",
    "Objective",
    "Scheduled",
    "Step",
    "causal_focus_loss",
    "cgc_loss",
    "context_swap",
]
