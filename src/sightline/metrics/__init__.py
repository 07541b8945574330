"""The metrics, each with its paper. This is the list."""

from sightline.metrics.content import ContentHeatmap, content_heatmap  # CH: Pillai and Pirsiavash, AAAI 2021
from sightline.metrics.per_image import PerImage
from sightline.metrics.pointing import PointingGame, pointing_game  # PG: Zhang et al., ECCV 2016 and IJCV 2018

__all__ = ["ContentHeatmap", "PerImage", "PointingGame", "content_heatmap", "pointing_game"]
