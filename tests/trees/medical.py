"""Scans and photographs of patients."""

from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from trees.registry import noise, rectangle, save, tree

TRUTHS = "A. Segmentation/2. All Segmentation Groundtruths"


@tree("BrainMRI", needs="brainTumorDataPublic_1-766/2.mat")
def brain_mri(root: Path) -> dict[str, Any]:
    """Of each tumour ten patients, of the first of them two slices; folds turn from patient to patient."""
    slices = [(label, patient) for label in (1, 2, 3) for patient in (0, *range(10))]
    for number, (label, patient) in enumerate(slices, start=1):
        folder = root / ("brainTumorDataPublic_1-766" if number < 15 else "brainTumorDataPublic_767-1532")
        write_slice(folder / f"{number}.mat", label, f"{100 * label + patient}", number)
    with h5py.File(root / "cvind.mat", "w") as file:
        file["cvind"] = np.array([[1.0 + patient % 5 for _, patient in slices]])
    return {"root": str(root)}


def write_slice(path: Path, label: int, patient: str, seed: int) -> None:
    """One slice, its arrays in the reverse of MATLAB's order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["cjdata/label"] = np.array([[float(label)]])
        file["cjdata/PID"] = np.array([[ord(letter)] for letter in patient], np.uint16)
        file["cjdata/image"] = noise(seed)[..., 0].T.astype(np.int16) * 8
        file["cjdata/tumorBorder"] = np.array([[12.0, 6.0, 14.0, 8.0]])
        file["cjdata/tumorMask"] = (rectangle(1) * (noise(seed)[..., 1] > 60)).T


@tree("IDRiD", needs=f"{TRUTHS}/b. Testing Set/1. Microaneurysms/IDRiD_07_MA.tif")
def idrid(root: Path) -> dict[str, Any]:
    """Six images to train and two to test; every second has soft exudates."""
    kinds = {
        "MA": "1. Microaneurysms", "HE": "2. Haemorrhages", "EX": "3. Hard Exudates",
        "SE": "4. Soft Exudates", "OD": "5. Optic Disc",
    }  # fmt: skip
    for number in range(1, 9):
        part = "a. Training Set" if number < 7 else "b. Testing Set"
        save(root / f"A. Segmentation/1. Original Images/{part}/IDRiD_{number:02d}.jpg", noise(number))
        for kind, folder in kinds.items():
            if kind != "SE" or number % 2:
                path = root / f"{TRUTHS}/{part}/{folder}/IDRiD_{number:02d}_{kind}.tif"
                save(path, np.roll(rectangle(), len(folder) % 7, 1))
    return {"root": str(root)}


@tree("LIDC", needs="train/gt/LIDC-IDRI-0001/z-10.5_c0_l0.png")
def lidc(root: Path) -> dict[str, Any]:
    """In each split one patient with two patches: two readers outlined something in the first, one in the second."""
    for seed, (split, patch) in enumerate(product(("train", "val", "test"), (0, 1))):
        patient = f"LIDC-IDRI-000{1 + seed // 2}"
        save(root / split / f"images/{patient}/z-10.5_c{patch}.png", noise(seed)[..., 0])
        for reader in range(4):
            outline = rectangle() if reader < 2 - patch else rectangle(0)
            save(root / split / f"gt/{patient}/z-10.5_c{patch}_l{reader}.png", np.roll(outline, reader, 1))
    return {"root": str(root)}
