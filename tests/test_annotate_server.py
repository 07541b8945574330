"""The server of `sightline annotate`: who may come in, what is kept, and what is refused."""

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import yaml
from PIL import Image
from starlette.testclient import TestClient

from sightline import models, recipe
from sightline.annotate import canvas as canvases
from sightline.annotate import ranking
from sightline.annotate.answers import Answers, Insight
from sightline.annotate.app import application
from sightline.annotate.door import Door
from sightline.annotate.operations import Operation, applied
from sightline.annotate.project import Project, alone
from sightline.annotate.server import listening
from sightline.cli import main
from sightline.data import Folder
from sightline.errors import SightlineError
from sightline.regions import marked

HEIGHT, WIDTH = 40, 60
PORT = 4321
HOME = f"http://127.0.0.1:{PORT}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cats without masks, a dog with one, and a dog that lies on its side."""
    folder = tmp_path / "pets"
    rows = ["id,class,split", "a,cat,train", "b,cat,test", "c,dog,train", "d,dog,train"]
    for number, row in enumerate(rows[1:]):
        name, label, _ = row.split(",")
        path = folder / "images" / label / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[274] = 6 if name == "d" else 1
        noise = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(noise).save(path, exif=exif)
    (folder / "splits.csv").write_text("\n".join([*rows, ""]))
    (folder / "masks" / "dog").mkdir(parents=True)
    Image.fromarray(box(5, 5, 20, 20) * np.uint8(255)).save(folder / "masks" / "dog" / "c.png")
    return folder


@pytest.fixture
def project(folder: Path) -> Project:
    return Project(folder)


@pytest.fixture
def enter(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], TestClient]:
    """Clients that came in by a link of their own."""
    monkeypatch.setattr("sightline.annotate.app.PAGE", tmp_path)
    door = Door("127.0.0.1", PORT)
    app = application(project, Insight(project), door)

    def enter() -> TestClient:
        client = TestClient(app, base_url=HOME, headers={"Origin": HOME}, raise_server_exceptions=False)
        assert client.get(door.link()).status_code == 200
        return client

    return enter


@pytest.fixture
def client(enter: Callable[[], TestClient]) -> TestClient:
    return enter()


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    marked = np.zeros((HEIGHT, WIDTH), bool)
    marked[top:bottom, left:right] = True
    return marked


def boxed(name: str, left: int, top: int, right: int, bottom: int, erase: bool = False) -> dict[str, Any]:
    return {"id": name, "kind": "box", "points": [[left, top], [right, bottom]], "erase": erase}


def turn(name: str, kind: str, of: str) -> dict[str, Any]:
    return {"id": name, "kind": kind, "of": of}


def post(client: TestClient, index: int, *operations: dict[str, Any], seconds: float = 0) -> dict[str, Any]:
    answer = client.post(f"/api/images/{index}/operations", json={"operations": list(operations), "seconds": seconds})
    assert answer.status_code == 200, answer.text
    return answer.json()


def served(client: TestClient, index: int) -> np.ndarray:
    answer = client.get(f"/api/images/{index}/mask")
    assert answer.status_code == 200, answer.text
    return picture(answer.content) > 0


def picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)))


def on_disk(path: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(path))
    assert pixels.dtype == np.uint8
    assert set(np.unique(pixels)) <= {0, 255}
    return pixels > 0


# What is kept ---------------------------------------------------------------------------------------------------------


def test_the_project_says_what_is_in_the_folder(client: TestClient) -> None:
    overview = client.get("/api/project").json()
    assert (overview["name"], overview["classes"]) == ("pets", ["cat", "dog"])
    assert [(one["i"], one["id"], one["label"], one["split"]) for one in overview["images"]] == [
        (0, "a", "cat", "train"), (1, "b", "cat", "test"), (2, "c", "dog", "train"), (3, "d", "dog", "train"),
    ]  # fmt: skip
    assert [(one["width"], one["height"]) for one in overview["images"]] == [(WIDTH, HEIGHT)] * 3 + [(HEIGHT, WIDTH)]
    assert [one["annotated"] for one in overview["images"]] == [False, False, True, False]
    assert overview["progress"] == {"annotated": 1, "verdicts": 0, "total": 4, "seconds": 0}


def test_pictures_stand_upright(client: TestClient) -> None:
    for index, size in ((0, (HEIGHT, WIDTH, 3)), (3, (WIDTH, HEIGHT, 3))):
        assert picture(client.get(f"/api/images/{index}/picture").content).shape == size
    assert max(picture(client.get("/api/images/0/thumbnail").content).shape) <= 128


def test_what_is_drawn_is_what_a_dataset_reads(client: TestClient, folder: Path) -> None:
    assert not served(client, 0).any()
    assert post(client, 0, boxed("1", 10, 10, 30, 20), boxed("2", 12, 12, 14, 14, erase=True)) == {
        "version": 2, "annotated": True,
    }  # fmt: skip
    expected = box(10, 10, 30, 20) & ~box(12, 12, 14, 14)
    np.testing.assert_array_equal(served(client, 0), expected)
    np.testing.assert_array_equal(on_disk(folder / "masks/cat/a.png"), expected)
    data = Folder(str(folder), size=(HEIGHT, WIDTH))
    np.testing.assert_array_equal(data.read(0)[1], expected)
    assert data.has_mask.tolist() == [True, True, False]


def test_a_mask_that_was_there_is_drawn_on(client: TestClient, folder: Path) -> None:
    post(client, 2, boxed("1", 10, 0, 30, 10))
    np.testing.assert_array_equal(on_disk(folder / "masks/dog/c.png"), box(5, 5, 20, 20) | box(10, 0, 30, 10))
    post(client, 2, turn("2", "undo", "1"))
    np.testing.assert_array_equal(on_disk(folder / "masks/dog/c.png"), box(5, 5, 20, 20))


def test_where_nothing_is_left_there_is_no_mask(client: TestClient, folder: Path) -> None:
    assert post(client, 2, boxed("1", 0, 0, WIDTH, HEIGHT, erase=True)) == {"version": 1, "annotated": False}
    assert not (folder / "masks/dog/c.png").exists()
    assert post(client, 2, turn("2", "undo", "1")) == {"version": 2, "annotated": True}
    np.testing.assert_array_equal(on_disk(folder / "masks/dog/c.png"), box(5, 5, 20, 20))


def test_operations_are_taken_back_in_any_order(client: TestClient) -> None:
    post(client, 0, boxed("1", 0, 0, 30, 30), boxed("2", 10, 10, 40, 40, erase=True), boxed("3", 20, 20, 25, 25))
    post(client, 0, turn("4", "undo", "1"))
    np.testing.assert_array_equal(served(client, 0), box(20, 20, 25, 25))
    post(client, 0, turn("5", "redo", "1"), turn("6", "undo", "2"))
    np.testing.assert_array_equal(served(client, 0), box(0, 0, 30, 30))


def test_sending_again_changes_nothing(client: TestClient, folder: Path) -> None:
    first = post(client, 0, boxed("1", 0, 0, 9, 9), seconds=5)
    log = (folder / "annotations/cat/a.jsonl").read_bytes()
    assert post(client, 0, boxed("1", 0, 0, 9, 9), boxed("1", 0, 0, 9, 9), seconds=5) == first
    assert (folder / "annotations/cat/a.jsonl").read_bytes() == log
    assert client.get("/api/project").json()["progress"]["seconds"] == 5


def test_others_see_what_was_drawn(enter: Callable[[], TestClient]) -> None:
    one, other = enter(), enter()
    post(one, 0, boxed("1", 0, 0, 9, 9))
    post(other, 0, {**boxed("2", 9, 9, 12, 12), "by": "anna"})
    answer = one.get("/api/images/0/operations?since=1").json()
    assert answer["version"] == 2
    assert [(line["id"], line["kind"], line["by"]) for line in answer["operations"]] == [("2", "box", "anna")]
    assert one.get("/api/images/0/operations").json()["operations"][0]["by"] == "person 1"
    assert one.get("/api/images/0/mask").headers["X-Version"] == "2"


def test_four_people_at_once_lose_nothing(enter: Callable[[], TestClient], folder: Path) -> None:
    def draw(client: TestClient, person: int) -> None:
        for k in range(10):
            post(client, 0, boxed(f"{person}-{k}", 10 * person + k, k, 10 * person + k + 1, k + 1))

    threads = [threading.Thread(target=draw, args=(enter(), person)) for person in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drawn = on_disk(folder / "masks/cat/a.png")
    assert drawn.sum() == 40
    assert len((folder / "annotations/cat/a.jsonl").read_text().splitlines()) == 40


def test_the_log_alone_makes_the_mask(client: TestClient, folder: Path) -> None:
    """Undo and redo through what is kept in memory, against drawing everything anew."""
    generator = np.random.default_rng(0)
    names: list[str] = []
    for step in range(120):
        if names and generator.random() < 0.4:
            post(client, 0, turn(f"t{step}", str(generator.choice(["undo", "redo"])), str(generator.choice(names))))
        else:
            x, y = (int(generator.integers(0, side)) for side in (WIDTH, HEIGHT))
            names.append(f"s{step}")
            post(client, 0, boxed(names[-1], x, y, x + 8, y + 8, erase=bool(generator.random() < 0.3)))
        if step % 10 == 0:
            with Project(folder).canvas(0) as anew:
                np.testing.assert_array_equal(served(client, 0), anew.mask)


def test_time_and_verdicts_are_kept(client: TestClient, folder: Path) -> None:
    post(client, 0, boxed("1", 0, 0, 9, 9), seconds=3.25)
    assert client.post("/api/images/0/verdict", json={"verdict": "no", "seconds": 10_000}).json() == {"verdict": "no"}
    assert client.post("/api/images/1/verdict", json={"verdict": "yes"}).json() == {"verdict": "yes"}
    assert client.post("/api/images/1/verdict", json={"verdict": None}).json() == {"verdict": None}
    table = (folder / "annotations/verdicts.csv").read_text().splitlines()
    assert table[0] == "image,verdict,seconds,by,time"
    assert table[1].startswith("images/cat/a.png,no,603.2,person 1,")
    again = Project(folder)
    assert (again.notes["images/cat/a.png"].verdict, again.notes["images/cat/b.png"].verdict) == ("no", "")
    assert client.get("/api/project").json()["progress"] == {
        "annotated": 2, "verdicts": 1, "total": 4, "seconds": 603.2,
    }  # fmt: skip


def test_the_next_image_has_no_mask(client: TestClient) -> None:
    assert client.get("/api/next?after=0").json() == {"next": 1}
    assert client.get("/api/next?after=1").json() == {"next": 3}
    assert client.get("/api/next?after=3").json() == {"next": 0}
    for index in (0, 1):
        post(client, index, boxed("1", 0, 0, 9, 9))
    assert client.get("/api/next?after=3").json() == {"next": None}


def test_trees_of_images_are_annotated_too(tmp_path: Path) -> None:
    for name in ("train/cat/a.jpg", "test/cat/a.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / name)
    for index in range(2):
        Project(tmp_path).add(index, [Operation("1", "box", ((0, 0), (9 + index, 9)))], 1)
    assert on_disk(tmp_path / "masks/train/cat/a.jpg.png").sum() == 90
    assert on_disk(tmp_path / "masks/test/cat/a.png.png").sum() == 81
    assert [entry.split for entry in Project(tmp_path).entries] == ["test", "train"]
    assert Project(tmp_path).annotated == [True, True]


def test_folders_are_found_where_datasets_lie(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIGHTLINE_DATA", str(folder.parent))
    assert main(["annotate", folder.name, "--export", str(folder / "pets.json")]) == 0
    assert main(["annotate", "nowhere", "--export", str(folder / "pets.json")]) == 1
    assert "there is no folder 'nowhere'" in capsys.readouterr().err


def test_masks_are_exported_as_coco(client: TestClient, folder: Path, tmp_path: Path) -> None:
    post(client, 3, boxed("1", 1, 2, 30, 40))
    answer = client.post("/api/export", json={})
    assert "attachment" in answer.headers["content-disposition"]
    assert answer.json() == json.loads((folder / "annotations/coco.json").read_text())
    assert main(["annotate", str(folder), "--export", str(tmp_path / "pets.json")]) == 0
    assert json.loads((tmp_path / "pets.json").read_text()) == answer.json()
    drawn = Folder(str(folder), size=(HEIGHT, WIDTH))
    read = Folder(str(folder), size=(HEIGHT, WIDTH), guidance=f"coco:{tmp_path / 'pets.json'}")
    assert read.has_mask.tolist() == drawn.has_mask.tolist() == [False, True, True]
    for index in range(3):
        np.testing.assert_array_equal(read.read(index)[1], drawn.read(index)[1])


def test_exports_at_once_do_not_write_over_each_other(project: Project, tmp_path: Path) -> None:
    path, masked, writing = tmp_path / "pets.json", project._masked, set[int]()

    def slowly(index: int) -> Any:
        writing.add(threading.get_ident())
        assert len(writing) == 1
        time.sleep(0.01)
        if index == len(project) - 1:
            writing.clear()
        return masked(index)

    project._masked = slowly
    with ThreadPoolExecutor() as pool:
        list(pool.map(project.export, [path] * 4))
    assert len(json.loads(path.read_text())["images"]) == 4


def test_a_mask_changed_by_another_program_is_kept(client: TestClient, folder: Path) -> None:
    post(client, 2, boxed("1", 30, 30, 35, 35))
    outside = box(0, 0, 3, 3) * np.uint8(255)
    Image.fromarray(outside).save(folder / "masks/dog/c.png")
    os.utime(folder / "masks/dog/c.png", (2e9, 2e9))
    with pytest.raises(SightlineError, match=r"c\.png was changed.*delete"), Project(folder).canvas(2):
        pass
    np.testing.assert_array_equal(on_disk(folder / "masks/dog/c.png"), outside > 0)
    (folder / "annotations/dog/c.jsonl").unlink()
    with Project(folder).canvas(2) as canvas:
        np.testing.assert_array_equal(canvas.mask, outside > 0)


def test_what_a_killed_process_left_is_mended(client: TestClient, folder: Path) -> None:
    post(client, 0, boxed("1", 0, 0, 9, 9))
    log = folder / "annotations/cat/a.jsonl"
    before = log.read_bytes()
    line = json.dumps(Operation("2", "box", ((0, 0), (20, 9))).line()).encode()
    for cut in (1, len(line) // 2, len(line)):
        log.write_bytes(before + line[:cut])
        with Project(folder).canvas(0) as canvas:
            assert [operation.id for operation in canvas.log] == ["1"]
    log.write_bytes(before + line + b"\n" + line[:9])
    os.utime(folder / "masks/cat/a.png", (1, 1))
    (folder / "masks/cat/.a.123.png").write_bytes(b"half a")
    again = Project(folder)
    again.recover()
    np.testing.assert_array_equal(on_disk(folder / "masks/cat/a.png"), box(0, 0, 20, 9))
    assert [path.name for path in (folder / "masks/cat").iterdir()] == ["a.png"]
    again.add(0, [Operation("3", "box", ((0, 0), (1, 1)), erase=True)], 0)
    assert [json.loads(text)["id"] for text in log.read_text().splitlines()] == ["1", "2", "3"]


def test_a_damaged_log_is_named(client: TestClient, folder: Path) -> None:
    post(client, 0, boxed("1", 0, 0, 9, 9))
    log = folder / "annotations/cat/a.jsonl"
    log.write_bytes(b"{nonsense\n" + log.read_bytes())
    with pytest.raises(SightlineError, match=r"a\.jsonl cannot be read"), Project(folder).canvas(0):
        pass


@pytest.mark.parametrize("where", ["log", "mask"])
def test_a_full_disk_acknowledges_nothing(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    post(client, 0, boxed("1", 0, 0, 9, 9))
    before = content(folder)

    def full(*_: Any, **__: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((canvases.os, "write") if where == "log" else (Image.Image, "save")), full)
        answer = client.post("/api/images/0/operations", json={"operations": [boxed("2", 9, 9, 12, 12)]})
    assert (answer.status_code, content(folder)) == (507, before)
    assert "space" in answer.json()["error"]
    assert client.get("/api/images/0/operations").json()["version"] == 1
    post(client, 0, boxed("2", 9, 9, 12, 12))
    np.testing.assert_array_equal(on_disk(folder / "masks/cat/a.png"), box(0, 0, 9, 9) | box(9, 9, 12, 12))


def test_one_server_at_a_time(project: Project) -> None:
    refused = pytest.raises(SightlineError, match="being annotated by another process")
    with alone(project.folder), refused, alone(project.folder):
        pass
    with alone(project.folder):
        pass


def test_a_folder_that_is_none_is_named(folder: Path) -> None:
    for path in (folder / "nowhere", folder / "splits.csv"):
        with pytest.raises(SightlineError, match=f"there is no folder .*{path.name}"):
            Project(path)


def test_a_folder_that_cannot_be_written_is_refused_at_once(folder: Path) -> None:
    (folder / "annotations").write_text("a file in the way")
    with pytest.raises(SightlineError, match="annotations"), alone(folder):
        pass


def test_an_address_that_is_taken_is_named() -> None:
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SightlineError, match=f"port {port}"):
            listening("127.0.0.1", port)
    with pytest.raises(SightlineError, match="no address"):
        listening("0.0.0.0", 0)


# What is next ---------------------------------------------------------------------------------------------------------


def test_mass_is_what_lies_outside_of_the_evidence() -> None:
    map = np.array([[3.0, 1.0], [-5.0, 0.0]])
    assert ranking.mass(map, np.array([[1.0, 0.0], [0.0, 0.0]])) == pytest.approx(1 / 4)
    assert ranking.mass(map, np.array([[0.5, 0.5], [0.5, 0.5]])) == pytest.approx(1 / 2)
    assert ranking.mass(10 * map, np.zeros((2, 2))) == 1
    assert np.isnan(ranking.mass(np.zeros((2, 2)), np.zeros((2, 2))))


def test_disagreement_is_half_the_distance_of_shares() -> None:
    one, other, third = np.array([[1.0, 1.0]]), np.array([[0.0, 7.0]]), np.array([[1.0, 0.0]])
    assert ranking.disagreement([one, -3 * one]) == pytest.approx(0)
    assert ranking.disagreement([one, other]) == pytest.approx(1 / 2)
    assert ranking.disagreement([other, third]) == pytest.approx(1)
    assert ranking.disagreement([one, other, third]) == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert ranking.disagreement([one, 0 * one]) == pytest.approx(1)
    assert np.isnan(ranking.disagreement([one]))


def test_uncertainty_is_the_share_of_the_largest_entropy() -> None:
    assert ranking.uncertainty([np.array([0.25] * 4)]) == pytest.approx(1)
    assert ranking.uncertainty([np.array([0.0, 1.0])]) == 0
    assert ranking.uncertainty([np.array([0.5, 0.5]), np.array([1.0, 0.0])]) == pytest.approx(1 / 2)
    assert ranking.uncertainty([np.array([0.1, 0.9])]) == pytest.approx(scipy.stats.entropy([0.1, 0.9], base=2))


def test_scores_rank_from_the_largest_and_nothing_comes_last() -> None:
    assert ranking.ranked([0.1, np.nan, 0.7, 0.1, 0.9]) == [4, 2, 0, 3, 1]


def explained(
    folder: Path, project: Project, maps: Sequence[np.ndarray], probability: Sequence[Sequence[float]]
) -> Path:
    """A file such as `sightline explain` writes, of the first images."""
    names = [f"image{k}" for k in range(len(maps))]
    np.savez_compressed(
        folder / "maps.npz", id=names, path=[str(entry.image) for entry in project.entries[: len(maps)]],
        probability=np.array(probability), explainer=["GradCAM"],
        **{f"map/{name}/GradCAM": map[None] for name, map in zip(names, maps, strict=True)},
    )  # fmt: skip
    return folder / "maps.npz"


def test_damaged_maps_are_named(project: Project, tmp_path: Path) -> None:
    path = explained(tmp_path, project, [np.random.default_rng(0).random((40, 60))], [[1, 0]])
    content = bytearray(path.read_bytes())
    at = content.index(b"map/image0/GradCAM.npy")
    content[at + 100 : at + 2000] = bytes(1900)
    path.write_bytes(content)
    answers = Answers(path)
    with pytest.raises(SightlineError, match=r"maps\.npz holds no maps"):
        Insight(project, [answers], "mass")


def corner(row: int, column: int, value: float = 1.0) -> np.ndarray:
    map = np.zeros((4, 6), np.float32)
    map[row, column] = value
    return map


def test_maps_decide_what_comes_next(project: Project, tmp_path: Path) -> None:
    """The mask lies in the upper left; images without one are measured by it."""
    maps = [corner(1, 1), corner(3, 5), corner(3, 5, -1) + corner(1, 1, 0.5)]
    file = explained(tmp_path, project, maps, [[0.5, 0.5], [0.9, 0.1], [0.6, 0.4]])
    by_mass = Insight(project, [Answers(file)], "mass")
    assert by_mass.order[0] == 1
    assert by_mass.scores[1] == pytest.approx(1)
    assert by_mass.scores[0] < 0.4
    assert np.isnan(by_mass.scores[3])
    assert Insight(project, [Answers(file)], "uncertainty").order == [0, 2, 1, 3]
    assert sorted(Insight(project, by="random").order) == [0, 1, 2, 3]
    with pytest.raises(SightlineError, match=r"disagreement.*at least two"):
        Insight(project, [Answers(file)], "disagreement")
    other = explained(tmp_path / "pets", project, [corner(1, 1), corner(1, 1)], [[1, 0], [1, 0]])
    assert Insight(project, [Answers(file), Answers(other)], "disagreement").order == [1, 0, 2, 3]
    with pytest.raises(SightlineError, match="Did you mean 'mass'"):
        Insight(project, by="mas")
    with pytest.raises(SightlineError, match="holds no maps"):
        Answers(project.folder / "splits.csv")


def test_a_map_marks_what_exceeds_its_level_and_a_cell_around() -> None:
    mask = marked(corner(1, 2) - corner(3, 5), (40, 60), 0.6)  # a peak, linear, 10 pixels to each side of (15, 25)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    # The map is above 0.6 within 4 pixels; what it marks is grown by a sixteenth of 40 pixels.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (9, 20, 19, 30)
    assert marked(np.ones((4, 6)), (40, 60), 0.6).all()
    assert not marked(-corner(1, 2), (40, 60), 0.6).any()
    assert not marked(corner(1, 2, 0.0), (40, 60), 0.0).any()


def test_maps_judged_right_become_masks(
    project: Project, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = explained(tmp_path, project, [corner(0, 0), corner(1, 2), corner(2, 2)], [[1, 0]] * 3)
    for index, verdict in enumerate(["no", "yes", "yes", "yes"]):
        project.note(index, 1, verdict=verdict)
    before = content(folder)
    assert main(["annotate", str(folder), "--maps", str(maps), "--adopt"]) == 0
    assert "adopted: 1 masks" in capsys.readouterr().out
    changed = {Path(name).relative_to(folder) for name, data in content(folder).items() if before.get(name) != data}
    assert changed - {Path("annotations/.lock")} == {Path("masks/cat/b.png")}  # c had a mask, and of d there is no map
    np.testing.assert_array_equal(on_disk(folder / "masks/cat/b.png"), marked(corner(1, 2), (HEIGHT, WIDTH), 0.3))
    project.add(1, [Operation("1", "box", ((0, 0), (59, 39)), erase=True)], 0)  # somebody took it away again
    assert main(["annotate", str(folder), "--maps", str(maps), "--adopt", "0.5"]) == 0
    assert "adopted: 0 masks" in capsys.readouterr().out


@pytest.mark.parametrize(("level", "message"), [("1", "--adopt 1.0"), ("nan", "--adopt nan"), ("0.3", "judged yes")])
def test_nothing_to_adopt_is_said(
    level: str, message: str, project: Project, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = explained(tmp_path, project, [corner(0, 0)], [[1, 0]])
    project.note(0, 1, verdict="no")
    assert main(["annotate", str(folder), "--maps", str(maps), "--adopt", level]) == 1
    assert message in capsys.readouterr().err


def test_the_page_is_shown_maps_and_their_order(project: Project, tmp_path: Path) -> None:
    file = explained(tmp_path, project, [corner(1, 1), corner(3, 5), corner(0, 0, -2)], [[0.5, 0.5]] * 3)
    door = Door("127.0.0.1", PORT)
    client = TestClient(application(project, Insight(project, [Answers(file)], "mass"), door), base_url=HOME)
    client.get(door.link())
    overview = client.get("/api/project").json()
    assert (overview["ranking"], overview["order"][0]) == ("mass", 1)
    assert [image["has_map"] for image in overview["images"]] == [True, True, True, False]
    assert overview["images"][3]["score"] is None
    pixels = picture(client.get("/api/images/0/map").content)
    assert pixels.shape == (HEIGHT, WIDTH, 4)
    assert pixels[15, 15, 3] > 200
    assert pixels[35, 55, 3] == 0
    negative = picture(client.get("/api/images/2/map").content)
    assert negative[0, 0].tolist() == [26, 90, 205, 255]
    assert client.get("/api/images/3/map").status_code == 404
    assert client.get("/api/next?after=1").json()["next"] == overview["order"][1]


def test_runs_are_asked_where_they_look(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "data": {"class_path": "Folder", "init_args": {"root": str(folder), "size": [20, 30]}},
        "model": {"spec": "sightline:cnn", "arguments": {"filters": [4, 8]}},
        "objectives": ["CE"],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    config = recipe.read(tmp_path / "recipe.yaml")
    for run in (tmp_path / "one", tmp_path / "other"):
        run.mkdir()
        models.save(recipe.build(config).classifier(), run / "model.safetensors")
        (run / "recipe.yaml").write_text(recipe.dump(config))
    asked: list[Insight] = []
    monkeypatch.setattr("sightline.annotate.serve", lambda project, insight, *_: asked.append(insight))
    runs = [str(tmp_path / "one"), str(tmp_path / "other")]
    assert main(["annotate", str(folder), "--model", *runs, "--explainer", "GradCAM", "--rank", "disagreement"]) == 0
    maps = [str(folder / f"annotations/maps/{name}/maps.npz") for name in ("1-one", "2-other")]
    assert main(["annotate", str(folder), "--maps", *maps, "--rank", "disagreement"]) == 0
    assert asked[0].scores == asked[1].scores
    assert all(asked[0].has_map(index) for index in range(4))
    assert [path.name for path in (folder / "annotations/maps/1-one").iterdir()] == ["maps.npz"]
    assert main(["annotate", str(folder), "--rank", "mass"]) == 1


# Who may come in, and with what ---------------------------------------------------------------------------------------


def test_a_link_lets_one_person_in(project: Project) -> None:
    door = Door("127.0.0.1", PORT)
    app = application(project, Insight(project), door)
    link = door.link()
    stranger, guest = (TestClient(app, base_url=HOME) for _ in range(2))
    assert stranger.get("/api/project").status_code == 403
    assert stranger.head(link).status_code == 403
    welcome = guest.get(link)
    cookie = welcome.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert guest.get("/api/project").status_code == 200
    assert stranger.get(link).status_code == 403
    assert stranger.get("/api/project").status_code == 403
    assert "default-src 'self'" in welcome.headers["content-security-policy"]
    for answer in (welcome, guest.get("/api/project"), stranger.get("/")):
        assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")


ODD = (
    "..", "../..", "%2e%2e", "..%2f..%2fsplits.csv", "....//....//x", "%2fetc%2fpasswd", "..%5c..%5cx", "0%00", "-1",
    "4", "9" * 30, "9" * 5000, "1e0", "0x0", "%D9%A3", "", "null", "0;x", "0%2f..%2f0", "%c0%ae%c0%ae", "0%20",
    "+1", "NaN",
)  # fmt: skip
ROUTES = ("picture", "thumbnail", "mask", "map", "operations")
HUGE = 2 * 10**6
BROKEN = (
    b"", b"{", b"NaN", b'{"operations": [], "seconds": NaN}', b'{"seconds": Infinity}', b"\xff\xfe", b"9" * 10_000,
    b"[" * HUGE, b'{"a":' * 100_000, b" " * (5 * 2**20), b'{"operations":[' + b"[1,1]," * HUGE,
)  # fmt: skip
STATIC = (
    "..%2fapp.py", "%2e%2e/door.py", "../../cli.py", "%2fetc%2fpasswd", "..%2f..%2f__init__.py", "..%5cx", "0%00", "",
)  # fmt: skip
HOSTS = ("evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", "", f"127.0.0.1.evil:{PORT}")


def bad_operations() -> Iterator[Any]:
    """Bodies of a POST of operations that mean nothing."""
    good = {"id": "x", "kind": "brush", "points": [[1, 1]], "radius": 2}
    for value in (None, True, "x", [], {}, "NaN", [[1]], -1, 10**400, "9" * 100):
        for field in ("kind", "points", "radius"):
            yield {"operations": [{**good, field: value}]}
    for point in ([1], [1, 2, 3], ["1", 2], [None, 1], [1e300, 1], [1, -1e9], [10**400, 1], [True, 1], {}, 5):
        yield {"operations": [{**good, "points": [point]}]}
    for name in ("", "../x", "a/b", "a\n", "x" * 65, 5, None, [], "é"):
        yield {"operations": [{**good, "id": name}]}
    for erase in (1, "yes", None, []):
        yield {"operations": [{**good, "erase": erase}]}
    for of in (None, "", "unknown", "../x", 5):
        yield {"operations": [{"id": "y", "kind": "undo", "of": of}]}
    yield from ({"operations": value} for value in (None, 5, "x", {}, [good] * 101, [5], [None], [[]]))
    yield from ({"operations": [good], "seconds": value} for value in (-1, "5", None, True, [], 10**400))
    yield from ([], 5, "x", None, {"operations": [good], "path": "/etc"}, {"operations": [{**good, "path": "/x"}]})
    yield {"operations": [{**good, "points": [[1, 1]] * 10_001}]}
    yield {"operations": [{**good, "kind": "box"}]}
    yield {"operations": [{**good, "kind": "polygon", "points": [[1, 1], [2, 2]]}]}


def hostile() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Requests that must be refused."""
    typed = {"Content-Type": "application/json"}
    for odd in ODD:
        yield from (("GET", f"/api/images/{odd}/{route}", {}) for route in ROUTES)
        yield from (("POST", f"/api/images/{odd}/{route}", {"json": {}}) for route in ("operations", "verdict"))
        yield "GET", f"/api/next?after={odd}", {}
    for name in (
        "..%2fapp.py",
        "%2e%2e/door.py",
        "../../cli.py",
        "%2fetc%2fpasswd",
        "..%2f..%2f__init__.py",
        "..%5cx",
        "0%00",
        "",
        "%",
    ):
        yield "GET", f"/static/{name}", {}
    for body in bad_operations():
        yield "POST", "/api/images/0/operations", {"content": json.dumps(body), "headers": typed}
    for text in BROKEN:
        yield "POST", "/api/images/0/operations", {"content": text, "headers": typed}
        yield "POST", "/api/images/0/verdict", {"content": text, "headers": typed}
    for verdict in ("maybe", 1, True, [], {}, "YES"):
        yield "POST", "/api/images/0/verdict", {"json": {"verdict": verdict}}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/jsonp"):
        yield "POST", "/api/images/0/verdict", {"content": b"{}", "headers": {"Content-Type": kind}}
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        yield from (
            (method, path, {}) for path in ("/", "/api/project", "/api/images/0/mask", "/api/images/0/operations")
        )
    yield from (("POST", path, {"json": {}}) for path in ("/", "/api/project", "/api/next", "/api/images/0/mask"))
    for host in (
        "evil.example",
        f"evil.example:{PORT}",
        "127.0.0.1",
        f"127.0.0.1:{PORT + 1}",
        "",
        f"127.0.0.1.evil:{PORT}",
    ):
        yield "GET", "/api/project", {"headers": {"Host": host}}
        yield "POST", "/api/images/0/verdict", {"json": {}, "headers": {"Host": host, "Origin": f"http://{host}"}}
    for origin in ("null", "http://evil.example", "https://127.0.0.1:4321", f"{HOME}.evil", "http://127.0.0.1", ""):
        yield "POST", "/api/images/0/verdict", {"json": {"verdict": "yes"}, "headers": {"Origin": origin}}
    for cookie in ("", "x", "person 1", "'; --", "a" * 5000):
        yield "GET", "/api/project", {"headers": {"Cookie": f"sightline-{PORT}={cookie}"}}
        yield "GET", f"/?token={cookie}", {"headers": {"Cookie": ""}}
    for since in ("-1", "x", "1e3", "9" * 20, "%00"):
        yield "GET", f"/api/images/0/operations?since={since}", {}


def test_hostile_requests_are_refused_and_change_nothing(client: TestClient, folder: Path) -> None:
    before = content(folder)
    requests = list(hostile())
    assert len(requests) >= 300
    for method, path, options in requests:
        answer = client.request(method, path, **options)
        said = f"{method} {path[:80]} {str(options)[:200]}: {answer.status_code} {answer.text[:200]}"
        assert 400 <= answer.status_code < 500, said
        if method != "HEAD":
            assert answer.json()["error"], said
    assert content(folder) == before


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# A process of its own -------------------------------------------------------------------------------------------------


class Process:
    """`sightline annotate`, and a client that came in by its link."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "sightline", "annotate", str(folder), "--no-open", *options]
        # Tests that run in a shell's background inherit an interrupt that is ignored.
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed
        )
        assert self.process.stdout is not None
        self.link = self.process.stdout.readline().strip()
        self.port = int(self.link.split(":")[2].partition("/")[0])

    def enter(self) -> None:
        """Spend the link."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", self.link.partition(str(self.port))[2])
        self.cookie = str(connection.getresponse().headers["Set-Cookie"]).partition(";")[0]

    def post(self, index: int, *operations: dict[str, Any]) -> int:
        """The status of the answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(
            "POST", f"/api/images/{index}/operations", json.dumps({"operations": operations}),
            {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{self.port}", "Cookie": self.cookie},
        )  # fmt: skip
        return connection.getresponse().status

    def raw(self, text: bytes, more: Callable[[], Iterator[bytes]] = lambda: iter(())) -> bytes:
        """The beginning of what the server says to some bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(text.replace(b"HOST", f"127.0.0.1:{self.port}".encode()))
            with suppress(ConnectionError):
                for part in more():
                    connection.sendall(part)
                    if select.select([connection], [], [], 0)[0]:
                        break
            return connection.recv(65536)

    def end(self, how: int = signal.SIGINT) -> tuple[int, str]:
        """Its exit code and what it complained of."""
        self.process.send_signal(how)
        _, complaints = self.process.communicate(timeout=60)
        return self.process.returncode, complaints


def test_a_process_answers_bytes_that_are_no_requests_and_ends_quietly(folder: Path) -> None:
    process = Process(folder)
    process.enter()
    before = content(folder)
    cookie = process.cookie.encode()
    head = b"POST /api/images/0/operations HTTP/1.1\r\nHost: HOST\r\nOrigin: http://HOST\r\nCookie: " + cookie
    head += b"\r\nContent-Type: application/json\r\n"

    def endless() -> Iterator[bytes]:
        while True:
            yield b"10000\r\n" + b"[" * 0x10000 + b"\r\n"

    refused = [
        process.raw(head + b"Transfer-Encoding: chunked\r\n\r\n", endless),
        process.raw(head + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        process.raw(head + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
        process.raw(head + b"Content-Length: -2\r\n\r\n{}"),
        process.raw(head + b"Host: evil.example\r\nContent-Length: 2\r\n\r\n{}"),
        process.raw(b"GET /../../etc/passwd HTTP/1.1\r\nHost: HOST\r\nCookie: " + cookie + b"\r\n\r\n"),
        process.raw(b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nCookie: " + cookie + b"\r\n\r\n"),
        process.raw(b"GET /api/project HTTP/1.1\r\nCookie: " + cookie + b"\r\n\r\n"),
        process.raw(b"GET /api/project HTTP/1.1\r\nHost: HOST\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"),
        process.raw(b"nonsense\r\n\r\n"),
        process.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    ]
    for number, answer in enumerate(refused):
        assert answer.startswith(b"HTTP/1.1 4"), (number, answer[:200])
    assert content(folder) == before
    assert process.post(0, boxed("1", 0, 0, 9, 9)) == 200
    code, complaints = process.end()
    assert (code, "Traceback" in complaints) == (0, False), complaints


def test_a_second_process_is_told_of_the_first(folder: Path) -> None:
    first = Process(folder)
    second = subprocess.run(
        [sys.executable, "-m", "sightline", "annotate", str(folder), "--no-open"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (second.returncode, "another process" in second.stderr) == (1, True)
    assert "Traceback" not in second.stderr + first.end()[1]


@pytest.mark.slow
def test_an_interrupt_at_any_moment_ends_quietly(folder: Path) -> None:
    for delay in (0, 0.01, 0.03, 0.1, 0.2, 0.4, 0.8):
        process = Process(folder)
        time.sleep(delay)
        assert process.end() == (0, "")


@pytest.mark.slow
def test_a_killed_process_loses_nothing_it_acknowledged(folder: Path) -> None:
    generator = np.random.default_rng(0)
    acknowledged: set[str] = set()
    for turn in range(12):
        process = Process(folder)
        process.enter()

        def draw(process: Process = process, turn: int = turn) -> None:
            for k in range(10_000):
                x, y = (7 * k) % WIDTH, (11 * k + turn) % HEIGHT
                with suppress(OSError, HTTPException):
                    if process.post(k % 2, boxed(f"{turn}-{k}", x, y, x + 1 + k % 9, y + 1 + turn % 9)) == 200:
                        acknowledged.add(f"{turn}-{k}")
                        continue
                return

        thread = threading.Thread(target=draw)
        thread.start()
        time.sleep(generator.uniform(0.05, 0.6))
        assert process.end(signal.SIGKILL)[0] == -signal.SIGKILL
        thread.join()
    assert len(acknowledged) > 12
    again = Project(folder)
    again.recover()
    logged: set[str] = set()
    for index, name in enumerate("ab"):
        with again.canvas(index) as canvas:
            logged |= {operation.id for operation in canvas.log}
            expected = np.zeros((HEIGHT, WIDTH), bool)
            for operation in canvas.log:
                expected = applied(expected, operation)
        np.testing.assert_array_equal(on_disk(folder / f"masks/cat/{name}.png"), expected)
    assert acknowledged <= logged
    assert [path for path in folder.rglob(".*") if path.name != ".lock"] == []
