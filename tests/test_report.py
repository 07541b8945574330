"""The report: what the page holds, what it says of the numbers, and that it needs nothing but itself."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.errors import SightlineError
from sightline.report import build, charts, pictures, read
from sightline.report.gallery import Answer, order
from sightline.report.numbers import Difference, Estimate
from sightline.report.verdict import hardest, judged, verdict

# A world of fake files: bright squares (the evidence) on tinted grounds (the shortcut) ------------------------------

CLASSES = ("cat", "dog", "owl")


@dataclass(frozen=True)
class Scene:
    """One image of a split, the same for every run."""

    id: str
    label: int
    group: str
    image: np.ndarray
    mask: np.ndarray
    has_mask: bool


def draw_scenes(count: int, seed: int = 0, side: int = 24) -> list[Scene]:
    generator = np.random.default_rng(seed)
    scenes = []
    for k in range(count):
        label, ground, (top, left) = k % 3, int(generator.integers(3)), generator.integers(2, side - 10, 2)
        image = generator.integers(30, 110, (side, side, 3)).astype(np.uint8)
        image[..., ground] += 60
        mask = np.zeros((side, side), np.uint8)
        mask[top : top + 8, left : left + 5 + label] = 1
        image[mask > 0] = 230
        scenes.append(Scene(f"img-{k:03d}", label, f"{CLASSES[label]}/{ground}", image, mask, k != 5))
    return scenes


def write_audit(
    folder: Path,
    scenes: Sequence[Scene],
    *,
    run: str = "plain",
    split: str = "test",
    accuracy: float = 0.9,
    on_mask: float = 0.2,
    gallery: int = 12,
    classes: Sequence[str] = CLASSES,
) -> Path:
    """An audit directory of a run that answers `accuracy` correctly and has about `on_mask` of its maps on the mask."""
    generator = np.random.default_rng(len(run))
    maps = [fake_map(scene, on_mask, generator) for scene in scenes]
    rows = [
        fake_row(k, scene, map, accuracy, classes, generator)
        for k, (scene, map) in enumerate(zip(scenes, maps, strict=True))
    ]
    folder.mkdir(parents=True)
    write_csv(folder / "scores.csv", rows)
    (folder / "summary.json").write_text(json.dumps(fake_summary(rows, run, split, classes)))
    kept = scenes[:gallery]
    np.savez(
        folder / "gallery.npz",
        id=np.array([scene.id for scene in kept]),
        image=np.stack([scene.image for scene in kept]),
        mask=np.stack([scene.mask for scene in kept]),
        has_mask=np.array([scene.has_mask for scene in kept]),
        map=np.stack(maps[:gallery]).astype(np.float16),
    )
    return folder


def fake_map(scene: Scene, on_mask: float, generator: np.random.Generator) -> np.ndarray:
    """(6, 6) with a share `on_mask` (give or take) in the cells that the mask touches."""
    step = len(scene.mask) // 6
    inside = scene.mask[: 6 * step, : 6 * step].reshape(6, step, 6, step).mean((1, 3))
    ground = generator.random((6, 6)) ** 3 * (inside == 0)
    share = np.clip(on_mask + generator.normal(0, 0.08), 0, 1) if inside.any() else 0
    return share * inside / max(inside.sum(), 1e-9) + (1 - share) * ground / ground.sum()


def fake_row(
    index: int, scene: Scene, map: np.ndarray, accuracy: float, classes: Sequence[str], generator: np.random.Generator
) -> dict[str, Any]:
    correct = generator.random() < accuracy
    answer = scene.label if correct else (scene.label + 1) % len(classes)
    logits = generator.normal(0, 1, len(classes))
    logits[answer] = logits.max() + generator.gamma(2)
    odds = np.exp(logits) / np.exp(logits).sum()
    fine = np.kron(map, np.ones([n // 6 for n in scene.mask.shape]))
    ch = float((fine * scene.mask[: len(fine), : len(fine)]).sum() / fine.sum()) if scene.has_mask else ""
    return {
        "id": scene.id,
        "index": index,
        "label": classes[scene.label],
        "prediction": classes[answer],
        "correct": int(correct),
        "confidence": float(odds[answer]),
        "group": scene.group,
        "has_mask": int(scene.has_mask),
        "ch": ch,
        "pg": "" if ch == "" else int(ch > 0.3),
        "empty_map": 0,
        **{f"p_{name}": float(p) for name, p in zip(classes, odds, strict=True)},
    }


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = [",".join(map(str, row)) for row in ([list(rows[0])] + [list(row.values()) for row in rows])]
    path.write_text("\n".join(lines) + "\n")


def estimated(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {"value": None, "low": None, "high": None, "n": 0}
    mean, error = float(np.mean(values)), float(np.std(values) / max(len(values), 1) ** 0.5)
    return {"value": mean, "low": max(mean - 2 * error, 0.0), "high": min(mean + 2 * error, 1.0), "n": len(values)}


def fake_summary(rows: Sequence[Mapping[str, Any]], run: str, split: str, classes: Sequence[str]) -> dict[str, Any]:
    correct, chs = [row["correct"] for row in rows], [row["ch"] for row in rows if row["ch"] != ""]
    groups = sorted({row["group"] for row in rows})
    by_group = {g: [row["correct"] for row in rows if row["group"] == g] for g in groups}
    worst = min(groups, key=lambda g: np.mean(by_group[g]))
    return {
        "sightline": "0.1.0",
        "kind": "audit",
        "run": run,
        "model": "cnn",
        "split": split,
        "seed": 0,
        "data": {"name": "Squares", "hash": f"{len(split):02d}" * 32, "images": len(rows), "classes": list(classes)},
        "explainer": "GradCAM(layer='features')",
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "metrics": {
            "accuracy": estimated(correct),
            "macro_f1": estimated(correct),
            "auroc": {"value": 0.9, "low": None, "high": None, "n": len(rows)},
            "worst_group": {**estimated(by_group[worst]), "group": worst},
            "ch": estimated(chs),
            "pg": estimated([row["pg"] for row in rows if row["pg"] != ""]),
        },
        "empty_maps": 0,
        "groups": {g: {"accuracy": float(np.mean(v)), "n": len(v)} for g, v in by_group.items()},
        "level": 0.95,
    }


def write_comparison(folder: Path, audits: Mapping[str, Path]) -> Path:
    """comparison.json of some audits, the first being the baseline, with differences of the right shape."""
    summaries = {run: json.loads((audit / "summary.json").read_text()) for run, audit in audits.items()}
    base, *others = summaries
    metrics = list(summaries[base]["metrics"])
    folder.mkdir(parents=True)
    content = {
        "kind": "comparison",
        "level": 0.95,
        "data": summaries[base]["data"],
        "split": summaries[base]["split"],
        "runs": list(audits),
        "baseline": base,
        "audits": [os.path.relpath(audit, folder) for audit in audits.values()],
        "metrics": {metric: {run: s["metrics"][metric] for run, s in summaries.items()} for metric in metrics},
        "differences": {
            run: {
                metric: fake_difference(metric, summaries[base]["metrics"][metric], summaries[run]["metrics"][metric])
                for metric in metrics
            }
            for run in others
        },
    }
    (folder / "comparison.json").write_text(json.dumps(content))
    return folder / "comparison.json"


def fake_difference(metric: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    value, error = b["value"] - a["value"], 0.02
    p = float(np.exp(-abs(value / error)))
    test = "McNemar exact" if metric == "accuracy" else "paired bootstrap"
    return {"value": value, "low": value - 2 * error, "high": value + 2 * error, "p": p, "test": test, "n": a["n"]}


def write_run(folder: Path, terms: Sequence[str] = ("loss", "ce"), epochs: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(len(folder.name))
    lines = [",".join(["step", "epoch", *terms, "val_accuracy"])]
    for epoch in range(epochs):
        noise = 1 + 0.1 * generator.random(len(terms))
        losses = [f"{scale * 2 / (1 + 0.4 * epoch):.4f}" for scale in noise]
        lines.append(",".join([str(10 * epoch + 5), str(epoch), *losses, ""]))
        accuracy = 0.95 - 0.7 * np.exp(-epoch / 3) + 0.01 * generator.normal()
        lines.append(",".join([str(10 * epoch + 9), str(epoch), *[""] * len(terms), f"{accuracy:.4f}"]))
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    (folder / "recipe.yaml").write_text(f"model: cnn\nobjectives: {list(terms[1:])}\nseed: 0\n")
    info = {"name": folder.name, "sightline": "0.1.0", "versions": {"torch": "2.13.0"}, "seed": 0, "minutes": 1.4}
    (folder / "run.json").write_text(json.dumps({**info, "finished": True}))
    return folder


RUNS = {"plain": (0.9, 0.3, 0.2), "cfcn": (0.88, 0.3, 0.6), "swap": (0.89, 0.8, 0.35)}
"""run -> accuracy on test, accuracy on shifted, share of the maps on the evidence."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two comparisons of three runs, each audited on test and shifted, as the command line would leave them."""
    folder = tmp_path_factory.mktemp("world") / "runs"
    for k, split in enumerate(("test", "shifted")):
        scenes = draw_scenes(60, seed=k)
        audits = {
            run: write_audit(
                folder / run / "audit" / split, scenes, run=run, split=split, accuracy=traits[k], on_mask=traits[2]
            )
            for run, traits in RUNS.items()
        }
        write_comparison(folder / "comparison" / split, audits)
    for run, terms in {"plain": ("loss", "ce"), "cfcn": ("loss", "ce", "cfcn"), "swap": ("loss", "ce")}.items():
        write_run(folder / run, terms)
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    """A copy of the runs, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


def both(runs: Path) -> list[Path]:
    return [runs / "comparison" / split for split in ("test", "shifted")]


def comparison(runs: Path, split: str) -> dict[str, Any]:
    return json.loads((runs / "comparison" / split / "comparison.json").read_text())


# Reading a page ----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The page's elements as (tag, attributes), and its text by line."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.styling = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.styling = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self.styling = False

    def handle_data(self, data: str) -> None:
        if not self.styling:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(made: Path) -> Page:
    return Page(build(both(made), made.parent / "report.html"))


def test_needs_nothing_but_itself(page: Page) -> None:
    references = [
        a[key] or "" for _, a in page.elements for key in ("src", "href", "srcset", "data", "action") if key in a
    ]
    assert references
    assert all(reference.startswith(("data:", "#")) for reference in references)
    assert not page.all("script")
    assert not re.search(r"https?://|url\(|@import|//cdn", page.source)


def test_forbids_the_network_to_the_browser(page: Page) -> None:
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_picture_is_described(page: Page) -> None:
    assert len(page.all("img")) > 3 * 12
    assert all((image.get("alt") or "").strip() for image in page.all("img"))
    drawn = [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]
    assert len(drawn) >= 4
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in drawn)


def test_alt_text_says_what_the_caption_says(page: Page) -> None:
    said = [image["alt"] or "" for image in page.all("img") if (image["alt"] or "").startswith("Map of swap")]
    assert said
    assert all(
        re.search(r"predicts (cat|dog|owl) with \d+ % confidence: (correct|wrong, the label is)", alt) for alt in said
    )


def test_links_lead_somewhere_and_ids_are_unique(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {(a["href"] or "")[1:] for a in page.all("a")} <= set(ids)


def test_wide_things_scroll_by_keyboard_in_their_own_box(page: Page) -> None:
    boxes = [div for div in page.all("div") if div.get("class") == "scroll"]
    assert len(boxes) == len(page.all("table"))
    assert all(box["tabindex"] == "0" and box["role"] == "region" and box["aria-label"] for box in boxes)


def test_has_everything_asked_for(page: Page) -> None:
    titles = re.findall(r"<h2>(.*?)</h2>", page.source)
    sections = ["Differences", "Maps against decisions", "Mistakes", "Training", "Images", "Facts", "Words"]
    assert titles == ["Numbers", *sections]
    for fact in (
        "Squares",
        "04" * 32,
        "GradCAM(layer='features')",
        "torch 2.13.0",
        "objectives: ['ce', 'cfcn']",
        "Empty maps",
    ):
        assert fact in page.text


def test_marks_exactly_the_differences_whose_interval_leaves_out_zero(page: Page, made: Path) -> None:
    differences = [
        difference
        for split in ("test", "shifted")
        for of_metrics in comparison(made, split)["differences"].values()
        for difference in of_metrics.values()
    ]
    # One of each stands in the legend.
    assert page.source.count("▲") == 1 + sum(difference["low"] > 0 for difference in differences) > 1
    assert page.source.count("▼") == 1 + sum(difference["high"] < 0 for difference in differences)


def test_same_input_same_page(world: Path, tmp_path: Path) -> None:
    once, again = (build(both(world), tmp_path / name, images=2).read_text() for name in ("a.html", "b.html"))
    assert once == again


def test_escapes_every_name(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>&'
    scenes = [replace(scene, id=f"<i>{scene.id}", group="<u>g") for scene in draw_scenes(9)]
    classes = ("<b>cat", "dog&amp;", "owl'\"")
    audits = {
        name: write_audit(tmp_path / folder / "audit" / "test", scenes, run=name, split="<s>", classes=classes)
        for folder, name in (("a", "plain"), ("b", evil))
    }
    write_run(tmp_path / "b", ("<loss>",))
    page = Page(build([write_comparison(tmp_path / "c", audits)], tmp_path / "out.html", title="<h1>&"))
    assert not {tag for tag, _ in page.elements} & {"script", "i", "u", "s"}
    assert evil in page.text.replace(" ", "") or evil in page.text
    assert "<b>cat" in page.text
    assert "<h1>&" in page.text
    assert not page.all("loss")


# The gallery -------------------------------------------------------------------------------------------------------


def answer(correct: bool = True, truth: float | None = 0.9, ch: float | None = 0.5) -> Answer:
    return Answer("cat", "cat" if correct else "dog", correct, 0.9, truth, ch, False, "")


def test_sorted_by_correctness_then_by_spread() -> None:
    answers = {
        "same": [answer(), answer()],
        "map differs": [answer(ch=0.1), answer(ch=0.8)],
        "confidence differs": [answer(truth=0.95), answer(truth=0.6)],
        "both differ": [answer(truth=0.95, ch=0.1), answer(truth=0.6, ch=0.8)],
        "one is wrong": [answer(), answer(correct=False, truth=0.45)],
        "one is very wrong": [answer(), answer(correct=False, truth=0.01)],
        "both are very wrong": [answer(correct=False, truth=0.01), answer(correct=False, truth=0.01)],
    }
    assert order(answers) == [
        "one is very wrong",
        "one is wrong",
        "both differ",
        "map differs",
        "confidence differs",
        "both are very wrong",
        "same",
    ]


def test_sorting_works_without_masks_and_labels() -> None:
    answers = {"a": [answer(ch=None), answer(ch=0.9)], "b": [answer(truth=None), answer(ch=0.6)]}
    assert order(answers) == ["b", "a"]


def test_a_single_run_shows_its_mistakes_first() -> None:
    answers = {"sure": [answer()], "unsure": [answer(truth=0.4)], "wrong": [answer(correct=False, truth=0.3)]}
    assert order(answers) == ["wrong", "unsure", "sure"]


def test_the_page_follows_the_order(made: Path, page: Page) -> None:
    scores = [made / run / "audit/shifted/scores.csv" for run in RUNS]
    rows = [line.split(",") for file in scores for line in file.read_text().splitlines()[1:]]
    correct = {id: {row[4] for row in rows if row[0] == id} for id in {row[0] for row in rows}}
    shown = re.findall(r"<h4>Image (img-\d+)", page.source)[:12]
    differ = [len(correct[id]) == 2 for id in shown]
    assert len(shown) == 12
    assert differ == sorted(differ, reverse=True)
    assert any(differ)
    assert not all(differ)


def test_images_limits_the_rows(made: Path, tmp_path: Path) -> None:
    page = Page(build(both(made), tmp_path / "report.html", images=6))
    assert page.source.count("<h4>Image") == 6 + 2
    assert "6 of the 12 images" in page.text


def test_empty_maps_are_counted_beside_ch(world: Path, tmp_path: Path) -> None:
    path = world / "plain/audit/test/summary.json"
    path.write_text(path.read_text().replace('"empty_maps": 0', '"empty_maps": 17'))
    page = Page(build([both(world)[0]], tmp_path / "report.html", images=1))
    assert page.text.count(" 17 empty ") == 2
    assert "leaving out 17 empty maps" in page.text


def test_what_a_run_says_of_its_masks_stands_beside_its_recipe(world: Path, tmp_path: Path) -> None:
    path = world / "swap/run.json"
    data = {"name": "Habitats", "hash": "1", "images": 60, "masks_propagated": 54, "agreement": 0.4123}
    path.write_text(json.dumps({**json.loads(path.read_text()), "data": data}))
    page = Page(build(both(world), tmp_path / "report.html", images=1))
    assert page.text.count("1.4 minutes of training") == 3
    assert page.text.count("1.4 minutes of training; masks propagated 54; agreement 0.4123") == 1


def test_an_image_without_mask_has_no_ch(page: Page) -> None:
    assert "no mask, no CH" in page.text
    assert any("which has no mask" in (image["alt"] or "") for image in page.all("img"))


def decoded(uri: str) -> np.ndarray:
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    return np.asarray(Image.open(BytesIO(b64decode(uri.split(",")[1]))).convert("RGB")).astype(float)


def test_small_images_are_enlarged_into_crisp_squares() -> None:
    image = np.zeros((24, 24, 3), np.uint8)
    image[10, 7] = 255
    enlarged = decoded(pictures.plain(image)).mean(2)
    assert enlarged.shape == (288, 288)
    inside = enlarged[120:132, 84:96]
    assert inside.min() > 180
    assert enlarged.sum() == pytest.approx(inside.sum(), rel=0.1)


def test_large_images_are_reduced_and_keep_their_shape() -> None:
    image = np.full((600, 300, 3), 90, np.uint8)
    assert decoded(pictures.overlay(image, np.ones((5, 5)), np.ones((600, 300), np.uint8))).shape == (288, 144, 3)


def test_the_overlay_is_brightest_where_the_map_is_and_ignores_its_scale() -> None:
    image, map = np.full((48, 48, 3), 100, np.uint8), np.zeros((6, 6), np.float16)
    map[1, 4] = 1
    light = decoded(pictures.overlay(image, map)).mean(2)
    row, column = np.unravel_index(light.argmax(), light.shape)
    assert (row // 48, column // 48) == (1, 4)
    assert pictures.overlay(image, map) == pictures.overlay(image, map * np.float16(1e-3))


def test_an_empty_map_is_dark_and_no_error() -> None:
    image = np.full((48, 48, 3), 100, np.uint8)
    assert np.ptp(decoded(pictures.overlay(image, np.zeros((6, 6), np.float16)))) < 40


def test_the_outline_runs_around_the_mask() -> None:
    image, mask = np.full((48, 48, 3), 128, np.uint8), np.zeros((48, 48), np.uint8)
    mask[10:30, 10:30] = 1
    changed = np.abs(decoded(pictures.plain(image, mask)) - 128).mean(2) > 60
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert rows[[0, -1]].tolist() == pytest.approx([59, 180], abs=2)
    assert columns[[0, -1]].tolist() == pytest.approx([59, 180], abs=2)
    assert not changed[70:170, 70:170].any()


def test_the_page_stays_small_even_for_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3)).astype(np.uint8)
    views = len(pictures.overlay(noise, np.random.default_rng(1).random((6, 6))))
    assert 24 * (len(pictures.plain(noise)) + 4 * views) < 5_000_000


# The verdict -------------------------------------------------------------------------------------------------------


def difference(value: float | None, p: float | None = None, width: float = 0.02) -> Difference:
    return Difference(
        value, None if value is None else value - width, None if value is None else value + width, p, "test"
    )


def split(
    accuracy: Difference, ch: Difference, name: str = "shifted", plain: float = 0.31, level: float = 0.95
) -> read.Split:
    metrics = {
        "accuracy": {"plain": Estimate(plain, plain - 0.03, plain + 0.03, 1200)},
        "ch": {"plain": Estimate(0.15, 0.14, 0.16, 1200)},
    }
    audits = {run: read.Audit(Path(run), {"empty_maps": 0}) for run in ("plain", "new")}
    differences = {"new": {"accuracy": accuracy, "ch": ch}}
    return read.Split(name, audits, metrics, differences, "plain", level, {"images": 1200})


MOVED = {1: difference(0.2, 0.0001), 0: difference(0.005, 0.6), -1: difference(-0.2, 0.0001)}


@pytest.mark.parametrize(
    ("ch", "accuracy", "start", "conclusion"),
    [
        (1, 1, "answers 20.0 points more images of shifted correctly than plain", "map and decisions both improved"),
        (1, 0, "moves its map towards the evidence", "the map moved, the decisions did not measurably"),
        (1, -1, "answers 20.0 points fewer images", "a better map came with worse decisions"),
        (0, 1, "answers 20.0 points more images", "the decisions improved, the map does not show it"),
        (0, 0, "does not move its map measurably", "no difference could be shown"),
        (0, -1, "answers 20.0 points fewer images", "the decisions got worse, the map does not show it"),
        (-1, 1, "answers 20.0 points more images", "better decisions came with a worse map"),
        (-1, 0, "moves its map away from the evidence", "the map got worse, the decisions did not measurably"),
        (-1, -1, "answers 20.0 points fewer images", "map and decisions both got worse"),
    ],
)
def test_verdict_follows_the_signs(ch: int, accuracy: int, start: str, conclusion: str) -> None:
    _, sentence = verdict([split(MOVED[accuracy], MOVED[ch])])
    assert sentence.run == "new"
    assert sentence.said.startswith(start)
    assert sentence.conclusion == conclusion + "."
    assert (", but " in sentence.said) == (ch != accuracy)


def test_verdict_in_full() -> None:
    hard = split(difference(-0.01, 0.6), MOVED[-1])
    easy = split(difference(-0.03, 0.004), replace(difference(0.203, 0.00001), n=900), name="test", plain=0.9)
    easy.audits["plain"].summary["empty_maps"] = 300
    assert [str(sentence).replace("\xa0", " ") for sentence in verdict([easy, hard])] == [
        "plain answers 90.0 % of the images of test correctly, but only 31.0 % of shifted; "
        "15 % of its map on test lies on the evidence, leaving out 300 empty maps.",
        "new moves its map towards the evidence (+0.203 CH on test, p < 0.001, on the 900 images where both have one), "
        "but does not change accuracy on shifted measurably (−1.0 points, p = 0.60); "
        "on test it loses 3.0 points (p = 0.004): "
        "the map moved; decisions were not measurably different on shifted, worse on test.",
    ]


def test_one_answer_to_everything_is_told() -> None:
    of = split(MOVED[-1], MOVED[0])
    for run, share in (("plain", 1.0), ("new", 0.963)):
        of.audits[run].summary["one_answer"] = {"class": "pond", "share": share, "own": 0.25}
    assert [sentence.conclusion for sentence in verdict([of])] == [
        "It answers pond to 100 % of the images, whatever they show.",
        "the decisions got worse, the map does not show it. "
        "It answers pond to 96.3 % of the images, whatever they show.",
    ]


@pytest.mark.parametrize(("here", "remains"), [(0.4, True), (0.8, False)])
def test_a_gain_does_not_hide_the_gap_that_remains(here: float, remains: bool) -> None:
    easy, hard = split(MOVED[1], MOVED[1], name="test", plain=0.9), split(MOVED[1], MOVED[1])
    for one, value in ((easy, 0.95), (hard, here)):
        one.metrics["accuracy"]["new"] = Estimate(value, value - 0.03, value + 0.03, 1200)
    conclusion = verdict([easy, hard])[1].conclusion.replace("\xa0", " ")
    assert conclusion.startswith("map and decisions both improved.")
    expected = " Most of the gap between the splits remains: 40.0 % of shifted against 95.0 % of test."
    assert conclusion.endswith(expected) == remains


@pytest.mark.parametrize(
    ("here", "there", "conclusion"),
    [
        (1, 1, "map and decisions both improved."),
        (1, 0, "map and decisions both improved."),
        (1, -1, "the map moved; decisions were better on shifted, worse on test."),
        (0, 0, "the map moved, the decisions did not measurably."),
        (0, 1, "the map moved; decisions were not measurably different on shifted, better on test."),
        (-1, 1, "the map moved; decisions were worse on shifted, better on test."),
    ],
)
def test_a_gain_here_does_not_hide_a_loss_there(here: int, there: int, conclusion: str) -> None:
    splits = [split(MOVED[there], MOVED[1], name="test", plain=0.9), split(MOVED[here], MOVED[1])]
    assert verdict(splits)[1].conclusion == conclusion


def test_splits_that_agree_are_named_together() -> None:
    names = {"test": -1, "shifted": 1, "swapped": 1}
    splits = [split(MOVED[sign], MOVED[0], name, plain=0.9 - 0.1 * k) for k, (name, sign) in enumerate(names.items())]
    assert verdict(splits)[1].conclusion == (
        "the map did not move measurably; decisions were better on swapped and shifted, worse on test."
    )


def test_but_only_needs_intervals_apart() -> None:
    hard, easy = split(MOVED[0], MOVED[0], plain=0.80), split(MOVED[0], MOVED[0], name="test", plain=0.84)
    assert "correctly, and 80.0 % of shifted" in str(verdict([hard, easy])[0])


@pytest.mark.parametrize(
    "unsure",
    [
        Difference(0.03, 0.001, 0.06, 0.06, "test"),
        Difference(0.03, -0.001, 0.06, 0.04, "test"),
        Difference(0.03, None, None, None),
    ],
)
def test_interval_and_test_must_agree(unsure: Difference) -> None:
    assert "does not change accuracy" in str(verdict([split(unsure, MOVED[1])])[1])


def test_the_level_decides() -> None:
    borderline = difference(0.03, 0.03)
    assert "points more" in str(verdict([split(borderline, MOVED[0])])[1])
    assert "points more" not in str(verdict([split(borderline, MOVED[0], level=0.99)])[1])


def test_without_p_values_the_interval_is_named() -> None:
    assert "(95 % interval +18.0 to +22.0)" in str(verdict([split(difference(0.2), MOVED[0])])[1])


def test_without_masks_nothing_is_said_of_the_map() -> None:
    sentence = verdict([split(MOVED[1], difference(None))])[1]
    assert "has no CH to compare" in sentence.said
    assert sentence.conclusion == "nothing is known of the map; decisions were better on shifted."


def test_without_labels_nothing_is_said_of_the_decisions() -> None:
    sentence = verdict([split(difference(None), MOVED[1])])[1]
    assert (
        sentence.said
        == "moves its map towards the evidence (+0.200 CH, p\xa0<\xa00.001), but has no accuracy on shifted to compare:"
    )
    assert sentence.conclusion == "the map moved; nothing is known of the decisions."


def test_the_hardest_split_is_where_the_baseline_fails() -> None:
    easy, hard = split(MOVED[0], MOVED[0], name="test", plain=0.9), split(MOVED[0], MOVED[0])
    assert hardest([easy, hard]) is hardest([hard, easy]) is hard


def test_maps_are_judged_where_the_baseline_says_the_label() -> None:
    easy, hard = split(MOVED[0], MOVED[1], name="test", plain=0.9), split(MOVED[0], MOVED[-1])
    assert judged([hard, easy]) is easy
    del easy.metrics["ch"]
    assert judged([hard, easy]) is hard
    assert "moves its map away from the evidence (−0.200 CH on shifted" in str(verdict([easy, hard])[1])


def test_the_page_says_the_verdict(page: Page) -> None:
    said = page.text.replace("\xa0", " ")
    assert re.search(r"swap answers \d\d\.\d points more images of shifted correctly than plain \(p < 0\.001\)", said)
    assert re.search(
        r"cfcn moves its map towards the evidence .* the map moved, the decisions did not measurably\.", said
    )


# Charts ------------------------------------------------------------------------------------------------------------


def test_scatter_places_marks_by_value_and_skips_runs_without_ch() -> None:
    low, high = Estimate(0.1, 0.05, 0.15), Estimate(0.6, 0.55, 0.65)
    places = [charts.Place("a", low, high), charts.Place("b", high, low), charts.Place("c", Estimate(), low)]
    drawn = charts.scatter(places, {"a": 0, "b": 1, "c": 2}, "far", "test", 0.3, 0.25)
    assert drawn is not None
    line = re.search(r'x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)" class="path"', drawn)
    assert line
    ax, ay, bx, by = map(float, line.groups())
    assert ax < bx
    assert ay < by
    assert drawn.count('class="dot"') == 2
    assert ">even map<" in drawn
    assert ">chance<" in drawn
    assert ">chance<" not in str(charts.scatter(places[:1], {"a": 0}, "far", "test", 0.3, 0.25))
    assert charts.scatter(places[2:], {"c": 2}, "far", "test") is None


def test_every_colour_has_its_own_shape() -> None:
    from sightline.report.svg import COLOURS, outline

    assert len({outline(run, 0, 0, 5) for run in range(COLOURS)}) == COLOURS
    assert outline(COLOURS + 1, 0, 0, 5) == outline(1, 0, 0, 5)


def test_without_any_mask_the_page_shows_decisions_alone(tmp_path: Path) -> None:
    scenes = [replace(scene, has_mask=False, mask=np.zeros_like(scene.mask)) for scene in draw_scenes(9)]
    audit = write_audit(tmp_path / "audit", scenes)
    page = Page(build([audit], tmp_path / "report.html"))
    assert "No run has a CH, for no image carries a mask" in page.text
    assert "lies on the evidence" not in next(word for word in page.words if "of the images of test correctly" in word)


# Runs and curves ---------------------------------------------------------------------------------------------------


def test_curves_average_an_epoch_and_leave_out_what_is_no_result(tmp_path: Path) -> None:
    log = tmp_path / "metrics.csv"
    log.write_text(
        "step,epoch,loss,lr-SGD,ce_step,ce_epoch,val_accuracy\n1,0,2.0,0.1,5,,\n2,0,1.0,0.1,3,,\n2,0,,,,4,0.5\n3,1,nan,0.1,2,2,0.75\n"
    )
    assert read.read_curves(log) == {"loss": [(1, 1.5)], "ce": [(1, 4), (2, 2)], "val_accuracy": [(1, 0.5), (2, 0.75)]}


def test_a_damaged_log_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,epoch,loss\n1,0,2.0\n2,x,1.0\n")
    with pytest.raises(SightlineError, match=r"metrics\.csv, line 3"):
        read.read_curves(tmp_path / "metrics.csv")


def test_runs_are_found_beside_their_audits(page: Page) -> None:
    assert "cfcn over epochs: cfcn ends at" in page.source
    assert "sightline train runs/cfcn/recipe.yaml --out again/cfcn" in page.text
    assert "sightline compare again/plain again/cfcn again/swap" in page.text


def test_runs_given_are_matched_by_name_or_added(world: Path, tmp_path: Path) -> None:
    split = read.splits([both(world)[0]])
    moved, other = write_run(tmp_path / "elsewhere" / "cfcn"), write_run(tmp_path / "elsewhere" / "other")
    found = {run.name: run.folder for run in read.runs(split, [moved, other])}
    assert list(found) == ["plain", "cfcn", "swap", "other"]
    assert found["cfcn"] == moved
    assert found["other"] == other
    assert found["plain"] == tmp_path / "runs" / "plain"


def test_audits_without_a_run_still_give_a_report(tmp_path: Path) -> None:
    page = Page(build([write_audit(tmp_path / "scored", draw_scenes(9))], tmp_path / "report.html"))
    assert "no training log was found" in page.text
    assert "there are no commands to give" in page.text


# One audit, several audits, and files that are not there ---------------------------------------------------------


def test_a_single_audit_gives_a_report(world: Path, tmp_path: Path) -> None:
    page = Page(build([tmp_path / "runs/plain/audit/shifted"], tmp_path / "report.html", images=2))
    assert "Wrong answers come first" in page.text
    assert "baseline" not in page.text
    assert "▲" not in page.source


def test_single_audits_of_the_same_images_stand_side_by_side(world: Path, tmp_path: Path) -> None:
    audits = [tmp_path / f"runs/{run}/audit/{split}" for split in ("test", "shifted") for run in ("plain", "swap")]
    splits = read.splits(audits)
    assert [(split.name, list(split.audits)) for split in splits] == [
        ("test", ["plain", "swap"]),
        ("shifted", ["plain", "swap"]),
    ]
    assert "join them with sightline compare" in Page(build(audits, tmp_path / "report.html", images=1)).text


def test_audits_are_found_beside_the_comparison_or_from_where_we_are(world: Path, tmp_path: Path) -> None:
    content = comparison(world, "test")
    assert content["audits"][1] == "../../cfcn/audit/test"
    for written in (world / "cfcn/audit/test", Path("runs/cfcn/audit/test")):
        path = world / "comparison/test/comparison.json"
        path.write_text(json.dumps(content | {"audits": [content["audits"][0], str(written), content["audits"][2]]}))
        assert read.splits([path])[0].audits["cfcn"].folder.samefile(world / "cfcn/audit/test")


@pytest.mark.parametrize("file", ["gallery.npz", "scores.csv", "summary.json"])
def test_a_missing_file_is_named_and_nothing_is_written(file: str, world: Path, tmp_path: Path) -> None:
    (tmp_path / "runs/cfcn/audit/test" / file).unlink()
    name = re.escape(str(tmp_path / "runs/cfcn/audit/test")) if file == "scores.csv" else re.escape(file)
    with pytest.raises(SightlineError, match=name):
        build(both(world), tmp_path / "out" / "report.html")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"not an archive"])
def test_a_damaged_gallery_is_named(content: bytes, world: Path, tmp_path: Path) -> None:
    (tmp_path / "runs/cfcn/audit/test/gallery.npz").write_bytes(content)
    with pytest.raises(SightlineError, match=r"cannot read .*gallery\.npz"):
        build([both(world)[0]], tmp_path / "report.html")


def test_a_gallery_of_other_images_is_refused(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "runs/cfcn/audit/test/gallery.npz"
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {"id": np.array([f"other-{k}" for k in range(12)])}))
    with pytest.raises(SightlineError, match=r"gallery\.npz holds image 'other-0'"):
        build([both(world)[0]], tmp_path / "report.html")


def test_galleries_that_share_only_some_images_show_those(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "runs/cfcn/audit/test/gallery.npz"
    kept = {name: array[[2, 4, 7]] for name, array in np.load(path).items()}
    np.savez(path, **kept)
    page = Page(build([both(world)[0]], tmp_path / "report.html"))
    assert set(re.findall(r"<h4>Image (img-\d+)", page.source)) == {"img-002", "img-004", "img-007"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read .*comparison.json"),
        ("[]", 'no "kind"'),
        ('{"kind": "comparison"}', "is not what"),
        ('{"kind": "comparison", "runs": ["a"], "audits": [], "baseline": "a"}', "one audit for each run"),
    ],
)
def test_a_damaged_comparison_is_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(SightlineError, match=message):
        build([tmp_path], tmp_path / "report.html")


@pytest.mark.parametrize(
    ("key", "message"),
    [("explainer", "has no explainer"), ("data", "has no data.name, data.hash"), ("kind", 'no "kind"')],
)
def test_an_incomplete_summary_is_named(key: str, message: str, world: Path, tmp_path: Path) -> None:
    path = world / "plain/audit/test/summary.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))
    for source in (path.parent, both(world)[0]):
        with pytest.raises(SightlineError, match=rf"summary\.json .*{message}"):
            build([source], tmp_path / "report.html")


def test_different_explainers_are_pointed_out(world: Path, tmp_path: Path, page: Page) -> None:
    path = world / "cfcn/audit/test/summary.json"
    path.write_text(path.read_text().replace("layer='features'", "layer='last'"))
    assert "different explainers" in Page(build([both(world)[0]], tmp_path / "report.html", images=1)).text
    assert "different explainers" not in page.text


def test_bad_arguments_are_explained(world: Path, tmp_path: Path) -> None:
    with pytest.raises(SightlineError, match="no comparison given"):
        build([], tmp_path / "report.html")
    with pytest.raises(SightlineError, match="neither a comparison nor an audit"):
        build([tmp_path / "nowhere"], tmp_path / "report.html")
    with pytest.raises(SightlineError, match="images is 0"):
        build([both(world)[0]], tmp_path / "report.html", images=0)
    with pytest.raises(SightlineError, match="'test' was given more than once"):
        build([both(world)[0], both(world)[0]], tmp_path / "report.html")
    with pytest.raises(SightlineError, match=r"holds no metrics\.csv"):
        build([both(world)[0]], tmp_path / "report.html", runs=[tmp_path])
    with pytest.raises(SightlineError, match="cannot write"):
        build([both(world)[0]], tmp_path / "runs", images=1)


def test_never_imports_torch() -> None:
    code = "import sys, sightline.report; sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(filter(None, sys.path))})


def test_numbers_are_written_as_documented() -> None:
    import doctest

    from sightline.report import numbers, svg

    assert doctest.testmod(numbers).failed == doctest.testmod(svg).failed == 0
