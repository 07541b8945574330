"""`Adopted`: the maps of images that one model errs on, and the next does not, are their masks."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sightline.audit import Subject, audit
from sightline.data import Adopted, Fraction, Habitats
from sightline.errors import SightlineError
from sightline.models import load
from sightline.regions import marked

EXCEPTIONS = (3, 17)
"""Indices of training images: wrong, then right."""


def habitats(**arguments: object) -> Habitats:
    return Habitats(per_digit=1, size=24, **{"mask_fraction": 0.0} | arguments)


def score(run: Path, wrong: tuple[int, ...]) -> None:
    """Audit a fresh model on the training split, and let it err on `wrong` alone."""
    subject = Subject(load("sightline:cnn", num_classes=10, filters=[6, 8]), "run", "cnn")
    audit(subject, habitats(), run / "audit" / "train", maps=run / "maps")
    scores = run / "audit" / "train" / "scores.csv"
    frame = pd.read_csv(scores, dtype={"id": str, "label": str, "prediction": str})
    frame["correct"] = [int(index not in wrong) for index in frame["index"]]
    frame.to_csv(scores, index=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    score(folder / "first", (*EXCEPTIONS, 5))
    score(folder / "second", (5, 9))
    return folder


def adopted(runs: Path, data: Habitats | None = None, **arguments: object) -> Adopted:
    data = data or habitats()
    return Adopted(data, **{"run": runs / "second", "errors": runs / "first"} | arguments)


def test_the_maps_of_exceptions_are_their_masks(runs: Path) -> None:
    data = adopted(runs, level=0.4)
    assert tuple(np.flatnonzero(data.has_mask)) == EXCEPTIONS
    assert data.facts() == {"masks_adopted": 2}
    (maps,) = (runs / "second" / "maps").glob("*/maps.npy")
    for index in EXCEPTIONS:
        expected = marked(np.load(maps)[index], (24, 24), 0.4)
        assert expected.any()
        np.testing.assert_array_equal(data.read(index)[1], expected)
        np.testing.assert_array_equal(data.read(index)[0], habitats().read(index)[0])
    assert data.on("val").facts() == {}


def test_masks_that_somebody_drew_stay(runs: Path) -> None:
    whole = adopted(runs, habitats(mask_fraction=1.0))
    assert whole.facts() == {}
    np.testing.assert_array_equal(whole.read(3)[1], habitats().read(3)[1])


def test_hidden_labels_do_not_come_back_through_the_audits(runs: Path) -> None:
    with pytest.raises(SightlineError, match=r"no training image .* gets wrong and .* right"):
        adopted(runs, habitats(label_fraction=0.0))


def test_what_is_adopted_belongs_to_the_data(runs: Path) -> None:
    data = adopted(runs)
    assert len({data.hash(), adopted(runs, level=0.9).hash(), habitats().hash()}) == 3
    assert data.on("val").hash() == habitats(split="val").hash()
    assert Fraction(data).facts() == data.facts()
    again = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(again.read(3)[1], data.read(3)[1])


def test_what_is_missing_is_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(SightlineError, match=r"Adopted.errors: .*holds no audit of the training split"):
        adopted(runs, errors=tmp_path)
    with pytest.raises(SightlineError, match=r"Adopted.errors: .*scored other images"):
        adopted(runs, habitats(seed=3))
    with pytest.raises(SightlineError, match=r"no training image .* gets wrong and .* right"):
        adopted(runs, errors=runs / "second")
    with pytest.raises(SightlineError, match="level must be from 0 to below 1"):
        adopted(runs, level=1)
    with pytest.raises(SightlineError, match=r"holds no maps of GradCAM"):
        adopted(runs, maps=tmp_path)
    with pytest.raises(SightlineError, match=r"kept no maps.*--maps"):
        adopted(runs, run=summarised(runs / "second", tmp_path / "without", weights=None))
    with pytest.raises(SightlineError, match=r"Audit with --target label"):
        adopted(runs, run=summarised(runs / "second", tmp_path / "predicted", target="prediction"))
    with pytest.raises(SightlineError, match=r"holds no maps of GradCAM.*these weights"):
        adopted(runs, run=summarised(runs / "second", tmp_path / "stale", weights="of another model"))


def test_maps_without_a_positive_value_are_refused(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "second", tmp_path / "second")
    (maps,) = (run / "maps").glob("*/maps.npy")
    np.save(maps, np.full_like(np.load(maps), np.nan))
    with pytest.raises(SightlineError, match=r"none of 2 maps .* positive value.*--explainer"):
        adopted(runs, run=run)


def summarised(run: Path, copy: Path, **changed: str | None) -> Path:
    """A copy of a run whose audit says something else; None takes it out."""
    shutil.copytree(run, copy)
    path = copy / "audit" / "train" / "summary.json"
    summary = json.loads(path.read_text()) | changed
    path.write_text(json.dumps({key: value for key, value in summary.items() if value is not None}))
    return copy
