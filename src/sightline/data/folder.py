"""Images in folders, with masks and splits where there are any."""

from sightline.data.base import Size
from sightline.data.filed import Filed
from sightline.listing import find_root, list_entries


class Folder(Filed):
    """Images from a folder laid out in one of three ways.

    `images/<class>/<id>.jpg` with a `splits.csv` of the columns id, class, split and, if wanted, group. A mask is
    `masks/<class>/<id>.png`, of its image's size, not zero where the evidence is; an image may have none.
    Without `splits.csv`: `<split>/<class>/<file>`, or `<class>/<file>` with the one split "all". Ids are
    "<class>/<file>" there, and "<class>/<id>" where a `splits.csv` uses an id in two classes.

    Images are resized without regard to their aspect (bilinear, antialiased). A pixel of a resized mask is evidence
    if at least half as much of it is covered as of the pixel covered most: large masks keep their outline, and the
    smallest does not vanish.

    Args:
        root: the folder, or its name under the environment variable SIGHTLINE_DATA (by default "data").
        split: one of the splits that are there.
        size: side of the samples in pixels, or [height, width].
        channels: 3 for colour, 1 for grey.
        mask_fraction: share in [0, 1] of the training masks of each class that are kept.
        label_fraction: share of the training images of each class that show their label; the others say -1.
        seed: says which.
        verify: decode every image of the split at construction, so that a bad file is found before training begins.
            Without it files are read, and found bad, when they are needed.

    Raises:
        SightlineError: the folder, `splits.csv`, an image or a mask is missing or bad; the message says which.
    """

    def __init__(
        self,
        root: str,
        split: str = "train",
        size: Size = 224,
        channels: int = 3,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        folder = find_root(root)
        self.root = root
        self.name = folder.resolve().name
        super().__init__(list_entries(folder), split, size, channels, mask_fraction, label_fraction, seed, verify)
