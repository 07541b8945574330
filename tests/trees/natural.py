"""Photographs."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from sightline.regions.runs import compress, run_lengths
from trees.registry import noise, rectangle, save, tree, write

BOXES = "Annotations/CLS-LOC"
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}]
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


@tree("Aircraft", needs="images_box.txt")
def aircraft(root: Path) -> dict[str, Any]:
    """Two variants of one family; of each, two images in each split. The lowest 20 rows are a banner."""
    variants = ("737-200", "Boeing 737-300")
    lists: dict[str, list[str]] = {}
    for number in range(12):
        name, split = f"{number:07d}", ("train", "val", "test")[number // 4]
        save(root / f"images/{name}.jpg", noise(number, (40, 30)))
        lists.setdefault(f"images_variant_{split}", []).append(f"{name} {variants[number % 2]}")
        lists.setdefault(f"images_family_{split}", []).append(f"{name} Boeing 737")
        lists.setdefault("images_box", []).append(f"{name} 11 6 20 15")
    for name, lines in (lists | {"variants": variants, "families": ["Boeing 737"]}).items():
        write(root / f"{name}.txt", "\n".join(lines) + "\n")
    return {"root": str(root)}


@tree("Cars", needs="devkit/cars_train_annos.mat")
def cars(root: Path) -> dict[str, Any]:
    """Two cars; of each, two images to train and two to test."""
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    (root / "devkit").mkdir(parents=True)
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], object)
    savemat(root / "devkit/cars_meta.mat", {"class_names": names})
    for seed, (part, file) in enumerate(
        {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}.items()
    ):
        rows = [(11, 6, 20, 15, 1 + number % 2, f"{number + 1:05d}.jpg") for number in range(4)]
        savemat(root / file, {"annotations": np.array([rows], [(field, object) for field in fields])})
        for number in range(4):
            save(root / f"cars_{part}/{number + 1:05d}.jpg", noise(10 * seed + number))
    return {"root": str(root)}


@tree("Flowers102", needs="setid.mat")
def flowers102(root: Path) -> dict[str, Any]:
    """Of the first and the last kind an image to train, to validate and to test, but for one with a segmentation.

    Of the hundred kinds between them an image to train, without.
    """
    root.mkdir(exist_ok=True)
    savemat(root / "imagelabels.mat", {"labels": np.array([[1, 102] * 3 + [*range(2, 102)]], np.uint8)})
    savemat(root / "setid.mat", {"trnid": [[1, 2, *range(7, 107)]], "valid": [[3, 4]], "tstid": [[6, 5]]})
    for number in range(1, 107):
        save(root / f"jpg/image_{number:05d}.jpg", noise(number))
    painted = np.where(rectangle()[..., None], 200, np.array([0, 0, 254])).astype(np.uint8)
    for number in (1, 2, 3, 4, 6):
        save(root / f"segmim/segmim_{number:05d}.jpg", painted)
    return {"root": str(root)}


@tree("Pets", needs="annotations/test.txt")
def pets(root: Path) -> dict[str, Any]:
    """A breed of cats and one of dogs; of each, two images to train and one to test."""
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    for number, (breed, row) in enumerate([("Abyssinian", "1 1 1"), ("beagle", "2 2 1")] * 3):
        name = f"{breed}_{number}"
        lists["test" if number > 3 else "trainval"].append(f"{name} {row}")
        save(root / f"images/{name}.jpg", noise(number))
        trimap = rectangle(3)
        trimap[6:14, 11:19] = 1
        trimap[trimap == 0] = 2
        save(root / f"annotations/trimaps/{name}.png", trimap)
    for name, lines in lists.items():
        write(root / f"annotations/{name}.txt", "\n".join(lines) + "\n")
    return {"root": str(root)}


@tree("CIFAR10", needs="data_batch_3")
def cifar10(root: Path) -> dict[str, Any]:
    """Twenty images of ten classes in each batch of the Python version."""
    root.mkdir(exist_ok=True)
    for seed, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        batch = {
            b"batch_label": b"training batch",
            b"labels": [place % 10 for place in range(20)],
            b"data": np.random.default_rng(seed).integers(0, 256, (20, 3072), np.uint8),
            b"filenames": [b"a_s_%06d.png" % place for place in range(20)],
        }
        (root / name).write_bytes(python2_pickle(batch))
    return {"root": str(root)}


def python2_pickle(value: Any) -> bytes:
    """`value` as Python 2 pickled it: text and bytes are one type, and NumPy's modules have their old names."""
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.", b"numpy.core.")


class Python2Pickler(pickle._Pickler):
    """Writes what is text and what is bytes alike, as a string of bytes."""

    def save_string(self, value: str | bytes) -> None:
        value = value.encode() if isinstance(value, str) else value
        self.write(b"T" + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch = pickle._Pickler.dispatch | {str: save_string, bytes: save_string}


@tree("ImageNet", needs="ILSVRC2012_devkit_t12/data/meta.mat")
def imagenet(root: Path) -> dict[str, Any]:
    """Two classes; of each, three images to train, one without boxes, and one to validate, listed in the devkit."""
    labels = ("n01443537", "n01440764")
    for seed, label in enumerate(labels):
        for number in range(3):
            save(root / f"train/{label}/{label}_{number}.JPEG", noise(10 * seed + number))
            if number:
                write(root / f"{BOXES}/train/{label}/{label}_{number}.xml", xml((label, 11, 6, 20, 15)))
        validated = f"ILSVRC2012_val_{seed + 1:08d}"
        save(root / f"val/{validated}.JPEG", noise(10 * seed + 3))
        write(root / f"{BOXES}/val/{validated}.xml", xml((label, 11, 6, 20, 15), (label, 1, 1, 2, 2)))
    devkit = root / "ILSVRC2012_devkit_t12/data"
    write(devkit / "ILSVRC2012_validation_ground_truth.txt", "2\n1\n")
    rows = [(1, labels[1]), (2, labels[0])]
    savemat(devkit / "meta.mat", {"synsets": np.array(rows, [("ILSVRC2012_ID", object), ("WNID", object)])[:, None]})
    return {"root": str(root), "verify": True}


def xml(*objects: tuple[Any, ...]) -> str:
    """An annotation in PASCAL VOC's form: of each object its name, box, and whether it is difficult."""
    things = "".join(
        f"<object><name>{name}</name><difficult>{int(bool(difficult))}</difficult><bndbox><xmin>{left}</xmin>"
        f"<ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name, left, top, right, bottom, *difficult in objects
    )
    size = "<size><width>30</width><height>20</height><depth>3</depth></size>"
    return f"<annotation><filename>x.jpg</filename>{size}{things}</annotation>"


@tree("VOC", needs="ImageSets/Main/train.txt")
def voc(root: Path) -> dict[str, Any]:
    """Four images to train, four to validate: an aeroplane, a cow, both, and a cow with a difficult aeroplane."""
    plane, cow, far = ("aeroplane", 11, 6, 20, 15), ("cow", 1, 1, 5, 5), ("aeroplane", 25, 16, 30, 20, True)
    for seed, part in enumerate(("train", "val")):
        names = [f"2008_{10 * seed + number:06d}" for number in range(4)]
        write(root / f"ImageSets/Main/{part}.txt", "\n".join(names) + "\n")
        for number, (name, things) in enumerate(zip(names, [(plane,), (cow,), (plane, cow), (cow, far)], strict=True)):
            save(root / f"JPEGImages/{name}.jpg", noise(10 * seed + number))
            write(root / f"Annotations/{name}.xml", xml(*things))
        indices = np.full((20, 30), 255, np.uint8)
        indices[6:14, 11:19] = 1
        indices[:, :5] = indices[:, 25:] = 0
        picture = Image.fromarray(indices, "P")
        picture.putpalette(list(range(256)) * 3)
        (root / "SegmentationClass").mkdir(exist_ok=True)
        picture.save(root / f"SegmentationClass/{names[2]}.png")
    return {"root": str(root)}


@tree("BikeHelmets", needs="annotations/BikesHelmets3.xml")
def bike_helmets(root: Path) -> dict[str, Any]:
    """Twelve images: with a helmet, without, or both."""
    on, off = ("With Helmet", 10, 5, 20, 15), ("Without Helmet", 0, 0, 5, 5)
    for number in range(12):
        save(root / f"images/BikesHelmets{number}.png", noise(number))
        write(root / f"annotations/BikesHelmets{number}.xml", xml(*((on,), (off,), (on, off))[number % 3]))
    return {"root": str(root)}


@tree("UnRel", needs="annotations.mat")
def unrel(root: Path) -> dict[str, Any]:
    """A person with a giraffe, and a dog alone, in cells and structures as MATLAB nests them."""
    person, giraffe, dog = ("person", [10, 5, 20, 15]), ("giraffe", [0, 0, 5, 5]), ("dog", [20, 10, 30, 20])
    names, things = ["1.jpg", "2.jpg", "1124.jpg"], [[person, giraffe], [dog], [dog]]
    for number, name in enumerate(names[:2]):
        save(root / "images" / name, noise(number))
    annotations = cells(
        *(
            {
                "filename": name,
                "relationships": cells({"sub": "x"}),
                "objects": cells(*map(thing, objects)),
                "im_id": 1.0,
            }
            for name, objects in zip(names, things, strict=True)
        )
    )
    savemat(root / "annotations.mat", {"annotations": annotations})
    return {"root": str(root), "split": "test"}


def thing(named: tuple[str, list[int]]) -> dict[str, Any]:
    name, box = named
    return {"category": name, "box": np.array([box], np.float64)}


def cells(*values: Any) -> np.ndarray:
    """A column of cells."""
    column = np.empty((len(values), 1), object)
    column[:, 0] = values
    return column


@tree("COCO", needs="train2014/COCO_train2014_000000000002.jpg")
def coco(root: Path) -> dict[str, Any]:
    """Four images in each part: a cat by polygon, a crowd by numbers, both with the cat compressed, and nothing."""
    numbers = run_lengths(rectangle() > 0)
    outline = {"category_id": 17, "segmentation": [[10, 5, 20, 5, 20, 15, 10, 15]], "iscrowd": 0}
    crowd = {"category_id": 1, "segmentation": {"counts": list(numbers), "size": [20, 30]}, "iscrowd": 1}
    packed = {"category_id": 17, "segmentation": {"counts": compress(numbers), "size": [20, 30]}, "iscrowd": 0}
    for first, part in ((1, "train2014"), (11, "val2014")):
        images, annotations = [], []
        for number, things in enumerate([[outline], [crowd], [crowd, packed], []], start=first):
            name = f"COCO_{part}_{number:012d}.jpg"
            save(root / part / name, noise(number))
            images.append({"id": number, "file_name": name, "height": 20, "width": 30})
            annotations += [thing | {"image_id": number, "bbox": [10, 5, 10, 10]} for thing in things]
        numbered = [thing | {"id": number} for number, thing in enumerate(annotations)]
        written = {"images": images, "annotations": numbered, "categories": CATEGORIES}
        write(root / f"annotations/instances_{part}.json", json.dumps(written))
    return {"root": str(root), "verify": True}
