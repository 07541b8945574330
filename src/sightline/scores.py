"""Per-image scores: one row per audited image, as a file and as the numbers that sum it up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import is_numeric_dtype

from sightline import stats
from sightline.catalogue import metric
from sightline.compat import require
from sightline.errors import SightlineError, did_you_mean
from sightline.files import read_json, whole

TEXT = ("id", "label", "prediction", "group")
NUMBERS = ("index", "correct", "confidence", "has_mask", "empty_map")
MIN_GROUP = 5
WORST = {"worst_group": "group", "worst_class": "label"}
"""Metrics that are the accuracy on the images answered worst, of those alike in a column of the scores."""

ONE_ANSWER, ITS_IMAGES = 0.95, 0.8
"""A model has one answer when it gives it to this share of the images, and less than that other one is of the class."""

_EFFORT = 1_000_000_000  # numbers read by one bootstrap: some ten seconds


def write_scores(path: str | Path, frame: pd.DataFrame) -> None:
    """Write scores as .csv or .parquet, whole or not at all; scores in the other format beside them are removed.

    Raises:
        SightlineError: another suffix, a missing extra, or a folder that cannot be written.
    """
    path = Path(path)
    other = _sibling(path)
    # Doubles throughout: what is read back gives the same numbers to the last digit.
    whole_numbers = [name for name in score_columns(frame) if metric(name).proportion]
    frame = frame.astype(
        dict.fromkeys(frame.select_dtypes("float32"), "float64") | dict.fromkeys(whole_numbers, "Int64")
    )
    with whole(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False, engine="pyarrow")
    other.unlink(missing_ok=True)


def _sibling(path: Path) -> Path:
    if path.suffix not in (".csv", ".parquet"):
        raise SightlineError(f"{path}: expected a name that ends in .csv or .parquet.")
    if path.suffix == ".parquet":
        require("parquet", "pyarrow")
    return path.with_suffix(".parquet" if path.suffix == ".csv" else ".csv")


def read_scores(audit: str | Path) -> pd.DataFrame:
    """The scores.csv or scores.parquet of an audit directory; names and ids as they are written ("0012", "NA"), no NaN.

    Raises:
        SightlineError: there is none or one of each, it cannot be read, lacks a column, holds text for numbers, or
            repeats an id; or Parquet needs an extra that is not installed.
    """
    path = _found(Path(audit))
    try:
        frame = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
    except (OSError, ValueError) as error:
        raise SightlineError(f"cannot read {path}: {error}. Run `sightline audit` again.") from error
    return _checked(frame, path)


def read_summary(audit: str | Path, needs: Sequence[str]) -> dict[str, Any]:
    """What the summary.json of an audit directory holds.

    Args:
        audit: the directory.
        needs: keys that must be there; "data.hash" is a key of "data".

    Raises:
        SightlineError: it is missing or damaged, or lacks a key.
    """
    path = Path(audit) / "summary.json"
    content = read_json(path)
    summary = content if isinstance(content, dict) else {}
    data = summary.get("data")
    known = [*summary, *(f"data.{key}" for key in (data if isinstance(data, dict) else ()))]
    if missing := [key for key in needs if key not in known]:
        raise SightlineError(f"{path} has no {', '.join(missing)}. Run `sightline audit` again.")
    return summary


def audit_of(run: str | Path, split: str) -> Path:
    """Where a run's audit of a split lies; `run` may be that audit's directory itself."""
    inside = Path(run) / "audit" / split
    return inside if inside.is_dir() else Path(run)


def training_scores(run: str | Path, groups: Sequence[str], ids: Sequence[str], who: str) -> pd.DataFrame:
    """What a run's audit of its training split says of the images `ids`, in their order.

    Args:
        run: a run directory whose training split was audited, or that audit's directory.
        groups: of the training images; ids alone would not tell one draw of a dataset from another.
        ids: of the training images.
        who: asks for it, such as "JTT.errors"; named in errors.

    Raises:
        SightlineError: there is no such audit, it cannot be read, or it is of other images.
    """
    folder = audit_of(run, "train")
    if not any((folder / f"scores.{suffix}").is_file() for suffix in ("csv", "parquet")):
        raise SightlineError(
            f"{who}: {run} holds no audit of the training split. Train a model into a run directory, then "
            "`sightline audit RUN --split train`, and pass that directory."
        )
    frame = read_scores(folder).set_index("id")
    if set(frame.index) != set(ids) or list(frame["group"][list(ids)]) != list(groups):
        raise SightlineError(
            f"{who}: {folder} scored other images than the {len(ids)} this run trains on: {len(frame)}, of which "
            f"{len(set(frame.index) & set(ids))} share an id. Audit a model on the training split of the same data."
        )
    return frame.loc[list(ids)]


def _found(audit: Path) -> Path:
    found = [path for path in (audit / "scores.csv", audit / "scores.parquet") if path.is_file()]
    if not found:
        raise SightlineError(f"{audit} holds neither scores.csv nor scores.parquet. Make them with `sightline audit`.")
    if len(found) > 1:
        raise SightlineError(f"{audit} holds scores.csv and scores.parquet. Delete the one that is out of date.")
    if found[0].suffix == ".parquet":
        require("parquet", "pyarrow")
    return found[0]


def _read_csv(path: Path) -> pd.DataFrame:
    scored = score_columns(pd.read_csv(path, nrows=0))
    text = dict.fromkeys((*TEXT, "image"), str)
    # Only a score may be missing; elsewhere "" and "NA" are what they are.
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values={name: [""] for name in scored})


def _read_parquet(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(path, engine="pyarrow")
    return frame.astype(dict.fromkeys(frame.select_dtypes("Int64"), "float64"))


def _checked(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    if missing := [name for name in (*TEXT, *NUMBERS) if name not in frame]:
        raise SightlineError(f"{path} has no column {', '.join(missing)}. Run `sightline audit` again.")
    for name in frame.columns.difference([*TEXT, "image"]):
        if not is_numeric_dtype(frame[name]):
            raise SightlineError(f"{path}: column {name} holds what is no number. Run `sightline audit` again.")
    if (twice := frame["id"].duplicated()).any():
        raise SightlineError(f"{path} names image {frame['id'][twice].iloc[0]!r} more than once. Ids must be unique.")
    return frame


def score_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that hold metrics' scores, one number per row."""
    others = {*TEXT, *NUMBERS, "image"}
    return [name for name in map(str, frame) if name not in others and not name.startswith(("p_", "empty_map@"))]


def summarise(
    frame: pd.DataFrame, classes: Sequence[str], level: float = 0.95, min_group: int = MIN_GROUP, seed: int = 0
) -> dict[str, Any]:
    """The entries "metrics", "groups", "empty_maps" and "one_answer" of an audit's summary.

    Shares of images that are right or wrong (accuracy, worst_group, worst_class, pg) carry Wilson intervals, means of
    other scores BCa bootstrap ones, and shares too where images have several rows, which are resampled together; all
    else (macro_f1, auroc) percentile ones. "n" counts images. What is not defined is None; the worst
    group and class as a whole, where none has `min_group` images; "left_out" counts the images of smaller ones.

    Raises:
        SightlineError: a label or prediction that is no class, a missing probability column, or a level outside (0, 1).
    """
    # The draws of the bootstrap go by row: in the order of the ids, the rows' order in the file does not matter.
    frame = frame.sort_values("id")
    metrics = {
        name: _worst(frame, WORST[name], level, min_group) if name in WORST else sample.summary(level, seed)
        for name, sample in samples(frame, classes, min_group).items()
    }
    by_group = {name: {"accuracy": float(right.mean()), "n": len(right)} for name, right in _by(frame, "group").items()}
    empty = int(frame["empty_map"].sum())
    return {"metrics": metrics, "groups": by_group, "empty_maps": empty, "one_answer": one_answer(frame)}


def one_answer(frame: pd.DataFrame) -> dict[str, Any] | None:
    """The class that a model answers whatever the image shows, with its share of answers and of labels; mostly None."""
    if "image" in frame or frame.empty:  # several classes per image
        return None
    said = frame["prediction"].mode()[0]
    share, own = (float((frame[column] == said).mean()) for column in ("prediction", "label"))
    return {"class": said, "share": share, "own": own} if share >= ONE_ANSWER and own < ITS_IMAGES else None


def summarise_curves(
    curves: Mapping[str, tuple[Sequence[float], stats.Array]],
    level: float = 0.95,
    seed: int = 0,
    image: stats.Array | None = None,
) -> dict[str, Any]:
    """By name: the places, the mean curve, the ends of its bootstrap interval at each place, and how many images.

    Args:
        curves: name -> (places, (n, p) curves).
        level: of the intervals.
        seed: of the bootstrap.
        image: (n,) number of each curve's image; None where each has one.
    """
    return {name: _mean_curve(axis, values, level, seed, image) for name, (axis, values) in curves.items()}


def _mean_curve(
    axis: Sequence[float], values: stats.Array, level: float, seed: int, image: stats.Array | None
) -> dict[str, Any]:
    known = np.asarray(~np.isnan(values).any(1))
    columns = [Sample(column, image=image).among(known) for column in values.T]
    points = [stats.bootstrap(column.data, column.statistic, level, 500, seed) for column in columns]
    return {"axis": list(axis), "n": points[0].n} | {
        end: [getattr(point, of) for point in points]
        for end, of in (("mean", "value"), ("low", "low"), ("high", "high"))
    }


@dataclass(frozen=True)
class Sample:
    """One metric's data, a row per image or per class of an image, and the statistic that makes a number of them."""

    data: stats.Array
    statistic: stats.Statistic = stats.means
    binary: bool = False
    """Whether it is the share of ones among zeros and ones."""
    image: stats.Array | None = None
    """(n,) number of each row's image, where images have several: they are resampled as a whole."""

    @property
    def defined(self) -> npt.NDArray[np.bool_]:
        """(n,) which rows of one score have it."""
        return np.asarray(~np.isnan(self.data))

    def among(self, defined: npt.NDArray[np.bool_]) -> "Sample":
        """Of the rows that are `defined`, (n,) bool; rows of one image become one."""
        if self.image is None:
            return replace(self, data=self.data[defined])
        _, number = np.unique(self.image[defined], return_inverse=True)
        sums = np.bincount(number, self.data[defined]), np.bincount(number)
        return Sample(np.column_stack(sums), stats.pooled_means)

    @property
    def resamples(self) -> int:
        """As many bootstrap samples as usual; fewer where each of them is large."""
        return int(np.clip(_EFFORT // max(self.data.size, 1), 200, stats.RESAMPLES))

    def summary(self, level: float, seed: int) -> dict[str, Any]:
        """The metric with its interval, as JSON."""
        mean = self.statistic is stats.means
        known = self.among(self.defined) if mean else self
        if known.binary:
            return _entry(stats.proportion_interval(int(known.data.sum()), len(known.data), level))
        method: Literal["bca", "percentile"] = "bca" if mean else "percentile"
        return _entry(stats.bootstrap(known.data, known.statistic, level, self.resamples, seed, method))


def samples(frame: pd.DataFrame, classes: Sequence[str], min_group: int = MIN_GROUP) -> dict[str, Sample]:
    """The metrics of an audit by name, ready to be resampled; in pairs with those of the same images in the same order.

    Raises:
        SightlineError: a label or prediction that is no class, or a missing probability column.
    """
    decided = _several(frame, classes) if "image" in frame else _single(frame, classes, min_group)
    image = pd.factorize(frame["image"])[0] if "image" in frame and frame["image"].duplicated().any() else None
    scored = {
        str(name): Sample(frame[name].to_numpy(float), binary=metric(name).proportion, image=image)
        for name in score_columns(frame)
    }
    return decided | scored


def _single(frame: pd.DataFrame, classes: Sequence[str], min_group: int) -> dict[str, Sample]:
    """What is made of decisions for one class per image."""
    label, prediction = (_numbers(frame, name, classes) for name in ("label", "prediction"))
    correct = frame["correct"].to_numpy()
    probability = _probabilities(frame, classes)
    found = {
        "accuracy": Sample(correct, binary=True),
        "macro_f1": Sample(np.column_stack([label, prediction]), stats.macro_f1),
        "auroc": Sample(np.column_stack([label, probability]), stats.macro_auroc),
    }
    for name, column in WORST.items():
        kind = _kinds(frame, column, min_group)
        found[name] = Sample(np.column_stack([correct, kind])[kind >= 0], stats.worst_group)
    if len(classes) > 5:
        above = (probability > probability[np.arange(len(label)), label][:, None]).sum(1)
        found["top5"] = Sample((above < 5).astype(int), binary=True)
    return found


def _several(frame: pd.DataFrame, classes: Sequence[str]) -> dict[str, Sample]:
    """What is made of decisions for any number of classes per image; an image counts once, whatever its rows."""
    one, image = frame.drop_duplicates("image"), pd.Index(frame["image"].unique())
    probability, label = _probabilities(one, classes), np.zeros((len(one), len(classes)), int)
    has = (frame["label"] != "").to_numpy()
    label[image.get_indexer(pd.Index(frame["image"][has])), _numbers(frame[has], "label", classes)] = 1
    decided = np.concatenate([label, (probability > 0.5).astype(int)], 1)
    return {
        "f1_per_class": Sample(decided, stats.f1_per_class),
        "f1_overall": Sample(decided, stats.f1_overall),
        "auroc": Sample(np.concatenate([label, probability], 1), stats.multilabel_auroc),
    }


def _numbers(frame: pd.DataFrame, column: str, classes: Sequence[str]) -> stats.Array:
    """(n,) class numbers of a column of class names."""
    numbers = pd.Index(classes).get_indexer(pd.Index(frame[column]))
    if (unknown := numbers < 0).any():
        name = frame[column][unknown].iloc[0]
        raise SightlineError(f"scores: {column} {name!r} is not one of the classes. {did_you_mean(name, classes)}")
    return numbers


def _probabilities(frame: pd.DataFrame, classes: Sequence[str]) -> stats.Array:
    """(n, classes) probabilities."""
    names = [f"p_{name}" for name in classes]
    if missing := [name for name in names if name not in frame]:
        raise SightlineError(f"scores: there is no column {', '.join(missing)}. Run `sightline audit` again.")
    return frame[names].to_numpy(float)


def _by(frame: pd.DataFrame, column: str, least: int = 1) -> dict[str, pd.Series]:
    """Right (1) and wrong (0) answers by what stands in a column, where anything does and `least` images share it."""
    found = frame["correct"].groupby(frame[column])
    return {str(name): right for name, right in found if name and len(right) >= least}


def _kinds(frame: pd.DataFrame, column: str, least: int) -> stats.Array:
    """(n,) number of what stands in a column for each image, -1 for nothing or what too few images share."""
    large = list(_by(frame, column, least))
    return pd.Index(large, dtype=object).get_indexer(pd.Index(frame[column], dtype=object))


def _worst(frame: pd.DataFrame, column: str, level: float, least: int) -> dict[str, Any] | None:
    every = _by(frame, column)
    large = {name: right for name, right in every.items() if len(right) >= least}
    if not large:
        return None
    name = min(large, key=lambda name: large[name].mean())
    few = sum(map(len, every.values())) - sum(map(len, large.values()))
    entry = _entry(stats.proportion_interval(int(large[name].sum()), len(large[name]), level))
    return entry | {"group": name, "left_out": few}


def _entry(interval: stats.Interval) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}
