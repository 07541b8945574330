"""The datasets: each is constructed for one split and yields `Batch`."""

from sightline.data.base import Source as Source
from sightline.data.folder import Folder as Folder
from sightline.data.habitats import Habitats as Habitats
