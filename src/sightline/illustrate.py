"""Explain image files: raw maps, overlays and a contact sheet."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sightline import colours, plates, recipe, sheet
from sightline.columns import aligned
from sightline.data.base import pair, triple
from sightline.data.loose import Array, distinct, gather, read_picture, read_voxels
from sightline.errors import SightlineError, did_you_mean
from sightline.explainers import Explainer, GradCAM, bind
from sightline.explainers.names import told_apart
from sightline.files import read_json, whole
from sightline.maps import resize
from sightline.passes import Pass, evaluating, rank, record
from sightline.progress import progress_bar
from sightline.volumes import Grid, Reading

NOTE = (
    "Each map is scaled by itself, for display only. Its colours go from one value below the picture to the other, "
    "which 99.5 % of its magnitudes do not exceed. The raw maps are in maps.npz."
)


log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Shown:
    """One image: what the model says about it, and where it looks."""

    id: str
    path: Path
    image: Array
    """(C, *spatial) as the model saw it: uint8, or float32 in [0, 1]."""
    grid: Grid | None
    """Where the voxels of its file lie in the patient; None if that says nothing of it."""
    logits: Array
    """(classes,)."""
    targets: tuple[int, ...]
    """The classes explained."""
    maps: Mapping[str, Array]
    """(targets, *spatial), raw, by the explainer's name."""

    @property
    def probability(self) -> Array:
        """(classes,): softmax of the logits."""
        exponents = np.exp(self.logits - self.logits.max())
        return np.asarray(exponents / exponents.sum())

    @property
    def drawn(self) -> Mapping[str, Array]:
        """`maps` as they are drawn: where they hold channels, summed over them."""
        return {k: v.sum(1) if v.ndim > self.image.ndim else v for k, v in self.maps.items()}

    @property
    def prediction(self) -> int:
        """The most probable class."""
        return int(self.logits.argmax())

    def overlay(self, explainer: str, target: int, suffix: str = ".png") -> str:
        """The name of the file that shows one map."""
        return f"overlay-{self.id}-{explainer}{f'-class{target}' if len(self.targets) > 1 else ''}{suffix}"


def illustrate(
    model: nn.Module,
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    explainers: Sequence[Explainer] = (GradCAM(),),
    target: int | None = None,
    top: int = 1,
    classes: Sequence[str] = (),
    size: Sequence[int] = (224, 224),
    reading: Reading | None = None,
    batch_size: int = 32,
    title: str = "",
    pictures: bool = True,
) -> list[Shown]:
    """Explain files with every explainer, all from the same forward passes, and write what there is to look at.

    `out` receives maps.npz, overlay-<id>-<explainer>.png for each map, and contact_sheet.png: all of them or none.
    For a scan in NIfTI or DICOM there is an overlay-<id>-<explainer>.nii.gz beside each picture: the raw map on the
    scan's own grid, with its affine, so that a viewer lays it over the scan.

    Args:
        model: takes (B, C, *spatial) in [0, 1]; explained in evaluation mode, on the device of its parameters.
        paths: images or folders of images; for a model of volumes, scans (see `sightline.volumes.read_scan`).
        out: the folder; files of the same names are replaced.
        explainers: drawn side by side.
        target: the class to explain; None for the top prediction.
        top: with `target=None`, explain so many of the most probable classes, side by side.
        classes: their names; empty if unknown.
        size: (H, W) of the images the model takes.
        reading: how scans are scaled and resampled; None takes arrays as they are and scales NIfTI and DICOM as
            `Reading()` does.
        batch_size: images in one pass.
        title: of the contact sheet.
        pictures: whether `out` receives more than maps.npz.

    Raises:
        SightlineError: a bad path, file, size, target or layer; a map that is not finite; `out` cannot be written.
    """
    items = _read(model, paths, size, reading)
    bound = told_apart([bind(explainer, model, items[0].image.shape[1:]) for explainer in explainers])
    with ExitStack() as files:

        def new(name: str) -> Path:
            return files.enter_context(whole(Path(out) / name))

        maps = new("maps.npz")
        maps.touch()  # a folder that cannot be written is found before the work
        shown = _explain(model, items, bound, lambda run: _targets(run, target, top), batch_size)
        _refuse_other_classes(classes, shown[0].logits)
        _write_maps(maps, shown, bound, classes)
        if pictures:
            _write_pictures(new, shown, bound, classes, title)
            _write_scans(new, shown)
    return shown


class Viewed(NamedTuple):
    """What a model was trained to look at."""

    size: tuple[int, ...]
    """(H, W) of its images, or (D, H, W) of its volumes."""
    classes: tuple[str, ...]
    """Their names; empty if unknown."""
    reading: Reading | None
    """How its scans are read; None of a model of images."""


def of_run(folder: str | Path) -> Viewed:
    """What a run was trained on; as it noted that, with a warning, if its data are gone.

    Raises:
        SightlineError: the recipe cannot be read, or nothing says how large the images are.
    """
    config = recipe.images(recipe.read(Path(folder) / "recipe.yaml"))
    arguments = config.data.get("init_args", {})
    try:
        data = recipe.part(config, "data")
    except SightlineError as error:
        size, classes = size_of(folder), tuple(_noted(folder).get("classes", ()))
        if size is None:
            raise
        log.warning("%s: the classes %s here. %s", folder, "are as noted" if classes else "have no names", error)
        return _told(arguments, size, classes)
    return Viewed(data.size, data.classes, data.reading)


def _noted(folder: str | Path) -> dict[str, Any]:
    """What run.json says of the data."""
    file = Path(folder) / "run.json"
    return read_json(file).get("data", {}) if file.is_file() else {}


def size_of(folder: str | Path) -> Any:
    """The size of a run's images as it noted it, else as its recipe says it, None where it does not; no data are read.

    Raises:
        SightlineError: the recipe cannot be read.
    """
    if size := _noted(folder).get("size"):
        return tuple(size)
    data = recipe.read(Path(folder) / "recipe.yaml").data
    while "size" not in (arguments := data.get("init_args", {})) and "data" in arguments:
        data = arguments["data"]
    return arguments.get("size")


def _told(arguments: Any, size: Any, classes: tuple[str, ...]) -> Viewed:
    """What a run saw, from the arguments of a dataset that is gone."""
    if "percentiles" not in arguments:
        return Viewed(pair("size", size), classes, None)
    reading = Reading(triple("size", size), arguments["window"], arguments["percentiles"])
    return Viewed(triple("size", size), classes, reading)


def which(target: str, classes: Sequence[str]) -> int:
    """The index of a class, by its name or else by its number.

    Raises:
        SightlineError: there is no class of that name.
    """
    if target in classes:
        return list(classes).index(target)
    if target.isdecimal():
        return int(target)
    known = did_you_mean(target, classes) if classes else "The names of the classes are not known: give an index."
    raise SightlineError(f"target: there is no class {target!r}. {known}")


def table(shown: Sequence[Shown], classes: Sequence[str] = ()) -> str:
    """Prediction, target and file of each map, as text."""
    head = ("image", "prediction", "target", "file", "")
    lines = [head, *(line for one in shown for line in _lines(one, classes))]
    return "\n".join(aligned(lines, numbers=False))


def _lines(one: Shown, classes: Sequence[str]) -> Iterator[tuple[str, ...]]:
    said = (one.id, _says(one, one.prediction, classes))
    for explainer, maps in one.maps.items():
        for target, map in zip(one.targets, maps, strict=True):
            note = "" if map.any() else "empty map"
            yield *said, _says(one, target, classes), one.overlay(explainer, target), note
            said = ("", "")


def _says(one: Shown, target: int, classes: Sequence[str]) -> str:
    """The name of a class, and what the model gives it."""
    return f"{classes[target] if classes else f'class {target}'} ({100 * one.probability[target]:.1f} %)"


# From files to maps ---------------------------------------------------------------------------------------------------


class Item(NamedTuple):
    """One image to explain."""

    id: str
    path: Path
    image: Array
    grid: Grid | None = None


def _read(model: nn.Module, paths: Sequence[str | Path], size: Sequence[int], reading: Reading | None) -> list[Item]:
    channels, volumes = _channels(model), rank(model) == 3
    files = gather(paths, volumes)
    bar = progress_bar(files, desc="reading", unit=" images")
    read = [read_voxels(path, channels, reading) if volumes else _picture(path, size, channels) for path in bar]
    images, grids = zip(*read, strict=True)
    _refuse_mixed(files, images)
    return list(map(Item, distinct(files), files, images, grids))


def _picture(path: Path, size: Sequence[int], channels: int) -> tuple[Array, None]:
    if len(size) != 2:
        raise SightlineError(f"the model takes several views of each image, {tuple(size)}: explain it from Python.")
    return read_picture(path, (size[0], size[1]), channels), None


def _channels(model: nn.Module) -> int:
    """Those of the images that `model` takes."""
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)), None)
    return convolution.in_channels if convolution else getattr(model, "origin", {}).get("channels", 3)


def _refuse_mixed(files: Sequence[Path], images: Sequence[Array]) -> None:
    for path, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise SightlineError(
                f"{path} has shape {image.shape}, {files[0]} {images[0].shape}: explain volumes of one shape at a time."
            )


def _explain(
    model: nn.Module,
    items: Sequence[Item],
    explainers: Mapping[str, Explainer],
    choose: Callable[[Pass], Tensor],
    batch_size: int,
) -> list[Shown]:
    shown: list[Shown] = []
    bar = progress_bar(total=len(items) * len(explainers), desc="explaining", unit=" maps")
    with bar, evaluating(model):
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            run = _recorded(model, batch, explainers)
            logits, targets, maps = _numpy(run.logits), choose(run), {}
            _refuse_nan(batch, logits, "logits")
            for name, explainer in explainers.items():
                maps[name] = _numpy(torch.stack([explainer(run, target) for target in targets.unbind(1)], 1))
                _refuse_nan(batch, maps[name], f"map of {explainer!r}")
                bar.update(len(batch))
            for i, item in enumerate(batch):
                of_image = {name: each[i] for name, each in maps.items()}
                shown.append(Shown(*item, logits[i], tuple(targets[i].tolist()), of_image))
    return shown


def _recorded(model: nn.Module, batch: Sequence[Item], explainers: Mapping[str, Explainer]) -> Pass:
    """One pass with what all explainers need."""
    weight = next(model.parameters(), torch.empty(0))
    image = torch.stack([_unit(item.image) for item in batch]).to(weight)
    taps = [tap for explainer in explainers.values() for tap in explainer.taps]
    ruled = any(getattr(explainer, "ruled", False) for explainer in explainers.values())
    try:
        return record(model, image, taps=taps, ruled=ruled, differentiable=False)
    except SightlineError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:
        raise SightlineError(
            f"the model cannot run on images of shape {tuple(image.shape[1:])}: {error}. "
            "Pass the size it was built for."
        ) from error


def _unit(image: Array) -> Tensor:
    values = torch.tensor(image)
    return values / 255 if values.dtype == torch.uint8 else values


def _targets(run: Pass, target: int | None, top: int) -> Tensor:
    """(B, targets) classes to explain."""
    if top == 1:
        return run.target(target).unsqueeze(1)
    if top > run.logits.shape[1]:
        raise SightlineError(f"top is {top}, but the model has {run.logits.shape[1]} classes.")
    return run.logits.detach().topk(top).indices


def _refuse_nan(batch: Sequence[Item], values: Array, what: str) -> None:
    for item, of_image in zip(batch, values, strict=True):
        if not np.isfinite(of_image).all():
            raise SightlineError(
                f"{item.path}: NaN or infinity in the {what}. Check that the model's weights are finite, or choose "
                "another layer or explainer."
            )


def _refuse_other_classes(classes: Sequence[str], logits: Array) -> None:
    if classes and len(classes) != len(logits):
        raise SightlineError(f"the model has {len(logits)} outputs, but {len(classes)} classes are named.")


def _numpy(values: Tensor) -> Array:
    return values.detach().float().cpu().numpy()


# From maps to files ---------------------------------------------------------------------------------------------------


def _write_maps(
    path: Path, shown: Sequence[Shown], explainers: Mapping[str, Explainer], classes: Sequence[str]
) -> None:
    maps: dict[str, Any] = {f"map/{one.id}/{name}": values for one in shown for name, values in one.maps.items()}
    np.savez_compressed(
        path,
        id=np.array([one.id for one in shown]),
        path=np.array([str(one.path) for one in shown]),
        target=np.array([one.targets for one in shown]),
        logits=np.stack([one.logits for one in shown]),
        probability=np.stack([one.probability for one in shown]),
        classes=np.array(classes, np.str_),
        explainer=np.array(list(explainers)),
        repr=np.array([repr(explainer) for explainer in explainers.values()]),
        **maps,
    )


def _write_pictures(
    new: Callable[[str], Path],
    shown: Sequence[Shown],
    explainers: Mapping[str, Explainer],
    classes: Sequence[str],
    title: str,
) -> None:
    """The overlays and the contact sheet."""
    signed = {name: any(colours.signed(one.drawn[name]) for one in shown) for name in explainers}
    of_volumes = shown[0].image.ndim == 4
    columns = [sheet.Column("image", f"cut at the peak of {next(iter(explainers))}" if of_volumes else "")]
    for name, explainer in explainers.items():
        columns += _columns(name, explainer, signed[name], len(shown[0].targets))
    rows = (_row(one, signed, classes, new) for one in shown)
    for number, page in enumerate(sheet.draw(title, NOTE, columns, rows, len(shown)), 1):
        page.save(new("contact_sheet.png" if number == 1 else f"contact_sheet-{number}.png"))


def _write_scans(new: Callable[[str], Path], shown: Sequence[Shown]) -> None:
    """The maps of scans that have a place, on their grids."""
    for one in shown:
        if one.grid is not None:
            for name, maps in one.drawn.items():
                on_grid = resize(torch.from_numpy(maps), one.grid.upright_shape()).numpy()
                for target, map in zip(one.targets, on_grid, strict=True):
                    new(one.overlay(name, target, ".nii.gz")).write_bytes(one.grid.nifti(map))


def _columns(name: str, explainer: Explainer, signed: bool, targets: int) -> Iterator[sheet.Column]:
    """What heads the maps of one explainer."""
    ends = ("negative", "0", "positive") if signed else ("low", "", "high")
    for place in range(1, targets + 1):
        heading = f"{name}, top {place}" if targets > 1 else name
        yield sheet.Column(heading, _arguments(explainer), colours.bar(signed), ends)


def _arguments(explainer: Any) -> str:
    """Those that differ from their defaults."""
    chosen = {f.name: getattr(explainer, f.name) for f in fields(explainer) if f.init and f.repr}
    defaults = {f.name: f.default for f in fields(explainer)}
    return ", ".join(f"{name}={value}" for name, value in chosen.items() if value != defaults[name])


def _row(
    one: Shown, signed: Mapping[str, bool], classes: Sequence[str], new: Callable[[str], Path]
) -> list[sheet.Picture]:
    """The image and its maps; these go to files of their own as well."""
    at = plates.peak(next(iter(one.drawn.values()))[0], one.image.shape[1:])
    prediction = f"predicted: {_says(one, one.prediction, classes)}"
    row = [sheet.Picture.of(plates.plain(one.image, at), one.id, prediction)]
    for name, maps in one.drawn.items():
        for target, map in zip(one.targets, maps, strict=True):
            ends = colours.ends(map, signed[name])
            pixels = plates.overlay(one.image, map, at, ends)
            sheet.to_image(pixels).save(new(one.overlay(name, target)))
            row.append(
                sheet.Picture.of(
                    pixels,
                    f"for {_says(one, target, classes)}",
                    f"{ends[0]:.3g} to {ends[1]:.3g}" if map.any() else "empty map",
                )
            )
    return row
