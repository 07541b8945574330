"""Birds on backgrounds that give them away."""

from pathlib import Path
from typing import Any

from trees.registry import noise, rectangle, save, tree, write

SPECIES = ("001.Black_footed_Albatross", "014.Indigo_Bunting")


@tree("Waterbirds", needs="metadata.csv")
def waterbirds(root: Path) -> dict[str, Any]:
    """A waterbird and a landbird; of each, two images to train, two to validate and two to test, on either place."""
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for seed in range(12):
        name = f"{SPECIES[seed % 2]}/bird_{seed:04d}.jpg"
        save(root / name, noise(seed))
        save((root / "segmentations" / name).with_suffix(".png"), rectangle(204))
        lines.append(f"{seed + 1},{name},{1 - seed % 2},{seed // 4},{seed // 2 % 2},/o/ocean/{seed:08d}.jpg")
    write(root / "metadata.csv", "\n".join(lines) + "\n")
    return {"root": str(root), "segmentations": str(root / "segmentations")}
