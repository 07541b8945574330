"""UnRel: objects in unusual relations."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sightline.data.archive import Archive
from sightline.data.base import Size
from sightline.listing import Entry
from sightline.published import boxes_by_name, matlab, narrow, records

DAMAGED = "1124.jpg"
"""An image of the published archive that cannot be decoded."""


class UnRel(Archive):
    """Some 1000 photographs of objects in unusual relations, such as a person riding a giraffe, with their boxes.

        annotations.mat
        images/1.jpg ...

    All are there to test on. An image shows several objects: labels are (N, classes), each class has its own evidence.
    Peyre et al., "Weakly-Supervised Learning of Visual Relations", ICCV 2017. No licence is stated.

    Args:
        root: see `Archive`.
        split: "test".
        only: take images that show exactly one of these categories, labelled with that one. CGC evaluated on 28 that
            are ImageNet classes as well; which ones was not published.
        size, channels, mask_fraction, label_fraction, seed, verify: see `Folder`.
    """

    name = "UnRel"
    home = "https://www.di.ens.fr/willow/research/unrel/"

    def __init__(
        self,
        root: str = "unrel",
        split: str = "test",
        only: list[str] | None = None,
        size: Size = 224,
        channels: int = 3,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        self.only = only
        super().__init__(root, split, size, channels, mask_fraction, label_fraction, seed, verify)

    def listed(self, folder: Path) -> list[Entry]:
        entries = list(self._samples(folder))
        return narrow(entries, self.only, sorted({name for entry in entries for name in entry.label}))

    def named(self, folder: Path) -> Sequence[str] | None:
        return self.only

    def _samples(self, folder: Path) -> Iterator[Entry]:
        for record in records(matlab(folder / "annotations.mat", self.home, "annotations")):
            if (name := record["filename"]) != DAMAGED:
                boxes = boxes_by_name((thing["category"], thing["box"]) for thing in records(record["objects"]))
                yield Entry(Path(name).stem, tuple(boxes), "test", "", folder / "images" / name, boxes or None)
