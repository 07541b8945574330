"""Patches of LIDC-IDRI, as the authors of the probabilistic U-Net cut them."""

from pathlib import Path

import numpy as np

from sightline.data.archive import SPLITS, Archive
from sightline.data.base import Size, at_least
from sightline.errors import SightlineError
from sightline.listing import Entry
from sightline.pictures import image_files, open_image, subfolders
from sightline.progress import progress_bar
from sightline.published import required
from sightline.regions import MaskFile, Union

READERS = 4
NONE, LESION = "none", "lesion"


class LIDC(Archive):
    """Patches of lung CT around lesions, each outlined by up to four radiologists, to be told with a lesion or without.

        train/images/LIDC-IDRI-0001/z-105.0_c0.png ...        (and val/, test/)
        train/gt/LIDC-IDRI-0001/z-105.0_c0_l0.png ... _l3.png

    A patch has a lesion if at least `readers` of the four outlined something. Its evidence is what any of them did; the
    other patches have no mask. The group is the patient.

    Armato et al., "The Lung Image Database Consortium (LIDC) and Image Database Resource Initiative (IDRI)", Medical
    Physics 2011, CC BY 3.0; patches: Kohl et al., "A Probabilistic U-Net for Segmentation of Ambiguous Images",
    NeurIPS 2018. PPI (section 4.3) follows Kohl et al. in the patches and Selvan and Dam, "Tensor Networks for Medical
    Image Classification", MIDL 2020, in the task, without saying from how many readers on a patch has a lesion.

    Args:
        root: see `Archive`.
        split: "train", "val" or "test".
        readers: 1 to 4, who must have outlined something.
        size, channels, mask_fraction, label_fraction, seed, verify: see `Folder`.
    """

    name = "LIDC-IDRI"
    home = "the patches of Kohl et al., as their code distributes them"

    def __init__(
        self,
        root: str = "lidc_crops",
        split: str = "train",
        readers: int = 2,
        size: Size = 128,
        channels: int = 1,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        if at_least("readers", readers, 1) > READERS:
            raise SightlineError(f"readers must be at most {READERS}, not {readers}.")
        self.readers = readers
        super().__init__(root, split, size, channels, mask_fraction, label_fraction, seed, verify)

    def listed(self, folder: Path) -> list[Entry]:
        images = [
            (split, image)
            for split in SPLITS
            for patient in subfolders(required(folder / split / "images", self.home))
            for image in image_files(patient)
        ]
        return [self._entry(*found) for found in progress_bar(images, desc="reading labels")]

    def named(self, folder: Path) -> tuple[str, str]:
        return NONE, LESION

    def _entry(self, split: str, image: Path) -> Entry:
        patient = image.parent.name
        outlines = image.parents[2] / "gt" / patient
        masks = [required(outlines / f"{image.stem}_l{reader}.png", self.home) for reader in range(READERS)]
        drawn = [path for path in masks if np.asarray(open_image(path)).any()]
        region = Union(tuple(map(MaskFile, drawn))) if len(drawn) >= self.readers else None
        return Entry(f"{patient}/{image.stem}", LESION if region else NONE, split, patient, image, region)
