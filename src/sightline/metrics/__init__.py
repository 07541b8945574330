"""The metrics, each with its paper. This is the list."""

from sightline.metrics.attacks import FGSM, PGD, fgsm, pgd  # Goodfellow et al., ICLR 2015; Madry et al., ICLR 2018
from sightline.metrics.classification import classification
from sightline.metrics.consistency import CGCLoss  # Pillai et al., CVPR 2022
from sightline.metrics.content import ContentHeatmap, content_heatmap  # CH: Pillai and Pirsiavash, AAAI 2021
from sightline.metrics.deletion import Deletion, deletion  # Petsiuk, Das and Saenko, "RISE", BMVC 2018
from sightline.metrics.infidelity import Infidelity, infidelity  # Yeh et al., NeurIPS 2019
from sightline.metrics.insertion import Insertion, insertion  # Petsiuk, Das and Saenko, "RISE", BMVC 2018
from sightline.metrics.overlap import Dice, IoU, dice, iou  # cut maps: Zhou et al., CVPR 2016
from sightline.metrics.per_image import Curve, PerImage
from sightline.metrics.pointing import PointingGame, pointing_game  # PG: Zhang et al., ECCV 2016 and IJCV 2018
from sightline.metrics.quadrants import NQH, CompositeAccuracy, above_absent, nqh  # Pillai and Pirsiavash, AAAI 2021
from sightline.metrics.randomisation import Randomisation, spearman  # Adebayo et al., NeurIPS 2018
from sightline.metrics.region import RegionMass  # Ross et al., IJCAI 2017
from sightline.metrics.sensitivity import MaxSensitivity, max_sensitivity  # Yeh et al., NeurIPS 2019
from sightline.metrics.stochastic import (  # SPG: Pillai and Pirsiavash, AAAI 2021
    StochasticPointingGame,
    stochastic_pointing_game,
)
from sightline.metrics.topk import TopKDrop, topk_drop  # Pillai et al., CVPR 2022
from sightline.metrics.variation import FlipRate, MapStability  # after CFCN, ICLR 2022 submission, fig. 9

__all__ = [
    "FGSM",
    "NQH",
    "PGD",
    "CGCLoss",
    "CompositeAccuracy",
    "ContentHeatmap",
    "Curve",
    "Deletion",
    "Dice",
    "FlipRate",
    "Infidelity",
    "Insertion",
    "IoU",
    "MapStability",
    "MaxSensitivity",
    "PerImage",
    "PointingGame",
    "Randomisation",
    "RegionMass",
    "StochasticPointingGame",
    "TopKDrop",
    "above_absent",
    "classification",
    "content_heatmap",
    "deletion",
    "dice",
    "fgsm",
    "infidelity",
    "insertion",
    "iou",
    "max_sensitivity",
    "nqh",
    "pgd",
    "pointing_game",
    "spearman",
    "stochastic_pointing_game",
    "topk_drop",
]
