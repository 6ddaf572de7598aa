"""The scores of several folds beside each other and taken together: every case by weights that never saw it."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from unet_bundle.evaluation.report import mean_of, metric_columns

MEAN = "mean"
"""What the row over all classes is called."""
POOLED = "all"
"""What the cases of all folds together are called in the CSV."""


def gather(reports: Mapping[int, Mapping[str, Any]], unfinished: Sequence[int] = ()) -> dict[str, Any]:
    """Put the evaluations of folds together.

    Args:
        reports: the content of each fold's ``scores.json``, by its number.
        unfinished: folds whose training had not come to its end.

    Returns:
        The content of ``cross_validation.json``. ``metrics`` has for each metric by name, Dice first, ``folds`` (by
        number) and ``pooled`` (all cases of all folds, each counted alike), and there for each class and for their
        mean ``mean``, ``sd`` (sample standard deviation over the cases, null for fewer than two) and ``cases`` (how
        many count: see ``absent`` in scores.json). Further the names of the ``cases`` of each fold, those ``missing``
        with the reason, ``one_sided`` as in scores.json, each metric's ``unit``, and the folds that were
        ``unfinished``.
    """
    first = next(iter(reports.values()))
    classes = list(first["classes"])
    metrics: dict[str, Any] = {}
    for name in ("dice", *first["metrics"]):
        tables = {fold: _table(report, name) for fold, report in sorted(reports.items())}
        unit = {"unit": tables[min(tables)]["unit"]} if "unit" in tables[min(tables)] else {}
        metrics[name] = {
            **unit,
            "folds": {str(fold): _statistics([table], classes) for fold, table in tables.items()},
            "pooled": _statistics(list(tables.values()), classes),
        }
    return {
        "grid": first["grid"],
        "absent": first["absent"],
        "metrics": metrics,
        "one_sided": {name: sum(report["one_sided"][name] for report in reports.values()) for name in classes},
        "cases": {str(fold): sorted(report["cases"]) for fold, report in sorted(reports.items())},
        "missing": {str(fold): report["missing"] for fold, report in sorted(reports.items()) if report["missing"]},
        "unfinished": sorted(unfinished),
    }


def as_table(gathered: Mapping[str, Any]) -> list[str]:
    """Dice for people: a line a class, a column a fold and one of all cases; means, with the deviation over cases."""
    dice = gathered["metrics"]["dice"]
    counts = {fold: len(cases) for fold, cases in gathered["cases"].items()}
    heads = [f"fold {fold} ({counts[fold]})" for fold in dice["folds"]] + [f"all ({sum(counts.values())})"]
    columns = [*dice["folds"].values(), dice["pooled"]]
    names = list(dice["pooled"])
    cells = [[_shown(column[name]) for column in columns] for name in names]
    width = max(len(name) for name in names)
    widths = [max(len(row[at]) for row in [heads, *cells]) for at in range(len(heads))]
    return [
        "  ".join([name.ljust(width), *(cell.rjust(size) for cell, size in zip(row, widths, strict=True))])
        for name, row in zip(["", *names], [heads, *cells], strict=True)
    ]


def as_csv(gathered: Mapping[str, Any]) -> str:
    """A row a fold and class, and the same of all cases together; three columns a metric."""
    heads = {"dice": "dice", **{name: head for name, (head, *_) in metric_columns(gathered).items()}}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["fold", "class", *(f"{head}_{part}" for head in heads.values() for part in ("mean", "sd", "cases"))]
    )
    dice = gathered["metrics"]["dice"]
    for fold in [*dice["folds"], POOLED]:
        for name in dice["pooled"]:
            row: list[str] = [fold, name]
            for metric in heads:
                table = gathered["metrics"][metric]
                cell = (table["pooled"] if fold == POOLED else table["folds"][fold])[name]
                row += [*("" if cell[part] is None else f"{cell[part]:.6f}" for part in ("mean", "sd")), cell["cases"]]
            writer.writerow(row)
    return buffer.getvalue()


def _table(report: Mapping[str, Any], metric: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = report if metric == "dice" else report["metrics"][metric]
    return found


def _statistics(tables: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Mean, deviation and number of cases of each class; the last row's mean is that of the classes' means."""
    cases = [case for table in tables for case in table["cases"].values()]
    rows = {name: _spread([case[name] for case in cases]) for name in classes}
    over_classes = _spread([mean_of(list(case.values())) for case in cases])
    return {**rows, MEAN: {**over_classes, "mean": mean_of([row["mean"] for row in rows.values()])}}


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    present = [value for value in values if value is not None]
    deviation = statistics.stdev(present) if len(present) > 1 else None
    return {"mean": mean_of(present), "sd": deviation, "cases": len(present)}


def _shown(cell: Mapping[str, Any]) -> str:
    if cell["mean"] is None:
        return "-"
    return f"{cell['mean']:.4f}" + ("" if cell["sd"] is None else f" ± {cell['sd']:.4f}")
