"""The objectives, each with its paper. This is the list."""

from sightline.contrast import cgc_loss  # Pillai et al., CVPR 2022
from sightline.objectives.base import Objective
from sightline.objectives.ce import CE
from sightline.objectives.cfcn import (
    CFCN,
    causal_focus_loss,
)  # Causally focused convolutional networks, ICLR 2022 submission
from sightline.objectives.cgc import CGC  # Pillai et al., CVPR 2022
from sightline.objectives.gain import GAIN  # Li et al., CVPR 2018; GAIN-ext: Li et al., TPAMI 2020
from sightline.objectives.gc import GC, gc_loss  # Pillai and Pirsiavash, AAAI 2021
from sightline.objectives.groups import GroupDRO  # Sagawa et al., ICLR 2020
from sightline.objectives.guided import Guided
from sightline.objectives.jtt import JTT  # Liu et al., ICML 2021
from sightline.objectives.localisation import L1, Energy, localisation_l1  # Rao et al., ICCV 2023
from sightline.objectives.outside import Outside, energy_share
from sightline.objectives.ppi import PPI, contrast_loss  # Wang et al., 2020; thesis, with WBP
from sightline.objectives.rrr import RRR, right_reasons_loss  # Ross, Hughes and Doshi-Velez, IJCAI 2017
from sightline.objectives.step import Step
from sightline.objectives.swap import ContextConsistency, ContextSwap, context_swap, divergence
from sightline.objectives.weights import Balanced, Scheduled

__all__ = [
    "CE",
    "CFCN",
    "CGC",
    "GAIN",
    "GC",
    "JTT",
    "L1",
    "PPI",
    "RRR",
    "Balanced",
    "ContextConsistency",
    "ContextSwap",
    "Energy",
    "GroupDRO",
    "Guided",
    "Objective",
    "Outside",
    "Scheduled",
    "Step",
    "causal_focus_loss",
    "cgc_loss",
    "context_swap",
    "contrast_loss",
    "divergence",
    "energy_share",
    "gc_loss",
    "localisation_l1",
    "right_reasons_loss",
]
