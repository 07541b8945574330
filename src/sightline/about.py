"""Where a recipe comes from: the published tables it gives, their rows as overrides of it, and what deviates."""

from dataclasses import dataclass, field

from sightline.errors import SightlineError, did_you_mean


@dataclass
class Table:
    """A published table or figure, or the part of one that runs of the recipe give."""

    source: str
    """Paper and place, such as "PPI, Table 2"."""
    metric: list[str]
    """Its columns: keys of sightline's metrics where they exist."""
    published: dict[str, list[float | None]] = field(default_factory=dict)
    """By row the value in each column, null where none is printed. A row that `About.rows` lacks is of other people's
    models."""
    claim: str = ""
    """What the paper says where it prints no numbers."""
    target: str | None = None
    """Its id in a list of published numbers."""
    audit: list[str] = field(default_factory=list)
    """Arguments of `sightline audit` that give the columns."""
    ours: str = ""
    """What came of it here, or why it was not run."""

    def __post_init__(self) -> None:
        for row, values in self.published.items():
            if len(values) != len(self.metric):
                raise SightlineError(f"about: {self.source}: {row} has {len(values)} numbers for {self.metric}.")


@dataclass
class About:
    """What a recipe tells people; training does not depend on it."""

    tables: list[Table] = field(default_factory=list)
    rows: dict[str, list[str]] = field(default_factory=dict)
    """Overrides that make the recipe each row; the row that the recipe is as it stands has none."""
    repeats: list[str] = field(default_factory=list)
    """An override for each run of a row, such as seed=0 and seed=1."""
    deviations: list[str] = field(default_factory=list)
    """What differs from the paper, and what was chosen where it says nothing."""
    row: str | None = None
    """The row that was asked for, in the recipe.yaml of a run."""

    def overrides(self, row: str) -> list[str]:
        """What makes the recipe `row`.

        Raises:
            SightlineError: there is no such row, or the recipe is that of one already.
        """
        if self.row is not None:
            raise SightlineError(f"--row {row}: the recipe is that of the row {self.row!r}. Take the one it came from.")
        if row not in self.rows:
            raise SightlineError(f"--row: there is no row {row!r}. {did_you_mean(row, self.rows)}")
        return self.rows[row]
