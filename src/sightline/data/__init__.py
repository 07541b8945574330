"""The datasets. This is the list; every one yields `Batch`."""

from sightline.data.base import Source
from sightline.data.habitats import Habitats

__all__ = ["Habitats", "Source"]
