"""Scores as files and as numbers, and comparisons: small audits on disk, joined, tested and refused."""

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from sightline import catalogue, stats
from sightline.compare import compare, lost, table
from sightline.errors import SightlineError
from sightline.files import write_json
from sightline.scores import Sample, read_scores, samples, summarise, summarise_curves, write_scores
from sightline.stats.resampling import _jackknife

CLASSES = ["0", "NA", "cow, brown"]
HASH = "c0ffee" * 10 + "abcd"


def scores(count: int = 60, skill: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """The answers of a model to the same questions for every skill and seed, which decide how well it does."""
    world, own = np.random.default_rng(11), np.random.default_rng(seed)
    label, place = world.integers(0, 3, count), world.integers(0, 4, count)
    masked = np.arange(count) % 10 != 3
    logits = own.normal(size=(count, 3)) + skill * np.eye(3)[label]
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    top = odds.argmax(1)
    empty = own.random(count) < 0.05
    ch = np.where(masked & ~empty, own.beta(1 + skill, 2, count), np.nan).astype(np.float32)
    names = np.array(CLASSES)
    return pd.DataFrame(
        {
            "id": [f"{k:04d}" for k in range(count)],
            "index": range(count),
            "label": names[label],
            "prediction": names[top],
            "correct": (top == label).astype(int),
            "confidence": odds.max(1),
            "group": [("", "None", "1/2", "null")[k] for k in place],
            "has_mask": masked.astype(int),
            "ch": ch,
            "pg": np.where(np.isnan(ch), np.nan, ch > 0.5),
            "empty_map": empty.astype(int),
        }
        | {f"p_{name}": odds[:, k] for k, name in enumerate(CLASSES)}
    )


def audit(folder: Path, frame: pd.DataFrame, run: str = "plain", file: str = "scores.csv", **changes: Any) -> Path:
    """An audit directory as `sightline audit` leaves it."""
    summary = {
        "kind": "audit",
        "run": run,
        "split": "test",
        "explainer": "GradCAM()",
        "target": "label",
        "scored_by": {"ch": "ContentHeatmap()", "pg": "PointingGame(margin=15.0)"},
        "data": {"name": "Cows", "hash": HASH, "images": len(frame), "classes": CLASSES},
        **summarise(frame, CLASSES),
    }
    write_scores(folder / file, frame)
    write_json(folder / "summary.json", summary | changes)
    return folder


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [audit(tmp_path / "a", scores()), audit(tmp_path / "b", scores(skill=2.5, seed=1), run="guided")]


def without(frame: pd.DataFrame, *ids: str) -> pd.DataFrame:
    return frame[~frame["id"].isin(ids)]


# Scores as files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["scores.csv", "scores.parquet"])
def test_scores_come_back_as_they_were(tmp_path: Path, file: str) -> None:
    if file.endswith("parquet"):
        pytest.importorskip("pyarrow")
    frame = scores()
    write_scores(tmp_path / file, frame)
    back = read_scores(tmp_path)
    pd.testing.assert_frame_equal(back, frame.astype({"ch": "float64"}), check_dtype=False, check_exact=True)
    assert set(back["group"]) == {"", "None", "1/2", "null"}
    assert back["id"][12] == "0012"
    assert summarise(back, CLASSES) == summarise(frame, CLASSES)


def test_a_csv_holds_whole_numbers_and_empty_cells(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.csv", scores())
    rows = list(csv.DictReader((tmp_path / "scores.csv").open(newline="")))
    assert {row["pg"] for row in rows} == {"0", "1", ""}
    assert {row["correct"] for row in rows} == {row["has_mask"] for row in rows} == {"0", "1"}


def test_the_other_format_is_replaced(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for name in ("scores.parquet", "scores.csv", "scores.parquet"):
        write_scores(tmp_path / name, scores())
        assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("use", ["read", "write"])
def test_a_missing_extra_prints_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str) -> None:
    (tmp_path / "scores.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SightlineError, match=r'pip install "sightline\[parquet\]"'):
        read_scores(tmp_path) if use == "read" else write_scores(tmp_path / "scores.parquet", scores())


def test_scores_have_two_formats(tmp_path: Path) -> None:
    with pytest.raises(SightlineError, match=r"scores.xlsx: expected a name that ends in .csv or .parquet"):
        write_scores(tmp_path / "scores.xlsx", scores())
    with pytest.raises(SightlineError, match=r"neither scores.csv nor scores.parquet"):
        read_scores(tmp_path)
    for name in ("scores.csv", "scores.parquet"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(SightlineError, match="Delete the one that is out of date"):
        read_scores(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda frame: frame.drop(columns=["ch", "group"]), "has no column group"),
        (lambda frame: frame.assign(correct="yes"), "column correct holds what is no number"),
        (lambda frame: frame.assign(p_0=""), "column p_0 holds what is no number"),
        (lambda frame: pd.concat([frame, frame[7:9]]), "names image '0007' more than once"),
    ],
)
def test_damaged_scores_are_named(tmp_path: Path, damage: Any, message: str) -> None:
    damage(scores()).to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(SightlineError, match=f"scores.csv.*{message}"):
        read_scores(tmp_path)


@pytest.mark.parametrize("content", [b"", b"id,index\n1,2,3\n", b"\xff\xfe\xff"])
def test_unreadable_scores_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scores.csv").write_bytes(content)
    with pytest.raises(SightlineError, match=r"scores.csv"):
        read_scores(tmp_path)


# Scores as numbers --------------------------------------------------------------------------------------------------


def test_a_summary_by_other_means() -> None:
    frame = scores(200)
    found, odds = summarise(frame, CLASSES), frame[[f"p_{name}" for name in CLASSES]]
    expected = {
        "accuracy": frame["correct"].mean(),
        "macro_f1": f1_score(frame["label"], frame["prediction"], average="macro"),
        "auroc": roc_auc_score(frame["label"], odds, multi_class="ovr", labels=CLASSES),
        "worst_group": frame[frame["group"] != ""].groupby("group")["correct"].mean().min(),
        "worst_class": frame.groupby("label")["correct"].mean().min(),
        "ch": frame["ch"].mean(),
        "pg": frame["pg"].mean(),
    }
    assert list(found["metrics"]) == list(expected)
    for metric, value in expected.items():
        entry = found["metrics"][metric]
        assert entry["value"] == pytest.approx(value, rel=1e-6), metric
        assert 0 <= entry["low"] < entry["value"] < entry["high"] <= 1, metric
    assert [found["metrics"][metric]["n"] for metric in ("accuracy", "ch", "pg")] == [200, *[frame["ch"].count()] * 2]
    assert found["empty_maps"] == frame["empty_map"].sum()
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(("answers", "own", "told"), [(95, 79, True), (94, 79, False), (95, 80, False)])
def test_one_answer_is_told_from_an_easy_split(answers: int, own: int, told: bool) -> None:
    number = np.arange(100)
    frame = scores(100).assign(
        prediction=np.where(number < answers, CLASSES[1], CLASSES[0]), label=np.where(number < own, *CLASSES[1::-1])
    )
    one = {"class": CLASSES[1], "share": answers / 100, "own": own / 100}
    assert summarise(frame, CLASSES)["one_answer"] == (one if told else None)


def test_worst_group_by_hand() -> None:
    frame = scores(14).assign(
        group=["small"] * 2 + ["good"] * 6 + ["bad"] * 5 + [""],
        correct=[0, 0] + [1] * 5 + [0] + [1, 1, 1, 0, 0] + [0],
    )
    found = summarise(frame, CLASSES)
    wilson = stats.proportion_interval(3, 5)
    worst = {"value": 0.6, "low": wilson.low, "high": wilson.high, "n": 5, "group": "bad", "left_out": 2}
    assert found["metrics"]["worst_group"] == worst
    assert found["groups"]["small"] == {"accuracy": 0.0, "n": 2}
    assert set(found["groups"]) == {"small", "good", "bad"}
    assert summarise(frame, CLASSES, min_group=2)["metrics"]["worst_group"]["group"] == "small"


def test_what_is_not_defined_is_none() -> None:
    frame = scores(4).assign(group="", ch=np.nan, pg=np.nan, label="0", prediction="0")
    found = summarise(frame, CLASSES)
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    assert found["metrics"]["worst_group"] is None
    assert found["metrics"]["ch"] == found["metrics"]["pg"] == nothing
    assert found["metrics"]["auroc"] == nothing | {"n": 4}
    assert found["groups"] == {}
    assert summarise(frame[:0], CLASSES)["metrics"]["accuracy"] == nothing


def test_the_order_of_the_rows_does_not_matter() -> None:
    frame = scores()
    assert summarise(frame.sample(frac=1, random_state=3), CLASSES) == summarise(frame, CLASSES)


def test_level_and_seed_change_the_intervals() -> None:
    usual, wide, other = (summarise(scores(), CLASSES, **k)["metrics"] for k in ({}, {"level": 0.99}, {"seed": 1}))
    for metric in usual:
        assert wide[metric]["low"] <= usual[metric]["low"] < usual[metric]["high"] <= wide[metric]["high"]
    assert usual["macro_f1"] != other["macro_f1"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (scores().assign(label="na"), r"label 'na' is not one of the classes"),
        (scores().assign(prediction="cow, browm"), r"prediction 'cow, browm'.*Did you mean 'cow, brown'\?"),
        (scores().drop(columns="p_NA"), "no column p_NA"),
    ],
)
def test_scores_must_fit_the_classes(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        summarise(frame, CLASSES)


def test_large_data_are_resampled_less_often() -> None:
    assert samples(scores(), CLASSES)["auroc"].resamples == stats.RESAMPLES
    assert Sample(np.broadcast_to(0.0, (2000, 1000))).resamples == 500
    assert Sample(np.broadcast_to(0.0, (50_000, 1000))).resamples == 200


def test_rows_of_one_image_are_resampled_together() -> None:
    """Ten classes an image, all scored alike: no more is known than from one class of each."""
    few = scores(60).drop(columns=["ch", "pg"])
    hit = np.random.default_rng(5).random(60)
    images = few.assign(image=few["id"], ch=hit, pg=(hit > 0.5).astype(float))
    many = pd.concat([images.assign(id=images["id"] + f":{k}") for k in range(10)])
    many.loc[many["id"] == "0000:3", "ch"] = np.nan
    frames = {rows: frame.assign(index=range(len(frame))) for rows, frame in ((1, images), (10, many))}
    found = {rows: summarise(frame, CLASSES)["metrics"] for rows, frame in frames.items()}
    for metric in ("ch", "pg"):
        one, ten = found[1][metric], found[10][metric]
        assert ten["n"] == one["n"] == 60
        assert ten["value"] == pytest.approx(frames[10][metric].mean(), rel=1e-9)
        assert ten["high"] - ten["low"] == pytest.approx(one["high"] - one["low"], rel=0.2)
    whole = Sample(np.arange(7.0), image=np.array([0, 0, 1, 1, 1, 2, 2])).among(np.arange(7) != 3)
    left_out = [np.delete(np.array([0, 1, 2, 4, 5, 6.0]), rows).mean() for rows in ([0, 1], [2, 3], [4, 5])]
    np.testing.assert_allclose(_jackknife(whole.data, whole.statistic), left_out)
    curves = np.stack([frames[10]["pg"], frames[10]["ch"]], 1)
    told = summarise_curves({"x": ((0.0, 1.0), curves)}, image=pd.factorize(frames[10]["image"])[0])["x"]
    assert told["n"] == 60
    assert told["mean"][0] == pytest.approx(curves[~np.isnan(curves).any(1), 0].mean())
    assert told["high"][0] - told["low"][0] == pytest.approx(found[1]["pg"]["high"] - found[1]["pg"]["low"], rel=0.2)


# Comparisons --------------------------------------------------------------------------------------------------------


def test_a_comparison_says_what_it_should(two: list[Path], tmp_path: Path) -> None:
    found = compare(two, tmp_path / "out" / "test")
    assert found == json.loads((tmp_path / "out" / "test" / "comparison.json").read_text())
    assert (found["kind"], found["split"], found["level"], found["baseline"]) == ("comparison", "test", 0.95, "plain")
    assert found["runs"] == ["plain", "guided"]
    assert found["audits"] == ["../../a", "../../b"]
    assert found["data"]["hash"] == HASH
    of_a, of_b = (json.loads((folder / "summary.json").read_text())["metrics"] for folder in two)
    assert found["metrics"] == {metric: {"plain": of_a[metric], "guided": of_b[metric]} for metric in of_a}
    assert list(found["differences"]) == ["guided"]
    for metric, entry in found["differences"]["guided"].items():
        assert entry["test"] == ("McNemar exact" if metric in ("accuracy", "pg") else "paired bootstrap")
        assert entry["low"] <= entry["value"] <= entry["high"]
        assert 0 < entry["p"] <= 1
        if metric not in ("ch", "pg"):  # those are over the images where both define them
            assert entry["value"] == pytest.approx(of_b[metric]["value"] - of_a[metric]["value"])


def test_differences_by_hand(tmp_path: Path) -> None:
    first, second = scores(30), scores(30)
    first["correct"] = [1] * 12 + [0] * 18
    second["correct"] = [0] * 2 + [1] * 10 + [1] * 9 + [0] * 9
    first.loc[[0, 1], "ch"], second.loc[[1, 2], "ch"] = np.nan, np.nan
    found = compare([audit(tmp_path / "a", first), audit(tmp_path / "b", second)], tmp_path)["differences"]["plain (2)"]
    accuracy = found["accuracy"]
    assert (accuracy["b"], accuracy["c"], accuracy["n"]) == (2, 9, 30)
    assert accuracy["value"] == pytest.approx(7 / 30)
    assert accuracy["p"] == pytest.approx(2 * (1 + 11 + 55) / 2**11)
    both = first["ch"].notna() & second["ch"].notna()
    assert found["ch"]["n"] == both.sum() < first["ch"].count()
    assert (found["ch"]["value"], found["ch"]["p"]) == (0, 1)


def test_rows_are_joined_by_id(two: list[Path], tmp_path: Path) -> None:
    straight = compare(two, tmp_path / "straight")
    shuffled = audit(tmp_path / "shuffled", read_scores(two[1]).sample(frac=1, random_state=5), run="guided")
    joined = compare([two[0], shuffled], tmp_path / "joined")
    assert joined["differences"] == straight["differences"]
    assert joined["metrics"] == straight["metrics"]


def test_a_run_against_itself_does_not_differ(two: list[Path], tmp_path: Path) -> None:
    found = compare([two[0], two[0], two[1]], tmp_path)
    assert found["runs"] == ["plain", "plain (2)", "guided"]
    for entry in found["differences"]["plain (2)"].values():
        assert (entry["value"], entry["low"], entry["high"], entry["p"]) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["x", "y", "z"], ["x", "y", "z"]), (["x", "x", "x (2)"], ["x", "x (2)", "x (2) (2)"])],
)
def test_names_are_unique(two: list[Path], tmp_path: Path, names: list[str], expected: list[str]) -> None:
    found = compare([*two, two[1]], tmp_path, names=names)
    assert found["runs"] == expected
    assert list(found["metrics"]["accuracy"]) == expected


def test_runs_without_masks_and_groups_compare_as_well(tmp_path: Path) -> None:
    frame = scores().assign(group="", ch=np.nan, pg=np.nan)
    found = compare([audit(tmp_path / "a", frame), audit(tmp_path / "b", frame, run="b")], tmp_path)
    for metric in ("ch", "pg", "worst_group"):
        entry = found["differences"]["b"][metric]
        assert [entry[key] for key in ("value", "low", "high", "p", "n")] == [None, None, None, None, 0]
    assert found["metrics"]["worst_group"] == {"plain": None, "b": None}
    assert "CH" not in table(found)


def test_what_is_lost_to_the_background(tmp_path: Path) -> None:
    same, swapped = scores(skill=2.5), scores(skill=0.5, seed=1)
    audits = [audit(tmp_path / f"test_{name}", frame) for name, frame in (("same", same), ("swapped", swapped[::-1]))]
    audits += [audit(tmp_path / "val_same", same), audit(tmp_path / "val_swapped", without(swapped, "0003"))]
    found = lost([*audits, audit(tmp_path / "shifted", same)])
    assert list(found) == ["test"]  # other images, or no pair
    assert found["test"]["value"] == pytest.approx(same["correct"].mean() - swapped["correct"].mean())
    assert found["test"]["low"] > 0
    assert found["test"]["p"] == pytest.approx(stats.mcnemar(swapped["correct"], same["correct"]).p)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": {"name": "Goats", "hash": "beef" * 16, "classes": CLASSES}},
            r"different data: Cows \(.*Goats \(",
        ),
        ({"split": "shifted"}, "differ in their split: 'test' and 'shifted'"),
        (
            {"scored_by": {"pg": "PointingGame(margin=3.0)"}},
            r"hold other metrics: ch only in the first; PointingGame\(margin=15.0\) and PointingGame\(margin=3.0\)",
        ),
        ({"target": "prediction"}, "differ in their target"),
    ],
)
def test_audits_that_cannot_be_compared_are_refused(
    two: list[Path], tmp_path: Path, changes: Mapping[str, Any], message: str
) -> None:
    third = audit(tmp_path / "c", scores(), run="other", **changes)
    with pytest.raises(SightlineError, match=f"a and .*c .*{message}"):
        compare([*two, third], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_different_images_are_counted(tmp_path: Path) -> None:
    a = audit(tmp_path / "a", without(scores(), "0041"))
    b = audit(tmp_path / "b", without(scores(), "0012", "0013"))
    with pytest.raises(SightlineError, match=r"2 \(such as '0012'\) only in the first, 1 \(such as '0041'\) only in"):
        compare([a, b], tmp_path)
    whole = audit(tmp_path / "whole", scores())
    with pytest.raises(SightlineError, match=r"0 only in the first, 1 \(such as '0041'\) only in the second"):
        compare([a, whole], tmp_path)


def test_mistakes_are_named(two: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SightlineError, match="needs two audits or more, got 1"):
        compare(two[:1], tmp_path)
    with pytest.raises(SightlineError, match="1 names for 2 audits"):
        compare(two, tmp_path, names=["x"])
    with pytest.raises(SightlineError, match="level=95"):
        compare(two, tmp_path, level=95)
    with pytest.raises(SightlineError, match=r"nowhere.summary.json does not exist"):
        compare([*two, tmp_path / "nowhere"], tmp_path)
    (two[1] / "summary.json").write_text('{"run": "plain", "split": "test", "data": {}}')
    with pytest.raises(SightlineError, match=r"b.summary.json has no data.hash, data.classes"):
        compare(two, tmp_path)


# The table ------------------------------------------------------------------------------------------------------------


def test_the_table(two: list[Path], tmp_path: Path) -> None:
    long = audit(tmp_path / "c", scores(seed=4), run="a_run_with_a_name_that_never_ends", explainer="GradCAM('x')")
    found = compare([*two, long], tmp_path)
    text = table(found)
    head, _, titles, plain, guided, other, *_ = text.splitlines()
    assert head == "Cows, test: 60 images; baseline plain"
    assert titles.split() == ["Accuracy", "%", "Macro-F1", "AUROC", "Worst", "group", "%", "CH", "PG", "%"]
    accuracy = found["metrics"]["accuracy"]["guided"]
    half = 50 * (accuracy["high"] - accuracy["low"])
    assert f"{100 * accuracy['value']:.1f} ±{half:.1f}*" in guided
    assert "*" not in plain
    assert found["differences"]["guided"]["accuracy"]["low"] > 0
    assert other.startswith("a_run_w…er_ends ")
    assert "maps of different explainers: plain GradCAM(); guided GradCAM(); a_run" in text
    assert all(len(line) <= 100 for line in text.splitlines()[:-1])


def test_the_table_stars_what_excludes_zero_and_nothing_else(two: list[Path], tmp_path: Path) -> None:
    found = compare(two, tmp_path)
    for metric, (low, high) in {"accuracy": (-0.1, 0.2), "ch": (-0.3, -0.1), "pg": (0.0, 0.2)}.items():
        found["differences"]["guided"][metric] |= {"low": low, "high": high}
    for metric in ("macro_f1", "auroc", "worst_group"):
        found["differences"]["guided"][metric] |= {"low": None, "high": None}
    found["metrics"]["macro_f1"]["guided"] = {"value": 1.0, "low": None, "high": None, "n": 1}
    found["metrics"]["auroc"]["guided"] = {"value": None, "low": None, "high": None, "n": 0}
    starred = [cell for cell in table(found).splitlines()[4].split("  ") if "*" in cell]
    assert len(starred) == 1
    assert starred[0].strip().startswith(f"{found['metrics']['ch']['guided']['value']:.3f} ±.")
    assert " 1.000 " in table(found)
    assert " – " in table(found)


def test_compare_never_loads_torch() -> None:
    code = f"import sys; sys.path[:0] = {sys.path}; import sightline.compare; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_many_metrics_stand_below_each_other(two: list[Path], tmp_path: Path) -> None:
    found = compare(two, tmp_path / "out")
    shown = [key for key in found["metrics"] if key != "worst_class"]
    few = table(found).splitlines()
    entry = found["metrics"][shown[0]]
    found["metrics"] |= {f"{key}_x": entry for key in shown} | {"deletion": entry}
    many = table(found).splitlines()
    assert few[3].split()[0] == many[2].split()[0]
    assert [line.split("  ")[0] for line in many[3 : 3 + len(shown)]] == [
        catalogue.metric(key).heading for key in shown
    ]
    assert any(line.startswith("Deletion ↓ ") for line in many)
