"""Classifiers by name or file: normalisation inside, no in-place activations, the final pool swappable."""

import importlib.util
import inspect
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any, Literal, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sightline.compat import repair_torchvision, require
from sightline.errors import SightlineError, did_you_mean
from sightline.files import whole
from sightline.layers import probe
from sightline.passes import Call, evaluating, logits_of, rank, trace

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_METADATA = "sightline"
_REFUSALS = (RuntimeError, AssertionError, ValueError, TypeError, IndexError, SightlineError)

log = logging.getLogger(__name__)


class Normalise(nn.Module):
    """``(image - mean) / std`` per channel, for images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(tuple(mean)), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std)), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (image.ndim - 2))
        return (image - self.mean.view(shape)) / self.std.view(shape)

    def extra_repr(self) -> str:
        return f"mean={self.mean.tolist()}, std={self.std.tolist()}"


class Classifier(nn.Module):
    """A network that takes images in [0, 1]: `normalise`, then `net`.

    `origin` holds the arguments of `load` that rebuild it without its weights.
    """

    def __init__(self, normalise: Normalise, net: nn.Module, origin: Mapping[str, Any]) -> None:
        super().__init__()
        self.normalise, self.net, self.origin = normalise, net, dict(origin)

    def forward(self, image: Tensor) -> Any:
        """The network's output for (B, C, *spatial) images in [0, 1]."""
        return self.net(self.normalise(image))


def load(
    spec: str,
    *,
    num_classes: int = 1000,
    channels: int = 3,
    weights: str | None = None,
    pool: Literal["avg", "max"] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    arguments: Mapping[str, Any] | None = None,
    **network: Any,
) -> Classifier:
    """Build a classifier. Nothing is ever downloaded.

    Args:
        spec: "torchvision:resnet50", "timm:vit_tiny_patch16_224", "sightline:cnn" (also cfcn_f, cfcn_c),
            "file:net.py:factory" (a function of `num_classes` and `arguments` in a file of yours), or "file:RUN", a run
            directory or model.safetensors of sightline's, which brings everything else with it.
        num_classes: outputs of the head.
        channels: of the images.
        weights: a .safetensors or .pt/.pth state dict on disk for the network. A last linear layer of another size
            keeps its random weights, with a warning: fine-tuning.
        pool: "max" swaps the final global average pool for a maximum (GMP, Pillai and Pirsiavash, AAAI 2021).
        mean, std: per channel; default ImageNet's for torchvision and timm, 0.5 and 0.25 otherwise.
        arguments: further keyword arguments of the network's own constructor.
        network: the same, written directly: `load("sightline:cfcn_c", filters=[32, 16])`.

    Raises:
        SightlineError: an unknown name or argument, a missing file, weights that do not fit.
    """
    family, _, name = spec.partition(":")
    if twice := sorted(set(arguments or {}) & set(network)):
        raise SightlineError(f"{twice[0]!r} is given twice, in arguments and beside it. Keep one.")
    arguments = {**(arguments or {}), **network}
    if family == "file" and not _is_python(name):
        if weights is not None or pool is not None or arguments:
            given = ", ".join(arguments) or "weights and pool"
            raise SightlineError(f"{spec} brings its weights, pool and arguments: leave {given} out.")
        return _load_saved(Path(name))
    if family not in _FAMILIES or not name:
        raise SightlineError(f"model {spec!r}: expected FAMILY:NAME. {did_you_mean(family, [*_FAMILIES, 'file'])}")
    net = _FAMILIES[family](name, num_classes, channels, arguments)
    if weights is not None:
        _load_weights(net, Path(weights))
    if pool is not None:  # behind the weights, whose names it may change
        _swap_pool(net, pool, spec, arguments, None if family == "file" else channels)
    for module in net.modules():
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010 - not every module has it
    default = IMAGENET if family in ("torchvision", "timm") and channels == 3 else ((0.5,), (0.25,))
    normalise = Normalise(mean if mean is not None else default[0], std if std is not None else default[1])
    origin = {
        "spec": spec,
        "num_classes": num_classes,
        "channels": channels,
        "pool": pool,
        "mean": normalise.mean.double().tolist(),
        "std": normalise.std.double().tolist(),
        "arguments": arguments,
    }
    return Classifier(normalise, net, origin)


def save(model: Classifier, path: str | Path) -> None:
    """Write weights and origin to one .safetensors file, which `load("file:PATH")` reads back.

    Raises:
        SightlineError: the file cannot be written.
    """
    try:
        with whole(path) as temporary:
            safetensors.torch.save_model(model, str(temporary), {_METADATA: json.dumps(model.origin)})
    except safetensors.SafetensorError as error:
        raise SightlineError(
            f"cannot write {path}: {error}. Check the folder's permissions and the free space."
        ) from error


def _load_saved(path: Path) -> Classifier:
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise SightlineError(
            f"{path} does not exist. Give a run directory or the model.safetensors that training wrote."
        )
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            origin = json.loads((file.metadata() or {})[_METADATA])
    except (safetensors.SafetensorError, KeyError) as error:
        raise SightlineError(
            f"{path} was not written by sightline. For other weights name the network: "
            f"spec 'torchvision:resnet50' or 'timm:...' or 'file:net.py:factory', with weights={str(path)!r}."
        ) from error
    model = load(**origin)
    try:
        safetensors.torch.load_model(model, str(path))
    except RuntimeError as error:
        raise SightlineError(f"{path} does not fit {origin['spec']}, as it is built now: {str(error)[:600]}") from error
    return model


def _torchvision(name: str, num_classes: int, channels: int, arguments: dict[str, Any]) -> nn.Module:
    repair_torchvision()
    from torchvision import models

    if name not in models.list_models(module=models):
        raise SightlineError(
            f"torchvision has no model {name!r}. {did_you_mean(name, models.list_models(module=models))}"
        )
    if channels != 3:
        raise SightlineError(
            f"torchvision:{name} takes 3 channels, not {channels}. Use a timm model, or images with 3."
        )
    builder = models.get_model_builder(name)
    return _construct(f"torchvision:{name}", builder, arguments, weights=None, num_classes=num_classes)


def _timm(name: str, num_classes: int, channels: int, arguments: dict[str, Any]) -> nn.Module:
    repair_torchvision()
    timm = require("timm", "timm")
    if not timm.is_model(name):
        raise SightlineError(f"timm has no model {name!r}. {did_you_mean(name, timm.list_models())}")
    own = {"model_name": name, "pretrained": False, "num_classes": num_classes, "in_chans": channels}
    return _construct(f"timm:{name}", timm.create_model, arguments, **own)


def _own(name: str, num_classes: int, channels: int, arguments: dict[str, Any]) -> nn.Module:
    if name not in ConvNet.HEADS:
        raise SightlineError(f"sightline has no model {name!r}. {did_you_mean(name, ConvNet.HEADS)}")
    return _construct(f"sightline:{name}", ConvNet, arguments, head=name, num_classes=num_classes, channels=channels)


def _file(name: str, num_classes: int, channels: int, arguments: dict[str, Any]) -> nn.Module:
    path, _, function = name.rpartition(":")
    factory = getattr(_import(Path(path)), function, None)
    if not callable(factory):
        raise SightlineError(f"{path} defines no function {function!r}.")
    return _construct(f"file:{name}", factory, arguments, num_classes=num_classes)


_FAMILIES: dict[str, Callable[[str, int, int, dict[str, Any]], nn.Module]] = {
    "torchvision": _torchvision, "timm": _timm, "sightline": _own, "file": _file,
}  # fmt: skip


def _is_python(name: str) -> bool:
    return name.rpartition(":")[0].endswith(".py")


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SightlineError(f"{path} does not exist.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _construct(name: str, factory: Callable[..., nn.Module], arguments: Mapping[str, Any], **own: Any) -> nn.Module:
    """Call `factory` with `load`'s `own` keywords and the user's `arguments`; a wrong one is named."""
    known, anything = _keywords(factory)
    settings = _keywords(load)[0] - {"spec"}
    for key in arguments:
        if key in own or key in settings - known:
            raise SightlineError(f"{name}: load sets {key!r} by its own arguments. Leave it out of the network's.")
        if key not in known and (not anything or get_close_matches(key, settings, cutoff=0.8)):
            raise _unknown(name, key, known | settings)
    try:
        return factory(**own, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if wrong and wrong.group(1) in arguments:
            raise _unknown(name, wrong.group(1), _class_keywords(factory, own) | settings) from error
        raise SightlineError(f"{name} cannot be built with {dict(arguments)}: {error}.") from error


def _unknown(name: str, key: str, known: Iterable[str]) -> SightlineError:
    return SightlineError(f"{name} takes no argument {key!r}. {did_you_mean(key, sorted(known))}")


def _keywords(function: Callable[..., Any]) -> tuple[set[str], bool]:
    """The names of a function's parameters, and whether it takes any others."""
    parameters = inspect.signature(function).parameters.values()
    anything = inspect.Parameter.VAR_KEYWORD
    return {p.name for p in parameters if p.kind is not anything}, anything in {p.kind for p in parameters}


def _class_keywords(factory: Callable[..., nn.Module], own: Mapping[str, Any]) -> set[str]:
    """The parameters of the class that `factory` hands its further keywords to, if it can be built without them."""
    try:
        return _keywords(type(factory(**own)))[0]
    except Exception:  # a factory of the user's: whatever it raises, the first error says more
        return set()


class GlobalMaxPool(nn.Module):
    """The maximum over all positions, of (B, C, *spatial), (B, *spatial, C) or (B, tokens, C); ties go to the first.

    Args:
        axes: those of positions, side by side.
        keep: whether they remain, with one position each.
        prefix: class tokens ahead of the positions, which pass as they are.
    """

    def __init__(self, axes: Sequence[int], keep: bool = True, prefix: int = 0) -> None:
        super().__init__()
        self.axes, self.keep, self.prefix = tuple(axes), keep, prefix

    def forward(self, x: Tensor) -> Tensor:
        first, last = self.axes[0], self.axes[-1]
        tokens, cells = x.split((self.prefix, x.shape[first] - self.prefix), first)
        peak: Tensor = cells.flatten(first, last).max(first).values
        for _ in self.axes if self.keep else ():
            peak = peak.unsqueeze(first)
        return torch.cat((tokens, peak), first) if self.prefix else peak

    def extra_repr(self) -> str:
        return f"axes={self.axes}, keep={self.keep}, prefix={self.prefix}"


class _Average(NamedTuple):
    x: Tensor
    axes: tuple[int, ...]
    result: Tensor


class _Averages(TorchFunctionMode):
    """Notes every average over all positions, wherever it is called; the n-th is answered with another result."""

    def __init__(self, n: int = 0, answer: Callable[[_Average], Tensor] | None = None) -> None:
        super().__init__()
        self.seen: list[_Average] = []
        self.n, self.answer = n, answer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        axes = _averaged_axes(getattr(func, "__name__", ""), args, kwargs or {})
        if axes and result.numel() * prod(args[0].shape[axis] for axis in axes) == args[0].numel() > result.numel():
            self.seen.append(_Average(args[0], axes, result))
            if self.answer and len(self.seen) == self.n:
                return self.answer(self.seen[-1])
        return result


def _averaged_axes(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """The axes of positions that a call averages over; none if it leaves others than those of images and channels."""
    if not args or not isinstance(args[0], Tensor):
        return ()
    axes: tuple[int, ...] = ()
    if name == "mean":
        given = kwargs.get("dim", args[1] if len(args) > 1 else ())
        given = [given] if isinstance(given, int) else given or ()
        axes = tuple(sorted(axis % args[0].ndim for axis in given))
    elif re.fullmatch(r"(adaptive_)?avg_pool\dd", name):
        axes = tuple(range(2, args[0].ndim))
    return axes if args[0].ndim - len(axes) == 2 and 0 not in axes else ()


def _swap_pool(net: nn.Module, pool: str, spec: str, arguments: Mapping[str, Any], channels: int | None) -> None:
    """Make the global average that the logits are computed from a maximum; see that it was done."""
    if pool not in ("avg", "max"):
        raise SightlineError(f"pool is {pool!r}: expected 'max', 'avg' or None.")
    with evaluating(net), torch.no_grad(), _stirred(net):
        image, calls, averages = _last_average(net, spec, arguments, channels)
        if pool == "avg":
            return
        average = averages[-1]
        with _Averages(len(averages), lambda a: a.x.amax(a.axes, keepdim=a.result.ndim == a.x.ndim)):
            expected = logits_of(net(image))
        _put_maximum(net, calls, average)
        try:
            swapped = _alike(logits_of(net(image)), expected)
        except _REFUSALS:
            swapped = False
        if not swapped:
            raise SightlineError(
                f"{spec}: its global average is part of a function that cannot be given a maximum instead. Leave pool "
                "out, or give the network a pool that is a module."
            )


def _last_average(
    net: nn.Module, spec: str, arguments: Mapping[str, Any], channels: int | None
) -> tuple[Tensor, list[Call], list[_Average]]:
    """A probe at a size that `net` takes, its module calls and averages, of which the last is all the logits see."""
    problem = ""
    for size in _likely_sizes(net, arguments):
        try:
            image = probe(net, size, channels)
            with _Averages() as averages:
                _, calls = trace(net, image)
            with _Averages(len(averages.seen), lambda a: torch.zeros_like(a.result)):
                blind = logits_of(net(image))
        except _REFUSALS as error:
            problem = problem or f" On images of {size} it failed: {error}."
            continue
        if averages.seen and _alike(blind[0], blind[1]):
            return image, calls, averages.seen
    raise SightlineError(
        f"{spec} has no global average pool that all of its logits come from, as networks with class tokens, flattened "
        f"maps or attention pooling have none. Leave pool out.{problem}"
    )


def _likely_sizes(net: nn.Module, arguments: Mapping[str, Any]) -> list[Any]:
    """Sizes of images that `net` may run on, the cheapest first."""
    if rank(net) > 2:
        return [32, 64, 96]
    named = [arguments[key] for key in ("img_size", "image_size", "input_size", "size") if key in arguments]
    configured = (getattr(net, "default_cfg", None) or {}).get("input_size", (224, 224))[-2:]  # timm's
    return [64, *named, configured]


def _put_maximum(net: nn.Module, calls: Sequence[Call], average: _Average) -> None:
    """Replace the module that averages; of a function, make what comes ahead of it constant by a maximum."""
    passed_on = (call for call in calls if call.output is average.result)  # by the pool, and by dropout behind it
    pool = next((c for c in passed_on if not any(True for _ in c.module.parameters()) and _averages(c, average)), None)
    if pool is not None:
        net.set_submodule(pool.name, GlobalMaxPool(average.axes, keep=average.result.ndim == average.x.ndim))
        parent = net.get_submodule(pool.name.rpartition(".")[0])
        if hasattr(parent, "pool_type"):
            setattr(parent, "pool_type", "max")  # noqa: B010 - no module's but timm's
        return
    # The average of one position is that position, and activations in between commute with the maximum.
    ahead = next((c for c in reversed(calls) if _holds(c.output, average)), None)
    if ahead is None:
        return
    first = average.axes[0]
    peak = GlobalMaxPool(average.axes, prefix=ahead.output.shape[first] - average.x.shape[first])
    if isinstance(ahead.module, nn.Sequential):
        ahead.module.append(peak)
    else:
        net.set_submodule(ahead.name, nn.Sequential(ahead.module, peak))


def _averages(call: Call, average: _Average) -> bool:
    """Whether it is the call's module that averages."""
    try:
        result = call.module(average.x)
    except _REFUSALS:
        return False
    return isinstance(result, Tensor) and torch.equal(result, average.result)


def _holds(output: Tensor, average: _Average) -> bool:
    """Whether `output` has the averaged tensor's shape, but for class tokens ahead of its positions."""
    shape, wanted = list(output.shape), list(average.x.shape)
    if len(average.axes) == 1 and len(shape) == len(wanted) and shape[average.axes[0]] > wanted[average.axes[0]]:
        shape[average.axes[0]] = wanted[average.axes[0]]
    return shape == wanted


def _alike(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max())


@contextmanager
def _stirred(net: nn.Module) -> Iterator[None]:
    """Inside the block all weights are random and let signals pass: a fresh network's logits hardly see its image."""
    generator = torch.Generator().manual_seed(0)
    parameters = dict(net.named_parameters())
    kept = {name: p.data for name, p in parameters.items()}
    for name, p in parameters.items():
        drawn = torch.randn(p.shape, generator=generator)
        scale = (2 * len(p) / p.numel()) ** 0.5 if p.ndim > 1 else 0.1
        p.data = (drawn * scale + float(p.ndim == 1 and name.endswith("weight"))).to(p)
    try:
        yield
    finally:
        for name, p in parameters.items():
            p.data = kept[name]


def _load_weights(net: nn.Module, path: Path) -> None:
    """Load a state dict; tensors of the last linear layer may have another shape and are then left as they are."""
    try:
        state = _read_state(path)
        head = next((name for name, m in reversed(list(net.named_modules())) if isinstance(m, nn.Linear)), None)
        own = net.state_dict()
        fresh = [
            f"{head}.{part}" for part in ("weight", "bias") if f"{head}.{part}" in own and f"{head}.{part}" in state
        ]
        fresh = [name for name in fresh if state[name].shape != own[name].shape]
        net.load_state_dict({**state, **{name: own[name] for name in fresh}})
    except FileNotFoundError as error:
        raise SightlineError(f"weights {path} does not exist.") from error
    except (RuntimeError, AttributeError, OSError, EOFError, UnpicklingError, safetensors.SafetensorError) as error:
        raise SightlineError(f"weights {path} do not fit the network: {str(error)[:600]}") from error
    if fresh:
        log.warning("%s: %s have another shape; the head starts from random weights.", path, ", ".join(fresh))


def _read_state(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return dict(state.get("state_dict", state))


class ConvNet(nn.Sequential):
    """A small convolutional network: 3x3 convolution, BatchNorm, ReLU (and dropout) for each filter count, then a head.

    "cnn" averages globally and ends in a linear layer. The other two are the heads of CFCN (ICLR 2022 submission,
    appendix C): "cfcn_f" puts a 1x1 convolution to `maps` feature maps ahead of a fully connected layer, "cfcn_c" one
    to a map per class whose averages are the logits.

    The paper's networks (Table 4 there; kernels and the order within a block are not given):

    ================  ======================================  ==============  =========  ==========
    data              filters                                 stride_every    dropout    size
    ================  ======================================  ==============  =========  ==========
    Oxford-IIIT Pets  [128, 128, 64, 64, 32, 32, 16, 16]      0               0.3        96
    Aeroplane-Cow     [128, 128, 64, 64, 32]                  2               0.3        96
    Brain MRI         [64, 64, 64, 32, 32, 32]                3               0          96
    IDRiD             [32, 32, 16, 16, 8, 8], maps=3          0               0.3        [250, 175]
    ================  ======================================  ==============  =========  ==========

    IDRiD's images have several labels: "cfcn_c" then needs `logit_from="raw"`, or no probability falls below 1/2.

    Args:
        head: "cnn", "cfcn_f" or "cfcn_c".
        num_classes: number of logits.
        channels: of the images.
        filters: output channels of each convolution.
        stride_every: every n-th convolution has stride 2; 0 for none.
        strides: the stride of each convolution instead.
        dropout: probability after each block.
        maps: feature maps of "cfcn_f".
        size: side of the images or (H, W); "cfcn_f" needs it.
        order: within a block; "conv_relu_bn" is what a framework makes of a convolution with an activation, and its
            convolutions have biases.
        logit_from: of "cfcn_c": logits are the averages of the maps behind their ReLU ("relu", the paper's), which are
            never negative, or of the maps as they are ("raw").
    """

    HEADS = ("cnn", "cfcn_f", "cfcn_c")
    ORDERS = ("conv_bn_relu", "conv_relu_bn")

    def __init__(
        self,
        head: str,
        num_classes: int,
        channels: int = 3,
        filters: Sequence[int] = (32, 32, 64, 64, 128, 128),
        stride_every: int = 2,
        strides: Sequence[int] | None = None,
        dropout: float = 0.0,
        maps: int = 16,
        size: int | Sequence[int] = 48,
        order: str = "conv_bn_relu",
        logit_from: str = "relu",
    ) -> None:
        counts = range(1, len(filters) + 1)
        strides = strides or [2 if stride_every and i % stride_every == 0 else 1 for i in counts]
        if len(strides) != len(filters):
            raise ValueError(f"strides has {len(strides)} entries for {len(filters)} filters")
        if min(filters, default=0) < 1:
            raise ValueError(f"filters is {list(filters)}: expected a positive number for each convolution")
        if order not in self.ORDERS:
            raise ValueError(f"order is {order!r}. {did_you_mean(order, self.ORDERS)}")
        if logit_from not in ("relu", "raw"):
            raise ValueError(f"logit_from is {logit_from!r}. {did_you_mean(logit_from, ('relu', 'raw'))}")
        super().__init__()
        width = channels
        for i, (out, stride) in enumerate(zip(filters, strides, strict=True), 1):
            self.add_module(f"block{i}", _block(width, out, stride, dropout, order))
            width = out
        if head == "cnn":
            self.add_module("pool", nn.AdaptiveAvgPool2d(1))
            self.add_module("flatten", nn.Flatten())
            self.add_module("head", nn.Linear(width, num_classes))
        elif head == "cfcn_f":
            self.add_module("maps", nn.Sequential(nn.Conv2d(width, maps, 1), nn.ReLU()))
            self.add_module("flatten", nn.Flatten())
            self.add_module("head", nn.Linear(maps * _shrunk(size, strides), num_classes))
        else:
            rectified = [nn.ReLU()] * (logit_from == "relu")
            self.add_module("maps", nn.Sequential(nn.Conv2d(width, num_classes, 1), *rectified))
            self.add_module("pool", nn.AdaptiveAvgPool2d(1))
            self.add_module("flatten", nn.Flatten())


def _block(width: int, out: int, stride: int, dropout: float, order: str) -> nn.Sequential:
    rectified_last = order == "conv_bn_relu"
    convolution = nn.Conv2d(width, out, 3, stride, padding=1, bias=not rectified_last)
    rest = [nn.BatchNorm2d(out), nn.ReLU()] if rectified_last else [nn.ReLU(), nn.BatchNorm2d(out)]
    return nn.Sequential(convolution, *rest, *[nn.Dropout(dropout)] * (dropout > 0))


def _shrunk(size: int | Sequence[int], strides: Sequence[int]) -> int:
    """Number of cells left of an image of `size` behind 3x3 convolutions with these strides."""
    height, width = (size, size) if isinstance(size, int) else size
    for stride in strides:
        height, width = -(-height // stride), -(-width // stride)
    return height * width
