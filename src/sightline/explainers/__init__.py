"""The explainers, each with its paper. This is the list."""

from sightline.explainers.base import Explainer, bind, explain
from sightline.explainers.gradcam import GradCAM  # Selvaraju et al. 2017; element-wise: Pillai and Pirsiavash 2021

__all__ = ["Explainer", "GradCAM", "bind", "explain"]
