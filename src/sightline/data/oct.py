"""Stacks of slices as several views of one eye."""

from sightline.data.volumes import Volumes
from sightline.volumes import Picking


class OCT(Volumes):
    """Optical coherence tomography: some B-scans of each volume as views, for networks of images that pool over views.

    A sample's image is (views, C, H, W), its mask (views, H, W). Folders are laid out as for `Volumes`: a volume is
    `images/<class>/<id>/` with one picture a B-scan, in the order of their names, or one file. The column `group` of
    `splits.csv` holds the site. What is evidence in a view is what is in the slices it stands for.

    PPI (Wang et al., section 4.2) trains such networks on 275 volumes of 100 B-scans of 512 x 1000 pixels from four
    sites, which were not published; how many views it takes is not said.

    Args:
        root: see `Volumes`.
        split: one of the splits that are there.
        size: (views, H, W). Views are B-scans at even distances, the first and the last half a distance from the ends.
        channels, window, percentiles, mask_fraction, label_fraction, seed, verify: see `Volumes`.
    """

    reads = Picking
    views = True

    def __init__(
        self,
        root: str,
        split: str = "train",
        size: tuple[int, int, int] = (16, 128, 256),
        channels: int = 1,
        window: tuple[float, float] | None = None,
        percentiles: tuple[float, float] = (0.5, 99.5),
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        super().__init__(root, split, size, channels, window, percentiles, mask_fraction, label_fraction, seed, verify)
