"""Train image classifiers to decide on the right pixels, see where they look, and prove the change.

The names below load on first use, so that `sightline.report` and `sightline.compare` never import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.explainers import explain as explain
    from sightline.models import load as load_model
    from sightline.objectives import Guided as Guided
    from sightline.passes import record as record

__version__ = "0.1.0"
__all__ = ["Guided", "__version__", "explain", "load_model", "record"]

_HOME = {
    "Guided": ("sightline.objectives", "Guided"),
    "explain": ("sightline.explainers", "explain"),
    "load_model": ("sightline.models", "load"),
    "record": ("sightline.passes", "record"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sightline' has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(import_module(module), attribute)
