"""Waterbirds: the published table, and birds put on backgrounds of one's own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.data import Folder, Waterbirds
from sightline.data.waterbirds import build
from sightline.errors import SightlineError
from trees import TREES, save, write

SPECIES = ("001.Black_footed_Albatross", "087.Mallard", "014.Indigo_Bunting", "118.House_Sparrow")


@pytest.fixture
def made_of(tmp_path: Path) -> dict[str, object]:
    """CUB's files with 40 birds, white on black, of each of four species; green land and blue water."""
    cub = tmp_path / "cub"
    paths = [f"{SPECIES[i % 4]}/bird_{i:04d}.jpg" for i in range(160)]
    for i, path in enumerate(paths):
        bird = np.zeros((20, 30 + i % 2), np.uint8)
        bird[5:15, 10:20] = 255
        save(cub / "images" / path, np.stack([bird] * 3, -1))
        save((cub / "segmentations" / path).with_suffix(".png"), bird // 255 * 204)
    write(cub / "images.txt", "".join(f"{i} {path}\n" for i, path in enumerate(paths)))
    write(cub / "train_test_split.txt", "".join(f"{i} {int(i < 120)}\n" for i in range(160)))
    for place, channel in (("land", 1), ("water", 2)):
        for i in range(3):
            ground = np.zeros((50, 40 + 50 * i, 3), np.uint8)
            ground[..., channel] = 200
            save(tmp_path / place / f"{i}.png", ground)
    return {"cub": str(cub), "backgrounds": {name: str(tmp_path / name) for name in ("land", "water")}}


def test_the_published_table_is_read(tmp_path: Path) -> None:
    data = Waterbirds(**TREES["Waterbirds"].build(tmp_path), size=(20, 30))
    assert (data.classes, data.splits) == (("landbird", "waterbird"), ("train", "val", "test"))
    assert data.ids[0] == "001.Black_footed_Albatross/bird_0000"
    assert data.groups.tolist() == ["waterbird/land", "landbird/land", "waterbird/water", "landbird/water"]
    assert data.labels.tolist() == [1, 0, 1, 0]
    assert data.on("test").has_mask.all()
    assert data.read(0)[1].sum() == 100
    assert not Waterbirds(data.root, size=8).has_mask.any()


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    arguments = TREES["Waterbirds"].build(tmp_path)
    with (tmp_path / "metadata.csv").open("a") as file:
        file.write('13,"never closed\n')
    with pytest.raises(SightlineError, match=r"cannot read .*metadata\.csv: unexpected end of data"):
        Waterbirds(**arguments, size=8)


@pytest.mark.parametrize(("before", "after"), [("bird_0000.jpg,1,0", "bird_0000.jpg,2,0"), ("y,split", "y,spilt")])
def test_a_bad_table_is_named(tmp_path: Path, before: str, after: str) -> None:
    arguments = TREES["Waterbirds"].build(tmp_path)
    table = tmp_path / "metadata.csv"
    table.write_text(table.read_text().replace(before, after))
    with pytest.raises(SightlineError, match=r"metadata.csv, line 2: .* is no column, or no number"):
        Waterbirds(**arguments, size=8)


@pytest.mark.parametrize("correlation", [0.9, 1.0])
def test_birds_are_put_on_backgrounds(made_of: dict[str, object], tmp_path: Path, correlation: float) -> None:
    out = build(**made_of, out=tmp_path / "out", correlation=correlation)
    data = Folder(str(out), size=(20, 30))
    assert [len(data.on(split)) for split in ("train", "val", "test")] == pytest.approx([96, 24, 40], abs=12)
    for split, share in (("train", correlation), ("val", 0.5), ("test", 0.5)):
        part = data.on(split)
        for label in ("landbird", "waterbird"):
            own = (part.groups == f"{label}/{label.removesuffix('bird')}").sum()
            assert own == round(share * (part.labels == data.classes.index(label)).sum())
    for index in range(len(data)):
        image, mask = data.read(index)
        behind = image[mask == 0].mean(0)
        assert behind.argmax() == (2 if data.groups[index].endswith("water") else 1)
        assert image[mask == 1].min(-1).mean() > 150
        assert mask.sum() == pytest.approx(100, abs=10)


def test_the_same_arguments_make_the_same_files(made_of: dict[str, object], tmp_path: Path) -> None:
    first, again, other = (build(**made_of, out=tmp_path / n, seed=s) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    files = sorted(path.relative_to(first) for path in first.rglob("*.*"))
    assert len(files) == 321
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in files)
    assert (first / "splits.csv").read_text() != (other / "splits.csv").read_text()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "cub/images" / SPECIES[3] / "bird_0159.jpg").unlink(), "bird_0159.jpg is not there"),
        (lambda root: (root / "cub/segmentations" / SPECIES[3] / "bird_0159.png").unlink(), "0159.png is not there"),
        (lambda root: (root / "cub/train_test_split.txt").write_text("0 1\n"), "no line for '1'"),
        (lambda root: [path.unlink() for path in (root / "water").iterdir()], "water holds no images"),
        (lambda root: (root / "out").mkdir(), "out exists"),
        (
            lambda root: Image.new("L", (9, 9)).save(root / "cub/segmentations" / SPECIES[3] / "bird_0159.png"),
            r"bird_0159.jpg is \(9, 9\), its image \(31, 20\)",
        ),
    ],
)
def test_what_fails_leaves_nothing_behind(made_of: dict[str, object], tmp_path: Path, spoil, message: str) -> None:
    spoil(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SightlineError, match=message):
        build(**made_of, out=tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_place_without_a_folder_is_named(made_of: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(SightlineError, match="expected folders for land and water, got land"):
        build(made_of["cub"], {"land": made_of["backgrounds"]["land"]}, tmp_path / "out")
