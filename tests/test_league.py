"""Leagues: what is missing is run, what was killed is resumed, what fails is named."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import league
import league_figure
import pytest
import results
import table
import yaml
from filelock import FileLock, Timeout

from sightline import recipe
from sightline.errors import SightlineError
from trees.registry import noise, rectangle, save, write

ROOT = Path(__file__).parents[1]
LEAGUES = sorted((ROOT / "recipes" / "league").glob("*.yaml"))
PICTURES = sorted((ROOT / "recipes" / "league").glob("*.svg"))
TINY = """
data: {class_path: Folder, init_args: {root: ROOT, size: 16}}
recipes: .
overrides: ["model.arguments={filters: [4]}", training.epochs=10]
audits: {test: [ch]}
first:
  identify: {recipe: plain, overrides: [training.epochs=1], audits: {train: [ch]}}
rows:
  plain: {title: CE, guidance: labels}
  broken: {recipe: plain, overrides: [objectives.0.smoothing=2]}
  jtt:
    recipe: plain
    overrides: ["objectives=[{class_path: JTT, init_args: {errors: $identify}}]"]
    maps: Gradient
  dfr: {dfr: plain}
"""
RECIPE = {
    "data": "Habitats",
    "model": {"spec": "sightline:cnn"},
    "objectives": ["CE"],
    "training": {"batch_size": 8, "threads": 1},
}


@pytest.fixture
def tiny(tmp_path):
    """A league on 32 images of two classes and two groups."""
    lines = ["id,class,split,group"]
    for number in range(32):
        kind, split = ("cat", "dog")[number % 2], ("train", "train", "val", "test")[number // 8]
        save(tmp_path / "images" / kind / f"{number}.png", noise(number))
        save(tmp_path / "masks" / kind / f"{number}.png", rectangle())
        lines.append(f"{number},{kind},{split},{number // 2 % 2}")
    write(tmp_path / "splits.csv", "\n".join(lines))
    (tmp_path / "tiny.yaml").write_text(TINY.replace("ROOT", str(tmp_path)))
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(RECIPE))
    return league.League(tmp_path / "tiny.yaml", tmp_path / "out", tmp_path / "tiny.json")


def script(tiny, *words):
    file = ROOT / "benchmarks" / "league.py"
    words = [tiny.file, "--out", tiny.out, "--json", tiny.json, *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(
        [sys.executable, file, *map(str, words)], env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_script_runs_what_is_missing_and_names_what_fails(tiny):
    ran = script(tiny, "--seeds", "3", "--rows", "broken", "plain")
    said, complaint = ran.communicate()
    assert ran.returncode == 1
    assert "1 of 2 failed" in complaint
    assert set(said.splitlines()) == {
        "broken-3: failed: SightlineError: CE(smoothing=2.0): expected a number in [0, 1).",
        "plain-3: done",
    }
    found = json.loads(tiny.json.read_text())
    assert list(found) == ["plain"]
    assert set(found["plain"]["3"]["test"]) >= {"accuracy", "ch", "empty_maps"}
    assert tiny.missing(["plain", "broken"], [3, 4]) == [("broken", 3), ("plain", 4), ("broken", 4)]
    with pytest.raises(SightlineError, match=r"tiny.yaml has no row 'brocken'\. Did you mean 'broken'"):
        tiny.missing(["brocken"], [3])


def test_a_killed_run_ends_with_the_numbers_of_one_that_was_not(tiny, tmp_path):
    killed, checkpoint = script(tiny, "--seeds", "0", "--rows", "plain"), tiny.run("plain", 0) / "checkpoint.ckpt"
    while not checkpoint.exists() and killed.poll() is None:
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not tiny.json.exists()
    league.make(tiny, "plain", 0)
    whole = league.League(tiny.file, tmp_path / "whole", tmp_path / "whole.json")
    league.make(whole, "plain", 0)
    assert results.read(tiny.json)["plain"]["0"]["test"] == results.read(whole.json)["plain"]["0"]["test"]


def test_rows_that_others_build_on_are_run_first_and_once(tiny):
    league.make(tiny, "jtt", 0)
    assert list(results.read(tiny.json)) == ["jtt"]
    assert (tiny.run("identify", 0) / "audit" / "train" / "summary.json").exists()
    assert set(results.read(tiny.json)["jtt"]["0"]) >= {"train", "test"}
    assert [maps.name.partition("-")[0] for maps in (tiny.run("jtt", 0) / "maps").iterdir()] == ["Gradient"]
    league.make(tiny, "dfr", 0)
    assert list(results.read(tiny.json)) == ["jtt", "plain", "dfr"]
    trained = tiny.run("plain", 0) / "model.safetensors"
    before = trained.stat().st_mtime_ns
    tiny.json.unlink()
    league.make(tiny, "dfr", 0)
    assert list(results.read(tiny.json)) == ["plain", "dfr"]
    assert trained.stat().st_mtime_ns == before


def test_what_another_process_is_at_is_left_to_it(tiny):
    tiny.out.mkdir()
    with FileLock(f"{tiny.run('plain', 0)}.lock"), pytest.raises(Timeout):
        league.cell(tiny, "plain", 0)
    assert not tiny.run("plain", 0).exists()


def test_a_league_takes_what_it_does_not_say_from_another(tiny):
    other = tiny.file.with_name("other.yaml")
    other.write_text("like: tiny.yaml\naudits: {shifted: [ch]}\nrows: {broken: null, more: {recipe: plain}}\n")
    said = league.definition(other)
    assert list(said["rows"]) == ["plain", "jtt", "dfr", "more"]
    assert (said["audits"], said["recipes"]) == ({"shifted": ["ch"]}, ".")


def test_runs_of_several_processes_meet_in_one_file(tmp_path):
    file = tmp_path / "numbers.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: results.merge(file, {"plain": {str(seed): {"minutes": 1.0}}}), range(24)))
    assert set(results.read(file)["plain"]) == {str(seed) for seed in range(24)}


def test_a_table_has_the_rows_titles_and_guidance_of_a_league(tiny):
    words = ["-", "test/accuracy", "--league", str(tiny.file), "--against", "plain"]
    found = {name: {"0": {"minutes": 1.0, "test": {"accuracy": 0.5}}} for name in ("dfr", "other", "plain")}
    assert table.table(found, table.parser().parse_args(words)).splitlines() == [
        "|  | guidance | Accuracy, test | Accuracy, test, above CE | minutes | seeds |",
        "| --- | --- | --- | --- | --- | --- |",
        "| CE | labels | 0.500 | +0.000 | 1.000 | 1 |",
        "| dfr |  | 0.500 | +0.000 | 1.000 | 1 |",
    ]
    del found["plain"]
    assert "| dfr |  | 0.500 | - | 1.000 | 1 |" in table.table(found, table.parser().parse_args(words))


def of_seeds(*accuracies, ch=0.5):
    run = {"test": {"accuracy": 0.9, "ch": ch}}
    return {str(seed): run | {"shifted": {"accuracy": value}} for seed, value in enumerate(accuracies)}


def test_a_picture_has_the_best_row_on_top_and_a_dot_for_each_seed_and_their_mean():
    rows = {name: {"title": name.upper(), "guidance": "masks"} for name in ("bad", "best", "dead", "missing")}
    found = {"bad": of_seeds(0.25, 0.75), "best": of_seeds(0.8), "dead": of_seeds(0.1, ch=None)}
    decisions, maps = league_figure.figure(found, rows).axes
    assert [tick.get_text() for tick in decisions.get_yticklabels()] == ["DEAD", "BAD", "BEST"]
    points = [[*zip(*line.get_data(), strict=True)] for line in decisions.get_lines() if line.get_marker() == "v"]
    assert [of for of in points if of] == [[(0.1, 0)]] * 2 + [[(0.25, 1), (0.75, 1)], [(0.5, 1)]] + [[(0.8, 2)]] * 2
    assert {height for line in maps.get_lines() for height in line.get_ydata() if len(line.get_xdata())} == {1, 2}


@pytest.mark.parametrize("picture", PICTURES, ids=lambda file: file.stem)
def test_the_pictures_are_of_the_numbers_beside_them(picture):
    told = league_figure.digest(picture.with_suffix(".json"))
    assert told in picture.read_text(encoding="utf-8"), f"run: python benchmarks/league_figure.py {picture.stem}.yaml"


@pytest.mark.parametrize("file", LEAGUES, ids=lambda file: file.stem)
def test_the_rows_of_a_league_can_be_read_and_have_one_budget(file):
    """Of a league like another, its own rows: reading takes a while."""
    of, own = league.League(file, Path("runs"), Path("numbers.json")), yaml.safe_load(file.read_text()).get("rows", {})
    names = [name for name, row in ({"plain": {}} | own).items() if row is not None and "dfr" not in row]
    read = [recipe.read(of.recipe(name), of.overrides(name, 0)) for name in names]
    budgets = {str((each.optimizer, each.schedule, each.training.epochs, each.training.batch_size)) for each in read}
    assert len(budgets) == 1
