"""What a dataset gives away before anybody trains on it: broken files, leaks, and shortcuts to the label."""

from pathlib import Path

from sightline.datacheck.checking import Checked, check
from sightline.datacheck.findings import Finding
from sightline.datacheck.page import page
from sightline.datacheck.samples import Sample, Samples, from_entries, from_source
from sightline.datacheck.summary import summary
from sightline.files import write_json, write_text

__all__ = ["Checked", "Finding", "Sample", "Samples", "check", "from_entries", "from_source", "write"]


def write(checked: Checked, out: Path) -> Path:
    """Write check.json and check.html into a folder; returns the page.

    Raises:
        SightlineError: they cannot be written.
    """
    write_json(out / "check.json", summary(checked))
    write_text(out / "check.html", page(checked))
    return out / "check.html"
