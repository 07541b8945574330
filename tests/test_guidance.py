"""Annotations of every format: what is read, how it is joined to images, and what bad files are answered with."""

import base64
import contextlib
import csv
import io
import json
import logging
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
from PIL import Image

from sightline.data import Folder
from sightline.errors import SightlineError
from sightline.guidance import coco, join, read_guidance, reshape
from sightline.listing import Entry, mask_path
from sightline.regions import Boxes, Region
from test_regions import pack, plain_compress, plain_runs, rgba

SIZE = (20, 30)
BOX = (10, 5, 20, 15)
"""Left, top, right, bottom of the region every file below describes."""


def box(size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, np.bool_)
    mask[5:15, 10:20] = True
    return mask


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def dump(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def of_coco(**annotation: object) -> dict[str, object]:
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 30, "height": 20}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3} | annotation],
    }


def of_voc(inner: str = "", name: str = "a.png") -> str:
    return (
        f"<annotation><filename>{name}</filename><size><width>30</width><height>20</height><depth>3</depth></size>"
        "<object><name>cat</name><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>20</xmax><ymax>15</ymax></bndbox></object>"
        f"{inner}</annotation>"
    )


def of_cvat(shape: str) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task/></meta>'
        f'<image id="0" name="a.png" width="30" height="20">{shape}<tag label="fine"/></image></annotations>'
    )


def of_studio(kind: str, address: str = "/data/upload/1/0a1b2c3d-a.png", **value: object) -> list[dict[str, object]]:
    result = {"type": kind, "original_width": 30, "original_height": 20, "image_rotation": 0}
    result |= {"from_name": "tag", "to_name": "image", "value": {kind: ["cat"], **value}}
    choice = {"type": "choices", "value": {"choices": ["blurred"]}}
    return [
        {
            "data": {"image": address, "note": "see below"},
            "annotations": [{"was_cancelled": False, "result": [result, choice]}],
        }
    ]


def of_labelme(kind: str, points: list[list[float]], **more: object) -> dict[str, object]:
    shape = {"label": "cat", "points": points, "shape_type": kind, "group_id": None} | more
    return {
        "version": "5.5.0",
        "shapes": [shape],
        "imagePath": "..\\images\\a.png",
        "imageHeight": 20,
        "imageWidth": 30,
    }


def png(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


CORNERS = [[10, 5], [20, 5], [20, 15], [10, 15]]
FLAT = [value for corner in CORNERS for value in corner]
PERCENT = [[x / 0.3, y / 0.2] for x, y in CORNERS]

EXACT = {
    "coco_polygon": of_coco(segmentation=[FLAT], bbox=[0, 0, 1, 1]),
    "coco_numbers": of_coco(segmentation={"size": [20, 30], "counts": plain_runs(box().T.ravel().tolist())}, iscrowd=1),
    "coco_string": of_coco(
        segmentation={"size": [20, 30], "counts": plain_compress(plain_runs(box().T.ravel().tolist()))}
    ),
    "coco_box": of_coco(bbox=[10, 5, 10, 10]),
    "coco_empty_segmentation": of_coco(segmentation=[], bbox=[10, 5, 10, 10]),
    "voc": of_voc(),
    "cvat_box": of_cvat('<box label="cat" xtl="10" ytl="5" xbr="20" ybr="15" occluded="0"/>'),
    "cvat_turned_box": of_cvat('<box label="cat" xtl="10" ytl="5" xbr="20" ybr="15" rotation="90"/>'),
    "cvat_polygon": of_cvat('<polygon label="cat" points="10,5;20,5;20,15;10,15"/>'),
    "cvat_mask": of_cvat('<mask label="cat" rle="0, 100" left="10" top="5" width="10" height="10"/>'),
    "studio_rectangle": of_studio("rectanglelabels", x=10 / 0.3, y=25, width=10 / 0.3, height=50, rotation=0),
    "studio_turned_rectangle": of_studio("rectanglelabels", x=20 / 0.3, y=25, width=10 / 0.3, height=50, rotation=90),
    "studio_polygon": of_studio("polygonlabels", points=PERCENT, closed=True),
    "studio_brush": of_studio("brushlabels", format="rle", rle=list(pack(rgba(box())))),
    "studio_local": of_studio("polygonlabels", "/data/local-files/?d=pets/a.png", points=PERCENT),
    "studio_cloud": of_studio("polygonlabels", "s3://bucket/pets/a.png", points=PERCENT),
    "labelme_polygon": of_labelme("polygon", CORNERS),
    "labelme_rectangle": of_labelme("rectangle", [[20, 5], [10, 15]]),
    "labelme_mask": of_labelme("mask", [[9, 3], [20, 15]], mask=png(box()[3:16, 9:21])),
    "boxes_in_pixels": "id,class,xmin,ymin,xmax,ymax\na,cat,10,5,20,15\n",
    "boxes_in_shares": f"image,label,xmin,ymin,xmax,ymax\na.png,cat,{1 / 3},0.25,{2 / 3},0.75\n",
}


def only(path: Path) -> tuple[str, Region]:
    """The one image in a file and its one region."""
    ((name, regions),) = read_guidance(path).items()
    assert list(regions) == ["cat"]
    return name, regions["cat"]


@pytest.mark.parametrize("case", EXACT)
def test_every_format_describes_the_same_box(tmp_path: Path, case: str) -> None:
    name, region = only(dump(tmp_path / "file", EXACT[case]))
    assert PureWindowsPath(name).stem == "a"
    np.testing.assert_array_equal(region.draw(SIZE), box())


@pytest.mark.parametrize(
    ("value", "area"),
    [
        (of_cvat('<ellipse label="cat" cx="15" cy="10" rx="8" ry="4" rotation="30"/>'), np.pi * 32),
        (of_studio("ellipselabels", x=50, y=50, radiusX=8 / 0.3, radiusY=20, rotation=30), np.pi * 32),
        (of_studio("keypointlabels", x=50, y=50, width=20), np.pi * 9),
        (of_labelme("circle", [[15, 10], [15, 16]]), np.pi * 36),
        (of_cvat('<polyline label="cat" points="2,3;20,3;20,12"/>'), 2 * 27),
        (of_labelme("linestrip", [[2, 3], [20, 3], [20, 12]]), 2 * 27),
        (of_labelme("point", [[4.5, 4.5]]), 1),
        (of_cvat('<points label="cat" points="4.5,4.5;9.5,9.5"/>'), 2),
        (of_cvat('<box label="cat" xtl="10" ytl="5" xbr="20" ybr="15" rotation="45"/>'), 100),
        (of_studio("rectanglelabels", x=50, y=0, width=10 / 0.3, height=50, rotation=45), 100),
    ],
)
def test_round_and_thin_shapes_cover_their_area(tmp_path: Path, value: object, area: float) -> None:
    marked = only(dump(tmp_path / "file", value))[1].draw(SIZE)
    assert abs(marked.sum() - area) <= 0.14 * area


def test_several_annotations_of_a_class_are_one_region_and_classes_stay_apart(tmp_path: Path) -> None:
    value = of_coco(bbox=[10, 5, 10, 10])
    value["categories"].append({"id": 4, "name": "dog"})
    value["images"].append({"id": 8, "file_name": "b.png", "width": 30, "height": 20})
    for kind, bbox in ((3, [0, 0, 2, 2]), (4, [5, 5, 1, 1])):
        value["annotations"].append({"id": 9, "image_id": 7, "category_id": kind, "bbox": bbox})
    found = read_guidance(dump(tmp_path / "coco.json", value))
    assert found["b.png"] == {}
    assert found["a.png"]["cat"].draw(SIZE).sum() == 104
    assert found["a.png"]["dog"].draw(SIZE).sum() == 1


def test_folders_of_one_file_per_image(tmp_path: Path) -> None:
    for name in "ab":
        dump(tmp_path / f"voc/{name}.xml", of_voc(name=f"{name}.png"))
        dump(tmp_path / f"labelme/{name}.json", of_labelme("polygon", CORNERS) | {"imagePath": f"{name}.png"})
        save(tmp_path / f"labelme/{name}.png", box())
    assert list(read_guidance(tmp_path / "voc")) == list(read_guidance(tmp_path / "labelme")) == ["a.png", "b.png"]


def test_folders_of_masks(tmp_path: Path) -> None:
    save(tmp_path / "classes/MA/a.png", box())
    save(tmp_path / "classes/HE/a.png", ~box())
    save(tmp_path / "flat/a.png", box())
    classes = read_guidance(tmp_path / "classes")
    assert {name: list(regions) for name, regions in classes.items()} == {"HE/a": ["HE"], "MA/a": ["MA"]}
    np.testing.assert_array_equal(classes["MA/a"]["MA"].draw(SIZE), box())
    np.testing.assert_array_equal(read_guidance(tmp_path / "flat")["a"][""].draw(SIZE), box())


def test_maps_of_labels_need_a_table(tmp_path: Path) -> None:
    labels = np.where(box(), 3, 0).astype(np.uint8)
    labels[0], labels[1] = 255, 4
    save(tmp_path / "x/a.png", labels)
    save(tmp_path / "b.png", labels * 0)
    table = dump(tmp_path / "values.csv", "value,class\n0,sky\n3,cat\n4,cat\n255,ignore\n")
    found = read_guidance(tmp_path)
    assert list(found["x/a"]) == ["cat", "sky"]
    assert list(found["b"]) == ["sky"]
    assert found["x/a"]["cat"].draw(SIZE).sum() == 130
    dump(table, "value,class\n3,cat\n255,ignore\n")
    with pytest.raises(SightlineError, match=r"a\.png holds the value 4, which values\.csv does not list"):
        read_guidance(tmp_path)
    dump(table, "value,class\n3,cat\n3,dog\n")
    with pytest.raises(SightlineError, match=r"values\.csv, line 3: the value 3 is listed twice"):
        read_guidance(tmp_path)


def bomb(depth: int) -> str:
    return '{"images": ' + "[" * depth + "]" * depth + ', "annotations": []}'


def without(value: dict[str, object], *path: str | int) -> dict[str, object]:
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "file is empty"),
        ("hello", "is in no format known here. Known are coco: COCO JSON"),
        ("[]", "is in no format known here"),
        ('{"images": [', "cannot read .* as JSON"),
        (bomb(200_000), "cannot read .* as JSON"),
        (bomb(2), r"file, images\[0\] is \[\], expected an object"),
        (without(of_coco(bbox=[1, 1, 2, 2]), "categories"), "file has no 'categories', only 'images', 'annotations'"),
        (without(of_coco(bbox=[1, 1, 2, 2]), "images", 0, "file_name"), r"images\[0\] has no 'file_name'"),
        (of_coco(), r"annotations\[0\] has no 'bbox'"),
        (of_coco(bbox=[1, 1, 2]), r"annotations\[0\], bbox: expected 4 numbers, not 3"),
        (of_coco(bbox=[1, 1, 2, "x"]), r"annotations\[0\], bbox: expected a number, not 'x'"),
        (of_coco(bbox=[1, 1, 2, float("nan")]), r"expected a number, not nan"),
        (of_coco(bbox=[1, 1, 2, 2], category_id=5), r"annotations\[0\]: category_id 5 is the id of nothing"),
        (of_coco(bbox=[1, 1, 2, 2], image_id=5), r"annotations\[0\]: image_id 5 is the id of nothing"),
        (of_coco(segmentation=[[1, 2, 3, 4]]), r"segmentation: expected x and y of at least 3 point"),
        (of_coco(segmentation=[1, 2, 3, 4, 5, 6]), r"segmentation: expected a list of polygons"),
        (of_coco(segmentation={"size": [20, 30], "counts": [1.5]}), r"counts: expected a whole number"),
        (of_coco(segmentation={"size": [20, 30], "counts": 5}), r"counts: expected a list, not 5"),
        (of_coco(segmentation={"size": [20, 30.5], "counts": [0, 600]}), r"size: expected a whole number .*, not 30.5"),
        (of_coco() | {"images": {}}, "images: expected a list, not {}"),
        (of_coco(bbox=[1, 1, 2, 2]) | {"images": [{"id": 7, "file_name": "a.png"}] * 2}, "the id 7 occurs twice"),
        (
            of_coco(bbox=[1, 1, 2, 2]) | {"images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "a.png"}]},
            "lists the image 'a.png' more than once",
        ),
        ("<annotation><filename>a", "cannot read .* as XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "declares a document type"),
        ("<annotation/>", r"file has no <filename>"),
        (of_voc("<object><name>cat</name></object>"), r"object\[1\] has no <bndbox>"),
        (of_voc("<object><bndbox><xmin>1</xmin></bndbox></object>"), r"object\[1\] has no 'ymin'"),
        (of_cvat('<cuboid label="cat"/>'), r"cuboid\[0\]: <cuboid> cannot be read. Known: 'box'"),
        (of_cvat('<box xtl="1"/>'), r"box\[0\] has no 'label'"),
        (of_cvat('<polygon label="cat" points="1,2;3"/>'), "points: expected x and y of at least 3"),
        (of_cvat('<polygon label="cat" points="1,2;3,x;5,6"/>'), "points: expected a number, not 'x'"),
        ('<annotations><track id="0"/></annotations>', "holds tracks of a video"),
        (of_studio("vectorlabels"), r"task 0, annotations\[0\], result\[0\]: results of type 'vectorlabels'"),
        (of_studio("rectanglelabels", x=1, y=2, width=3), r"result\[0\], value has no 'height'"),
        (of_studio("brushlabels", format="rle", rle=[1, 300]), "expected bytes in the format 'rle'"),
        (of_studio("rectanglelabels", "no image"), "expected the address of one image, found 0"),
        (of_labelme("cuboid", CORNERS), r"shapes\[0\]: a shape of type 'cuboid' cannot be read"),
        (of_labelme("polygon", CORNERS[:2]), r"shapes\[0\], points: expected x and y of at least 3"),
        (of_labelme("mask", [[9, 3], [20, 15]], mask="*"), r"shapes\[0\], mask: not base64"),
        (of_labelme("mask", [[9, 3], [20, 15]], mask="AAAA"), r"shapes\[0\], mask cannot be read as an image"),
        (of_labelme("mask", [[9, 3], [20, 15]], mask=png(box())), "not as large as its points' box"),
        (without(of_labelme("polygon", CORNERS), "imagePath"), "file has no 'imagePath'"),
        ("id,class,xmin,ymin,xmax,ymax\na,cat,20,5,10,15\n", "line 2: the box .* holds nothing"),
        ("id,class,xmin,ymin,xmax,ymax\na,cat,1,5,x,15\n", "line 2, xmax: expected a number, not 'x'"),
        ("id,class,xmin,ymin,xmax,ymax\na,cat,1,5\n", "line 2, xmax: expected a number, not None"),
        ("id,class,xmin,ymin,xmax,ymax\n,cat,1,5,9,9\n", "line 2: expected a column image or id or filename"),
    ],
)
def test_bad_files_are_named_with_the_place(tmp_path: Path, value: object, message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        read_guidance(dump(tmp_path / "file", value))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (of_coco(segmentation=[[40, 0, 50, 0, 50, 9]]), r"annotations\[0\]: polygon lies outside its image of 30 x 20"),
        (of_coco(segmentation={"size": [20, 30], "counts": [1, 2]}), r"annotations\[0\]: run lengths add up to 3"),
        (of_coco(segmentation={"size": [9999, 10001], "counts": [0, 9999 * 10001]}), "10001 x 9999 pixels do not fit"),
        (of_coco(segmentation={"size": [20, 30], "counts": [0, 10**30]}), r"annotations\[0\]: run lengths are damaged"),
        (of_cvat('<mask label="cat" rle="0,4" left="29" top="0" width="2" height="2"/>'), r"mask\[0\]: .* do not fit"),
        (of_studio("brushlabels", format="rle", rle=[0] * 8), "the brush does not hold"),
    ],
)
def test_what_does_not_fit_its_image_is_named_when_drawn(tmp_path: Path, value: object, message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        only(dump(tmp_path / "file", value))[1].draw(SIZE)


@pytest.mark.parametrize("case", ["coco_polygon", "voc", "cvat_polygon", "studio_brush", "labelme_polygon"])
def test_annotations_of_another_size_are_refused(tmp_path: Path, case: str) -> None:
    with pytest.raises(SightlineError, match=r"30 x 20"):
        only(dump(tmp_path / "file", EXACT[case]))[1].draw((40, 60))


def test_formats_can_be_named_and_missing_files_are(tmp_path: Path) -> None:
    path = dump(tmp_path / "file", EXACT["coco_box"])
    assert list(read_guidance(path, "coco")) == ["a.png"]
    with pytest.raises(SightlineError, match=r"no format 'cooc'\. Did you mean 'coco'"):
        read_guidance(path, "cooc")
    with pytest.raises(SightlineError, match="nothing does not exist"):
        read_guidance(tmp_path / "nothing")
    with pytest.raises(SightlineError, match="is in no format known here"):
        read_guidance(dump(tmp_path / "empty/x.txt", "").parent)


def test_files_of_another_kind_than_named_are_errors(tmp_path: Path) -> None:
    for number, case in enumerate(["coco_box", "voc", "labelme_polygon"]):
        dump(tmp_path / f"{case}/{number}.x", EXACT[case])
        dump(tmp_path / f"two/{number}.json", EXACT[case])
    for path in (*tmp_path.glob("*/*.x"), tmp_path / "two", tmp_path):
        for word in ("coco", "voc", "cvat", "labelme", "boxes"):
            with contextlib.suppress(SightlineError):
                read_guidance(path, word)
    with pytest.raises(SightlineError, match=r"two holds 3 JSON or XML files, expected a file"):
        read_guidance(tmp_path / "two", "boxes")
    with pytest.raises(SightlineError, match=r"0\.x is {.*, expected XML"):
        read_guidance(tmp_path / "coco_box/0.x", "voc")


def test_a_folder_of_coco_files_is_read_as_one(tmp_path: Path) -> None:
    dump(tmp_path / "train/a.json", EXACT["coco_box"])
    other = of_coco(bbox=[1, 1, 2, 2])
    other["images"][0]["file_name"] = "b.png"
    (tmp_path / "valid").mkdir()
    (tmp_path / "valid/a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(other).encode())
    assert list(read_guidance(tmp_path)) == ["a.png", "b.png"]


def test_hidden_files_and_folders_called_like_files_are_passed_over(tmp_path: Path) -> None:
    dump(tmp_path / "voc/a.xml", EXACT["voc"])
    (tmp_path / "voc/._a.xml").write_bytes(b"\0\5\x16\7\0")
    (tmp_path / "voc/b.xml").mkdir()
    assert list(read_guidance(tmp_path / "voc")) == ["a.png"]
    save(tmp_path / "masks/cat/a.png", np.full(SIZE, 255, np.uint8))
    (tmp_path / "masks/cat/._a.png").write_bytes(b"\0\5\x16\7\0")
    assert list(read_guidance(tmp_path / "masks")) == ["cat/a"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of two images each in three splits, as a tree."""
    for split in ("train", "val", "test"):
        for label in ("cat", "dog"):
            for number in range(2):
                save(tmp_path / f"{split}/{label}/{split}{label}{number}.png", np.zeros((*SIZE, 3), np.uint8))
    return tmp_path


def table(root: Path, *rows: tuple[str, str]) -> None:
    with (root / "boxes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "class", "xmin", "ymin", "xmax", "ymax"))
        writer.writerows([*row, *BOX] for row in rows)


def test_a_folder_is_guided_by_annotations(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = {
        "traincat0.png": "cat",
        "train/cat/traincat1.jpg": "dog",
        "traindog0": "dog",
        "testdog1": "dog",
        "x": "cat",
    }
    table(root, *names.items())
    with caplog.at_level(logging.WARNING):
        guided = Folder(str(root), size=SIZE, guidance="boxes.csv")
    assert "1 annotated images are not in the dataset: x." in caplog.text
    assert guided.has_mask.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(guided.read(0)[1], box())
    assert guided.on("test").has_mask.tolist() == [False, False, False, True]
    assert Folder(str(root), size=SIZE, guidance="boxes:boxes.csv").hash() == guided.hash()
    assert Folder(str(root), size=SIZE, guidance="boxes.csv", dilate=1).hash() != guided.hash()
    assert Folder(str(root), size=SIZE, guidance="boxes.csv", dilate=2).read(0)[1].sum() == 100 + 4 * 2 * 10 + 4
    assert Folder(str(root), size=SIZE, guidance="boxes.csv", dilate=2, boxes=True).read(0)[1].sum() == 14 * 14


def test_other_classes_than_the_datasets_are_joined(root: Path) -> None:
    table(root, ("traincat0", "ear"), ("traincat0", "nose"), ("traindog0", "ear"))
    assert Folder(str(root), size=SIZE, guidance="boxes.csv").has_mask.tolist() == [True, False, True, False]


def test_classes_the_dataset_lacks_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    table(root, ("traincat0", "cat"), ("traincat1", "cta"))
    with caplog.at_level(logging.WARNING):
        assert Folder(str(root), size=SIZE, guidance="boxes.csv").has_mask.tolist() == [True, False, False, False]
    assert "annotations of cta are left out. The classes are cat, dog." in caplog.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("nobody", "cat")], r"annotates no image of the dataset, but nobody. The dataset has testcat0\.png"),
        ([], r"boxes\.csv is in no format"),
        ([("traincat0", "cat"), ("traincat0.png", "cat")], r"annotates 'cat' in .*traincat0\.png twice"),
    ],
)
def test_annotations_that_cannot_be_joined(root: Path, rows: list[tuple[str, str]], message: str) -> None:
    table(root, *rows)
    with pytest.raises(SightlineError, match=message):
        Folder(str(root), size=SIZE, guidance="boxes.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"guidance": "nothing.json"}, r"nothing\.json does not exist"),
        ({"guidance": "coco:boxes.csv"}, "expected an object"),
        ({"dilate": -1}, "dilate must be at least 0"),
    ],
)
def test_bad_arguments_of_guidance(root: Path, arguments: dict[str, object], message: str) -> None:
    table(root, ("traincat0", "cat"))
    with pytest.raises(SightlineError, match=message):
        Folder(str(root), size=SIZE, **arguments)


def test_of_several_images_the_one_whose_folders_agree_is_meant(tmp_path: Path) -> None:
    entries = [Entry(f"{label}/0.jpg", label, "all", "", tmp_path / label / "0.jpg", None) for label in ("cat", "dog")]
    region = Boxes(((0.0, 0.0, 1.0, 1.0),))
    cat, dog = join(entries, {"images/dog/0.jpg": {"dog": region}}, "file")
    assert join(entries, {"C:\\images\\dog\\0.jpg": {"dog": region}}, "file")[1].region == region
    assert (cat.region, dog.region) == (None, region)
    with pytest.raises(SightlineError, match=r"'0\.png' may be .*cat/0\.jpg or .*dog/0\.jpg"):
        join(entries, {"0.png": {"dog": region}}, "file")


def test_an_image_called_as_the_annotation_says_comes_before_one_called_so_but_for_its_suffix(tmp_path: Path) -> None:
    entries = [Entry(name, "cat", "all", "", tmp_path / name) for name in ("0.png.jpg", "0.png", "1.png.jpg")]
    region = Boxes(((0.0, 0.0, 1.0, 1.0),))
    joined = join(entries, {"0.png": {"cat": region}, "1.png": {"cat": region}}, "file")
    assert [entry.region for entry in joined] == [None, region, region]


def test_samples_of_several_classes_get_a_region_for_each(tmp_path: Path) -> None:
    one, other = Boxes(((0.0, 0.0, 1.0, 1.0),)), Boxes(((1.0, 1.0, 2.0, 2.0),))
    entries = [
        Entry(name, labels, "all", "", tmp_path / f"{name}.jpg") for name, labels in (("a", ("MA", "HE")), ("b", ()))
    ]
    found = {"MA/a": {"MA": one}, "HE/a": {"HE": other, "OD": one}}
    assert [entry.region for entry in join(entries, found, "file")] == [{"MA": one, "HE": other}, None]
    (grown, _) = reshape(join(entries, found, "file"), dilate=1)
    assert grown.region["MA"].draw(SIZE).sum() == 3
    with pytest.raises(SightlineError, match="file annotates no class of the dataset, but OD"):
        join(entries, {"a": {"OD": one}}, "file")


def test_trees_have_masks_beside_them(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(root / "masks/train/cat/traincat0.png", box())
    save(mask_path(root, root / "train/dog/traindog1.png"), ~box())
    save(root / "masks/train/dog/nobody.png", box())
    (root / "annotations/cat").mkdir(parents=True)
    save(root / "annotations/cat/a.png", box())
    with caplog.at_level(logging.WARNING):
        train = Folder(str(root), size=SIZE)
    assert "1 masks in the folder" in caplog.text
    assert (train.splits, train.classes) == (("test", "train", "val"), ("cat", "dog"))
    assert train.has_mask.tolist() == [True, False, False, True]
    np.testing.assert_array_equal(train.read(0)[1], box())
    np.testing.assert_array_equal(train.read(3)[1], ~box())


def test_a_mask_that_may_be_of_either_of_two_images_is_refused(root: Path) -> None:
    save(root / "train/cat/traincat0.bmp", np.zeros((*SIZE, 3), np.uint8))
    save(root / "masks/train/cat/traincat0.png", box())
    with pytest.raises(SightlineError, match=r"of traincat0\.bmp or of traincat0\.png\. Call it traincat0\.bmp\.png"):
        Folder(str(root), size=SIZE)
    (root / "masks/train/cat/traincat0.png").rename(root / "masks/train/cat/traincat0.png.png")
    assert Folder(str(root), size=SIZE).has_mask.tolist() == [False, True, False, False, False]


def test_flat_trees_have_masks_beside_them(root: Path) -> None:
    save(root / "train/masks/cat/traincat1.png", box())
    flat = Folder(str(root / "train"), "all", size=SIZE)
    assert (flat.classes, flat.has_mask.tolist()) == (("cat", "dog"), [False, True, False, False])


@pytest.mark.parametrize("compressed", [True, False])
def test_masks_are_written_as_coco_and_come_back(tmp_path: Path, compressed: bool) -> None:
    noise = np.random.default_rng(0).random(SIZE) < 0.5
    images = [coco.Masked("x/a.png", SIZE, {"cat": box(), "dog": noise}), coco.Masked("b.png", (5, 6), {})]
    coco.write(tmp_path / "coco.json", iter(images), compressed)
    found = read_guidance(tmp_path / "coco.json")
    assert list(found) == ["x/a.png", "b.png"]
    assert found["b.png"] == {}
    np.testing.assert_array_equal(found["x/a.png"]["cat"].draw(SIZE), box())
    np.testing.assert_array_equal(found["x/a.png"]["dog"].draw(SIZE), noise)
    first = json.loads((tmp_path / "coco.json").read_text())["annotations"][0]
    assert (first["bbox"], first["area"], first["iscrowd"]) == ([10, 5, 10, 10], 100, 0)


def test_empty_masks_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(SightlineError, match=r"mask of cat in a\.png is empty"):
        coco.write(tmp_path / "coco.json", [coco.Masked("a.png", SIZE, {"cat": ~box() & box()})])
    assert not (tmp_path / "coco.json").exists()


def test_real_annotations_are_read_and_joined(data_root: Path, tmp_path: Path) -> None:
    if not (data_root / "coco_mini").is_dir():
        pytest.skip("coco_mini is not there")
    found = read_guidance(data_root / "coco_mini/instances.json")
    for name, regions in list(found.items())[:40]:
        with Image.open(data_root / "coco_mini/images" / name) as image:
            size = image.size[::-1]
        assert all(0 < region.draw(size).mean() <= 1 for region in regions.values())


@pytest.mark.parametrize(("name", "least"), [("wbc", 0.93), ("brain_mri", 0.55)])
def test_real_boxes_agree_with_the_masks_made_of_them(data_root: Path, name: str, least: float) -> None:
    if not (data_root / name).is_dir():
        pytest.skip(f"{name} is not there")
    masks, boxes = (Folder(str(data_root / name), "val", size=128, guidance=path) for path in (None, "boxes.csv"))
    both = [(masks.read(int(at))[1] > 0, boxes.read(int(at))[1] > 0) for at in np.flatnonzero(boxes.has_mask)]
    assert len(both) > 60
    assert min((a & b).sum() / (a | b).sum() for a, b in both) > least
