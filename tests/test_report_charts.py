"""The report of audits with many metrics, explainers and curves: tables, charts, and how it opens in a browser."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from browser import COMPLAINTS, browser
from sightline import catalogue
from sightline.errors import SightlineError
from sightline.report import build, forest, lines, mistakes, pictures, read, tables, words
from sightline.report.gallery import gallery
from sightline.report.numbers import Difference, Estimate
from sightline.report.verdict import verdict
from test_report import CLASSES, Page, draw_scenes, write_audit, write_comparison, write_run

# A world of audits with everything ---------------------------------------------------------------------------------

RUNS = {"plain": 0.2, "cfcn": 0.5, "swap": 0.35, "gain": 0.6}
EXPLAINERS = {"GradCAM": "GradCAM(layer='features', elementwise=True)", "WBP": "WBP(layer='features')", "LRP": "LRP()"}
OF_MAP = ("ch", "pg", "spg", "iou", "insertion", "deletion", "topk", "cgc_loss", "sanity", "stability_brightness")
OF_IMAGE = ("fgsm", "pgd", "flips_background")
AXES = {
    "insertion": tuple(np.linspace(0, 1, 29)),
    "deletion": tuple(np.linspace(0, 1, 29)),
    "topk": (100.0, 500.0, 1000.0, 5000.0, 10000.0),
    "sanity": (0.25, 0.5, 0.75, 1.0),
    "stability_brightness": (0.5, 0.75, 1.25, 1.5),
    "flips_background": (1.0,),
    "fgsm": (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
    "pgd": (1.0, 2.0, 4.0, 8.0),
}


def scored(key: str, quality: float, generator: np.random.Generator) -> dict[str, Any]:
    """A metric's entry: better for better runs, whichever direction that is."""
    of = catalogue.metric(key)
    value = (0.2 + 0.6 * quality if of.higher else 0.8 - 0.6 * quality) + 0.03 * generator.normal()
    value *= 4 if of.span == "0 and up" else 1
    return {"value": value, "low": value - 0.03, "high": value + 0.03, "n": 60}


def drawn(key: str, quality: float) -> dict[str, Any]:
    """A metric's curve: rising or falling along its axis."""
    axis = AXES[key]
    way = np.linspace(0, 1, len(axis))
    mean = 0.1 + quality * (way if key in ("insertion", "topk") else 1 - way)
    return {"axis": list(axis), "mean": list(mean), "low": list(mean - 0.04), "high": list(mean + 0.04), "n": 60}


def enrich(audit: Path, quality: float) -> Path:
    """Add many metrics, several explainers and curves to an audit's summary."""
    generator = np.random.default_rng(7)
    path = audit / "summary.json"
    summary = json.loads(path.read_text())
    for suffix in ("", "@WBP", "@LRP"):
        summary["metrics"] |= {
            k + suffix: scored(k, quality, generator) for k in OF_MAP if k + suffix not in ("ch", "pg")
        }
        summary.setdefault("curves", {}).update({k + suffix: drawn(k, quality) for k in OF_MAP if k in AXES})
    summary["metrics"] |= {key: scored(key, quality, generator) for key in OF_IMAGE}
    summary["curves"] |= {key: drawn(key, quality) for key in OF_IMAGE}
    summary |= {"explainers": EXPLAINERS, "target": "label"}
    summary["scored_by"] = {key: f"{key.upper()}(option={len(key)})" for key in (*OF_MAP, *OF_IMAGE)}
    path.write_text(json.dumps(summary))
    return audit


def make_world(folder: Path, splits: Mapping[str, int], images: int = 60, kept: int = 12) -> list[Path]:
    """Runs, audits, comparisons and a matrix; what the report is to be made of."""
    for k, (split, seed) in enumerate(splits.items()):
        scenes = draw_scenes(images, seed)
        audits = {
            run: enrich(
                write_audit(
                    folder / run / "audit" / split, scenes, run=run, split=split, gallery=kept,
                    accuracy=0.9 - 0.4 * k * (1 - on_mask), on_mask=on_mask,
                ),
                on_mask - 0.1 * k,
            )
            for run, on_mask in RUNS.items()
        }  # fmt: skip
        write_comparison(folder / "comparison" / split, audits)
    for run in RUNS:
        write_run(folder / run, ("loss", "ce", "val_loss", *([run] if run != "plain" else [])), epochs=8)
    (folder / "matrix").mkdir()
    (folder / "matrix" / "matrix.json").write_text(json.dumps(fake_matrix()))
    return [folder / "comparison" / split for split in splits] + [folder / "matrix"]


def fake_matrix() -> dict[str, Any]:
    names = ("Herlev", "SIPaKMeD", "CRIC")
    value = {row: {column: 0.95 if row == column else 0.5 + 0.1 * k for k, column in enumerate(names)} for row in names}
    cells = {
        row: {
            column: {"value": v, "low": v - 0.02, "high": v + 0.02, "n": 300, "diagonal": row == column, "audit": "x"}
            for column, v in of.items()
        }
        for row, of in value.items()
    }
    del cells["CRIC"]["Herlev"]
    return {
        "kind": "matrix", "metric": "auroc", "level": 0.95, "rows": list(names), "columns": list(names), "cells": cells,
        "off_diagonal": {row: {"mean": 0.6, "n": len(of) - 1} for row, of in cells.items()},
    }  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_world(tmp_path_factory.mktemp("world") / "runs", {"test": 0, "shifted": 1})


@pytest.fixture(scope="module")
def page(made: list[Path]) -> Page:
    return Page(build(made, made[0].parents[2] / "report.html", images=3))


@pytest.fixture
def shifted(made: list[Path]) -> read.Split:
    return next(split for split in read.splits(made) if split.name == "shifted")


COLOURS = {run: k for k, run in enumerate(RUNS)}


# The page as a whole -----------------------------------------------------------------------------------------------


def test_has_a_section_for_everything(page: Page) -> None:
    assert re.findall(r"<h2>(.*?)</h2>", page.source) == [
        *("Numbers", "Differences", "Maps against decisions", "Curves", "Mistakes", "Across data"),
        *("Training", "Images", "Facts", "Words"),
    ]  # fmt: skip


def test_is_accessible_and_alone(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {(a["href"] or "")[1:] for a in page.all("a")} <= set(ids)
    drawn = [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in drawn)
    assert len([div for div in page.all("div") if div.get("class") == "scroll"]) == len(page.all("table"))
    assert not re.search(r"https?://|url\(|@import|<script", page.source)
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page.source).lower().split()


def test_every_metric_on_the_page_is_explained(page: Page) -> None:
    for key in (*OF_MAP, *OF_IMAGE, "accuracy", "worst_group", "auroc", "macro_f1"):
        of = catalogue.CATALOGUE[key]
        assert f'id="word-{key}"' in page.source
        assert f'href="#word-{key}"' in page.source
        assert of.shows in page.text
        assert of.cannot in page.text
    assert "SPG(option=3)" in page.text


# Tables ------------------------------------------------------------------------------------------------------------


def test_the_first_table_is_short_and_the_rest_is_by_theme(shifted: read.Split) -> None:
    main = tables.main([shifted])
    assert [metric.key for metric in main] == ["accuracy", "worst_group", "ch", "pg"]
    rest = {title: [metric.key for metric in metrics] for title, metrics in tables.rest(shifted, main).items()}
    assert rest == {
        "Decisions": ["macro_f1", "auroc"],
        "Where the map lies": ["spg", "iou"],
        "Whether the map is faithful": ["insertion", "deletion", "topk", "cgc_loss", "sanity"],
        "Robustness": ["fgsm", "pgd", "flips_background", "stability_brightness"],
    }


def test_unknown_metrics_stand_under_other(shifted: read.Split) -> None:
    assert tables.by_theme(["mine", "ch-2"]).keys() == {"Where the map lies", "Other"}


def test_explainers_stand_against_metrics(shifted: read.Split, page: Page) -> None:
    found = tables.of_explainers(shifted)
    assert found is not None
    assert [metric.key for metric in found.metrics] == list(OF_MAP)
    run, explainers = found.rows[1]
    assert run == "cfcn"
    assert [(name, metrics[0].key) for name, metrics in explainers] == [
        *(("GradCAM", "ch"), ("WBP", "ch@WBP"), ("LRP", "ch@LRP")),
    ]
    assert "Explainers on shifted" in page.text
    assert tables.of_explainers(read.Split("s", shifted.audits, {}, {}, "plain", 0.95, {})) is None


def test_what_is_better_when_lower_says_so(page: Page) -> None:
    assert re.search(r'class="up"><span aria-hidden="true">▼</span> −\d\.\d+ better<', page.source)
    assert not re.search(r'class="up"><span aria-hidden="true">▼</span> −[\d.]+<', page.source)


# The forest --------------------------------------------------------------------------------------------------------


def compared(**differences: Difference) -> read.Split:
    return read.Split("test", {}, {}, {"new": differences}, "plain", 0.95, {})


def bars(chart: str) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in re.findall(r'<line x1="([\d.]+)" x2="([\d.]+)"[^>]*class="bar"', chart)]


def zero(chart: str) -> float:
    return float(re.search(r'x1="([\d.]+)"[^>]*class="zero"', chart)[1])  # type: ignore[index]


def test_the_forest_points_to_the_better_side() -> None:
    fell = Difference(-0.2, -0.25, -0.1, 0.001, "paired bootstrap", 60)
    (chart,) = forest.forests(compared(deletion=fell, insertion=fell), ["deletion", "insertion"], {"new": 0})
    (insertion, deletion), middle = bars(chart), zero(chart)
    assert insertion[0] < insertion[1] < middle < deletion[0] < deletion[1]
    assert middle - insertion[0] == pytest.approx(deletion[1] - middle, abs=0.2)
    assert "Deletion, mirrored: lower is better: new −0.200 (−0.250 to −0.100, p\xa0=\xa00.001)" in chart
    assert "Insertion: new −0.200" in chart


def test_what_has_no_upper_end_has_its_own_scale() -> None:
    little, large = Difference(0.05, 0.02, 0.08, 0.01), Difference(-30.0, -40.0, -20.0, 0.01)
    shared, alone = forest.forests(compared(ch=little, cgc_loss=large), ["ch", "cgc_loss"], {"new": 0})
    assert "CH: new" in shared
    assert "CGC loss, mirrored" in alone
    (low, high), (a, b) = bars(shared)[0], bars(alone)[0]
    assert min(high - low, b - a) > 40


def test_the_forest_leaves_out_what_was_not_compared() -> None:
    undefined = Difference(None, None, None)
    assert forest.forests(compared(ch=undefined), ["ch", "pg"], {"new": 0}) == []
    assert len(forest.forests(compared(ch=Difference(0.1), pg=undefined), ["ch", "pg"], {"new": 0})) == 1


def test_every_difference_is_in_the_forest(made: list[Path], page: Page) -> None:
    content = json.loads((made[1] / "comparison.json").read_text())
    count = sum(len(of) for of in content["differences"].values())
    of_split = re.findall(r'aria-label="[^"]*: differences to plain on shifted\.(.*?)</svg>', page.source, re.DOTALL)
    assert sum(chart.count('class="dot"') for chart in of_split) == count


# Curves ------------------------------------------------------------------------------------------------------------


def test_curves_are_drawn_for_every_run(shifted: read.Split) -> None:
    keys = ["insertion", "deletion", "topk", "sanity", "stability_brightness", "fgsm", "pgd"]
    assert lines.drawn(shifted) == keys
    assert lines.drawn(shifted, others=True) == [f"{key}@{e}" for e in ("WBP", "LRP") for key in keys[:5]]
    chart = lines.metric_curve(shifted, "insertion", COLOURS)
    assert chart.count('class="curve"') == chart.count('class="band"') == len(RUNS)
    assert "plain 0.100 at 0, 0.150 at 0.5, 0.200 at 1, over 60 images" in chart


def test_the_band_is_the_interval(shifted: read.Split) -> None:
    chart = lines.metric_curve(shifted, "fgsm", COLOURS)
    curve, band = (re.search(rf'points="([^"]*)" class="{kind}"', chart)[1].split() for kind in ("curve", "band"))  # type: ignore[index]
    assert len(band) == 2 * len(curve) == 14
    low, line, high = (float(points.split(",")[1]) for points in (band[0], curve[0], band[-1]))
    assert high < line < low
    assert line - high == pytest.approx(low - line, abs=0.2)


def test_doublings_are_evenly_spaced(shifted: read.Split) -> None:
    chart = lines.metric_curve(shifted, "fgsm", COLOURS)
    places = [float(pair.split(",")[0]) for pair in re.search(r'points="([^"]*)" class="curve"', chart)[1].split()]  # type: ignore[index]
    assert np.diff(places) == pytest.approx(np.diff(places)[0], abs=0.2)
    for name in ("1", "2", "64", "accuracy, % ↑"):
        assert f">{name}<" in chart


def test_places_where_nothing_is_defined_are_left_out() -> None:
    line = lines.Line.of({"axis": [1, 2, 3], "mean": [0.5, None, 0.7], "low": [None] * 3, "high": [None] * 3, "n": 4})
    assert line == lines.Line([(1.0, 0.5), (3.0, 0.7)], [], [], 4)


# Training ----------------------------------------------------------------------------------------------------------


def test_every_term_is_plotted_beside_its_twin(page: Page) -> None:
    point = [(1.0, 2.0)]
    of_runs = {
        "a": {"val_loss": point, "ce": point, "loss": point, "val_accuracy": point},
        "b": {"loss": point, "ppi_ad": point, "val_ppi_ad": point},
    }
    found = [(one.title, list(one.trained), one.twin, list(one.validated)) for one in lines.logged(of_runs)]
    assert found == [
        ("loss", ["a", "b"], "", []),
        ("ce", ["a"], "val_loss", ["a"]),
        ("ppi_ad", ["b"], "val_ppi_ad", ["b"]),
        ("val_accuracy", ["a"], "", []),
    ]
    for term in ("loss", "ce", "cfcn", "swap", "gain", "val_accuracy"):
        assert f'aria-label="{term} over epochs' in page.source
    assert "val_loss over epochs: plain ends at" in page.source
    assert page.source.count('class="curve dashed"') == len(RUNS)


def test_validation_alone_is_still_plotted() -> None:
    assert [one.title for one in lines.logged({"a": {"val_loss": [(1.0, 2.0)]}})] == ["val_loss"]


# Mistakes ----------------------------------------------------------------------------------------------------------


def test_confusion_counts_what_the_scores_say(made: list[Path], shifted: read.Split) -> None:
    decided = gallery(shifted, 1).decided["cfcn"]
    of = mistakes.confusion("cfcn", CLASSES, decided)
    scores = pd.read_csv(shifted.audits["cfcn"].folder / "scores.csv")
    assert of.counts.tolist() == pd.crosstab(scores["label"], scores["prediction"]).to_numpy().tolist()
    assert of.shares.sum(1) == pytest.approx(1)


def test_confusion_of_few_classes_says_all_numbers() -> None:
    of = mistakes.confusion("new", CLASSES, {("cat", "cat"): 8, ("cat", "owl"): 2, ("owl", "owl"): 5})
    chart = mistakes.table(of, "test", 0)
    assert "cat: 8 cat, 2 owl; dog: no images; owl: 5 owl." in chart
    assert re.findall(r">(\d+)</text>", chart) == ["8", "2", "5"]
    opacity = [float(value) for value in re.findall(r'fill-opacity="([\d.]+)"', chart)]
    assert opacity == pytest.approx([0.46, 0.06, 0.16, 0.06, 0.06, 0.06, 0.06, 0.06, 0.56])


def test_many_classes_are_a_picture_and_the_worst_pairs() -> None:
    classes = [f"c{k}" for k in range(30)]
    decided = {(name, name): 10 for name in classes} | {("c3", "c4"): 7, ("c9", "c1"): 2}
    of = mistakes.confusion("new", classes, decided)
    assert not of.few
    assert of.pairs == [("c3", "c4", 7, 17), ("c9", "c1", 2, 12)]
    assert of.picture is not None
    opacity = np.asarray(decode(of.picture))[..., 3]
    assert opacity.shape == (30, 30)
    assert opacity[0, 0] == 255
    assert opacity[3, 4] == round(255 * (7 / 17) ** 0.5)
    assert opacity[4, 3] == 0


def decode(uri: str) -> Any:
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    return Image.open(BytesIO(b64decode(uri.split(",")[1])))


def test_a_prediction_that_is_no_class_is_named() -> None:
    with pytest.raises(SightlineError, match="'fox', which is no class"):
        mistakes.confusion("new", CLASSES, {("cat", "fox"): 1})


# Across data -------------------------------------------------------------------------------------------------------


def test_the_matrix_is_a_table_of_heat(made: list[Path], page: Page) -> None:
    (matrix,) = read.matrices(made)
    assert matrix.heat(matrix.rows["Herlev"]["Herlev"]) == 1
    assert matrix.heat(matrix.rows["SIPaKMeD"]["Herlev"]) == 0
    assert page.source.count('class="diagonal"') == 3
    assert page.source.count("--heat:") == 8
    assert "AUROC: models down, what they were audited on across" in page.text


def test_the_matrix_is_what_the_command_writes(made: list[Path], tmp_path: Path) -> None:
    from sightline.matrix import matrix

    folder = made[0].parents[1]
    written = matrix([folder / run / "audit" / s for run in RUNS for s in ("test", "shifted")], "ch@WBP", tmp_path)
    (found,) = read.matrices([tmp_path])
    assert found.metric.title == "CH, WBP"
    assert found.rows["cfcn"]["test"].estimate.value == written["cells"]["cfcn"]["test"]["value"]
    assert found.means["cfcn"].n == 2


def test_a_damaged_matrix_is_named(tmp_path: Path) -> None:
    (tmp_path / "matrix.json").write_text('{"kind": "matrix", "metric": "ch"}')
    with pytest.raises(SightlineError, match=r"matrix\.json is not what `sightline matrix` writes"):
        read.matrices([tmp_path])


def test_a_matrix_alone_is_no_report(made: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SightlineError, match="no comparison given"):
        build([made[-1]], tmp_path / "report.html")


def test_splits_of_different_data_are_told_apart(tmp_path: Path) -> None:
    audits = [write_audit(tmp_path / name, draw_scenes(9, k)) for k, name in enumerate(("a", "b"))]
    for name, audit in zip(("Herlev", "CRIC"), audits, strict=True):
        summary = json.loads((audit / "summary.json").read_text())
        summary["data"]["name"] = name
        (audit / "summary.json").write_text(json.dumps(summary))
    assert {split.name for split in read.splits(audits)} == {"Herlev/test", "CRIC/test"}


# The gallery -------------------------------------------------------------------------------------------------------


def test_maps_of_an_image_share_one_scale() -> None:
    image, flat, sharp = np.full((48, 48, 3), 100, np.uint8), np.ones((6, 6)), np.zeros((6, 6))
    sharp[1, 4] = 36
    bright, even = (np.asarray(decode(pictures.overlay(image, map, top=36.0)).convert("L")) for map in (sharp, flat))
    assert bright.max() > 150
    assert even.max() < 60
    twice = np.asarray(decode(pictures.overlay(image, 2 * flat, top=2.0)).convert("L"))
    assert twice.min() > 150


def test_the_scale_of_an_image_is_its_densest_map(shifted: read.Split) -> None:
    row = gallery(shifted, 1).rows[0]
    maps = {}
    for run, audit in shifted.audits.items():
        with np.load(audit.folder / "gallery.npz") as file:
            maps[run] = file["map"][list(file["id"]).index(row.id)].astype(float)
    assert row.top == pytest.approx(max(map.max() / map.mean() for map in maps.values()))


def test_an_image_with_empty_maps_has_no_scale(tmp_path: Path) -> None:
    audit = write_audit(tmp_path / "audit", draw_scenes(3))
    arrays = dict(np.load(audit / "gallery.npz"))
    np.savez(audit / "gallery.npz", **(arrays | {"map": np.zeros_like(arrays["map"])}))
    assert "× even</small>" not in build([audit], tmp_path / "report.html").read_text()


# Audits of other kinds ---------------------------------------------------------------------------------------------


def several(folder: Path, run: str, f1: float) -> Path:
    """The audit of a multi-label run: rows per image and class, no accuracy, no CH."""
    audit = write_audit(folder, draw_scenes(9), run=run)
    scores = pd.read_csv(audit / "scores.csv").drop(columns=["ch", "pg"])
    scores.insert(2, "image", scores["id"])
    scores["id"] = scores["id"] + "#" + scores["label"]
    scores["prediction"] = scores["label"].where(scores["correct"] == 1, "")
    scores.to_csv(audit / "scores.csv", index=False)
    arrays = dict(np.load(audit / "gallery.npz"))
    np.savez(audit / "gallery.npz", **(arrays | {"id": np.array(list(scores["id"]))}))
    summary = json.loads((audit / "summary.json").read_text())
    entry = {"value": f1, "low": f1 - 0.05, "high": f1 + 0.05, "n": 9}
    summary["metrics"] = {"f1_per_class": entry, "f1_overall": entry, "auroc": entry}
    (audit / "summary.json").write_text(json.dumps(summary))
    return audit


def test_several_labels_per_image_make_a_report(tmp_path: Path) -> None:
    audits = {run: several(tmp_path / run, run, f1) for run, f1 in (("plain", 0.5), ("new", 0.8))}
    page = Page(build([write_comparison(tmp_path / "c", audits)], tmp_path / "report.html"))
    said = page.text.replace("\xa0", " ")
    assert "plain reaches F1-Overall 0.500 on test." in said
    assert "new raises F1-Overall on test by 0.300 (p < 0.001): nothing is known of the map" in said
    assert "CH is not among the metrics" in said
    assert "Mistakes" not in page.text
    assert "With CH" not in page.text
    assert re.search(r"✓ found cat , \d+ %", said)
    assert any("It does not find" in (image["alt"] or "") for image in page.all("img"))


def test_the_verdict_on_several_labels_in_full() -> None:
    def split(name: str, value: float, difference: float) -> read.Split:
        metrics = {"f1_overall": {run: Estimate(value, value - 0.01, value + 0.01, 90) for run in ("plain", "new")}}
        differences = {"new": {"f1_overall": Difference(difference, difference - 0.01, difference + 0.01, 0.0001)}}
        audits = {run: read.Audit(Path(run), {"empty_maps": 0}) for run in ("plain", "new")}
        return read.Split(name, audits, metrics, differences, "plain", 0.95, {"images": 90})

    assert [str(one).replace("\xa0", " ") for one in verdict([split("test", 0.9, -0.05), split("far", 0.4, 0.2)])] == [
        "plain reaches F1-Overall 0.900 on test, but only 0.400 on far.",
        "new raises F1-Overall on far by 0.200 (p < 0.001); on test it loses 0.050 (p < 0.001): nothing is known of "
        "the map; decisions were better on far, worse on test. Most of the gap between the splits remains: 0.400 on "
        "far against 0.900 on test.",
    ]


def test_other_metrics_than_the_usual_make_a_report(tmp_path: Path) -> None:
    audit = write_audit(tmp_path / "audit", draw_scenes(9))
    scores = pd.read_csv(audit / "scores.csv").drop(columns=["pg"]).rename(columns={"ch": "mine"})
    scores.to_csv(audit / "scores.csv", index=False)
    summary = json.loads((audit / "summary.json").read_text())
    summary["metrics"] = {"mine" if key == "ch" else key: of for key, of in summary["metrics"].items() if key != "pg"}
    (audit / "summary.json").write_text(json.dumps(summary))
    page = Page(build([audit], tmp_path / "report.html"))
    assert "A metric that this page knows only by its name." in page.text
    assert words.anchor("mine") == "word-mine"


# In a browser ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_opens_at_once_and_asks_for_nothing(tmp_path: Path) -> None:
    made = make_world(tmp_path / "runs", {"test": 0, "shifted": 1}, images=80, kept=64)
    report = build(made, tmp_path / "report.html", images=64)
    assert report.stat().st_size < 10_000_000
    with browser(tmp_path / "profile") as tab:
        times = []
        for _ in range(3):
            times.append(tab.open(report))
            assert all(url.startswith(("file:", "data:")) for url in tab.requested)
            assert not tab.said(*COMPLAINTS)
        assert min(times) < 2000
        for width in (1280, 390):
            tab.look(width)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
