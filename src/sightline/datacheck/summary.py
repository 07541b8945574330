"""All numbers of a check, for machines."""

from dataclasses import asdict
from typing import Any

from sightline import __version__
from sightline.datacheck import findings as found
from sightline.datacheck.checking import Checked, annotated, counted
from sightline.datacheck.counts import Table


def summary(checked: Checked) -> dict[str, Any]:
    """All numbers, for machines."""
    rows, pairs = checked.rows, list(zip(checked.rows, checked.facts, strict=True))
    probes = {"judged": [*checked.judged, *checked.facts_judged], "references": checked.references}
    return {
        "version": __version__,
        "name": checked.samples.name,
        "images": len(checked.samples.samples),
        "checked": len(rows),
        "seed": checked.seed,
        "classes": list(checked.samples.classes),
        "multi_label": checked.samples.several,
        "counts": counted(checked),
        "annotated": annotated(checked),
        "findings": [asdict(finding) | {"ids": list(finding.ids)} for finding in checked.findings],
        "broken": [{"id": r.id, "split": r.split, "reason": f.broken} for r, f in pairs if f.broken],
        "bad_masks": [
            {"id": r.id, "split": r.split, "reasons": f.bad_masks} for r, f in pairs if f.bad_masks
        ],
        "copies": [
            {"first": f"{rows[a].split}/{rows[a].id}", "second": f"{rows[b].split}/{rows[b].id}", "exact": bool(exact)}
            for (a, b), exact in zip(checked.copies.pairs, checked.copies.exact, strict=True)
        ],
        "groups": None if checked.groups is None else _table(checked.groups),
        "kinds": {kind: {what: _table(table) for what, table in of.items()} for kind, of in checked.kinds.items()},
        "probes": {
            "fitted_to": checked.trained_on, "chance": checked.chance, "left_out": list(checked.left_out),
            **{name: [asdict(p) | {"lift": p.lift} for p in of] for name, of in probes.items()},
            "cells": None if checked.cells is None else checked.cells.tolist(),
        },
        "rule": {"alpha": found.ALPHA, "lift": found.LIFT, "beside": found.BESIDE, "linked": found.LINKED},
    }  # fmt: skip


def _table(table: Table) -> dict[str, Any]:
    return {
        "rows": list(table.rows), "columns": list(table.columns), "counts": table.counts.tolist(),
        "v": asdict(table.v), "p": table.p,
    }  # fmt: skip
