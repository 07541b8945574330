"""Pages of HTML that look alike."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sightline import __version__
from sightline.catalogue import metric


def rendered(package: str, content: Mapping[str, Any]) -> str:
    """The page.html.j2 of a package, in the style of all pages."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["metric"] = metric
    source = files(package).joinpath("page.html.j2").read_text(encoding="utf-8")
    style = files("sightline.report").joinpath("page.css").read_text(encoding="utf-8")
    return environment.from_string(source).render(content, style=Markup(style), version=__version__)
