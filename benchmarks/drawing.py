"""How the pictures of results look, and how they are kept."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from sightline.files import whole

matplotlib.rcParams |= {
    "svg.hashsalt": "sightline",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
COLOURS = ("#555555", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9")
"""Those of Okabe and Ito: they stay apart in every kind of colour blindness."""


def save(figure: Figure, out: Path, **metadata: str) -> None:
    """As SVG, without a date."""
    with whole(out) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, **metadata})
