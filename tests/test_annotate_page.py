"""The page of `sightline annotate`, in a real browser: what people draw is what lies on disk afterwards."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sightline
from annotating import SCREEN, UNREACHED, Hand, Point, Served, chromium, serving
from conftest import REPOSITORY
from sightline.annotate.operations import Operation, applied

WIDTH, HEIGHT = 160, 120
NAMES = ("a0", "a1", "b0", "b1")
NOTHING = [0, 0]


@pytest.fixture(scope="module")
def world() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of each of two classes, nobody's masks."""
    generator = np.random.default_rng(0)
    for name in NAMES:
        path = tmp_path / "photos" / "images" / name[0] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)
    rows = [f"{name},{name[0]},train" for name in NAMES]
    (tmp_path / "photos" / "splits.csv").write_text("\n".join(["id,class,split", *rows, ""]))
    return tmp_path / "photos"


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    with serving(folder) as server:
        yield server


@pytest.fixture
def enter(world: Any, served: Served) -> Iterator[Callable[..., Hand]]:
    """Let somebody in; at the end nobody's page has complained or asked anybody but its server."""
    hands: list[Hand] = []

    def one(**how: Any) -> Hand:
        context = world.new_context(**{"viewport": SCREEN, **how})
        hands.append(Hand(context, served.links[len(hands)]))
        return hands[-1]

    yield one
    for hand in hands:
        assert [text for text in hand.complaints if UNREACHED not in text] == []
        assert {url for url in hand.requested if not url.startswith((hand.home, "blob:"))} == set()
        hand.page.context.close()


def mask(folder: Path, name: str) -> Any:
    """(H, W) bool: what lies on disk."""
    path = folder / "masks" / name[0] / f"{name}.png"
    return np.asarray(Image.open(path)) > 0 if path.exists() else np.zeros((HEIGHT, WIDTH), bool)


def log(folder: Path, name: str) -> list[Operation]:
    """What the server was told of an image."""
    lines = (folder / "annotations" / name[0] / f"{name}.jsonl").read_text().splitlines()
    fields = [json.loads(line) for line in lines]
    return [Operation(**{**line, "points": tuple(map(tuple, line.get("points", ())))}) for line in fields]


def drawn(operations: Sequence[Operation]) -> Any:
    """The mask they make, on nothing."""
    marked = np.zeros((HEIGHT, WIDTH), np.bool_)
    for operation in operations:
        marked = applied(marked, operation)
    return marked


def assert_near(points: Sequence[Point], wanted: Sequence[Point], within: float = 0.3) -> None:
    np.testing.assert_allclose(points, wanted, atol=within)


def test_what_is_drawn_lies_on_disk(folder: Path, enter: Callable[..., Hand]) -> None:
    hand = enter()
    line, edges, corners = [(30, 30), (60, 50), (90, 40)], [(100, 20), (140, 60)], [(20, 70), (70, 75), (40, 110)]
    hand.drag(line)
    hand.press("r")
    hand.drag(edges)
    hand.polygon(corners)
    hand.saved()
    brush, box, polygon = log(folder, "a0")
    assert_near(brush.points, line)
    assert_near(box.points, edges, 0)
    assert_near(polygon.points, corners)
    assert (brush.kind, brush.radius, brush.erase) == ("brush", 12, False)
    np.testing.assert_array_equal(mask(folder, "a0"), drawn([brush, box, polygon]))

    hand.press("e", "[", "[")
    hand.drag([(30, 30), (60, 50)])
    hand.saved()
    eraser = log(folder, "a0")[-1]
    assert eraser.erase
    assert eraser.radius < 9
    erased = mask(folder, "a0")
    np.testing.assert_array_equal(erased, drawn([brush, box, polygon, eraser]))

    hand.press("Control+z", "Control+z")
    hand.saved()
    np.testing.assert_array_equal(mask(folder, "a0"), drawn([brush, box]))
    hand.press("Control+y", "Control+y")
    hand.saved()
    np.testing.assert_array_equal(mask(folder, "a0"), erased)


def test_a_reloaded_page_shows_the_mask_and_still_takes_back(folder: Path, enter: Callable[..., Hand]) -> None:
    hand = enter()
    hand.drag([(80, 60), (90, 60)])
    hand.saved()
    before = shown(hand)
    hand.page.reload()
    hand.ready()
    assert shown(hand) == before != NOTHING
    hand.press("u")
    hand.saved()
    hand.page.wait_for_timeout(300)
    assert not mask(folder, "a0").any()
    assert shown(hand) == NOTHING


def shown(hand: Hand) -> list[int]:
    """How many device pixels show the mask, and a sum over where they lie."""
    found = hand.page.evaluate(
        """async () => {
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
            const { width, height } = document.getElementById("mask");
            const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
            context.drawImage(document.getElementById("mask"), 0, 0);
            const pixels = context.getImageData(0, 0, width, height).data;
            let [count, sum] = [0, 0];
            for (let k = 3; k < pixels.length; k += 4) if (pixels[k]) [count, sum] = [count + 1, (sum + k * k) % 1e9];
            return [count, sum];
        }"""
    )
    return list(found)


def test_the_page_draws_as_the_server_does(enter: Callable[..., Hand]) -> None:
    generator = np.random.default_rng(1)
    kinds = [("brush", 4), ("brush", 1), ("erase", 3), ("box", 2), ("polygon", 7), ("polygon", 3)]
    rounds = [[any_shape(generator, *kinds[k]) for k in generator.permutation(len(kinds))] for _ in range(40)]
    made = enter().page.evaluate(
        """async ([rounds, width, height]) => {
            const { draw } = await import("/static/shapes.js");
            return rounds.map((shapes) => {
                const bitmap = { width, height, data: new Uint8Array(width * height) };
                shapes.forEach((shape) => draw(bitmap, shape));
                return Array.from(bitmap.data, (pixel) => (pixel ? 1 : 0)).join("");
            });
        }""",
        [[[asdict(one) for one in shapes] for shapes in rounds], WIDTH, HEIGHT],
    )
    for shapes, pixels in zip(rounds, made, strict=True):
        np.testing.assert_array_equal(np.array([*pixels]) == "1", drawn(shapes).ravel())


def any_shape(generator: np.random.Generator, kind: str, count: int) -> Operation:
    """A shape anywhere, also beyond the edges, and in the middle and at the corners of pixels."""
    points = np.round(generator.uniform(-20, 180, (count, 2)), int(generator.integers(0, 3))).tolist()
    radius, erase = float(generator.uniform(0.5, 20)), bool(generator.random() < 0.3)
    return Operation("any", kind, tuple((x, y) for x, y in points), radius, erase)


def test_keys_alone_are_enough(folder: Path, enter: Callable[..., Hand]) -> None:
    hand = enter()
    assert hand.text("name") == "a0"
    hand.press("r", "c", *["Shift+ArrowRight"] * 9, *["Shift+ArrowDown"] * 6, "c")
    hand.saved()
    marked = mask(folder, "a0")
    rows, columns = marked.any(1).sum(), marked.any(0).sum()
    assert marked.sum() == rows * columns > 0
    assert abs(columns / rows - 1.5) < 0.2
    hand.press("n")
    hand.opened("a1")
    hand.press("ArrowRight", "ArrowRight")
    hand.opened("b1")
    hand.press("ArrowRight")
    assert hand.text("said") == "This is the last image."
    hand.press("ArrowLeft", "ArrowLeft")
    hand.opened("a1")
    hand.press("p", "c", *["Shift+ArrowRight"] * 8, "c", *["Shift+ArrowDown"] * 8, "c", "Enter")
    hand.saved()
    assert mask(folder, "a1").any()
    hand.press("?")
    assert hand.page.locator("#help").is_visible()
    hand.press("Escape", "b", "]")
    assert hand.text("size-value") == "30 px"
    assert not hand.page.locator("#help").is_visible()


def test_an_outline_can_be_taken_back_given_up_and_closed_with_a_double_click(
    folder: Path, enter: Callable[..., Hand]
) -> None:
    hand = enter()
    hand.press("p")
    size = hand.page.locator("#stage").bounding_box()
    for corner in [(20, 20), (90, 20), (150, 110), (90, 90)]:
        hand.page.mouse.click(*hand.at(corner))
    assert hand.page.locator("#outline").is_visible()
    assert hand.page.locator("#stage").bounding_box() == size
    hand.press("Control+z", "Control+z")
    hand.page.mouse.dblclick(*hand.at((90, 90)))
    hand.saved()
    assert_near(log(folder, "a0")[0].points, [(20, 20), (90, 20), (90, 90)])
    hand.page.mouse.click(*hand.at((100, 100)))
    hand.press("Escape")
    hand.page.wait_for_selector("#outline", state="hidden")
    for corner in [(100, 10), (150, 10), (150, 60), (100, 10)]:
        hand.page.mouse.click(*hand.at(corner))
    hand.saved()
    assert_near(log(folder, "a0")[1].points, [(100, 10), (150, 10), (150, 60)])


def test_what_is_drawn_zoomed_and_moved_lands_on_its_pixels(folder: Path, enter: Callable[..., Hand]) -> None:
    hand = enter()
    before = (966, 574)  # whole numbers: the wheel's place has no others
    point = hand.on(before)
    hand.page.mouse.move(*before)
    for _ in range(4):
        hand.page.mouse.wheel(0, -200)
    hand.page.wait_for_function("document.getElementById('picture').getBoundingClientRect().width > 2000")
    assert_near([hand.at(point)], [before], 0.1)
    hand.page.keyboard.down(" ")
    hand.drag([(120, 90), (118, 89)])
    hand.page.keyboard.up(" ")
    hand.drag([(118, 89), (116, 88)], button="middle")
    hand.press("[", "[", "[", "[", "[")
    hand.drag([(114, 86), (119, 90)])
    hand.press("+", "-", "-")
    hand.drag([(115, 90), (122, 90)])
    hand.press("0")
    hand.drag([(10, 10), (20, 10)])
    hand.saved()
    first, second, third = log(folder, "a0")
    assert_near(first.points, [(114, 86), (119, 90)], 0.1)
    assert_near(second.points, [(115, 90), (122, 90)], 0.1)
    assert_near(third.points, [(10, 10), (20, 10)])
    np.testing.assert_array_equal(mask(folder, "a0"), drawn([first, second, third]))


class Fingers:
    """Fingers on the screen."""

    def __init__(self, hand: Hand) -> None:
        self.hand = hand
        self.session = hand.page.context.new_cdp_session(hand.page)

    def touch(self, *frames: Sequence[Point]) -> None:
        """Where the fingers are, moment by moment; at the end they are lifted."""
        places = [[self.hand.at(point) for point in frame] for frame in frames]
        for kind, frame in [
            ("touchStart", places[0]),
            *(("touchMove", frame) for frame in places[1:]),
            ("touchEnd", ()),
        ]:
            points = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(frame)]
            self.session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def test_one_finger_draws_and_two_zoom(folder: Path, enter: Callable[..., Hand]) -> None:
    hand = enter(viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True, device_scale_factor=2)
    fingers = Fingers(hand)
    fingers.touch([(40, 40)], [(60, 50)], [(80, 60)])
    hand.saved()
    (stroke,) = log(folder, "a0")
    assert_near([stroke.points[0], stroke.points[-1]], [(40, 40), (80, 60)], 0.6)

    width = hand.page.locator("#picture").bounding_box()["width"]
    fingers.touch([(70, 60), (90, 60)], [(60, 60), (100, 60)], [(50, 60), (110, 60)])
    hand.page.wait_for_timeout(300)
    assert hand.page.locator("#picture").bounding_box()["width"] > 2.5 * width
    assert len(log(folder, "a0")) == 1

    fingers.touch([(75, 55)], [(85, 65)])
    hand.saved()
    assert_near([log(folder, "a0")[1].points[0]], [(75, 55)], 0.4)
    np.testing.assert_array_equal(mask(folder, "a0"), drawn(log(folder, "a0")))


def test_beside_a_pen_fingers_only_move(folder: Path, enter: Callable[..., Hand]) -> None:
    hand = enter(has_touch=True)
    fingers = Fingers(hand)
    for kind, point in [("mousePressed", (40, 40)), ("mouseMoved", (70, 40)), ("mouseReleased", (70, 40))]:
        x, y = hand.at(point)
        pen = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "pointerType": "pen"}
        fingers.session.send("Input.dispatchMouseEvent", pen)
    before = hand.at((80, 60))
    fingers.touch([(80, 60)], [(85, 60)], [(90, 60)])
    hand.saved()
    (stroke,) = log(folder, "a0")
    assert_near([stroke.points[0], stroke.points[-1]], [(40, 40), (70, 40)])
    assert hand.at((80, 60))[0] > before[0] + 30


def test_fits_every_screen(enter: Callable[..., Hand]) -> None:
    hand = enter()
    for width in (320, 390, 768, 1280, 2560):
        hand.page.set_viewport_size({"width": width, "height": 560})
        assert hand.page.evaluate("document.documentElement.scrollWidth") <= width
        assert hand.page.evaluate("document.documentElement.scrollHeight") <= 560
        stage = hand.page.locator("#stage").bounding_box()
        assert stage["width"] * stage["height"] > 0.3 * width * 560
        buttons = hand.page.locator("button:visible").all()
        assert min(min(box["width"], box["height"]) for box in (one.bounding_box() for one in buttons)) >= 24
    assert all(one.get_attribute("aria-label") or one.inner_text().strip() for one in buttons)


def test_text_can_be_read(enter: Callable[..., Hand]) -> None:
    hand = enter(reduced_motion="reduce")
    hand.drag([(40, 40), (60, 40)])
    hand.saved()
    texts = [
        "h1",
        "#count",
        "#saving",
        "#about",
        ".label",
        ".done .state",
        ".state",
        "[data-tool=brush]",
        "#size-value",
    ]
    for scheme in ("light", "dark"):
        hand.page.emulate_media(color_scheme=scheme)
        for text in texts:
            assert contrast(*hand.page.locator(text).first.evaluate(COLOURS)) >= 4.5, (scheme, text)


COLOURS = """(element) => {
    const colour = getComputedStyle(element).color;
    let under = element;
    while (getComputedStyle(under).backgroundColor === "rgba(0, 0, 0, 0)") under = under.parentElement;
    return [colour, getComputedStyle(under).backgroundColor];
}"""


def contrast(*colours: str) -> float:
    """The ratio of WCAG 2."""
    lighter, darker = sorted(map(luminance, colours), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    values = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_wears_the_reports_colours() -> None:
    package = Path(sightline.__file__).parent
    report, page = ((package / name).read_text() for name in ("report/page.css", "annotate/static/page.css"))
    own = ("around", "edge", "on")
    colours = re.findall(r"--([a-z]+): (#\w+)", page)
    assert len(colours) == 22
    report_colours = re.findall(r"--([a-z]+): (#\w+)", report)
    assert [one for one in colours if one[0] not in own] == report_colours


def test_people_see_each_others_strokes(folder: Path, enter: Callable[..., Hand]) -> None:
    one, other = enter(), enter()
    one.drag([(40, 40), (60, 40)])
    one.saved()
    other.page.wait_for_timeout(1500)
    assert shown(other) == shown(one) != NOTHING
    one.press("u")
    one.saved()
    other.page.wait_for_timeout(1500)
    assert shown(other) == NOTHING


def test_the_list_shows_what_is_asked_for(enter: Callable[..., Hand]) -> None:
    hand = enter()
    names = hand.page.locator("#images li:visible .name")
    hand.drag([(40, 40), (60, 40)])
    hand.saved()
    assert hand.text("count") == "1 of 4"
    for state, label, wanted in [("todo", "", ["a1", "b0", "b1"]), ("done", "", ["a0"]), ("all", "=b", ["b0", "b1"])]:
        hand.page.select_option("#filter-state", state)
        hand.page.select_option("#filter-class", label)
        assert names.all_text_contents() == wanted
    hand.open("b1")
    assert "b · train · 160 × 120" in hand.text("about")


def test_a_map_is_shown_and_judged(world: Any, folder: Path, tmp_path: Path) -> None:
    told = {"id": ["a1"], "path": [str(folder / "images" / "a" / "a1.png")], "explainer": ["GradCAM"]}
    found = {"probability": [[0.5, 0.5]], "map/a1/GradCAM": np.arange(12.0).reshape(1, 3, 4)}
    np.savez(tmp_path / "maps.npz", **told, **found)
    with serving(folder, "--maps", str(tmp_path / "maps.npz")) as served:
        hand = Hand(world.new_context(viewport=SCREEN), served.links[0])
        hand.opened("a1")
        assert "mass" in hand.text("about")
        lies = [hand.page.locator(f"#{layer}").bounding_box() for layer in ("map", "picture")]
        assert lies[0] == lies[1]
        assert hand.page.locator("#map").evaluate("map => map.naturalWidth") > 0
        assert hand.page.locator("#map").is_visible()
        hand.press("m")
        assert not hand.page.locator("#map").is_visible()
        hand.press("m", "x")
        hand.saved()
        assert verdicts(folder) == {"images/a/a1.png": "no"}
        assert hand.page.locator("#no").get_attribute("aria-pressed") == "true"
        hand.page.click("#yes")
        hand.saved()
        assert verdicts(folder) == {"images/a/a1.png": "yes"}
        assert hand.text("judged") == "1 judged"
        hand.open("b0")
        hand.press("x")
        assert hand.text("said") == "There is no map to judge."
        assert hand.complaints == []
        hand.page.context.close()


def verdicts(folder: Path) -> dict[str, str]:
    with (folder / "annotations" / "verdicts.csv").open(newline="") as file:
        return {row["image"]: row["verdict"] for row in csv.DictReader(file)}


def test_exports_coco(tmp_path: Path, enter: Callable[..., Hand]) -> None:
    hand = enter()
    hand.press("r")
    hand.drag([(100, 20), (140, 60)])
    hand.saved()
    with hand.page.expect_download() as download:
        hand.page.click("#export")
    download.value.save_as(tmp_path / "coco.json")
    exported = json.loads((tmp_path / "coco.json").read_text())
    (annotation,) = exported["annotations"]
    assert annotation["bbox"] == [100, 20, 40, 40]
    assert {one["id"]: one["name"] for one in exported["categories"]}[annotation["category_id"]] == "a"


@pytest.mark.slow
def test_four_people_at_once_lose_nothing(folder: Path, enter: Callable[..., Hand]) -> None:
    hands = [enter() for _ in range(4)]
    for row in range(6):
        for k, hand in enumerate(hands):
            hand.drag([(20 + 30 * k, 15 + 15 * row), (40 + 30 * k, 15 + 15 * row)])
    hands[0].press("u")
    for hand, name in zip(hands, NAMES, strict=True):
        hand.open(name)
        hand.drag([(30, 100), (120, 110)])
    for hand in hands:
        hand.saved()
    operations = log(folder, "a0")
    strokes = [operation for operation in operations if operation.kind == "brush"]
    (undo,) = (operation for operation in operations if operation.kind == "undo")
    assert len(strokes) == 25
    np.testing.assert_array_equal(mask(folder, "a0"), drawn([one for one in strokes if one.id != undo.of]))
    for name in NAMES[1:]:
        np.testing.assert_array_equal(mask(folder, name), drawn(log(folder, name)))


@pytest.mark.slow
def test_nothing_is_lost_when_the_server_is_killed(world: Any, folder: Path) -> None:
    with serving(folder) as served:
        context = world.new_context(viewport=SCREEN)
        hand = Hand(context, served.links[0])
        hand.drag([(20, 20), (60, 20)])
        hand.saved()
        served.kill()
        hand.drag([(20, 50), (60, 50)])
        hand.drag([(20, 80), (60, 80)])
        hand.page.wait_for_selector("#saving[data-state=offline]")
        assert "2 changes kept here" in hand.text("saving")
    hand.page.close()
    with serving(folder, port=served.port) as again:
        hand = Hand(context, again.links[0])
        hand.open("a0")
        hand.saved()
        assert len(log(folder, "a0")) == 3
        again.kill()
        hand.drag([(90, 20), (140, 20)])
        hand.press("u")
        hand.drag([(90, 50), (140, 50)])
        hand.page.wait_for_selector("#saving[data-state=offline]")
    with serving(folder, port=served.port) as third:
        context.new_page().goto(third.links[0])
        hand.saved()
        kinds = [operation.kind for operation in log(folder, "a0")]
        assert kinds == ["brush"] * 4 + ["undo", "brush"]
        strokes = [one for k, one in enumerate(log(folder, "a0")) if k not in (3, 4)]
        np.testing.assert_array_equal(mask(folder, "a0"), drawn(strokes))
    context.close()


@pytest.mark.slow
def test_a_large_image_stays_smooth(world: Any, folder: Path) -> None:
    size = (6000, 4000)
    Image.radial_gradient("L").resize(size).convert("RGB").save(folder / "images" / "a" / "a0.png", compress_level=1)
    with serving(folder) as served:
        context = world.new_context(viewport=SCREEN)
        hand = Hand(context, served.links[0])
        hand.press(*"]" * 10)
        hand.page.evaluate(
            """() => {
                window.frames_ = [];
                const frame = (now) => (frames_.push(now), requestAnimationFrame(frame));
                requestAnimationFrame(frame);
            }"""
        )
        hand.drag([(1000 + 40 * k, 2000 + 900 * np.sin(k / 8)) for k in range(100)])
        gaps = np.diff(hand.page.evaluate("frames_"))
        hand.saved()
        (stroke,) = log(folder, "a0")
        marked = np.asarray(Image.open(folder / "masks" / "a" / "a0.png")) > 0
        np.testing.assert_array_equal(marked, applied(np.zeros(size[::-1], np.bool_), stroke))
        context.close()
    assert np.median(gaps) < 60


def test_every_key_is_documented() -> None:
    script = (Path(sightline.__file__).parent / "annotate" / "static" / "page.js").read_text()
    titles = re.findall(r'title: "([^"]+)"', script)
    rows = re.findall(r"^\| `.+` \| (.+) \|$", (REPOSITORY / "docs" / "annotate.md").read_text(), re.MULTILINE)
    assert len(titles) > 20
    assert [title for title in titles if title not in rows] == []
