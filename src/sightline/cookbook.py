"""The recipes below a folder: what each is of, what it needs and lacks, and how its rows are trained and audited."""

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from sightline import recipe
from sightline.about import About, Table
from sightline.columns import aligned
from sightline.errors import SightlineError
from sightline.listing import find_root


@dataclass(frozen=True)
class Entry:
    """A recipe, and what can be said of it without its data."""

    path: str
    name: str
    """The path below the folder that was asked for."""
    data: str
    model: str
    needs: list[str]
    """Beside images and labels: masks, groups, a first run, a file of weights."""
    missing: list[str]
    """Folders and files it names that are not here."""
    about: About


def find(place: str | Path) -> tuple[list[Entry], dict[Path, str]]:
    """All recipes below a folder, or the one that `place` is, in the order of their paths.

    Returns:
        The recipes, and by path what is wrong with files that cannot be read as one.

    Raises:
        SightlineError: there is no such folder, or no recipe below it.
    """
    place = Path(place)
    paths = [place] if place.is_file() else sorted(filter(_is_recipe, place.rglob("*.yaml")))
    if not paths:
        raise SightlineError(f"there are no recipes below {place}. Name a recipe, or a folder of them.")
    found, failures = [], {}
    for path in paths:
        try:
            found.append(_entry(path, path.name if path == place else path.relative_to(place).as_posix()))
        except SightlineError as error:
            failures[path] = str(error)
    return found, failures


def text(entries: Sequence[Entry]) -> str:
    """A line for each recipe."""
    head = ["recipe", "data", "needs", "missing", "rows", "of"]
    return "\n".join(aligned([head, *map(_line, entries)], numbers=False))


def markdown(entries: Iterable[Entry]) -> str:
    """Each recipe in full: the commands that train and audit its rows, the published numbers, what deviates."""
    return "\n\n".join(paragraph for entry in entries for paragraph in _paragraphs(entry))


def as_json(entries: Iterable[Entry]) -> str:
    """All fields of `Entry`, as a list."""
    return json.dumps([asdict(entry) for entry in entries], indent=2)


WRITERS: dict[str, Callable[[Sequence[Entry]], str]] = {"text": text, "markdown": markdown, "json": as_json}


def _is_recipe(path: Path) -> bool:
    """Whether a YAML file names a model or objectives, or is damaged; others are of something else."""
    try:
        return not {"model", "objectives"}.isdisjoint(recipe.load(path))
    except SightlineError:
        return True


def _entry(path: Path, name: str) -> Entry:
    config = recipe.read(path)
    return Entry(
        path.as_posix(), name, _data(config.data), config.model.spec, _needs(config), _missing(config),
        recipe.part(config, "about") or About(),
    )  # fmt: skip


def _data(config: Namespace) -> str:
    """The dataset's class, and that of the one it is made of: "Fold(OCT)"."""
    name = config.class_path.rpartition(".")[2]
    inner = [_data(value) for value in vars(config.init_args).values() if _is_data(value)]
    return f"{name}({', '.join(inner)})" if inner else name


def _is_data(value: Any) -> bool:
    return isinstance(value, Namespace) and "class_path" in value


def _needs(config: Namespace) -> list[str]:
    asked = [need for objective in recipe.part(config, "objectives") for need in objective.needs]
    groups = ["groups"] * (config.training.balance == "groups")
    return list(dict.fromkeys([*asked, *groups, *_weights(config)]))


def _weights(config: Namespace) -> list[str]:
    return [config.model.weights] if config.model.weights else []


def _missing(config: Namespace) -> list[str]:
    roots = [root for root in _roots(config.data) if not _is_here(root)]
    return roots + [weights for weights in _weights(config) if not Path(weights).exists()]


def _roots(config: Namespace) -> Iterator[str]:
    for name, value in vars(config.init_args).items():
        if _is_data(value):
            yield from _roots(value)
        elif name == "root":
            yield value


def _is_here(root: str) -> bool:
    try:
        find_root(root)
    except SightlineError:
        return False
    return True


def _line(entry: Entry) -> list[str]:
    sources = "; ".join(table.source for table in entry.about.tables)
    rows = str(len(entry.about.rows) or "")
    cells = [entry.path, entry.data, ", ".join(entry.needs), ", ".join(entry.missing), rows, sources]
    return [cell or "–" for cell in cells]


def _paragraphs(entry: Entry) -> Iterator[str]:
    yield f"### [{entry.name}]({entry.name})"
    needs = f" Needs {', '.join(entry.needs)}." if entry.needs else ""
    yield f"{entry.data}, `{entry.model}`.{needs}"
    yield _code(_training(entry))
    for table in entry.about.tables:
        yield from _published(table, entry)
    if entry.about.deviations:
        yield "Deviations, and choices where the paper is silent:"
        yield "\n".join(f"- {line}" for line in entry.about.deviations)


def _published(table: Table, entry: Entry) -> Iterator[str]:
    """The paragraphs of one table."""
    yield " ".join(part for part in (f"**{table.source}.**", table.claim, table.ours) if part)
    if table.published:
        yield _rows(table)
    if table.audit:
        yield _code([f"sightline audit {_runs(entry)} {shlex.join(table.audit)}"])


def _rows(table: Table) -> str:
    columns = [_written(column) for column in zip(*table.published.values(), strict=True)]
    rows = [[name, *cells] for name, *cells in zip(table.published, *columns, strict=True)]
    head = ["published", *table.metric]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _written(column: Sequence[float | None]) -> list[str]:
    """Values with as many decimals as the one that has most.

    >>> _written([0.68, 0.673, None])
    ['0.680', '0.673', '–']
    """
    digits = max((len(repr(value).partition(".")[2]) for value in column if value is not None), default=0)
    return ["–" if value is None else f"{value:.{digits}f}" for value in column]


def _training(entry: Entry) -> list[str]:
    """Shell lines that train every row with every repeat."""
    given = [("row", " --row $row", entry.about.rows), ("repeat", " $repeat", entry.about.repeats)]
    loops = [(name, option, values) for name, option, values in given if values]
    out = "/".join([_folder(entry), *(["-".join(f"${name}" for name, _, _ in loops)] if loops else [])])
    options = "".join(option for _, option, _ in loops)
    return _looped([(name, values) for name, _, values in loops], f"sightline train {entry.path}{options} --out {out}")


def _looped(loops: Sequence[tuple[str, Iterable[str]]], line: str) -> list[str]:
    if not loops:
        return [line]
    (name, values), *inner = loops
    return [f"for {name} in {' '.join(values)}; do", *("  " + each for each in _looped(inner, line)), "done"]


def _folder(entry: Entry) -> str:
    path = Path(entry.path)
    return "/".join(filter(None, ("runs", path.parent.name, path.stem)))


def _runs(entry: Entry) -> str:
    return _folder(entry) + "/*" * bool(entry.about.rows or entry.about.repeats)


def _code(lines: Iterable[str]) -> str:
    return "\n".join(["```", *lines, "```"])
