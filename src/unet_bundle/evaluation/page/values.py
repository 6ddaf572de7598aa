"""Figures of a report's page as text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from unet_bundle.evaluation.page.content import Case, Content
from unet_bundle.evaluation.report import mean_of

NOTHING = "n/a"


def first_report(content: Content) -> Mapping[str, Any]:
    """The first of the evaluation's reports: all have the same classes and metrics."""
    return next(iter(content.reports.values()))


def classes_of(content: Content) -> list[str]:
    """Names of the classes that are scored."""
    return list(first_report(content)["classes"]) if content.reports else []


def values_of(content: Content, metric: str, name: str) -> list[float]:
    """A metric of a class, of the cases that have it."""
    return [value for case in content.cases if (value := case.scores[metric][name]) is not None]


def unit_of(content: Content, metric: str) -> str:
    """Of a metric, as people write it."""
    unit = str(first_report(content)["metrics"][metric]["unit"])
    return unit.replace("mm2", "mm²")


def quantity_of(content: Content) -> str:
    """What the sizes of structures are."""
    return "volume" if unit_of(content, "volume_difference") == "ml" else "area"


def color_of(content: Content, name: str, number: int) -> int | str:
    """The class's own colour, or one of the page's."""
    chosen = content.colors.get(name)
    return number if chosen is None else f"rgb({', '.join(str(int(channel)) for channel in chosen)})"


def label_of(case: Case) -> str:
    """What a case is called."""
    return case.name if case.fold is None else f"{case.name} (fold {case.fold})"


def spread_of(values: Sequence[float]) -> list[str]:
    """Mean, standard deviation, median and least."""
    if not values:
        return [NOTHING] * 4
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return [shown(v, ".4f") for v in (mean_of(values), deviation, statistics.median(values), min(values))]


def plus_minus(cell: Mapping[str, Any]) -> str:
    """Mean and standard deviation of a cell of the cross-validation."""
    if cell["mean"] is None:
        return NOTHING
    return f"{cell['mean']:.4f}" + ("" if cell["sd"] is None else f" ± {cell['sd']:.4f}")


def shown(value: float | None, form: str) -> str:
    """A number in that format, without the sign of a zero."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = format(value, form)
    return text.lstrip("+-") if float(text) == 0 else text


def duration(minutes: float) -> str:
    """Minutes for people."""
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
