"""The datasets: each is constructed for one split and yields `Batch`. This is the list."""

from sightline.data.base import Source
from sightline.data.cub import CUB
from sightline.data.folder import Folder
from sightline.data.habitats import Habitats
from sightline.data.volumes import Volumes

__all__ = ["CUB", "Folder", "Habitats", "Source", "Volumes"]
