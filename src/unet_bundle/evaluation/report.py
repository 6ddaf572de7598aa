"""The files of an evaluation: ``scores.json`` with everything, ``scores.csv`` for a spreadsheet, a table to read."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unet_bundle.evaluation.instances import COUNTS, DEFINITIONS, InstanceScores
from unet_bundle.evaluation.metrics import ABSENT, ClassScores
from unet_bundle.evaluation.units import ALL, VOLUMES, Units


def metric_columns(report: Mapping[str, Any]) -> dict[str, tuple[str, str, str]]:
    """Beside Dice: each metric with what is put behind the class's name in scores.csv, head and format in the table.

    Args:
        report: the content of scores.json, or of another file that has each metric's unit in its ``metrics``.
    """
    length, size = (report["metrics"][name]["unit"] for name in ("hd95", "volume_difference"))
    (quantity,) = {units.quantity for units in ALL if (units.length, units.size) == (length, size)}
    return {
        "hd95": (f"hd95_{length}", f"HD95 ({length})", ".2f"),
        "surface_dice": ("surface_dice", "surface Dice", ".4f"),
        "volume_difference": (f"{quantity}_difference_{size}", f"{quantity} difference ({size})", "+.2f"),
    }


def score_report(
    rows: Mapping[str, Sequence[ClassScores]],
    classes: Sequence[str],
    tolerances: Sequence[float],
    worst_cases: int = 3,
    missing: Mapping[str, str] | None = None,
    units: Units = VOLUMES,
    objects: Mapping[str, InstanceScores] | None = None,
) -> dict[str, Any]:
    """The content of ``scores.json``.

    Args:
        rows: scores of each class by case.
        classes: names of the classes, in the order of the rows.
        tolerances: of the surface Dice of each class, a length.
        worst_cases: how many cases to name.
        missing: why a case has no scores, by case.
        units: of lengths and sizes.
        objects: scores of the single objects by case, if they were scored.

    Returns:
        Dice under ``mean`` (of the classes' means), ``classes`` (means of the cases) and ``cases``; each other metric
        in the same form under ``metrics`` by name; ``one_sided`` counts, for each class, the cases that have it in only
        one of label and prediction; ``absent`` says what became of them; ``worst`` names the cases of lowest mean Dice,
        ``missing`` those that are in no mean because they could not be scored. Means leave out null. ``objects`` has
        means, sums and the cases' scores of single objects, if they were scored.
    """
    cases = sorted(rows)

    def table(metric: Callable[[ClassScores], float | None]) -> dict[str, Any]:
        values = {case: dict(zip(classes, map(metric, rows[case]), strict=True)) for case in cases}
        means = {name: mean_of([case[name] for case in values.values()]) for name in classes}
        return {"mean": mean_of(list(means.values())), "classes": means, "cases": values}

    dice = table(lambda scores: scores.dice)
    means = {case: mean_of(list(values.values())) for case, values in dice["cases"].items()}
    ranked = sorted((mean, case) for case, mean in means.items() if mean is not None)
    return {
        "metric": "dice",
        "grid": "original",
        **dice,
        "metrics": {
            "hd95": {"unit": units.length, **table(lambda scores: scores.hd95)},
            "surface_dice": {
                f"tolerance_{units.length}": dict(zip(classes, tolerances, strict=True)),
                **table(lambda scores: scores.surface_dice),
            },
            "volume_difference": {"unit": units.size, **table(lambda scores: scores.volume_difference)},
        },
        "absent": ABSENT,
        "one_sided": {name: sum(int(rows[case][i].one_sided or 0) for case in cases) for i, name in enumerate(classes)},
        "worst": [case for _, case in ranked[:worst_cases]],
        "missing": dict(sorted((missing or {}).items())),
        **({} if objects is None else {"objects": _objects(objects)}),
    }


def _objects(rows: Mapping[str, InstanceScores]) -> dict[str, Any]:
    cases = {case: rows[case]._asdict() for case in sorted(rows)}
    columns = {name: [case[name] for case in cases.values()] for name in DEFINITIONS}
    return {
        "definitions": DEFINITIONS,
        "mean": {name: mean_of(values) for name, values in columns.items()},
        "total": {name: int(sum(columns[name])) for name in COUNTS},
        "cases": cases,
    }


def describe(report: Mapping[str, Any]) -> str:
    """One line: the mean Dice of each class and of all."""
    parts = [f"{name} {_shown(value, '.4f')}" for name, value in report["classes"].items()]
    return ", ".join([*parts, f"mean {_shown(report['mean'], '.4f')}"])


def describe_objects(report: Mapping[str, Any]) -> str:
    """One line on the single objects of a report that has them."""
    means, total = report["objects"]["mean"], report["objects"]["total"]
    names = {"ap": "AP", "ap50": "AP at IoU 0.5", "seg": "SEG", "aji": "AJI"}
    shown = [f"{name} {_shown(means[key], '.4f')}" for key, name in names.items()]
    return f"{', '.join(shown)}; {total['found']} found, {total['true']} true, {total['merged']} merged from several"


def as_table(report: Mapping[str, Any]) -> list[str]:
    """The means of all metrics for people: a line a class, aligned, with a head and the mean of all classes."""
    tables = [(report, "Dice", ".4f")]
    tables += [(report["metrics"][key], head, form) for key, (_, head, form) in metric_columns(report).items()]
    width = max(len(name) for name in [*report["classes"], "mean"])
    lines = ["  ".join([" " * width, *(head.rjust(6) for _, head, _ in tables)])]
    for name in [*report["classes"], None]:
        cells = [
            _shown(table["mean"] if name is None else table["classes"][name], form).rjust(max(len(head), 6))
            for table, head, form in tables
        ]
        lines.append("  ".join([(name or "mean").ljust(width), *cells]))
    return lines


def as_csv(report: Mapping[str, Any]) -> str:
    """A row a case and one of means; a column a class with its Dice, then one a class for each other metric.

    Scores of single objects follow, where the report has them.

    Cases that could not be scored have a row without values.
    """
    classes = list(report["classes"])
    tables = [
        ("", report),
        *((f"_{suffix}", report["metrics"][key]) for key, (suffix, _, _) in metric_columns(report).items()),
    ]
    objects = report.get("objects", {"mean": {}, "cases": {}})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [f"{name}{suffix}" for suffix, _ in tables for name in classes]
    writer.writerow(["case", *heads, *(f"objects_{name}" for name in objects["mean"])])
    for case in [*sorted([*report["cases"], *report["missing"]]), None]:
        rows = [table["classes"] if case is None else table["cases"].get(case, {}) for _, table in tables]
        values = [row.get(name) for row in rows for name in classes]
        scored = objects["mean"] if case is None else objects["cases"].get(case, {})
        values += [scored.get(name) for name in objects["mean"]]
        writer.writerow([case or "mean", *("" if value is None else f"{value:.6f}" for value in values)])
    return buffer.getvalue()


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean of what is not None; None if nothing is left."""
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present else None


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
