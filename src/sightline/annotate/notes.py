"""What people said of each image, and how long they took: a table to be read by people and programs."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from sightline.errors import SightlineError
from sightline.files import write_text

VERDICTS = ("yes", "no")


@dataclass(frozen=True)
class Note:
    """One row."""

    image: str
    verdict: str = ""
    """Whether the model's map lies on the right pixels: one of `VERDICTS`, or nothing."""
    seconds: float = 0.0
    by: str = ""
    time: str = ""


class Notes:
    """The table of a folder; every change writes it anew, whole or not at all.

    Raises:
        SightlineError: it cannot be read or written; then nothing has changed.
    """

    def __init__(self, path: Path, images: Sequence[str]) -> None:
        self.path = path
        self.rows = {name: Note(name) for name in images} | read(path)

    def __getitem__(self, image: str) -> Note:
        return self.rows[image]

    def change(self, image: str, seconds: float, **changes: Any) -> None:
        """Add to the time spent on an image, and change what else is known of it."""
        row = self.rows[image]
        rows = self.rows | {image: replace(row, seconds=round(row.seconds + seconds, 1), **changes)}
        write_text(self.path, table([note for note in rows.values() if note != Note(note.image)]))
        self.rows = rows


def read(path: Path) -> dict[str, Note]:
    """The rows of a table by image; none where there is no file.

    Raises:
        SightlineError: it is no such table.
    """
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                Note(row["image"], row["verdict"], float(row["seconds"]), row["by"], row["time"])
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise SightlineError(
            f"{path} cannot be read ({error}). It should be a table with the columns "
            f"{', '.join(field.name for field in fields(Note))}. Mend it or delete it."
        ) from error
    return {row.image: row for row in rows}


def table(notes: Sequence[Note]) -> str:
    """The rows as comma-separated text."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(Note)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, notes))
    return text.getvalue()
