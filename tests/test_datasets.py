"""What every data set of files does, on small copies in the published layout."""

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from torch.utils.data import default_collate

from sightline import data, recipe
from sightline.data import Source
from sightline.data.filed import Filed
from sightline.errors import SightlineError
from sightline.types import Batch
from trees import TREES

SIZE = (20, 30)

def build(name: str, arguments: dict[str, Any], **others: Any) -> Source:
    return getattr(data, name)(**arguments, size=SIZE, **others)


@pytest.fixture(params=sorted(TREES))
def laid_out(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    """A data set's name, and the arguments that construct it."""
    return request.param, TREES[request.param].build(tmp_path)


def test_every_data_set_of_files_has_a_copy() -> None:
    filed = {name for name in data.__all__ if issubclass(getattr(data, name), Filed)}
    assert filed - {"Folder"} <= set(TREES) <= set(data.__all__)


def test_each_split_yields_batches(laid_out: tuple[str, dict[str, Any]]) -> None:
    source = build(*laid_out)
    for split in source.splits:
        check_split(source.on(split))


def check_split(source: Source) -> None:
    assert len(source) > 0
    assert len(set(source.ids)) == len(source)
    assert source.groups.shape == source.has_mask.shape == (len(source),)
    several = source.labels.ndim > 1
    assert source.labels.min() >= 0
    assert source.labels.max() < (2 if several else len(source.classes))
    batch = default_collate([source[index] for index in range(len(source))])
    assert isinstance(batch, Batch)
    assert batch.image.shape == (len(source), source.channels, *SIZE)
    assert 0 <= batch.image.min() < batch.image.max() <= 1
    assert batch.mask.shape in ((len(source), *SIZE), (len(source), len(source.classes), *SIZE))
    assert set(batch.mask.unique().tolist()) <= {0.0, 1.0}
    assert (batch.mask[~batch.has_mask] == 1).all()
    assert (batch.mask[batch.has_mask].flatten(1).any(1)).all()
    assert batch.index.tolist() == list(range(len(source)))


def test_no_image_is_in_two_splits(laid_out: tuple[str, dict[str, Any]]) -> None:
    source = build(*laid_out)
    ids = [name for split in source.splits for name in source.on(split).ids]
    assert len(set(ids)) == len(ids)


def test_the_same_files_have_the_same_hash(laid_out: tuple[str, dict[str, Any]]) -> None:
    first, second = build(*laid_out), build(*laid_out)
    assert first.hash() == second.hash()
    if len(first.splits) > 1:
        assert first.on(first.splits[-1]).hash() != first.on(first.splits[0]).hash()


def test_unverified_samples_are_the_same(laid_out: tuple[str, dict[str, Any]]) -> None:
    name, arguments = laid_out
    if "verify" not in inspect.signature(getattr(data, name)).parameters:
        pytest.skip("holds its samples in memory")
    kept, lazy = (build(name, arguments, verify=verify) for verify in (True, False))
    for index in range(len(kept)):
        for ours, theirs in zip(kept.read(index), lazy.read(index), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_recipe_builds_it_and_its_repr_rebuilds_it(laid_out: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    name, arguments = laid_out
    source = build(name, arguments)
    described = {"class_path": name, "init_args": arguments | {"size": list(SIZE)}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"data": described, "model": {"spec": "sightline:cfcn_c"}, "objectives": ["CE"]}))
    from_recipe = recipe.build(recipe.read(path)).data
    assert repr(from_recipe) == repr(source)
    assert repr(eval(repr(source), vars(data))) == repr(source)
    assert from_recipe.hash() == source.hash()


def test_a_missing_file_is_named(laid_out: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    name, arguments = laid_out
    missing = tmp_path / TREES[name].needs
    missing.unlink()
    with pytest.raises(SightlineError, match=re.escape(missing.name)):
        build(name, arguments)
