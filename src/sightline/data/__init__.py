"""The datasets: each is constructed for one split and yields `Batch`. This is the list."""

from sightline.data.base import Source
from sightline.data.cub import CUB
from sightline.data.domains import Domains
from sightline.data.episode import Episode
from sightline.data.fold import Fold
from sightline.data.folder import Folder
from sightline.data.fraction import Fraction
from sightline.data.habitats import Habitats
from sightline.data.volumes import Volumes

__all__ = ["CUB", "Domains", "Episode", "Fold", "Folder", "Fraction", "Habitats", "Source", "Volumes"]
