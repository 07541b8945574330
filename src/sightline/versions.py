"""What ran: the versions that can change a number."""

import platform
from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """What ran: Python and the packages whose versions can change a number."""
    found = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "lightning", "timm", "numpy", "scikit-image", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
