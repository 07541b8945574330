"""Waterbirds: birds on a background that tends to give them away."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from sightline.data.archive import Archive
from sightline.data.base import Size, fraction
from sightline.data.cub import CUB
from sightline.data.habits import Draws, Integers, below, uniform
from sightline.errors import SightlineError
from sightline.files import whole_folder
from sightline.listing import Entry, find_root, read_table
from sightline.pictures import image_files, open_picture
from sightline.progress import progress_bar
from sightline.published import Table, required, table
from sightline.regions import MaskFile

BIRDS, PLACES = ("landbird", "waterbird"), ("land", "water")

WATERBIRDS = (
    "albatross", "auklet", "cormorant", "frigatebird", "fulmar", "gull", "jaeger", "kittiwake", "pelican", "puffin",
    "tern", "gadwall", "grebe", "mallard", "merganser", "guillemot", "pacific_loon",
)  # fmt: skip
"""What names of species hold if they are seabirds or waterfowl, as the authors sort them."""


class Waterbirds(Archive):
    """11,788 birds, waterbirds or landbirds, cut out and put on photographs of water or land.

        metadata.csv: img_id, img_filename, y, split, place, place_filename
        001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg ...

    In training 95 % of each class are on their own background, in "val" and "test" half. The group is "<bird>/<place>".

    Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020; also as part of WILDS.

    Args:
        root, split, size, channels, mask_fraction, label_fraction, seed, verify: see `Archive`.
        segmentations: the folder of CUB's segmentations, which fit these images; None for no masks.
    """

    name = "Waterbirds"
    home = "waterbird_complete95_forest2water2, see https://github.com/kohpangwei/group_DRO"

    def __init__(
        self,
        root: str = "waterbird_complete95_forest2water2",
        split: str = "train",
        segmentations: str | None = None,
        size: Size = 224,
        channels: int = 3,
        mask_fraction: float = 1.0,
        label_fraction: float = 1.0,
        seed: int = 0,
        verify: bool = True,
    ) -> None:
        self.segmentations = segmentations
        super().__init__(root, split, size, channels, mask_fraction, label_fraction, seed, verify)

    def listed(self, folder: Path) -> list[Entry]:
        masks = None if self.segmentations is None else find_root(self.segmentations)
        listing = folder / "metadata.csv"
        rows = read_table(required(listing, self.home))
        return [entry(folder, masks, row, f"{listing}, line {line}") for line, row in enumerate(rows, start=2)]

    def named(self, folder: Path) -> tuple[str, ...]:
        return BIRDS


def entry(folder: Path, masks: Path | None, row: Mapping[str, str], where: str) -> Entry:
    """The sample of a row of `metadata.csv`, which `where` names.

    Raises:
        SightlineError: a column is missing or says something else than it may.
    """
    try:
        path, split = row["img_filename"], {"0": "train", "1": "val", "2": "test"}[row["split"]]
        bird, place = dict(zip("01", BIRDS, strict=True))[row["y"]], dict(zip("01", PLACES, strict=True))[row["place"]]
    except KeyError as error:
        raise SightlineError(f"{where}: {error} is no column, or no number of a split, bird or place.") from error
    region = None if masks is None else MaskFile((masks / path).with_suffix(".png"))
    return Entry(path.removesuffix(".jpg"), bird, split, f"{bird}/{place}", folder / path, region)


def build(
    cub: str,
    backgrounds: Mapping[str, str],
    out: str | Path,
    *,
    correlation: float = 0.95,
    val: float = 0.2,
    seed: int = 0,
) -> Path:
    """Put CUB's birds on other backgrounds: a folder of images, masks and splits.csv for `Folder`, whole or not at all.

    Of the training birds of each class `correlation` are on their own background, to the nearest whole number; of those
    that validate or test, half. The group is "<bird>/<place>". A segmentation's grey value is the bird's opacity.

    Args:
        cub: the folder of CUB-200-2011 with its segmentations, or its name under SIGHTLINE_DATA.
        backgrounds: folders of photographs, of "land" and of "water".
        out: the folder to write; it must not exist.
        correlation: share in [0, 1]; 0.95 in the paper.
        val: share of CUB's training images that validate.
        seed: of who validates, of places and of photographs.

    Returns:
        The folder.

    Raises:
        SightlineError: a file is missing or damaged, `out` exists, or cannot be written.
    """
    folder = find_root(cub)
    photographs = [photographs_of(backgrounds, place) for place in PLACES]
    birds = birds_of(folder)
    draws = np.random.PCG64([seed, 0]).random_raw((3, len(birds)))
    label = np.array([is_waterbird(path) for path, _ in birds], np.int64)
    trains = np.array([training for _, training in birds])
    split = np.where(trains, np.where(uniform(draws[0]) < fraction("val", val), "val", "train"), "test")
    place = places(label, split, fraction("correlation", correlation), draws[1])
    chosen = below(2**31, draws[2])
    with whole_folder(out) as temporary:
        lines = ["id,class,split,group"]
        for i, (path, _) in enumerate(progress_bar(birds, desc="waterbirds", unit=" images")):
            bird, behind = BIRDS[label[i]], photographs[place[i]][chosen[i] % len(photographs[place[i]])]
            save(temporary, f"{bird}/{Path(path).stem}", folder, path, behind)
            lines.append(f"{Path(path).stem},{bird},{split[i]},{bird}/{PLACES[place[i]]}")
        (temporary / "splits.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Path(out)


def photographs_of(backgrounds: Mapping[str, str], place: str) -> list[Path]:
    """The backgrounds of a place."""
    if place not in backgrounds:
        raise SightlineError(f"backgrounds: expected folders for {' and '.join(PLACES)}, got {', '.join(backgrounds)}.")
    found = image_files(folder := find_root(backgrounds[place]))
    if not found:
        raise SightlineError(f"backgrounds: {folder} holds no images.")
    return found


def birds_of(folder: Path) -> list[tuple[str, bool]]:
    """Each of CUB's images below `images`, and whether it trains."""
    training = Table(folder / "train_test_split.txt", CUB.home)
    return [(path, training[number] == "1") for number, path in table(folder / "images.txt", CUB.home)]


def is_waterbird(path: str) -> bool:
    """Whether an image, `001.Black_footed_Albatross/...`, shows a seabird or waterfowl."""
    species = path.partition("/")[0].lower()
    return any(bird in species for bird in WATERBIRDS)


def places(label: Integers, split: npt.NDArray[Any], correlation: float, draws: Draws) -> Integers:
    """(N,) the place of each bird: of each class and split a share, to the nearest whole number, on its own."""
    place = 1 - label
    order = np.argsort(draws, kind="stable")
    for name in np.unique(split):
        for bird in range(len(BIRDS)):
            mine = order[(split[order] == name) & (label[order] == bird)]
            place[mine[: round((correlation if name == "train" else 0.5) * len(mine))]] = bird
    return place


def save(out: Path, name: str, cub: Path, path: str, behind: Path) -> None:
    """Write one bird in front of `behind`, and its mask."""
    bird = open_picture(required(cub / "images" / path, CUB.home)).convert("RGB")
    outline = open_picture(required((cub / "segmentations" / path).with_suffix(".png"), CUB.home)).convert("L")
    if outline.size != bird.size:
        raise SightlineError(f"the segmentation of {path} is {outline.size}, its image {bird.size}: expected the same.")
    ground = ImageOps.fit(open_picture(behind).convert("RGB"), bird.size, Image.Resampling.LANCZOS)
    for kind, image, suffix in (("images", Image.composite(bird, ground, outline), "jpg"), ("masks", outline, "png")):
        target = out / kind / f"{name}.{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target, quality=95)
