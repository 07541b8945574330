"""Checks every signature of sightline while the tests run: shapes with jaxtyping, types with beartype."""

from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

# An int may stand for a float, as in mypy. Methods are decorated one by one, where beartype cannot know what Self is.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Self: Any})))
