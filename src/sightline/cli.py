"""The command line: demo, train, recipes, dfr, audit, compare, matrix, report, explain, annotate, layers, data."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, cast

from sightline import __version__, words
from sightline.errors import SightlineError, did_you_mean
from sightline.naming import apart

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sightline.annotate import Project
    from sightline.audit import Subject
    from sightline.data import Source
    from sightline.datacheck import Samples
    from sightline.illustrate import Viewed
    from sightline.models import Classifier


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 1 after a user's mistake (one message, no traceback), 130 when interrupted."""
    args = _parsed(argv)
    command: Callable[[argparse.Namespace], int | None] = args.command
    try:
        return command(args) or 0
    except SightlineError as error:
        print(f"sightline: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "sightline: interrupted; nothing half-written is left. `--resume` goes on with a training run.",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; overrides of a recipe may stand among the options as well as ahead of them."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    unknown = [word for word in rest if word.startswith("-") or "overrides" not in args]
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}. {_meant(unknown[0], args)}")
    if rest:
        args.overrides += rest
    return args


def _meant(word: str, args: argparse.Namespace) -> str:
    """What may have been meant by an argument that a command does not take."""
    known = dict.fromkeys(re.findall(r"--[\w-]+", args.parser.format_help()))
    hint = did_you_mean(word.partition("=")[0], known)
    return f"{hint} Settings of a recipe have no dashes: training.epochs=1." if "overrides" in args else hint


def train(args: argparse.Namespace) -> None:
    """Train a recipe."""
    from sightline import recipe, train

    config = recipe.read(args.recipe, args.overrides, args.row)
    if args.print_config:
        print(recipe.dump(config), end="")
        return
    out = args.out or Path("runs") / Path(args.recipe).stem
    train.train(config, out, resume=args.resume, devices=args.devices, nodes=args.nodes, accelerator=args.accelerator)
    print(f"trained: {out}")


def recipes(args: argparse.Namespace) -> int:
    """List recipes, what they need and what they lack; of single ones, rows, commands and deviations."""
    from sightline import cookbook

    places = args.places or [Path("recipes")]
    found = [cookbook.find(place) for place in places]
    alone = all(place.is_file() for place in places)
    write = cookbook.WRITERS[args.format or ("markdown" if alone else "text")]
    print(write([entry for entries, _ in found for entry in entries]))
    failures = {path: reason for _, failed in found for path, reason in failed.items()}
    for path, reason in failures.items():
        print(f"sightline: {path}: {reason}", file=sys.stderr)
    return int(bool(failures))


def dfr(args: argparse.Namespace) -> None:
    """Refit a run's last layer to held-out images of balanced groups."""
    from sightline.dfr import dfr
    from sightline.scores import MIN_GROUP

    out = args.out or Path(f"{args.run}-dfr")
    done = dfr(
        args.run, out, split=args.split, by=args.by, rounds=args.rounds, seed=args.seed, batch_size=args.batch_size
    )["dfr"]
    smallest, absent = min(done["groups"].values()), done["absent_groups"]
    print(f"refitted: {out}  C {done['c']:g}  {len(done['groups'])} {args.by}, {smallest} images of each at a time")
    if smallest < MIN_GROUP:
        print(f"of the smallest of the {args.by} there are {smallest} images: the layer rests on very few.")
    if absent:
        print(f"{len(absent)} {args.by} of the training split are not in {done['split']}: {', '.join(absent)}")
    if done["left_out"]:
        print(f"{done['left_out']} images were left out: they have no label, or none of the {args.by}.")


def audit(args: argparse.Namespace) -> None:
    """Score runs or models on splits."""
    from sightline.audit import audit
    from sightline.compare import lost
    from sightline.data.base import known_split
    from sightline.explainers import GradCAM

    explainers = args.explainer or [GradCAM(args.layer, elementwise=not args.averaged)]
    names: list[str] = []
    for name in args.models:  # ahead of all work
        _refuse_unless_ready(name)
    for name in args.models:
        subject, data = _subject(name, args)
        for split in args.split:
            known_split(split, data.splits)
        names = apart([*names, subject.name], "{}-{}")
        folder = _audit_folder(name, names[-1], args)
        for split in args.split:
            out = folder / split
            summary = audit(
                subject, data.on(split), out, explainers=explainers, metrics=args.metrics, target=args.target,
                margin=args.margin, batch_size=args.batch_size, file=args.format, maps=args.maps,
            )  # fmt: skip
            print(f"audited: {out}  {_line(summary)}")
        for split, of in lost([folder / split for split in args.split]).items():
            interval = f"{of['value']:.3f} [{of['low']:.3f}, {of['high']:.3f}], p {of['p']:.2g}"
            print(f"lost to the background: accuracy {interval}, from {split}_same to {split}_swapped")


def compare(args: argparse.Namespace) -> None:
    """Join audits by image and test the differences."""
    from sightline.compare import compare, table
    from sightline.files import read_json

    for split, audits in _by_split(args.audits, args.split).items():
        comparison = compare(audits, args.out / split)
        print(f"\n{split}\n{table(comparison)}\n")
    for earlier in sorted(args.out.glob("*/comparison.json")):
        if read_json(earlier)["runs"] != comparison["runs"]:  # a report would take both for one
            earlier.unlink()
            print(f"removed: {earlier}, of other runs")
    print(f"compared: {args.out}")


def matrix(args: argparse.Namespace) -> None:
    """Put models that were audited on several datasets side by side."""
    from sightline.matrix import matrix, table

    print(f"{table(matrix(_audits(args.audits), args.metric, args.out))}\n\nmatrix: {args.out / 'matrix.json'}")


def report(args: argparse.Namespace) -> None:
    """Write one self-contained HTML page."""
    from sightline.report import build

    print(f"report: {build(_reportable(args.results), args.out, images=args.images)}")


def explain(args: argparse.Namespace) -> None:
    """Draw where a model looks in images: overlays, raw maps and a contact sheet."""
    from sightline import illustrate
    from sightline.explainers.names import named

    explainers = [named(spec) for spec in args.explainer or ["GradCAM"]]
    model, viewed = _viewer(args)
    target = None if args.target is None else illustrate.which(args.target, viewed.classes)
    shown = illustrate.illustrate(
        model, args.images, args.out, explainers=explainers, target=target, top=args.top, **viewed._asdict(),
        batch_size=args.batch_size, title=f"Where {args.model} looks",
    )  # fmt: skip
    print(illustrate.table(shown, viewed.classes))
    print(f"\nexplained: {args.out / 'contact_sheet.png'}, {args.out / 'maps.npz'}")


def annotate(args: argparse.Namespace) -> None:
    """Draw masks in a browser, alone or together."""
    from sightline.compat import require

    require("annotate", "starlette")
    require("annotate", "uvicorn")
    from sightline.annotate import Answers, Insight, Project, adopt, alone, serve

    project = Project(args.folder)
    if args.export:
        project.export(args.export)
        print(f"exported: {args.export}")
        return
    files = [*args.maps, *_explained(project, args)]
    insight = Insight(project, [Answers(file) for file in files], args.rank or ("mass" if files else "order"))
    if args.adopt is not None:
        with alone(project.folder):
            print(f"adopted: {adopt(project, insight, args.adopt)} masks")
        return
    serve(project, insight, args.host, args.port, args.people, args.open)


def layers(args: argparse.Namespace) -> None:
    """Print the layers a map can be drawn at, and the one that is chosen."""
    from sightline import layers, models
    from sightline.illustrate import size_of

    run = _run(args.model)
    model = models.load(f"file:{run}" if run else args.model, weights=args.weights)
    size = args.size or (run and size_of(run)) or 224
    found = list(layers.candidates(model, size))
    last = next((candidate for candidate in found if candidate.usable), None)
    chosen = last if last and last.told else None
    for candidate in reversed(found):
        mark = "->" if candidate is chosen else " ?" if not candidate.told else "  " if candidate.usable else " x"
        print(f"{mark} {candidate.name:50} {' x '.join(map(str, candidate.shape))}")
    verdict = "-> chosen; pass another as layer=." if chosen else "No layer qualifies by itself; pass one as layer=."
    unclear = "" if all(c.told for c in found) else "  ?: its output does not tell where its positions lie."
    print(f"\n{verdict}  x: the top logit reads at most one of its positions.{unclear}")


def check(args: argparse.Namespace) -> int:
    """Look for broken files, leaks and shortcuts before training; 1 with --strict and an error found."""
    from sightline import datacheck

    samples = _checkable(args.target)
    checked = datacheck.check(samples, args.max_images, args.seed)
    page = datacheck.write(checked, args.out or Path("runs/check") / samples.name)
    for finding in checked.findings:
        print(f"{finding.level}: {finding.title}", indent(f"{finding.detail}\n-> {finding.todo}", "    "), sep="\n")
    print(f"{'' if checked.findings else 'nothing found. '}checked {len(checked.rows):,} images: {page}")
    return int(args.strict and any(finding.level == "error" for finding in checked.findings))


def demo(args: argparse.Namespace) -> None:
    """Train a classifier that cheats and its remedies, audit them, and write the report."""
    from sightline.demo import demo

    demo(args.out, seed=args.seed)


def _add_normalisation(sub: argparse.ArgumentParser) -> None:
    """What a model that is not a run does to images in [0, 1] first."""
    for name, what in (("--mean", "subtracted from"), ("--std", "divides")):
        sub.add_argument(
            name, nargs="+", type=float, metavar="NUMBER",
            help=f"{what} images ahead of a model that is not a run; one, or one per channel, behind MODEL",
        )  # fmt: skip


def _subject(name: str, args: argparse.Namespace) -> "tuple[Subject, Source]":
    """A run directory with its own data, or any model with the data of --data."""
    from sightline.audit import Subject, of_run
    from sightline.illustrate import size_of

    folder = Path(name)
    if (folder / "recipe.yaml").exists():
        if args.data or args.weights or args.mean or args.std:
            raise SightlineError(
                f"{folder} brings its data, weights and normalisation. For other data name it file:{folder}, with "
                "--data; for the same at another size pass --override data.size=448."
            )
        if other := [each for each in args.override if not re.match(r"data\b", each)]:
            raise SightlineError(
                f"--override {other[0]}: an audit is of the model as it was trained; only its data can be "
                "others, as with data.size=448."
            )
        return of_run(folder, args.split[0], args.override)
    _refuse_unless_model(name, " with --data")
    if args.data is None:
        raise SightlineError(f"{name} brings no data of its own: pass --data FOLDER, or --data Habitats.")
    if args.override:
        raise SightlineError(f"{name} is no run: it has no recipe to override. Say it in --data, as Habitats:size=64.")
    run = _run(name)
    size = args.size or (size_of(run) if run else None)
    data = _data(args.data, args.split[0], size if isinstance(size, int) or len(size or ()) == 2 else None)
    model = _named_model(name, args, len(data.classes), data.channels)
    called = run.name if run else name.replace(":", "-").replace("/", "-")
    return Subject(model, called, name), data


def _data(target: str, split: str, size: Any) -> "Source":
    """A dataset by name, or a folder."""
    from sightline.data import Folder

    if not Path(target).exists() and target.partition(":")[0] in (kinds := _data_sets()):
        told = {"split": split} | ({"size": size} if size else {})
        named: Source = words.made(target, kinds, "dataset", **told)
        return named
    return Folder(target, split=split, size=size or 224)


def _explained(project: "Project", args: argparse.Namespace) -> "Iterator[Path]":
    """Ask every --model about every image; the files of its maps."""
    for place, name in enumerate(args.model, 1):
        from sightline import illustrate
        from sightline.explainers.names import named

        untold = dict.fromkeys(("size", "classes", "weights", "window", "mean", "std"))
        model, viewed = _viewer(argparse.Namespace(**vars(args) | untold | {"model": name}))
        out = project.folder / "annotations" / "maps" / f"{place}-{Path(name).name}"
        illustrate.illustrate(
            model, [entry.image for entry in project.entries], out, pictures=False, **viewed._asdict(),
            explainers=[named(spec) for spec in args.explainer or ["GradCAM"]],
        )  # fmt: skip
        yield out / "maps.npz"


def _checkable(target: str) -> "Samples":
    """What `sightline data check` is asked to look at: a folder, a dataset by name, or a recipe's data."""
    from sightline import datacheck
    from sightline.listing import find_root, list_entries

    name, folder = target.partition(":")[0], Path(target)
    if folder.suffix in (".yaml", ".yml") and folder.is_file():
        return _every_split(_recipe_data(folder))
    if not folder.exists() and name.isidentifier() and name in (kinds := _data_sets()):
        return _every_split(words.made(target, kinds, "dataset", verify=False))
    root = find_root(target)
    return datacheck.from_entries(root.resolve().name, list_entries(root))


def _recipe_data(path: Path) -> "Source":
    """The data whose images a recipe's data show; files are left for the check to find bad."""
    from sightline import recipe

    return cast("Source", recipe.part(recipe.images(recipe.read(path)), "data"))


def _data_sets() -> "dict[str, type[Source]]":
    from sightline import data

    return {name: getattr(data, name) for name in data.__all__ if name != "Source"}


def _every_split(source: "Source") -> "Samples":
    """Files where there are files, for they tell more than the samples made of them."""
    from sightline import datacheck
    from sightline.data.filed import Filed

    splits = [source.on(split) for split in source.splits]
    if not isinstance(source, Filed):
        return datacheck.from_source(splits)
    entries = [entry for split in splits if isinstance(split, Filed) for entry in split.entries]
    return datacheck.from_entries(source.name, entries, source.picture)


def _viewer(args: argparse.Namespace) -> "tuple[Classifier, Viewed]":
    """A model, and what it takes: a run knows, any other model is told."""
    from sightline import models
    from sightline.illustrate import Viewed, of_run
    from sightline.volumes import Reading

    classes = _class_names(args.classes)
    if (run := _run(args.model)) is None:
        _refuse_unless_model(args.model)
        model = _named_model(args.model, args, len(classes) or 1000)
        viewed = Viewed((224, 224), classes, Reading(window=tuple(args.window)) if args.window else None)
    elif args.weights or args.window or args.mean or args.std:
        raise SightlineError(
            f"{run} brings its weights, its window and its normalisation. Leave --weights, --window, --mean and --std "
            "out."
        )
    else:
        viewed = of_run(run)
        model, viewed = models.load(f"file:{run}"), viewed._replace(classes=classes or viewed.classes)
    return model, viewed._replace(size=(args.size, args.size)) if args.size else viewed


def _named_model(name: str, args: argparse.Namespace, classes: int, channels: int = 3) -> "Classifier":
    """A model that is no run, with a word on what the command line leaves open."""
    from sightline import models

    model = models.load(
        name, num_classes=classes, channels=channels, weights=args.weights, mean=args.mean, std=args.std
    )
    if args.weights is None and not name.startswith("file:"):
        print(f"sightline: {name} has random weights; pass its own as --weights.", file=sys.stderr)
    if not (args.mean and args.std) and _run(name) is None and not name.endswith(".safetensors"):
        print(f"sightline: {name} sees (image - mean) / std, with {model.normalise.extra_repr()}, or what --mean and "
              "--std say; mean 0 and std 1 for a network that does this itself.", file=sys.stderr)  # fmt: skip
    return model


def _run(name: str) -> Path | None:
    """The run directory that `name` means: DIR, file:DIR or file:DIR/model.safetensors."""
    path = Path(name.removeprefix("file:"))
    folder = path.parent if path.name == "model.safetensors" else path
    return folder if (folder / "recipe.yaml").exists() else None


def _refuse_unless_ready(name: str) -> None:
    """Refuse a run that is not finished, and what is neither run nor model."""
    from sightline.models import refuse_unfinished

    if (run := _run(name)) is None:
        _refuse_unless_model(name, " with --data")
    else:
        refuse_unfinished(run)


def _refuse_unless_model(name: str, needs: str = "") -> None:
    """Refuse what names neither a run directory, which is ruled out already, nor a model."""
    if Path(name).is_dir():
        raise SightlineError(f"{name} is not a run directory: it holds no recipe.yaml. Name a run, or a model{needs}.")
    if ":" not in name:
        raise SightlineError(f"there is no run directory {name}. Name one, or a model such as timm:resnet18{needs}.")


def _class_names(told: str | None) -> tuple[str, ...]:
    """The lines of a file, or as many names as a number says; none if nothing is told."""
    if told is None:
        return ()
    if told.isdecimal() and int(told) > 0:
        return tuple(f"class {i}" for i in range(int(told)))
    try:
        names = [line.strip() for line in Path(told).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SightlineError(f"--classes {told} is neither a number nor a text file of names: {error}.") from error
    if not names:
        raise SightlineError(f"--classes {told} holds no names. Write one on each line.")
    return tuple(names)


def _audit_folder(model: str, name: str, args: argparse.Namespace) -> Path:
    if args.out is None:
        if not Path(model).is_dir():
            raise SightlineError(f"{model} is not a run directory, so the audit has no place of its own: pass --out.")
        return Path(model) / "audit"
    return Path(args.out) / name if len(args.models) > 1 else Path(args.out)


def _line(summary: dict[str, Any]) -> str:
    """An audit's numbers; how many images there were, where that is not all of them."""
    known = {name: metric for name, metric in summary["metrics"].items() if metric and metric["value"] is not None}
    return "  ".join(f"{name} {metric['value']:.3f}{_of(metric, summary)}" for name, metric in known.items())


def _of(metric: dict[str, Any], summary: dict[str, Any]) -> str:
    if metric["n"] == summary["data"]["images"]:
        return ""
    few = f", {metric['left_out']} in smaller ones left out" if metric.get("left_out") else ""
    return f" (n {metric['n']}{few})"


def _by_split(folders: Sequence[Path], splits: Sequence[str] | None) -> dict[str, list[Path]]:
    """The audits to compare, by split: audit directories as they are, run directories by the splits they share."""
    if all((folder / "summary.json").exists() for folder in folders):
        return {folders[0].name: list(folders)}
    each = [{path.parent.name for path in folder.glob("audit/*/summary.json")} for folder in folders]
    shared = sorted(set.intersection(*each)) if each else []
    missing = [folder for folder, found in zip(folders, each, strict=True) if not found]
    if missing:
        raise SightlineError(f"{missing[0]} holds no audit. Run `sightline audit {missing[0]}` first.")
    if not shared:
        found = "; ".join(f"{folder}: {', '.join(sorted(s))}" for folder, s in zip(folders, each, strict=True))
        raise SightlineError(f"the runs share no audited split ({found}). Audit all of them on the same one.")
    wanted = splits or shared
    for split in wanted:
        if split not in shared:
            raise SightlineError(
                f"split {split!r} has not been audited for every run; shared by all: {', '.join(shared)}."
            )
    return {split: [folder / "audit" / split for folder in folders] for split in wanted}


def _audits(folders: Sequence[Path]) -> list[Path]:
    """Audit directories as they are, of run directories all audits, of other folders all that lie below."""
    found: list[Path] = []
    for folder in folders:
        lone = (folder / "summary.json").exists()
        inside = [folder] if lone else sorted(path.parent for path in folder.rglob("summary.json"))
        if not inside:
            raise SightlineError(f"{folder} holds no audit. Run `sightline audit` first.")
        found += inside
    return found


def _reportable(results: Sequence[Path]) -> list[Path]:
    """Comparison, audit or matrix directories, looked for one folder down where needed."""
    found = []
    for path in results:
        inside = sorted(file.parent for file in path.glob("*/comparison.json"))
        if not inside and not any(
            (path / name).exists() for name in ("comparison.json", "summary.json", "matrix.json")
        ):
            raise SightlineError(
                f"{path} holds no comparison.json, summary.json or matrix.json. Run `sightline compare` first, or name "
                "an audit, such as RUN/audit/test."
            )
        found += inside or [path]
    return found


def _count(text: str) -> int:
    """A whole number above 0, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says defaults where there are some."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        absent = action.default in (None, []) or action.default is False
        return action.help if absent else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sightline", description="Classifiers that decide on the right pixels: audit, fix, prove."
    )
    parser.add_argument("--version", action="version", version=f"sightline {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = commands.add_parser("data", help="Look at data before training.").add_subparsers(
        required=True, metavar="COMMAND"
    )

    def add(command: Callable[[argparse.Namespace], int | None], to: Any = commands) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = to.add_parser(
            command.__name__, help=command.__doc__, description=command.__doc__,
            formatter_class=_Help,
        )  # fmt: skip
        sub.set_defaults(command=command, parser=sub)
        return sub

    sub = add(demo)
    sub.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the demo's runs and report")
    sub.add_argument("--seed", type=int, default=0)

    sub = add(train)
    sub.add_argument("recipe", help="YAML file, or the recipe.yaml of an earlier run")
    sub.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as optimizer.lr=1e-3 or objectives.1.weight=3"
    )
    sub.add_argument("--row", help="of the tables that the recipe names: apply its overrides, before those given here")
    sub.add_argument("--out", type=Path, help="run directory; default runs/<recipe's name>")
    sub.add_argument("--resume", action="store_true", help="go on from the last whole epoch in --out")
    sub.add_argument("--devices", type=_count, default=1, help="processes per node, one for each device")
    sub.add_argument("--nodes", type=_count, default=1)
    sub.add_argument("--accelerator", default="auto", choices=["auto", "cpu", "gpu"])
    sub.add_argument("--print_config", action="store_true", help="print the resolved recipe and stop")

    sub = add(recipes)
    sub.add_argument("places", nargs="*", type=Path, metavar="RECIPE", help="or a folder; default: recipes")
    sub.add_argument("--format", choices=["text", "markdown", "json"], help="default: text, markdown of recipes alone")

    sub = add(dfr)
    sub.add_argument("run", type=Path, metavar="RUN", help="run directory; it stays as it is")
    sub.add_argument("--split", default="val", help="held-out images to fit the last layer to")
    sub.add_argument("--out", type=Path, help="the new run directory; default RUN-dfr")
    sub.add_argument("--by", choices=["groups", "classes"], default="groups", help="what is balanced")
    sub.add_argument("--rounds", type=_count, default=10, help="balanced subsets that are averaged")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--batch-size", type=_count, default=64)

    sub = add(audit)
    sub.add_argument(
        "models", nargs="+", metavar="MODEL", help="run directory, or a model such as timm:resnet18 with --data"
    )
    sub.add_argument("--split", nargs="+", default=["test"])
    sub.add_argument(
        "--out",
        type=Path,
        help="folder with one for each split, and for each of several models; default: the run's audit",
    )
    sub.add_argument(
        "--override", nargs="+", default=[], metavar="key=value", help="of a run's recipe, such as data.size=448"
    )
    sub.add_argument(
        "--data", metavar="DATA",
        help="for models that are no runs: folder of images (docs/data.md), or a dataset such as UnRel:only=[cat,dog]",
    )  # fmt: skip
    sub.add_argument(
        "--size", type=_count, help="side of the images of --data; default: the run's, the dataset's own, or 224"
    )
    sub.add_argument("--weights", help="state dict for a model that is not a run")
    _add_normalisation(sub)
    sub.add_argument("--layer", help="where the maps live; found if left out")
    sub.add_argument("--averaged", action="store_true", help="channel-averaged Grad-CAM instead of element-wise")
    sub.add_argument("--target", choices=["label", "prediction"], default="label", help="the class explained")
    sub.add_argument(
        "--explainer", nargs="+", default=[], metavar="NAME[:key=value,...]", help="the first one is shown"
    )
    sub.add_argument(
        "--metrics", nargs="+", default=["ch", "pg"], metavar="KEY[:key=value,...]",
        help="keys, or localisation, faithfulness, robustness, all",
    )  # fmt: skip
    sub.add_argument("--margin", type=float, help="of pointing games, in pixels; default 15 at a short side of 448")
    sub.add_argument("--maps", type=Path, help="folder in which maps are kept and found again")
    sub.add_argument("--batch-size", type=_count, default=64)
    sub.add_argument("--format", choices=["csv", "parquet"], default="csv", help="of the per-image scores")

    sub = add(compare)
    sub.add_argument(
        "audits", nargs="+", type=Path, metavar="RUN", help="run or audit directories; the first is the baseline"
    )
    sub.add_argument("--split", nargs="+", help="default: every split all runs were audited on")
    sub.add_argument("--out", type=Path, default=Path("runs/comparison"))

    sub = add(matrix)
    sub.add_argument("audits", nargs="+", type=Path, metavar="RUN", help="run or audit directories, or folders of them")
    sub.add_argument("--metric", default="auroc", help="such as accuracy, auroc, ch or ch@WBP")
    sub.add_argument("--out", type=Path, default=Path("runs/matrix"), help="folder of matrix.json")

    sub = add(report)
    sub.add_argument("results", nargs="+", type=Path, metavar="COMPARISON", help="what compare, audit or matrix wrote")
    sub.add_argument("--out", type=Path, default=Path("runs/report.html"))
    sub.add_argument("--images", type=_count, default=24, help="rows of the gallery")

    sub = add(explain)
    sub.add_argument("model", metavar="MODEL", help="run directory, or a model such as torchvision:resnet18")
    sub.add_argument(
        "images", nargs="+", metavar="IMAGE",
        help="image or folder of images; for a model of volumes, .nii, .nii.gz, .npy, .npz or a DICOM series' folder",
    )  # fmt: skip
    sub.add_argument(
        "--explainer", nargs="+", action="extend", metavar="NAME[:key=value,...]",
        help="such as GradCAM or GradCAM:elementwise=true,layer=net.layer3; default GradCAM",
    )  # fmt: skip
    sub.add_argument("--out", type=Path, default=Path("runs/explained"), help="folder of the maps and pictures")
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--target", help="class to explain, by name or index; default: the top prediction")
    which.add_argument("--top", type=_count, default=1, help="explain so many of the most probable classes")
    sub.add_argument("--size", type=_count, help="side of the images; default: the run's own, or 224")
    sub.add_argument(
        "--window", nargs=2, type=float, metavar=("CENTRE", "WIDTH"),
        help="of a scan's values, for a model that is not a run; default: its 0.5th to its 99.5th percentile",
    )  # fmt: skip
    sub.add_argument("--weights", help="state dict for a model that is not a run")
    _add_normalisation(sub)
    sub.add_argument("--classes", help="their number, or a file with one name per line, for a model that is not a run")
    sub.add_argument("--batch-size", type=_count, default=32)

    sub = add(annotate)
    sub.add_argument("folder", type=Path, metavar="DIR", help="folder of images (see docs/data.md)")
    sub.add_argument("--export", type=Path, metavar="FILE", help="write all masks as COCO JSON and stop")
    sub.add_argument("--model", nargs="+", default=[], metavar="RUN", help="run directories whose maps are shown")
    sub.add_argument("--explainer", nargs="+", metavar="NAME[:key=value,...]", help="of their maps; default GradCAM")
    sub.add_argument("--maps", nargs="+", type=Path, default=[], metavar="FILE", help="maps.npz of `sightline explain`")
    sub.add_argument(
        "--adopt", nargs="?", type=float, const=0.3, metavar="LEVEL",
        help="where a map was judged right, make it the mask: what exceeds this share of its maximum (0.3); and stop",
    )  # fmt: skip
    sub.add_argument("--rank", help="order, random, mass, disagreement or uncertainty; default mass, if there are maps")
    sub.add_argument(
        "--host", default="127.0.0.1", help="address that browsers are told; the default stays on this machine"
    )
    sub.add_argument("--port", type=int, default=0, help="0 for any that is free")
    sub.add_argument("--people", type=_count, default=1, help="links to print, one for each person")
    sub.add_argument("--no-open", dest="open", action="store_false", help="open no browser here")

    sub = add(layers)
    sub.add_argument(
        "model", help="such as torchvision:resnet50, timm:vit_tiny_patch16_224 or a run as file:runs/plain"
    )
    sub.add_argument("--size", type=_count, help="side of the probe; default: the run's own, or 224")
    sub.add_argument("--weights")

    sub = add(check, data)
    sub.add_argument(
        "target",
        metavar="DATA",
        help="folder, recipe, or a dataset by name, such as Habitats or Habitats:correlation=0",
    )
    sub.add_argument("--out", type=Path, help="folder of check.html and check.json; default runs/check/<name>")
    sub.add_argument("--strict", action="store_true", help="exit with 1 if there is an error, for CI")
    sub.add_argument("--max-images", type=_count, help="check so many images, drawn evenly from classes and splits")
    sub.add_argument("--seed", type=int, default=0)
    return parser
