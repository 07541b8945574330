"""The explainers, each with its paper. This is the list."""

from sightline.explainers.adapters import Captum, CaptumLayer, Custom, Zennit  # what other libraries and functions draw
from sightline.explainers.base import Explainer, bind, explain
from sightline.explainers.cmwp import CMWP, MWP  # Zhang et al. 2018
from sightline.explainers.fullgrad import FullGrad  # Srinivas and Fleuret 2019
from sightline.explainers.gradcam import GradCAM  # Selvaraju et al. 2017; element-wise: Pillai and Pirsiavash 2021
from sightline.explainers.gradcampp import GradCAMPlusPlus  # Chattopadhay et al. 2018
from sightline.explainers.gradient import Gradient, InputXGradient  # Simonyan et al. 2014; Shrikumar et al. 2016
from sightline.explainers.integrated import IntegratedGradients  # Sundararajan et al. 2017
from sightline.explainers.layercam import LayerCAM  # Jiang et al. 2021
from sightline.explainers.lrp import LRP  # Bach et al. 2015; Montavon et al. 2019
from sightline.explainers.rise import RISE  # Petsiuk et al. 2018
from sightline.explainers.smoothgrad import SmoothGrad  # Smilkov et al. 2017
from sightline.explainers.wbp import WBP  # PPI, Wang et al. 2020

__all__ = [
    "CMWP",
    "LRP",
    "MWP",
    "RISE",
    "WBP",
    "Captum",
    "CaptumLayer",
    "Custom",
    "Explainer",
    "FullGrad",
    "GradCAM",
    "GradCAMPlusPlus",
    "Gradient",
    "InputXGradient",
    "IntegratedGradients",
    "LayerCAM",
    "SmoothGrad",
    "Zennit",
    "bind",
    "explain",
]
