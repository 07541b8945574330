"""A recipe: everything one training run is made of, as YAML typed by the constructors' own signatures."""

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, is_dataclass
from inspect import signature
from numbers import Number
from pathlib import Path
from pydoc import locate
from typing import Any, Literal, cast, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from jsonargparse.typing import register_type

from sightline import augment, models, objectives
from sightline import data as datasets
from sightline.about import About, Table
from sightline.augment import Transform
from sightline.data import Source
from sightline.errors import SightlineError, did_you_mean
from sightline.explainers import Explainer
from sightline.explainers.names import named, spelt
from sightline.objectives import Objective
from sightline.words import plain

SAME_IMAGES = ("Propagated", "Adopted", "Swapped")
"""Datasets that show another's images, with masks that nobody drew or on each other's backgrounds."""


def _explainer(value: Any) -> Any:
    return named(value) if isinstance(value, str) else value


# In a recipe an explainer is a word, as on the command line: "GradCAM:elementwise=true".
register_type(Explainer, spelt, _explainer, type_check=lambda value, _: isinstance(value, Explainer))


class _Loader(yaml.SafeLoader):
    """YAML in which "on", an argument of `CGC`, is a word and not a truth value."""


_Loader.yaml_implicit_resolvers = {
    first: kinds for first, kinds in yaml.SafeLoader.yaml_implicit_resolvers.items() if first not in ("o", "O")
}


# As torchvision annotates angles.
register_type(Number, lambda value: value, lambda value: value, type_check=lambda value, _: isinstance(value, Number))


@dataclass
class Model:
    """Arguments of `sightline.models.load`; classes and channels come from the data."""

    spec: str
    weights: str | None = None
    pool: Literal["avg", "max"] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class Optimizer:
    """SGD with momentum, or AdamW."""

    name: Literal["sgd", "adamw"] = "adamw"
    lr: float = 1e-3
    head_lr: float | None = None
    """Rate of the network's last linear layer, where it is to differ from the other layers'."""
    weight_decay: float = 1e-2
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        _at_least(0, "optimizer", self, "lr", "head_lr", "weight_decay", "momentum")


@dataclass
class Schedule:
    """Learning rate over time: constant, in steps, along a cosine to zero, or one cycle."""

    name: Literal["constant", "step", "cosine", "onecycle"] = "cosine"
    every: int = 30
    """Epochs between the steps of "step"."""
    milestones: list[int] | None = None
    """Epochs after which the steps come instead, such as [24, 30]."""
    gamma: float = 0.1
    """Factor of each step of "step"."""
    warmup: float = 0.3
    """Share of the steps in which "onecycle" rises, between 0 and 1."""

    def __post_init__(self) -> None:
        _at_least(1, "schedule", self, "every")
        _at_least(0, "schedule", self, "gamma", "warmup")
        if self.warmup > 1:
            raise SightlineError(f"schedule.warmup is {self.warmup}: expected a share between 0 and 1.")


@dataclass
class Training:
    """How long, how large and how exact."""

    epochs: int = 10
    batch_size: int = 64
    unlabelled_batch_size: int | None = None
    """Images without a label in each training batch, beside `batch_size` with one; an epoch is then one pass over the
    labelled images. Null shuffles all images together."""
    balance: Literal["groups"] | None = None
    """"groups" draws images so that every group comes equally often, as GroupDRO's authors do."""
    augment: list[Transform] = field(default_factory=list)
    """What training images go through, in this order, and their masks with them: see `sightline.augment`."""
    validate_every: int = 1
    """Epochs between validations; few shots make epochs of a few steps, shorter than a validation."""
    precision: Literal["32", "bf16"] = "32"
    accumulate: int = 1
    """Batches whose gradients are averaged for one step of the optimiser."""
    clip: float | None = None
    """Largest gradient norm; null for none."""
    workers: int = 0
    threads: int | None = None
    """CPU threads of the computation; null leaves it to torch. Another number may round differently."""
    channels_last: bool = False
    """Lay images out channels last in memory: faster convolutions on most machines, the same numbers up to rounding."""
    log: Literal["csv", "tensorboard"] = "csv"
    """Every term goes to metrics.csv; "tensorboard" writes event files as well."""

    def __post_init__(self) -> None:
        _at_least(1, "training", self, "epochs", "batch_size", "unlabelled_batch_size", "accumulate", "threads")
        _at_least(1, "training", self, "validate_every")
        _at_least(0, "training", self, "workers", "clip")
        if self.balance and self.unlabelled_batch_size:
            raise SightlineError("training.balance and training.unlabelled_batch_size exclude each other: set one.")


@dataclass
class Recipe:
    """One run. `objectives` and `data` are any of sightline's, or classes of yours by import path."""

    data: Source
    model: Model
    objectives: list[Objective]
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    training: Training = field(default_factory=Training)
    seed: int = 0
    about: About | None = None

    def __post_init__(self) -> None:
        _at_least(0, "recipe", self, "seed")

    def classifier(self) -> models.Classifier:
        """The untrained model, with as many classes and channels as the data have."""
        return models.load(num_classes=len(self.data.classes), channels=self.data.channels, **vars(self.model))


def load(path: str | Path) -> dict[str, Any]:
    """A recipe as it is written, unchecked.

    Raises:
        SightlineError: a missing file, bad YAML, or no keys.
    """
    try:
        config = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise SightlineError(f"cannot read the recipe {path}: {getattr(error, 'strerror', None) or error}.") from error
    except yaml.YAMLError as error:
        raise SightlineError(f"the recipe {path} is not YAML: {error}") from error
    if not isinstance(config, dict):
        raise SightlineError(f"the recipe {path} holds no keys: expected {', '.join(signature(Recipe).parameters)}.")
    return config


def read(path: str | Path, overrides: Sequence[str] = (), row: str | None = None) -> Namespace:
    """Read a YAML recipe, apply `key=value` overrides, check every name and type; nothing is built yet.

    A key is a dotted path; numbers index lists and `init_args` may be left out: `objectives.1.weight=3`,
    `data.correlation=0`, `optimizer.lr=1e-3`. Values are YAML. Those of a `row`, see `About`, go first.

    Raises:
        SightlineError: a missing file, bad YAML, a misspelt or missing key, a value of the wrong type, an unknown row.
    """
    config = load(path)
    if row is not None:
        told = {"about": config.get("about")}
        about = part(_checked(told, path, "about"), "about") or About()
        overrides = [*about.overrides(row), *overrides]
        config["about"]["row"] = row
    for override in overrides:
        _override(config, override)
    return _checked(config, path)


def build(config: Namespace) -> Recipe:
    """Construct what `read` has checked: data, objectives and settings.

    Raises:
        SightlineError: whatever a constructor finds wrong with its arguments or files.
    """
    return Recipe(**vars(_constructed(_parser(), config)))


def part(config: Namespace, name: str) -> Any:
    """Construct one part of what `read` has checked, such as "objectives", and nothing else: no data are looked for.

    Raises:
        SightlineError: as for `build`.
    """
    return _constructed(_parser(name), Namespace({name: config[name]}))[name]  # type: ignore[no-untyped-call]


def images(config: Namespace) -> Namespace:
    """`config` with the data whose images its data show, files taken as they are: for whoever asks no more of them.

    No network is trained to draw masks, and no image is decoded to find broken ones.
    """
    config = deepcopy(config)
    while config.data.class_path.rpartition(".")[2] in SAME_IMAGES:
        config.data = config.data.init_args.data
    if "verify" in config.data.get("init_args", {}):
        config.data.init_args.verify = False
    return config


def dump(config: Namespace) -> str:
    """The resolved recipe as YAML, defaults included."""
    return str(_parser().dump(config, skip_unset=False))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines "key: old -> new" for every leaf in which two recipes differ."""
    lines = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines


def _checked(config: dict[str, Any], path: str | Path, part: str | None = None) -> Namespace:
    for name, kind in get_type_hints(Recipe).items():
        if is_dataclass(kind) and not isinstance(config.get(name, {}), Mapping | str):
            keys = ", ".join(signature(cast(type, kind)).parameters)
            raise SightlineError(f"recipe {path}: {name} is {config[name]!r}: expected some of the keys {keys}.")
    try:
        return cast(Namespace, _parser(part).parse_object(deepcopy(config)))
    except ArgumentError as error:
        raise SightlineError(f"recipe {path}: {_explained(str(error))}") from error


def _constructed(parser: ArgumentParser, config: Namespace) -> Namespace:
    try:
        return cast(Namespace, parser.instantiate(config))
    except SightlineError:
        raise
    except ValueError as error:
        raise SightlineError(f"recipe: {_reason(str(error))}") from error


def _at_least(least: int, part: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value >= least:
            raise SightlineError(f"{part}.{name} is {value}: expected at least {least}.")


def _parser(part: str | None = None) -> ArgumentParser:
    """Of recipes, or of one part of them."""
    parser = ArgumentParser(exit_on_error=False)
    if part is None:
        parser.add_class_arguments(Recipe)
    else:
        parser.add_argument(f"--{part}", type=get_type_hints(Recipe)[part])
    return parser


def _override(config: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise SightlineError(f"override {override!r}: expected key=value, such as optimizer.lr=1e-3.")
    node: Any = config
    *path, last = key.split(".")
    for part in path:
        node = _child(node, part, override)
    try:
        _assign(node, last, yaml.load(value, _Loader), override)
    except yaml.YAMLError as error:
        raise SightlineError(f"override {override!r}: {value!r} is not YAML.") from error


def _child(node: Any, part: str, override: str) -> Any:
    node = _arguments(node, part)
    if isinstance(node, list):
        index = _index(node, part, override)
        node[index] = {"class_path": node[index]} if isinstance(node[index], str) else node[index]
        return node[index]
    if not isinstance(node.setdefault(part, {}), dict | list):
        node[part] = {"class_path": node[part]}
    return node[part]


def _assign(node: Any, last: str, value: Any, override: str) -> None:
    node = _arguments(node, last)
    node[_index(node, last, override) if isinstance(node, list) else last] = value


def _arguments(node: Any, part: str) -> Any:
    """Step into `init_args` of a class, so that overrides need not spell it."""
    if isinstance(node, dict) and "class_path" in node and part not in ("class_path", "init_args"):
        return node.setdefault("init_args", {})
    return node


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise SightlineError(f"override {override!r}: {part!r} is not one of the positions 0 to {len(node) - 1}.")
    return int(part)


UNION = re.compile(
    r"Does not validate against any of the Union subtypes Subtypes: \[[^:]*\] Errors: - "
    r"(?P<reasons>(?:(?!Does not validate).)*?) "
    r"Given value type: <class '[^']*'> Given value: (?P<value>.*?)(?= - | Given value type|$)"
)
"""What jsonargparse says where several types would do and the value is of none; the innermost of several."""


def _reason(message: str) -> str:
    """jsonargparse's message on one line, and what it says of a union in short."""
    short = plain(message)
    while union := UNION.search(short):
        short = short[: union.start()] + _complaint(union) + short[union.end() :]
    return short


def _complaint(union: re.Match[str]) -> str:
    """What a constructor complains of, where several types would do; if none does, what each type expects."""
    reasons = dict.fromkeys(union["reasons"].split(" - "))
    own = "; ".join(reason for reason in reasons if not reason.startswith(("Expected a", "Type collections")))
    if not own:
        return f"{' or '.join(reasons).replace(' or Expected', ' or')}. Got value: {union['value']}"
    kind = re.match(r"Namespace\(class_path='[\w.]*?(\w+)'", union["value"])
    return f"{kind[1]}: {own}" if kind and kind[1] not in own else own


def _explained(message: str) -> str:
    """jsonargparse's message on one line, with the nearest known name where one is misspelt."""
    message = _reason(message)
    if option := re.search(r"[Oo]ption '([^']+)'", message):
        return f"{message}. {_meant(option[1].split('.')[0], message)}"
    if path := re.search(r"path string: (\S+)", message):
        hint = did_you_mean(path[1].strip(".").split(".")[-1], _names())
        return f"{message}. {hint}" if hint.startswith("Did") else message
    return message


def _meant(word: str, message: str) -> str:
    """What may have been meant by an option that is not accepted, where jsonargparse's message says that it stands."""
    kinds, group = re.findall(r"given class_path '([\w.]+)'", message), re.search(r"Group '(\w+)'", message)
    owner: Any = locate(kinds[-1]) if kinds else get_type_hints(Recipe).get(group[1]) if group else Recipe
    known = list(signature(owner).parameters) if callable(owner) else []
    hint = did_you_mean(word, known)
    parts = {"training": Training, "optimizer": Optimizer, "schedule": Schedule, "model": Model}
    if owner is Recipe and (homes := [name for name, kind in parts.items() if word in signature(kind).parameters]):
        return f"Write {homes[0]}.{word}."
    if hint.startswith("Did") or "data" not in known or word not in _names():
        return hint
    depth = 1 + message.count('Parser key "data"')
    return f"For the data inside it, write {'data.' * depth}{word}."


def _names() -> Iterable[str]:
    """Every word a recipe may use."""
    classes = [c for m in (objectives, datasets, augment.v2) for c in vars(m).values() if isinstance(c, type)]
    classes += augment.Solid.__subclasses__()
    settings = Recipe, Model, Optimizer, Schedule, Training, About, Table
    parameters = [name for c in (*settings, *classes) for name in signature(c).parameters]
    return dict.fromkeys([*parameters, *(c.__name__ for c in classes)])
