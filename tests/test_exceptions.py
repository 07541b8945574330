"""What finds exceptions to a habit: who is named, and how well that agrees."""

import exceptions
import numpy as np
import pytest

from sightline import recipe
from sightline.train import train


def test_agreement_by_hand() -> None:
    named, true = np.array([1, 1, 1, 0, 0], bool), np.array([1, 1, 0, 1, 0], bool)
    assert exceptions.agreement(named, true) == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "images": 3})
    assert exceptions.agreement(np.zeros(5, bool), true) == {"precision": 0, "recall": 0, "images": 0}


def test_who_lies_among_images_of_other_classes_is_a_minority(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exceptions, "CLUSTERS", 2)
    features = np.repeat(np.eye(2, dtype=np.float32), 10, 0)
    labels = np.repeat([0, 1], 10)
    labels[[3, 14]] = 1, 0
    assert np.flatnonzero(exceptions.minority(features * 7, labels)).tolist() == [3, 14]


def test_images_outside_of_their_habitat_are_the_exceptions(tmp_path) -> None:
    settings = ["data.per_digit=1", "data.size=24", "training.epochs=1", "model.arguments.filters=[4,4,4,4,4,4]"]
    run = train(recipe.read(exceptions.RECIPE, settings), tmp_path / "run")
    named, true = exceptions.guesses(run)
    assert true.mean() == pytest.approx(0.2 * 0.9, abs=0.03)
    assert set(named) == {"errors", "losses", "maps", "features"}
    assert all(flags.shape == true.shape and flags.dtype == bool for flags in named.values())
