"""Photographs."""

from pathlib import Path
from typing import Any

from trees.registry import noise, rectangle, save, tree, write

SPECIES = ("001.Black_footed_Albatross", "002.Laysan_Albatross")


@tree("CUB", needs="image_class_labels.txt")
def cub(root: Path) -> dict[str, Any]:
    """Two species; of each, three images to train and two to test."""
    paths = [f"{name}/{name[4:]}_{number:04d}.jpg" for name in SPECIES for number in range(5)]
    for seed, path in enumerate(paths):
        save(root / "images" / path, noise(seed))
        save((root / "segmentations" / path).with_suffix(".png"), rectangle(51) // 51 * 204)
    lines = {
        "images": paths,
        "image_class_labels": [1 + place // 5 for place in range(10)],
        "train_test_split": [int(place % 5 < 3) for place in range(10)],
        "bounding_boxes": ["4.0 2.0 20.0 10.0"] * 10,
        "classes": SPECIES,
    }
    for name, values in lines.items():
        write(root / f"{name}.txt", "".join(f"{number} {value}\n" for number, value in enumerate(values, start=1)))
    return {"root": str(root)}
