"""Where the evidence of an image lies, as it was annotated: known before a pixel is read, drawn when it is needed.

Everywhere a pixel in row r and column c covers c <= x < c + 1, r <= y < r + 1; its centre is (c + 0.5, r + 0.5).
"""

from sightline.regions.base import Region, Size
from sightline.regions.combined import AsBox, Dilated, Relative, Sized, Traced, Union, grown
from sightline.regions.mapped import marked
from sightline.regions.maskfile import MaskFile
from sightline.regions.runs import Brush, Runs
from sightline.regions.shapes import Boxes, Points, Polygons, Scribbles, Shape, ellipse

__all__ = [
    "AsBox",
    "Boxes",
    "Brush",
    "Dilated",
    "MaskFile",
    "Points",
    "Polygons",
    "Region",
    "Relative",
    "Runs",
    "Scribbles",
    "Shape",
    "Size",
    "Sized",
    "Traced",
    "Union",
    "ellipse",
    "grown",
    "marked",
]
