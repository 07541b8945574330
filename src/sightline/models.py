"""Classifiers by name or file: normalisation inside, no in-place activations, the final pool swappable."""

import importlib.util
import inspect
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from sightline.compat import repair_torchvision, require
from sightline.errors import SightlineError, did_you_mean
from sightline.files import whole
from sightline.listing import some
from sightline.pools import swap_pool

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_METADATA = "sightline"
_SAVED = "model.safetensors"
_COUNTER = "num_batches_tracked"  # BatchNorm's, which older files lack and torch adds
_INSIDE = ("state_dict", "model_state_dict", "model_state", "model", "module", "network", "net", "weights")
"""Where checkpoints of training loops hold the network's state."""

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
        mean, std = ([round(value, 6) for value in values.tolist()] for values in (self.mean, self.std))
        return f"mean={mean}, std={std}"


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
        weights: a .safetensors or .pt/.pth state dict on disk for the network, or a run directory of sightline's. A
            last linear layer of another size keeps its random weights, with a warning: fine-tuning.
        pool: "max" swaps the final global average pool for a maximum (GMP, Pillai and Pirsiavash, AAAI 2021).
        mean, std: per channel; default timm's own for timm, ImageNet's for torchvision, 0.5 and 0.25 otherwise.
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
        own = {"weights": weights, "pool": pool, "mean": mean, "std": std, **arguments}
        if given := [argument for argument, value in own.items() if value is not None]:
            raise SightlineError(f"{spec} brings its weights, pool and arguments: leave {', '.join(given)} out.")
        return _load_saved(Path(name))
    if family not in _FAMILIES or not name:
        raise SightlineError(f"model {spec!r}: expected FAMILY:NAME. {did_you_mean(family, _FAMILIES)}")
    net = _FAMILIES[family](name, num_classes, channels, arguments)
    if weights is not None:
        _load_weights(net, Path(weights))
    if pool is not None:  # behind the weights, whose names it may change
        swap_pool(net, pool, spec, arguments, None if family == "file" else channels)
    for module in net.modules():
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010 - not every module has it
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and (len(values) not in (1, channels) or (name == "std" and min(values) <= 0)):
            raise SightlineError(f"{name}={list(values)}: expected one number or one for each of {channels} channels"
                                 f"{', above 0' if name == 'std' else ''}.")  # fmt: skip
    usual = _usual(family, net, channels)
    normalise = Normalise(mean if mean is not None else usual[0], std if std is not None else usual[1])
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


def _usual(family: str, net: nn.Module, channels: int) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation that a network's published weights expect."""
    if family not in ("torchvision", "timm") or channels != 3:
        return (0.5,), (0.25,)
    told = getattr(net, "pretrained_cfg", None) or {}
    return told.get("mean", IMAGENET[0]), told.get("std", IMAGENET[1])


def save(model: Classifier, path: str | Path) -> None:
    """Write weights and origin to one .safetensors file, which `load("file:PATH")` reads back.

    Raises:
        SightlineError: the file cannot be written, or JSON has no word for one of the network's own arguments.
    """
    try:
        with whole(path) as temporary:
            safetensors.torch.save_model(model, str(temporary), {_METADATA: json.dumps(model.origin)})
    except safetensors.SafetensorError as error:
        raise SightlineError(
            f"cannot write {path}: {error}. Check the folder's permissions and the free space."
        ) from error
    except TypeError as error:
        raise SightlineError(
            f"cannot write {path}: of {model.origin['spec']}'s arguments {model.origin['arguments']}: {error}. "
            "Build the network from numbers, strings and lists of them."
        ) from error


def refuse_unfinished(run: Path) -> None:
    """Pass over a run directory that holds its trained model.

    Raises:
        SightlineError: it holds none yet.
    """
    if not (run / _SAVED).is_file():
        raise SightlineError(f"{run} is not finished: it holds no {_SAVED}. Resume its training first.")


def _load_saved(path: Path) -> Classifier:
    path = path / _SAVED if path.is_dir() else path
    if not path.is_file():
        if (path.parent / "run.json").is_file():
            refuse_unfinished(path.parent)
        raise SightlineError(f"{path} does not exist. Give a run directory or the {_SAVED} that training wrote.")
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
    except (RuntimeError, ValueError) as error:
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


def last_linear(net: nn.Module) -> str | None:
    """The name of a network's last linear layer; None if it has none."""
    return next((name for name, m in reversed(list(net.named_modules())) if isinstance(m, nn.Linear)), None)


def _load_weights(net: nn.Module, path: Path) -> None:
    """Load a state dict; tensors of the last linear layer may have another shape and are then left as they are."""
    try:
        own = net.state_dict()
        state = _unwrapped(_read_state(path), own)
        head = last_linear(net)
        fresh = [
            f"{head}.{part}" for part in ("weight", "bias") if f"{head}.{part}" in own and f"{head}.{part}" in state
        ]
        fresh = [name for name in fresh if state[name].shape != own[name].shape]
        try:
            net.load_state_dict({**state, **{name: own[name] for name in fresh}})
        except RuntimeError as error:
            raise ValueError(_apart(set(own), set(state)) or str(error)) from error
    except FileNotFoundError as error:
        raise SightlineError(f"weights {path} does not exist.") from error
    except UnpicklingError as error:
        if path.read_bytes()[:1] not in (b"P", b"\x80"):  # a zip archive, or a pickle
            raise SightlineError(f"weights {path} is no file of torch.save: it begins like text.") from error
        raise SightlineError(
            f"weights {path} hold more than tensors, such as a whole pickled model, which could run anything. Save its "
            "state_dict() instead: torch.save(model.state_dict(), PATH)."
        ) from error
    except (RuntimeError, ValueError, AttributeError, OSError, EOFError, safetensors.SafetensorError) as error:
        raise SightlineError(f"weights {path} do not fit the network: {str(error)[:600]}") from error
    if fresh:
        log.warning("%s: %s have another shape; the head starts from random weights.", path, ", ".join(fresh))


def _read_state(path: Path) -> dict[str, Any]:
    path = path / _SAVED if path.is_dir() else path
    if path.suffix == ".safetensors":
        with safetensors.safe_open(str(path), "pt") as file:
            prefix = "net." if _METADATA in (file.metadata() or {}) else ""
            return {name.removeprefix(prefix): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state = torch.load(path, map_location="cpu", weights_only=True)
    return dict(next((state[key] for key in _INSIDE if isinstance(state.get(key), Mapping)), state))


def _unwrapped(state: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Without the prefix that a wrapper (DDP, a LightningModule, a `Classifier`) put ahead of all of `own` names."""
    needed = [name for name in own if not name.endswith(_COUNTER)]
    first = next(iter(needed), "")
    prefixes = [name.removesuffix(first) for name in state if name.endswith(f".{first}")]
    fitting = [prefix for prefix in prefixes if all(prefix + name in state for name in needed)]
    if len(fitting) > 1:
        raise ValueError(f"it holds several: {', '.join(fitting)}. Save the one you mean by itself")
    return {name: state[fitting[0] + name] for name in own if fitting[0] + name in state} if fitting else state


def _apart(own: set[str], given: set[str]) -> str:
    """Which names only one side has."""
    own, given = ({name for name in names if not name.endswith(_COUNTER)} for names in (own, given))
    sides = (("it lacks", own - given), ("the network has no", given - own))
    return "; ".join(f"{what} {some(sorted(names))}" for what, names in sides if names)


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
