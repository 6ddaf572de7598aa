"""The parts of a report's page that show scores; empty where there are none."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from unet_bundle.evaluation.page import markup
from unet_bundle.evaluation.page.charts import Series, scatter, strips
from unet_bundle.evaluation.page.content import Content
from unet_bundle.evaluation.page.values import (
    NOTHING,
    classes_of,
    color_of,
    first_report,
    label_of,
    plus_minus,
    quantity_of,
    shown,
    spread_of,
    unit_of,
    values_of,
)
from unet_bundle.evaluation.report import describe_objects, mean_of, metric_columns

MOST_PICTURES = 6


def scores(content: Content) -> str:
    """Dice of each class over the cases, the other metrics' means, and the folds beside each other."""
    if not content.cases:
        return ""
    classes = classes_of(content)
    names = list(map(label_of, content.cases))
    rows = {
        name: Series(
            name,
            [(dice, 0.0) for case in content.cases if (dice := case.scores["dice"][name]) is not None],
            color_of(content, name, at),
            [label for label, case in zip(names, content.cases, strict=True) if case.scores["dice"][name] is not None],
        )
        for at, name in enumerate(classes)
    }
    spread = "; ".join(f"{name} {shown(mean_of([x for x, _ in row.points]), '.3f')}" for name, row in rows.items())
    parts = [
        markup.figure(
            strips(rows, f"Dice of each case by class. Means: {spread}."),
            "Dice of every case, a row a class; the upright line is the median.", "full",
        ),
        _score_table(content, classes),
    ]  # fmt: skip
    if len(content.reports) > 1 and content.gathered is not None:
        parts.append(_fold_table(content.gathered))
    for fold, report in content.reports.items():
        if "objects" in report:
            whose = "Single objects" if fold is None else f"Single objects of fold {fold}"
            parts.append(markup.paragraph(f"{whose}: {describe_objects(report)}."))
    return "".join(parts)


def _score_table(content: Content, classes: Sequence[str]) -> str:
    others = metric_columns(first_report(content))
    head = ["class", "cases", "Dice mean", "sd", "median", "min"]
    head += [f"{title} mean" for _, title, _ in others.values()]
    rows = []
    for name in classes:
        dice = values_of(content, "dice", name)
        means = [shown(mean_of(values_of(content, metric, name)), form) for metric, (_, _, form) in others.items()]
        rows.append([name, str(len(dice)), *spread_of(dice), *means])
    over = [case.mean for case in content.cases if case.mean is not None]
    last = ["mean over classes", str(len(over)), *spread_of(over)]
    last[2] = shown(mean_of([mean_of(values_of(content, "dice", name)) for name in classes]), ".4f")
    for metric, (_, _, form) in others.items():
        last.append(shown(mean_of([mean_of(values_of(content, metric, name)) for name in classes]), form))
    return markup.table(
        "Scores on the scans' own grids, against the untouched label files", head, [*rows, last],
        strong_last=True,
    )  # fmt: skip


def _fold_table(gathered: Mapping[str, Any]) -> str:
    dice = gathered["metrics"]["dice"]
    columns = {f"fold {fold}": table for fold, table in dice["folds"].items()} | {"all cases": dice["pooled"]}
    rows = [
        [name if name != "mean" else "mean over classes", *(plus_minus(column[name]) for column in columns.values())]
        for name in dice["pooled"]
    ]
    return markup.table(
        "Dice by fold: mean ± standard deviation over its cases, which none of its weights saw",
        ["class", *columns], rows, strong_last=True,
    )  # fmt: skip


def worst(content: Content) -> str:
    """Pictures of the cases of lowest Dice."""
    figures: list[str] = []
    for case in content.cases:
        if case.picture is None or len(figures) == MOST_PICTURES:
            continue
        dice = ", ".join(f"{name} {shown(value, '.3f')}" for name, value in case.scores["dice"].items())
        words = f"{label_of(case)}: mean Dice {shown(case.mean, '.3f')} ({dice})"
        alternative = (
            f"Cuts through {case.name} where most is to be seen; truth as outlines, prediction as areas. {dice}."
        )
        figures.append(markup.figure(markup.picture(case.picture, alternative), words, "full"))
    if not figures:
        return ""
    explained = markup.paragraph("Outlines are the truth, areas the prediction; the scan alone stands beside or above.")
    return explained + "".join(figures)


def size_heading(content: Content) -> str:
    """What the part on sizes is called."""
    return "Volumes" if not content.reports or quantity_of(content) == "volume" else "Areas"


def sizes(content: Content) -> str:
    """Predicted sizes over true ones."""
    if not any(case.sizes for case in content.cases):
        return ""
    unit, quantity = unit_of(content, "volume_difference"), quantity_of(content)
    figures, rows = [], []
    for at, name in enumerate(classes_of(content)):
        pairs = [(case.sizes[name], label_of(case)) for case in content.cases if name in case.sizes]
        if not pairs:
            continue
        differences = [found - true for (found, true), _ in pairs]
        relative = mean_of([abs(found - true) / true for (found, true), _ in pairs if true > 0])
        points = [(true, found) for (found, true), _ in pairs]
        words = [f"{label}: true {true:.3g} {unit}, predicted {found:.3g} {unit}" for (found, true), label in pairs]
        series = Series(name, points, color_of(content, name, at), words)
        bias = f"{statistics.fmean(differences):+.3g} {unit}"
        chart = scatter(
            [series], f"Predicted over true {quantity} of {name}, {len(pairs)} cases; mean difference {bias}.",
            f"true, {unit}", f"predicted, {unit}",
        )  # fmt: skip
        figures.append(markup.figure(chart, f"{name}: predicted over true {quantity}"))
        deviation = statistics.stdev(differences) if len(differences) > 1 else None
        rows.append(
            [name, str(len(pairs)), f"{statistics.fmean([true for true, _ in points]):.3f}",
             f"{statistics.fmean(differences):+.3f}", shown(deviation, ".3f"),
             NOTHING if relative is None else f"{100 * relative:.1f} %"]
        )  # fmt: skip
    head = ["class", "cases", f"true mean ({unit})", f"difference mean ({unit})", "sd", "relative difference, absolute"]
    return (
        f'<div class="grid">{"".join(figures)}</div>'
        + markup.table(f"Predicted less true {quantity}", head, rows)
    )  # fmt: skip


def all_cases(content: Content) -> str:
    """Every case, worst first."""
    if not content.cases:
        return ""
    classes, folds = classes_of(content), len(content.reports) > 1
    head = ["case", *(["fold"] if folds else []), "mean Dice", *(f"Dice {name}" for name in classes)]
    unit = unit_of(content, "hd95")
    head += [f"HD95 {name} ({unit})" for name in classes]
    rows = [
        [case.name, *([str(case.fold)] if folds else []), shown(case.mean, ".4f"),
         *(shown(case.scores["dice"][name], ".4f") for name in classes),
         *(shown(case.scores["hd95"][name], ".2f") for name in classes)]
        for case in content.cases
    ]  # fmt: skip
    first = 2 if folds else 1
    parts = [markup.table("Every case, worst first", head, rows, bars=range(first, first + 1 + len(classes)))]
    missing = [
        (f"{name} (fold {fold})" if folds else name, str(reason))
        for fold, report in content.reports.items()
        for name, reason in report["missing"].items()
    ]
    if missing:
        parts.append(
            markup.table(
                "Cases that could not be scored and are in none of the figures",
                ["case", "reason"],
                missing,
                kind="facts",
            )
        )
    return "".join(parts)
