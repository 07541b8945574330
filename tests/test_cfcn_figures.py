"""CFCN's figures: what is measured of a run, and that curves go through the means of what was measured."""

from pathlib import Path

import cfcn_figures
import pytest

from sightline import recipe
from sightline.audit import audit, of_run
from sightline.train import train

RECIPE = {
    "data": {"class_path": "Habitats", "init_args": {"only": ["0", "8"], "per_digit": 1, "size": 24}},
    "model": {"spec": "sightline:cfcn_c", "arguments": {"filters": [4], "strides": [2]}},
    "objectives": ["CE"],
    "training": {"epochs": 1},
}


def runs(*accuracies: float) -> dict:
    losses = {"ce": 0.4, "outside_f": 0.2, "outside_c": 0.1}
    return {
        str(seed): {split: {"accuracy": value, **losses} for split in ("test", "shifted")}
        for seed, value in enumerate(accuracies)
    }


def drawn(axes) -> dict[str, list[tuple[float, float]]]:
    return {
        line.get_label(): [*zip(*line.get_data(), strict=True)]
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def test_a_run_is_measured_as_its_audit_says(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(str(RECIPE))
    run = train(recipe.read(tmp_path / "r.yaml"), tmp_path / "runs/ce-0")
    said = audit(*of_run(run, "shifted"), tmp_path / "audit")
    (found,) = cfcn_figures.measure(tmp_path / "runs", ["shifted"]).values()
    of_split = found["0"]["shifted"]
    assert of_split["accuracy"] == pytest.approx(said["metrics"]["accuracy"]["value"])
    assert said["empty_maps"] == 0
    assert of_split["outside_c"] == pytest.approx(1 - said["metrics"]["ch"]["value"], abs=1e-5)
    assert of_split["ce"] > 0
    assert 0 < of_split["outside_f"] < 1


def test_the_grid_has_a_line_for_each_number_of_masks() -> None:
    results = {"n3000_m0": runs(0.7), "n1000_m200": runs(0.8, 0.9), "n1000_m0": runs(0.5, 0.6), "n3000_m200": runs(0.9)}
    accuracy, shifted, loss = cfcn_figures.grid(results).axes
    expected = {"0": [(1000, 0.55), (3000, 0.7)], "200": [(1000, pytest.approx(0.85)), (3000, 0.9)]}
    assert drawn(accuracy) == drawn(shifted) == expected
    assert drawn(loss)["0"] == [(1000, pytest.approx(0.3)), (3000, pytest.approx(0.3))]


def test_the_sweep_begins_with_plain_training() -> None:
    results = {"f30": runs(0.8), "ce": runs(0.5, 0.7), "f3": runs(0.9), "c1": runs(0.4)}
    for axes in cfcn_figures.alpha(results).axes[:2]:
        assert drawn(axes)["CFCN-F"] == [(0, pytest.approx(0.6)), (3, 0.9), (30, 0.8)]
        assert drawn(axes)["CFCN-C"] == [(0, pytest.approx(0.6)), (1, 0.4)]


def test_convergence_is_drawn_epoch_by_epoch(tmp_path: Path) -> None:
    logs = {"plain": ("ce,epoch", "3,0", "1,0"), "guided": ("ce,cfcn,epoch", "2,0.8,0", "1,0.6,0", ",,0", "0.5,0.3,1")}
    for name, lines in logs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text("\n".join(lines))
    loss, focus = cfcn_figures.convergence([tmp_path / name for name in logs]).axes
    assert drawn(loss) == {"plain": [(1, 2)], "guided": [(1, 1.5), (2, 0.5)]}
    assert drawn(focus) == {"guided": [(1, pytest.approx(0.7)), (2, 0.3)]}
