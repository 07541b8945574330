"""`sightline recipes`, `sightline train --row`, and what the recipes of the repository say of themselves."""

import json
from pathlib import Path

import pytest
import yaml

from conftest import REPOSITORY
from sightline import cookbook, recipe
from sightline.cli import main
from sightline.errors import SightlineError

CONFIG = {
    "data": {"class_path": "Habitats", "init_args": {"per_digit": 1}},
    "model": {"spec": "sightline:cnn", "arguments": {"filters": [4, 8]}},
    "objectives": ["CE", {"class_path": "CFCN", "init_args": {"variant": "F"}}],
    "training": {"epochs": 1, "batch_size": 8},
    "about": {
        "rows": {"plain": ["objectives=[CE]", "seed=1"], "guided": []},
        "repeats": ["seed=0", "seed=3"],
        "tables": [
            {
                "source": "Somebody, Table 1",
                "metric": ["accuracy", "ch"],
                "published": {"plain": [0.68, 0.1], "guided": [0.673, None]},
                "claim": "Guided wins.",
                "audit": ["--split", "test", "swapped"],
            }
        ],
        "deviations": ["Smaller."],
    },
}
TREE = {"class_path": "Fold", "init_args": {"data": {"class_path": "Pets", "init_args": {"root": "pets"}}}}


def write(path: Path, **changes: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(CONFIG | changes, sort_keys=False))
    return path


def test_a_row_is_its_overrides_and_yours_come_last(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml")
    plain = recipe.read(path, ["seed=2"], row="plain")
    assert [objective.class_path for objective in plain.objectives] == ["sightline.objectives.CE"]
    assert (plain.seed, plain.about.row) == (2, "plain")
    assert len(recipe.read(path, row="guided").objectives) == 2


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ("plane", {}, "no row 'plane'. Did you mean 'plain'"),
        ("plain", {"about": None}, "no row 'plain'. Known: none"),
        ("guided", {"about": CONFIG["about"] | {"row": "plain"}}, "that of the row 'plain'"),
        (None, {"about": {"deviaton": []}}, "Did you mean 'deviations'"),
        (None, {"about": {"tables": [{"source": "x", "metric": ["a"], "claims": "b"}]}}, "Did you mean 'claim'"),
        (None, {"about": {"tables": [{"source": "x"}]}}, "metric"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, row: str | None, changes: dict, message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        recipe.read(write(tmp_path / "r.yaml", **changes), row=row)


def test_overrides_may_follow_the_row(tmp_path: Path, capsys) -> None:
    write(tmp_path / "r.yaml")
    assert main(["train", "r.yaml", "seed=3", "--row", "plain", "data.size=24", "--print_config"]) == 0
    said = yaml.safe_load(capsys.readouterr().out)
    assert (said["seed"], said["data"]["init_args"]["size"], said["about"]["row"]) == (3, 24, "plain")
    for words in (["train", "r.yaml", "--rwo", "plain"], ["audit", "run", "--margin", "3", "seed=3", "--x"]):
        with pytest.raises(SystemExit):
            main(words)


def test_a_run_says_which_row_it_is_and_resumes_whatever_is_said_about_it(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml")
    command = ["train", str(path), "--row", "plain", "--out", "run"]
    assert main(command) == 0
    kept = yaml.safe_load(Path("run/recipe.yaml").read_text())["about"]
    assert kept["row"] == "plain"
    assert kept["tables"][0]["published"] == CONFIG["about"]["tables"][0]["published"]
    write(path, about=CONFIG["about"] | {"deviations": ["Another."]})
    assert main([*command, "--resume"]) == 0


def test_recipes_are_listed_with_what_they_need(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("SIGHTLINE_DATA", str(tmp_path))
    write(tmp_path / "all/habitats.yaml")
    write(
        tmp_path / "all/pets.yaml", data=TREE, model={"spec": "torchvision:vgg11", "weights": "vgg11.pth"}, about=None
    )
    (tmp_path / "all/none.yaml").write_text("model: 3\n")
    (tmp_path / "all/other.yaml").write_text("data: {class_path: Habitats}\n")
    assert main(["recipes", "all"]) == 1
    said = capsys.readouterr()
    lines = [line.split("  ") for line in said.out.splitlines()]
    cells = {line[0]: [cell.strip() for cell in line[1:] if cell] for line in lines}
    assert cells["all/habitats.yaml"] == ["Habitats", "masks", "–", "2", "Somebody, Table 1"]
    assert cells["all/pets.yaml"] == ["Fold(Pets)", "masks, vgg11.pth", "pets, vgg11.pth", "–", "–"]
    assert "all/none.yaml" in said.err
    assert "other" not in said.out + said.err
    (tmp_path / "pets").mkdir()
    Path("vgg11.pth").touch()
    assert [entry.missing for entry in cookbook.find("all")[0]] == [[], []]


@pytest.mark.parametrize(
    ("objectives", "training", "needs"),
    [
        (["CE"], {}, []),
        (["CE", "GAIN"], {}, []),
        (["CE", {"class_path": "GAIN", "init_args": {"external": 1}}, "RRR"], {}, ["masks"]),
        (["GroupDRO"], {"balance": "groups"}, ["groups"]),
        ([{"class_path": "JTT", "init_args": {"errors": "none"}}], {}, ["a first run"]),
    ],
)
def test_needs(tmp_path: Path, objectives: list, training: dict, needs: list[str]) -> None:
    (entry,), _ = cookbook.find(write(tmp_path / "r.yaml", objectives=objectives, training=training))
    assert entry.needs == needs


def test_a_recipe_in_full(tmp_path: Path, capsys) -> None:
    write(tmp_path / "mine/r.yaml")
    assert main(["recipes", "mine/r.yaml"]) == 0
    said = capsys.readouterr().out
    assert (
        """\
for row in plain guided; do
  for repeat in seed=0 seed=3; do
    sightline train mine/r.yaml --row $row $repeat --out runs/mine/r/$row-$repeat
  done
done
"""
        in said
    )
    assert "| plain | 0.680 | 0.1 |\n| guided | 0.673 | – |" in said
    assert "sightline audit runs/mine/r/* --split test swapped\n" in said
    for text in ("**Somebody, Table 1.** Guided wins.", "Needs masks.", "- Smaller."):
        assert text in said
    assert main(["recipes", "mine", "--format", "markdown"]) == 0
    assert capsys.readouterr().out == said
    assert main(["recipes", "mine", "--format", "json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["about"]["rows"] == CONFIG["about"]["rows"]


def test_a_recipe_alone_is_trained_without_a_loop(tmp_path: Path) -> None:
    said = cookbook.markdown(cookbook.find(write(tmp_path / "r.yaml", about=None))[0])
    assert f"```\nsightline train {tmp_path}/r.yaml --out runs/{tmp_path.name}/r\n```" in said


def test_numbers_that_do_not_fit_the_columns_are_named(tmp_path: Path) -> None:
    table = {"source": "Somebody, Table 1", "metric": ["accuracy", "ch"], "published": {"plain": [0.68]}}
    _, failures = cookbook.find(write(tmp_path / "r.yaml", about={"tables": [table]}))
    assert "Table 1: plain has 1 numbers for ['accuracy', 'ch']" in failures[tmp_path / "r.yaml"]


def test_no_recipes(capsys) -> None:
    assert main(["recipes"]) == 1
    assert "no recipes below recipes" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["ppi", "gc", "cgc", "cfcn"])
def test_readmes_list_recipes_as_the_command_does(folder: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert main(["recipes", *map(str, sorted(Path("recipes", folder).glob("*.yaml")))]) == 0
    assert Path(f"recipes/{folder}/README.md").read_text().endswith(capsys.readouterr().out)
