"""The cross-domain matrix: small audits on disk, joined, marked, averaged and refused."""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from torch import nn

from sightline.cli import main
from sightline.errors import SightlineError
from sightline.files import read_json, write_json
from sightline.matrix import matrix, table
from test_cli import make_folder

VALUES = {
    "lungs": {"lungs": 0.91, "wards": 0.62, "towns": 0.55},
    "wards": {"lungs": 0.58, "wards": 0.88, "towns": 0.71},
    "both": {"lungs": 0.9, "wards": 0.87, "towns": 0.8},
}


def audit(folder: Path, run: str, on: str, value: float | None, split: str = "test", **changes: Any) -> Path:
    """What a matrix reads of an audit."""
    low, high = (None, None) if value is None else (value - 0.05, value + 0.03)
    entry = {"value": value, "low": low, "high": high, "n": 40}
    summary = {
        "kind": "audit",
        "run": run,
        "split": split,
        "level": 0.95,
        "target": "label",
        "scored_by": {"pg": "PointingGame(margin=3.0)"},
        "data": {"name": on, "hash": f"{on}-{split}"},
        "metrics": {"auroc": entry, "accuracy": entry, "pg": entry, "pg@WBP": entry, "worst_group": None},
    }
    write_json(folder / "summary.json", summary | changes)
    return folder


@pytest.fixture
def audits(tmp_path: Path) -> list[Path]:
    pairs = [(run, data, value) for run, row in VALUES.items() for data, value in row.items()]
    return [audit(tmp_path / run / "audit" / data, run, data, value) for run, data, value in pairs]


def test_rows_columns_and_the_diagonal(audits: list[Path], tmp_path: Path) -> None:
    found = matrix(audits, "accuracy", tmp_path / "out")
    assert found == read_json(tmp_path / "out" / "matrix.json")
    assert (found["kind"], found["metric"], found["level"]) == ("matrix", "accuracy", 0.95)
    assert (found["rows"], found["columns"]) == (["lungs", "wards", "both"], ["lungs", "wards", "towns"])
    assert {run: {data: cell["value"] for data, cell in row.items()} for run, row in found["cells"].items()} == VALUES
    cell = found["cells"]["lungs"]["wards"]
    assert (cell["low"], cell["high"], cell["n"]) == (pytest.approx(0.57), pytest.approx(0.65), 40)
    assert (tmp_path / "out" / cell["audit"]).resolve() == (tmp_path / "lungs/audit/wards").resolve()
    marked = {(run, data) for run, row in found["cells"].items() for data, cell in row.items() if cell["diagonal"]}
    assert marked == {("lungs", "lungs"), ("wards", "wards")}
    assert found["off_diagonal"] == {
        "lungs": {"mean": pytest.approx((0.62 + 0.55) / 2), "n": 2},
        "wards": {"mean": pytest.approx((0.58 + 0.71) / 2), "n": 2},
        "both": {"mean": pytest.approx(fmean(VALUES["both"].values())), "n": 3},
    }


def test_the_order_of_the_audits_changes_no_number(audits: list[Path]) -> None:
    found, other = matrix(audits), matrix(audits[::-1])
    assert other["cells"] == found["cells"]
    assert {run: mean["mean"] for run, mean in other["off_diagonal"].items()} == {
        run: pytest.approx(mean["mean"]) for run, mean in found["off_diagonal"].items()
    }
    assert other["rows"] == found["rows"][::-1]


def test_columns_are_called_by_what_tells_them_apart(tmp_path: Path) -> None:
    def columns(*of: tuple[str, str]) -> tuple[list[str], list[bool]]:
        folders = [audit(tmp_path / f"{data}-{split}", "night", data, 0.5, split) for data, split in of]
        found = matrix(folders)
        return found["columns"], [cell["diagonal"] for cell in found["cells"]["night"].values()]

    assert columns(("night", "test")) == (["night"], [True])
    assert columns(("night", "test"), ("day", "test")) == (["night", "day"], [True, False])
    assert columns(("roads", "night"), ("roads", "day")) == (["night", "day"], [True, False])
    assert columns(("night", "test"), ("night", "val"), ("day", "test")) == (
        ["night/test", "night/val", "day/test"],
        [True, True, False],
    )


def test_cells_that_are_missing_or_not_defined_are_not_averaged(audits: list[Path], tmp_path: Path) -> None:
    audit(tmp_path / "wards/audit/lungs", "wards", "lungs", None)
    found = matrix([path for path in audits if path != tmp_path / "lungs/audit/towns"])
    assert "towns" not in found["cells"]["lungs"]
    assert found["cells"]["wards"]["lungs"]["value"] is None
    assert found["off_diagonal"]["lungs"] == {"mean": 0.62, "n": 1}
    assert found["off_diagonal"]["wards"] == {"mean": 0.71, "n": 1}
    assert "– not audited, or not defined" in table(found)
    alone = matrix(audits[:1])
    assert alone["off_diagonal"] == {"lungs": {"mean": None, "n": 0}}
    assert "– (0)" in table(alone)
    assert matrix(audits, "worst_group")["off_diagonal"]["both"] == {"mean": None, "n": 0}


def test_the_table_as_text(audits: list[Path]) -> None:
    lines = table(matrix(audits)).splitlines()
    assert lines[0] == "AUROC: models down, what they were audited on across"
    assert lines[2].split() == ["lungs", "wards", "towns", "off", "the", "diagonal"]
    assert lines[3].split("  ")[0] == "lungs"
    assert "[0.910 ±.040]" in lines[3]
    assert lines[3].endswith("0.585 (2)")
    assert "90.0 ±4.0" in table(matrix(audits, "accuracy"))
    assert "No model has the name" in table(matrix(audits[-3:]))
    assert "No model" not in table(matrix(audits))


def test_what_cannot_be_joined_is_refused(audits: list[Path], tmp_path: Path) -> None:
    def refused(*more: Path, metric: str = "auroc") -> str:
        with pytest.raises(SightlineError) as error:
            matrix([*audits, *more], metric)
        return str(error.value)

    assert "no metric 'auroq'. Did you mean 'auroc'?" in refused(metric="auroq")
    assert "both of both on towns. Leave one out" in refused(audit(tmp_path / "again", "both", "towns", 0.1))
    other = audit(tmp_path / "other", "new", "towns", 0.1, data={"name": "towns", "hash": "else"})
    assert "scored different data, both called towns" in refused(other)
    assert "level 0.95 and 0.9" in refused(audit(tmp_path / "wide", "new", "towns", 0.1, level=0.9))
    changed = audit(tmp_path / "changed", "new", "towns", 0.1, scored_by={"pg": "PointingGame(margin=9.0)"})
    assert matrix([*audits, changed])["rows"][-1] == "new"
    assert "scored pg@WBP in different ways" in refused(changed, metric="pg@WBP")
    assert "has no level" in refused(stripped(audit(tmp_path / "old", "new", "towns", 0.1)))
    assert "no metric 'auroc'. Known: none" in refused(
        stripped(audit(tmp_path / "odd", "new", "towns", 0.1), metrics=None)
    )
    assert "does not exist" in refused(tmp_path / "nowhere")
    with pytest.raises(SightlineError, match="got none"):
        matrix([])


def stripped(folder: Path, **changed: object) -> Path:
    """Without its level, or with something else changed."""
    summary = read_json(folder / "summary.json") | changed
    if not changed:
        del summary["level"]
    write_json(folder / "summary.json", summary)
    return folder


def test_the_command(audits: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run directories, audit directories and folders of them give the same cells."""
    runs = [tmp_path / run for run in VALUES]
    for given in (runs, audits, [tmp_path]):
        assert main(["matrix", *map(str, given), "--metric", "auroc", "--out", str(tmp_path / "made")]) == 0
        said = capsys.readouterr().out
        assert "[0.880 ±.040]" in said
        assert "made/matrix.json" in said
        assert read_json(tmp_path / "made/matrix.json")["off_diagonal"]["wards"]["n"] == 2
    (tmp_path / "empty").mkdir()
    assert main(["matrix", str(tmp_path / "empty")]) == 1
    assert "empty holds no audit. Run `sightline audit` first." in capsys.readouterr().err


def test_a_run_keeps_its_name_on_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `sightline audit file:RUN --data OTHER` writes stands in the row of the run."""
    from sightline import cli, models

    make_folder(tmp_path / "towns")
    (tmp_path / "runs" / "lungs").mkdir(parents=True)
    (tmp_path / "runs" / "lungs" / "recipe.yaml").touch()
    monkeypatch.setattr(models, "load", lambda *_, **__: nn.Identity())
    args = Namespace(
        split=["test"], data=str(tmp_path / "towns"), size=32, weights=None, override=[], mean=[0], std=[1]
    )
    subject, data = cli._subject("file:runs/lungs", args)
    assert (subject.name, subject.spec, data.name) == ("lungs", "file:runs/lungs", "towns")
    assert cli._subject("timm:a/b", args)[0].name == "timm-a-b"


def test_torch_is_not_needed() -> None:
    code = f"import sys; sys.path[:0] = {sys.path}; import sightline.matrix; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
