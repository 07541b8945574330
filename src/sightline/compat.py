"""Third-party packages that are missing, or installed in builds that do not fit together."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from sightline.errors import SightlineError

_MISMATCH = "operator torchvision::nms does not exist"
_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# torch forgets an operator as soon as the library that defined it is collected.
_kept: list[Any] = []


def repair_torchvision() -> None:
    """Make `import torchvision` work where its compiled operators do not fit the installed torch.

    While it is imported, torchvision attaches shape rules to its compiled operators `nms` and `qnms`. A wheel built for
    another torch (often PyPI's torchvision beside a CPU build of torch) has not loaded them, so the import fails, and
    with it timm, torchmetrics and Lightning, none of which needs them to classify images. Declaring the two operators,
    without a kernel, is enough: whoever calls one still gets torchvision's own error.

    A torchvision that works, is not installed or has been repaired is left alone. Call this before anything imports
    one of the four packages.

    Raises:
        Exception: whatever else `import torchvision` raises, unchanged.
    """
    try:
        import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
    except RuntimeError as error:
        if _MISMATCH not in str(error):
            raise
        _forget("torchvision")
        _declare_operators()
        import_module("torchvision")


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def _declare_operators() -> None:
    from torch.library import Library

    library = Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(name + _NMS)
    _kept.append(library)


def require(extra: str, module: str) -> ModuleType:
    """Import `module`, which comes with the optional dependencies `extra`.

    Raises:
        SightlineError: it is not installed; the message holds the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise SightlineError(f'{error.name} is not installed. Run: pip install "sightline[{extra}]"') from error
