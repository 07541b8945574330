"""Images in folders, with masks and splits where there are any."""

from sightline.data.base import Size, at_least
from sightline.data.filed import Filed
from sightline.guidance import guide, reshape
from sightline.listing import find_root, list_entries
from sightline.published import narrow


class Folder(Filed):
    """Images from a folder laid out in one of three ways.

    `images/<class>/<id>.jpg` with a `splits.csv` of the columns id, class, split and, if wanted, group. A mask is
    `masks/<class>/<id>.png`, of its image's size, not zero where the evidence is; an image may have none.
    Without `splits.csv`: `<split>/<class>/<file>`, or `<class>/<file>` with the one split "all"; the mask of an image
    is `masks/<its path>.png`. Ids are "<class>/<file>" there, and "<class>/<id>" where a `splits.csv` uses an id in
    two classes.

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
        guidance: a file or folder of annotations, as seen from the folder, that says where the evidence lies in place
            of `masks`: whatever `sightline.guidance` reads, recognised by its content, or "<format>:<path>".
        dilate: pixels of the image by which what is annotated grows.
        boxes: make of each mask the smallest box around it, as cheaper guidance would have been.
        only: take the images of these classes alone; null for all.

    Raises:
        SightlineError: the folder, `splits.csv`, an image, a mask or an annotation is missing or bad; the message
            says which.
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
        guidance: str | None = None,
        dilate: int = 0,
        boxes: bool = False,
        only: list[str] | None = None,
    ) -> None:
        folder = find_root(root)
        self.root = root
        self.name = folder.resolve().name
        self.guidance = guidance
        self.dilate = at_least("dilate", dilate, 0)
        self.boxes = boxes
        self.only = only
        entries = list_entries(folder)
        entries = narrow(entries, only, sorted({str(entry.label) for entry in entries}))
        if guidance is not None:
            entries = guide(entries, folder, guidance)
        entries = reshape(entries, dilate, boxes)
        super().__init__(entries, split, size, channels, mask_fraction, label_fraction, seed, verify)
