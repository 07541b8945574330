"""Deep feature reweighting: a finished run's last layer, fitted anew to held-out images of balanced groups."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sightline import __version__, models, recipe
from sightline.data import Source
from sightline.data.base import at_least
from sightline.errors import SightlineError
from sightline.files import read_json, relative, write_json, write_text
from sightline.passes import logits_of, module, trace
from sightline.progress import progress_bar
from sightline.versions import versions

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Names = npt.NDArray[Any]  # of strings of any length

GRID = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
"""The paper's inverse strengths of the penalty."""

# scikit-learn 1.8 names the penalty by its share of l1, and 1.10 by nothing else.
_L1 = {"penalty": "l1"} if LogisticRegression().get_params().get("penalty") == "l2" else {"l1_ratio": 1}

log = logging.getLogger(__name__)


def dfr(
    run: str | Path,
    out: str | Path,
    *,
    split: str = "val",
    by: Literal["groups", "classes"] = "groups",
    rounds: int = 10,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Refit the last layer of a finished run, as a new run directory that `audit`, `compare` and `report` accept.

    Kirichenko, Izmailov and Wilson, ICLR 2023: the features of a network that cheats still hold what it should look
    at, and a linear layer fitted to balanced groups of images it was not trained on reads it out. See `best_c` and
    `retrained_head`.

    Args:
        run: the run directory; its files stay as they are.
        out: the new run directory: missing or empty. Its run.json says under "dfr" what was done, and to which run.
        split: held-out images; those without a label, or without a group where groups are balanced, are left out.
        by: balance the dataset's groups, or its classes where groups are unknown.
        rounds: balanced subsets over which the layer is averaged.
        seed: of the subsets.
        batch_size: images in memory at a time.

    Returns:
        What run.json holds.

    Raises:
        SightlineError: `run` is no finished run or `out` is taken, the split is missing, without groups or without an
            image of some class, the data are multi-label, or the model does not end in a linear layer with a bias.
    """
    began, run, out = time.monotonic(), Path(run), Path(out)
    _check_run(run, out)
    at_least("rounds", rounds, 1)
    at_least("seed", seed, 0)
    data = recipe.build(recipe.read(run / "recipe.yaml", [f"data.split={split}"])).data
    model = models.load(f"file:{run}").eval()
    layer, head = linear_head(model, data[0].image.unsqueeze(0))
    groups = cells(data, by)
    used = groups != ""
    _check_data(data, data.labels[used], head.out_features)
    known = read_features(model, layer, data, batch_size)[used], data.labels[used], groups[used], len(data.classes)
    c = best_c(*known, seed=seed)
    weight, bias = retrained_head(*known, c=c, rounds=rounds, seed=seed)
    head.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    asked = {"split": data.split, "by": by, "rounds": rounds, "seed": seed}
    found = {
        "layer": layer,
        "c": c,
        "groups": dict(sorted(Counter(groups[used].tolist()).items())),
        "absent_groups": sorted(set(cells(data.on("train"), by)) - set(groups)),
        "left_out": int((~used).sum()),
    }
    return _write(run, out, model, asked | found, began)


def best_c(
    features: Array, labels: Integers, groups: Names, classes: int, *, grid: Sequence[float] = GRID, seed: int = 0
) -> float:
    """The C whose head, fitted to balanced groups in one half of the images, does best on the other's worst group.

    Of several, the one with the highest mean over groups; then the smallest. Each group is halved by itself, the odd
    image being fitted: a group of one image is not judged. Where all are of one, they are judged as they were fitted.

    Args:
        features: (n, d).
        labels: (n,) in [0, classes), each of them at least once.
        groups: (n,) names, each of images of one class: see `cells`.
        classes: their number, at least 2.
        grid: what to choose from.
        seed: of halves and subset.
    """
    x, draw = _standardised(features), np.random.default_rng(seed)
    fitted, judged = _halves(groups, draw)
    judged = judged if len(judged) else fitted
    rows = fitted[_balanced(groups[fitted], draw)]

    def quality(c: float) -> tuple[float, float, float]:
        weight, bias = _fit(x[rows], labels[rows], classes, c)
        right = (x[judged] @ weight.T + bias).argmax(1) == labels[judged]
        of_groups = [right[groups[judged] == group].mean() for group in np.unique(groups[judged])]
        return min(of_groups), float(np.mean(of_groups)), -c

    return float(max(progress_bar(grid, desc="penalty"), key=quality))


def retrained_head(
    features: Array, labels: Integers, groups: Names, classes: int, *, c: float, rounds: int = 10, seed: int = 0
) -> tuple[Array, Array]:
    """Weight (classes, d) and bias (classes,) of an l1-penalised logistic regression on balanced groups.

    In each round every group gives as many images as the smallest has, drawn anew; weights and biases are averaged.
    Features are standardised over all images, and the answer is for features as they come. The penalty includes the
    bias of standardised features, as in the authors' solver. Two classes are one regression, shared out over both
    logits; of more, each is told from the rest, so that their softmax ranks classes but is no calibrated probability.

    Args:
        features: (n, d).
        labels: (n,) in [0, classes), each of them at least once.
        groups: (n,) names, each of images of one class: see `cells`.
        classes: their number, at least 2.
        c: inverse strength of the penalty.
        rounds: subsets.
        seed: of the subsets; not those of `best_c`.
    """
    x, draw = _standardised(features), np.random.default_rng([seed, 1])
    subsets = (_balanced(groups, draw) for _ in progress_bar(range(rounds), desc="heads"))
    heads = [_fit(x[rows], labels[rows], classes, c) for rows in subsets]
    weight, bias = (np.mean(parts, axis=0) for parts in zip(*heads, strict=True))
    mean, scale = _moments(features)
    return weight / scale, bias - weight @ (mean / scale)


def linear_head(model: nn.Module, image: Tensor) -> tuple[str, nn.Linear]:
    """The linear layer whose output on `image`, (B, C, *spatial), is the model's logits, and its name.

    Raises:
        SightlineError: there is none, or it has no bias.
    """
    with torch.no_grad():
        logits, calls = trace(model, image)
    for call in reversed(calls):
        if isinstance(call.module, nn.Linear) and torch.equal(call.output, logits):
            if call.module.bias is None:
                raise SightlineError(f"DFR fits a bias, and layer {call.name!r} has none. Train a model with one.")
            return call.name, call.module
    raise SightlineError(
        "DFR refits the linear layer whose output is the logits, and this model has none: its logits come from "
        "another layer, or something follows. Train a model that ends in nn.Linear, such as sightline:cnn."
    )


def read_features(model: nn.Module, layer: str, data: Source, batch_size: int = 64) -> Array:
    """(N, d) input of the linear layer `layer`, behind which `model` does nothing, on every image of `data`."""
    loader = progress_bar(DataLoader(data, batch_size), desc=f"features of {data.split}")
    with without(model, layer), torch.inference_mode():
        return torch.cat([logits_of(model(batch.image)).double() for batch in loader]).numpy()


@contextmanager
def without(model: nn.Module, layer: str) -> Iterator[None]:
    """Inside the block `layer` hands on what it gets."""
    own = module(model, layer)
    model.set_submodule(layer, nn.Identity())
    try:
        yield
    finally:
        model.set_submodule(layer, own)


def cells(data: Source, by: Literal["groups", "classes"]) -> Names:
    """(N,) what each image is balanced with: its class, or "<class>/<group>"; "" without a label or a group.

    Raises:
        SightlineError: the data are multi-label.
    """
    if data.labels.ndim != 1:
        raise SightlineError(f"{data.name} is multi-label: DFR needs one class per image.")
    names = np.array(data.classes)[data.labels]
    if by == "groups":
        names = np.array([_cell(*pair) for pair in zip(names, data.groups, strict=True)])
    return np.where((data.labels >= 0) & data.has_label, names, "")


def _cell(name: str, group: str) -> str:
    return group if not group or group.startswith(f"{name}/") else f"{name}/{group}"


def _check_run(run: Path, out: Path) -> None:
    if not (run / "recipe.yaml").is_file():
        raise SightlineError(f"{run} is not a run directory: it holds no recipe.yaml. Name one that training wrote.")
    models.refuse_unfinished(run)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise SightlineError(f"{out} already holds files. Choose another --out.")


def _check_data(data: Source, labels: Integers, outputs: int) -> None:
    if outputs != len(data.classes) or outputs < 2:
        raise SightlineError(
            f"the model has {outputs} outputs, {data.name} has {len(data.classes)} classes: expected as many, and two "
            "at least."
        )
    if not len(labels):
        raise SightlineError(f"no image of {data.name} ({data.split}) has a group: balance the classes, --by classes.")
    if missing := [name for i, name in enumerate(data.classes) if i not in labels]:
        raise SightlineError(
            f"{data.name} ({data.split}) has no image of class {', '.join(missing)} to fit the last layer to: take "
            "another --split, or --by classes if it is only the group that is unknown."
        )
    if data.split == "train":
        log.warning("DFR: the network has fitted these images already; a held-out split serves better.")


def _write(run: Path, out: Path, model: models.Classifier, done: dict[str, Any], began: float) -> dict[str, Any]:
    """Write the new run directory; recipe.yaml comes last, since it is what makes a folder a run."""
    parent = {"run": run.name, "folder": relative(run, out)}
    record = dict(read_json(run / "run.json")) | {"name": out.name, "sightline": __version__, "versions": versions()}
    minutes = round(record.get("minutes", 0) + (time.monotonic() - began) / 60, 2)
    record |= {"minutes": minutes, "dfr": parent | done}
    models.save(model, out / "model.safetensors")
    write_json(out / "run.json", record)
    write_text(out / "recipe.yaml", (run / "recipe.yaml").read_text(encoding="utf-8"))
    return record


def _moments(features: Array) -> tuple[Array, Array]:
    """(d,) mean and standard deviation; 1 for what never varies."""
    scale = features.std(0)
    return features.mean(0), np.where(scale > 0, scale, 1)


def _standardised(features: Array) -> Array:
    mean, scale = _moments(features)
    return (features - mean) / scale


def _balanced(groups: Names, draw: np.random.Generator) -> Integers:
    """Rows of a random subset with as many of each group as there are of the smallest."""
    parts = _shuffled(groups, draw)
    return np.concatenate([rows[: min(map(len, parts))] for rows in parts])


def _halves(groups: Names, draw: np.random.Generator) -> tuple[Integers, Integers]:
    """Rows of two random halves of each group, the first the larger."""
    parts = [np.array_split(rows, 2) for rows in _shuffled(groups, draw)]
    first, second = (np.concatenate(half) for half in zip(*parts, strict=True))
    return first, second


def _shuffled(groups: Names, draw: np.random.Generator) -> list[Integers]:
    return [draw.permutation(np.flatnonzero(groups == group)) for group in np.unique(groups)]


def _fit(x: Array, labels: Integers, classes: int, c: float) -> tuple[Array, Array]:
    """(classes, d) weight and (classes,) bias."""
    if len(np.unique(labels)) < classes:
        raise SightlineError("a balanced subset lacks a class: name groups by class and group, such as 'cat/indoors'.")
    if classes == 2:
        weight, bias = _regress(x, labels == 1, c)
        return np.stack([-weight, weight]) / 2, np.array([-bias, bias]) / 2
    weights, biases = zip(*(_regress(x, labels == label, c) for label in range(classes)), strict=True)
    return np.stack(weights), np.array(biases)


def _regress(x: Array, positive: npt.NDArray[np.bool_], c: float) -> tuple[Array, float]:
    """(d,) weight and bias that tell the positive rows from the others."""
    made = LogisticRegression(**_L1, C=c, solver="liblinear", max_iter=1000, random_state=0).fit(x, positive)
    return made.coef_[0], float(made.intercept_[0])
