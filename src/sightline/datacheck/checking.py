"""The whole check: every image is looked at once, then all of them together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import numpy.typing as npt

from sightline.datacheck import findings as found
from sightline.datacheck import regions
from sightline.datacheck.copies import Copies, chained, clusters, copies
from sightline.datacheck.counts import Table, are_individuals, attribute, together
from sightline.datacheck.facts import Facts, look
from sightline.datacheck.findings import Finding
from sightline.datacheck.probes import Probe, Task, balanced, cross_validated, folds, probe, trainable
from sightline.datacheck.samples import Sample, Samples
from sightline.errors import SightlineError
from sightline.progress import progress_bar

PROBED = 2000
"""Images of the training split, and of each other split half as many, that probes read: more change no finding."""


@dataclass(frozen=True)
class Checked:
    """All that was found."""

    samples: Samples
    rows: Sequence[Sample]
    """The images that were looked at."""
    facts: Sequence[Facts]
    """Of each of them."""
    copies: Copies
    """Among the readable ones, by their row."""
    groups: Table | None
    kinds: dict[str, dict[str, Table]]
    """Kinds of odd files, against class and split."""
    judged: Sequence[Probe]
    facts_judged: Sequence[Probe]
    references: Sequence[Probe]
    cells: npt.NDArray[np.float64] | None
    """(8, 8) cross-validated balanced accuracy of each cell."""
    chance: float
    trained_on: str
    """The split the probes were fitted to."""
    left_out: Sequence[str]
    """Classes with too few images to be probed."""
    seed: int

    @property
    def findings(self) -> list[Finding]:
        """Errors first."""
        every = [
            *found.files(self.rows, self.facts),
            *found.leaks(self.rows, self.trained_on, self.copies, self.individuals),
            *found.counts(self.rows, self.trained_on, self.samples.classes, self.groups),
            *found.shortcuts(self.judged, self.facts_judged, self.references),
            *found.oddities(self.rows, self.facts, self.kinds),
            *found.masks(self.rows, self.facts),
        ]
        return sorted(every, key=lambda finding: found.LEVELS.index(finding.level))

    @property
    def individuals(self) -> bool:
        """Whether groups are like patients, not like hospitals."""
        return _individuals(self.rows)


def check(samples: Samples, max_images: int | None = None, seed: int = 0) -> Checked:
    """Look at every image once, and at what they have in common.

    Args:
        samples: of all splits.
        max_images: look at so many of them at most, the same share of every class and split.
        seed: of samples, folds, permutations and bootstraps.

    Raises:
        SightlineError: there are no images, or `max_images` is below 1.
    """
    if not samples.samples or (max_images is not None and max_images < 1):
        raise SightlineError(f"{samples.name}: expected images to check, and max_images of at least 1.")
    rows = [samples.samples[i] for i in _spread(samples.samples, max_images or len(samples.samples), seed)]
    train = _trained_on(rows)
    probed = _probed(rows, train, seed)
    facts = [look(row, i in probed) for i, row in enumerate(progress_bar(rows, "checking", unit=" images"))]
    readable = np.array([i for i, of in enumerate(facts) if not of.broken], np.int64)
    twice = _copies(facts, readable)
    groups = _groups(rows, samples.several, seed)
    task, used, left_out = _task(samples, rows, facts, twice, train, seed)
    judged, of_facts, references, cells = _probe(rows, facts, used, task) if task else ([], [], [], None)
    return Checked(
        samples, rows, facts, twice, groups, _kinds(rows, facts, samples.several, seed), judged, of_facts, references,
        cells, task.chance if task else 1.0, train, left_out, seed,
    )  # fmt: skip


def counted(checked: Checked) -> dict[str, dict[str, int]]:
    """Images by split and class."""
    of = Counter((row.split, label) for row in checked.rows for label in row.labels)
    return {split: {label: of[split, label] for label in checked.samples.classes} for split in splits(checked)}


def annotated(checked: Checked) -> dict[str, dict[str, int]]:
    """Images with a usable mask, by split and class."""
    pairs = zip(checked.rows, checked.facts, strict=True)
    of = Counter((row.split, label) for row, fact in pairs if fact.covered is not None for label in row.labels)
    return {split: {label: of[split, label] for label in checked.samples.classes} for split in splits(checked)}


def splits(checked: Checked) -> list[str]:
    """In the order in which they occur."""
    return list(dict.fromkeys(row.split for row in checked.rows))


def _spread(samples: Sequence[Sample], most: int, seed: int) -> npt.NDArray[np.int64]:
    """At most `most` rows, ascending, the same share of every class and split."""
    kinds = np.unique([f"{s.split}\0{s.labels}" for s in samples], return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(len(samples))
    rank = np.empty(len(samples))
    for kind in range(kinds.max() + 1):
        of_kind = order[kinds[order] == kind]
        rank[of_kind] = (np.arange(len(of_kind)) + 0.5) / len(of_kind)
    return np.sort(np.argsort(rank, kind="stable")[:most])


def _trained_on(rows: Sequence[Sample]) -> str:
    size = Counter(row.split for row in rows)
    return "train" if "train" in size else size.most_common(1)[0][0]


def _probed(rows: Sequence[Sample], train: str, seed: int) -> set[int]:
    """The rows whose view is kept."""
    kept: set[int] = set()
    for split in {row.split for row in rows}:
        of_split = [i for i, row in enumerate(rows) if row.split == split]
        most = PROBED if split == train else PROBED // 2
        kept |= {of_split[i] for i in _spread([rows[i] for i in of_split], most, seed)}
    return kept


def _copies(facts: Sequence[Facts], readable: npt.NDArray[np.int64]) -> Copies:
    thumbs = [thumb for i in readable if (thumb := facts[i].thumb) is not None]
    if not thumbs:
        return Copies(np.empty((0, 2), np.int64), np.empty(0, np.bool_))
    twice = copies([facts[i].digest for i in readable], np.stack(thumbs))
    return Copies(readable[twice.pairs], twice.exact)


def _groups(rows: Sequence[Sample], several: bool, seed: int) -> Table | None:
    """Class against group, where groups are no individuals: a patient has one diagnosis."""
    grouped = [row for row in rows if row.group]
    if several or not grouped or _individuals(grouped):
        return None
    of_train = [row for row in grouped if row.split == _trained_on(rows)] or grouped
    return together([r.labels[0] for r in of_train], [attribute(r.group, r.labels) for r in of_train], seed)


def _individuals(rows: Sequence[Sample]) -> bool:
    grouped = [row for row in rows if row.group]
    return are_individuals([attribute(row.group, row.labels) for row in grouped], [row.split for row in grouped])


def _kinds(rows: Sequence[Sample], facts: Sequence[Facts], several: bool, seed: int) -> dict[str, dict[str, Table]]:
    words = {"split": [row.split for row in rows]} | ({} if several else {"class": [row.labels[0] for row in rows]})
    return {
        kind: {what: together([str(kind in of.odd) for of in facts], of_rows, seed) for what, of_rows in words.items()}
        for kind in sorted({kind for of in facts for kind in of.odd})
    }


def _task(
    samples: Samples, rows: Sequence[Sample], facts: Sequence[Facts], twice: Copies, train: str, seed: int
) -> tuple[Task | None, list[int], list[str]]:
    """What the probes are to tell, the rows they read, and the classes left out."""
    seen = [i for i, of in enumerate(facts) if of.view is not None]
    every = np.array([[c in rows[i].labels for c in samples.classes] for i in seen], np.bool_)
    every = every.reshape(len(seen), len(samples.classes))
    enough = trainable(every[[rows[i].split == train for i in seen]], samples.several)
    used = [i for i, labels in zip(seen, every, strict=True) if samples.several or labels[enough].any()]
    left_out = list(compress(samples.classes, ~enough))
    if enough.sum() < (1 if samples.several else 2):
        return None, used, left_out
    links = [twice.pairs]
    if _individuals(rows):
        links.append(chained([row.group for row in rows]))
    cluster = clusters(len(rows), *links)[used]
    labels = every[np.isin(seen, used)][:, enough]
    splits = [rows[i].split for i in used]
    training = np.array([split == train for split in splits])
    if len(np.unique(cluster[training])) < 2:
        return None, used, left_out
    fold = np.zeros(len(used), np.int64)
    fold[training] = folds(labels[training], cluster[training], seed)
    return Task(labels, samples.several, cluster, fold, training, splits, seed), used, left_out


def _probe(
    rows: Sequence[Sample], facts: Sequence[Facts], used: Sequence[int], task: Task
) -> tuple[list[Probe], list[Probe], list[Probe], npt.NDArray[np.float64]]:
    """What the regions, the files and the references tell, and each cell."""
    views = regions.views([view for i in used if (view := facts[i].view) is not None], [facts[i].mask for i in used])
    judged, references = regions.judged(views), regions.references(views)
    filed = _of_files([facts[i] for i in used if rows[i].file]) | {found.COLOUR: regions.mean_colour(views)}
    # An image without a mask is neither all background nor without evidence: the two are told of those with one alone.
    masked, some = task.of(views.masked)
    annotated = regions.part(views, some)
    total = len(judged) + len(filed) + len(references) + 2 * masked.enough + regions.GRID**2
    progress = progress_bar(total=total, desc="probing")

    def told(name: str, features: npt.NDArray[np.float64], of: Task = task) -> Probe:
        progress.update()
        return probe(name, features, of)

    def by_mask(name: str, outside: bool) -> list[Probe]:
        if not masked.enough:
            return []
        return [told(name, regions.describe(annotated, regions.EVERYWHERE, outside), masked)]

    cells = []
    with progress:
        probes = (
            [told(*each) for each in judged.items()] + by_mask("background", True),
            [told(*each) for each in filed.items()],
            [told(*each) for each in references.items()] + by_mask("evidence", False),
        )
        for cell in regions.cells():
            answers = cross_validated(regions.describe(regions.unmasked(views), cell), task, task.fold % 2)
            cells.append(balanced(task.labels[task.train], answers, task.several))
            progress.update()
    return *probes, np.array(cells).reshape(regions.GRID, regions.GRID)


def _of_files(facts: Sequence[Facts]) -> dict[str, npt.NDArray[np.float64]]:
    """(N, F) of each kind of fact about files; none where images are no files."""
    if not facts:
        return {}
    modes = sorted({of.mode for of in facts})
    sides = np.log([of.size for of in facts])
    form = [[of.quality, "turned by EXIF" in of.odd, *(of.mode == mode for mode in modes)] for of in facts]
    saved = [[np.log1p(of.weight), np.log1p(of.weight) - np.log(np.prod(of.size))] for of in facts]
    return {
        found.FORM: np.concatenate([sides, sides[:, :1] - sides[:, 1:], np.array(form, np.float64)], 1),
        found.WEIGHT: np.array(saved, np.float64),
        found.NAMES: np.array([[of.number] for of in facts], np.float64),
    }
