"""The parts of a report's page, each from the content alone; empty where there is nothing to show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from unet_bundle.evaluation.page import markup
from unet_bundle.evaluation.page.charts import Series, line_chart, scatter, score_range, strips
from unet_bundle.evaluation.page.content import Case, Content
from unet_bundle.evaluation.report import describe_objects, mean_of, metric_columns

NOTHING = "n/a"
MOST_PICTURES = 6
PLAN = "Why it is set up so"
DATA = "Data"


def lead(content: Content) -> str:
    """What the bundle is for, below its title."""
    notice = content.metadata.get("intended_use", "Research only: not a medical device.")
    return markup.paragraph(str(content.metadata.get("description", "")), "lead") + markup.paragraph(notice, "notice")


def summary(content: Content) -> str:
    """The figures that count."""
    entries: list[tuple[str, str]] = []
    means = [case.mean for case in content.cases if case.mean is not None]
    if means:
        per_class = [mean_of(_values(content, "dice", name)) for name in _classes(content)]
        entries.append((_shown(mean_of(per_class), ".3f"), "mean Dice"))
        entries.append((_shown(statistics.median(means), ".3f"), "median of the cases"))
        hd95 = [mean_of(_values(content, "hd95", name)) for name in _classes(content)]
        entries.append((_shown(mean_of(hd95), ".2f"), f"mean HD95 in {_unit(content, 'hd95')}"))
    if content.cases:
        entries.append((str(len(content.cases)), "cases kept back" if len(content.cases) > 1 else "case kept back"))
    if len(content.reports) > 1:
        entries.append((str(len(content.reports)), "folds, each case by weights that never saw it"))
    if content.runs:
        minutes = sum(run.minutes for run in content.runs)
        entries.append(
            (_duration(minutes), "of training" + (f", {len(content.runs)} runs" if content.runs[1:] else ""))
        )
    if not entries:
        return markup.paragraph("Neither trained nor evaluated yet: run unet-bundle train, then evaluate.")
    text = "" if content.cases else markup.paragraph("Not evaluated yet: run unet-bundle evaluate.")
    return markup.cards(entries) + text


def scores(content: Content) -> str:
    """Dice of each class over the cases, the other metrics' means, and the folds beside each other."""
    if not content.cases:
        return ""
    classes = _classes(content)
    names = list(map(_label, content.cases))
    rows = {
        name: Series(
            name,
            [(dice, 0.0) for case in content.cases if (dice := case.scores["dice"][name]) is not None],
            _color(content, name, at),
            [label for label, case in zip(names, content.cases, strict=True) if case.scores["dice"][name] is not None],
        )
        for at, name in enumerate(classes)
    }
    spread = "; ".join(f"{name} {_shown(mean_of([x for x, _ in row.points]), '.3f')}" for name, row in rows.items())
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
    others = metric_columns(_report(content))
    head = ["class", "cases", "Dice mean", "sd", "median", "min"]
    head += [f"{title} mean" for _, title, _ in others.values()]
    rows = []
    for name in classes:
        dice = _values(content, "dice", name)
        means = [_shown(mean_of(_values(content, metric, name)), form) for metric, (_, _, form) in others.items()]
        rows.append([name, str(len(dice)), *_spread(dice), *means])
    over = [case.mean for case in content.cases if case.mean is not None]
    last = ["mean over classes", str(len(over)), *_spread(over)]
    last[2] = _shown(mean_of([mean_of(_values(content, "dice", name)) for name in classes]), ".4f")
    for metric, (_, _, form) in others.items():
        last.append(_shown(mean_of([mean_of(_values(content, metric, name)) for name in classes]), form))
    return markup.table(
        "Scores on the scans' own grids, against the untouched label files", head, [*rows, last],
        strong_last=True,
    )  # fmt: skip


def _fold_table(gathered: Mapping[str, Any]) -> str:
    dice = gathered["metrics"]["dice"]
    columns = {f"fold {fold}": table for fold, table in dice["folds"].items()} | {"all cases": dice["pooled"]}
    rows = [
        [name if name != "mean" else "mean over classes", *(_plus_minus(column[name]) for column in columns.values())]
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
        dice = ", ".join(f"{name} {_shown(value, '.3f')}" for name, value in case.scores["dice"].items())
        words = f"{_label(case)}: mean Dice {_shown(case.mean, '.3f')} ({dice})"
        alternative = (
            f"Cuts through {case.name} where most is to be seen; truth as outlines, prediction as areas. {dice}."
        )
        figures.append(markup.figure(markup.picture(case.picture, alternative), words, "full"))
    if not figures:
        return ""
    explained = markup.paragraph("Outlines are the truth, areas the prediction; the scan alone stands beside or above.")
    return explained + "".join(figures)


def sizes(content: Content) -> str:
    """Predicted sizes over true ones."""
    if not any(case.sizes for case in content.cases):
        return ""
    unit, quantity = _unit(content, "volume_difference"), _quantity(content)
    figures, rows = [], []
    for at, name in enumerate(_classes(content)):
        pairs = [(case.sizes[name], _label(case)) for case in content.cases if name in case.sizes]
        if not pairs:
            continue
        differences = [found - true for (found, true), _ in pairs]
        relative = mean_of([abs(found - true) / true for (found, true), _ in pairs if true > 0])
        points = [(true, found) for (found, true), _ in pairs]
        words = [f"{label}: true {true:.3g} {unit}, predicted {found:.3g} {unit}" for (found, true), label in pairs]
        series = Series(name, points, _color(content, name, at), words)
        bias = f"{statistics.fmean(differences):+.3g} {unit}"
        chart = scatter(
            [series], f"Predicted over true {quantity} of {name}, {len(pairs)} cases; mean difference {bias}.",
            f"true, {unit}", f"predicted, {unit}",
        )  # fmt: skip
        figures.append(markup.figure(chart, f"{name}: predicted over true {quantity}"))
        deviation = statistics.stdev(differences) if len(differences) > 1 else None
        rows.append(
            [name, str(len(pairs)), f"{statistics.fmean([true for true, _ in points]):.3f}",
             f"{statistics.fmean(differences):+.3f}", _shown(deviation, ".3f"),
             NOTHING if relative is None else f"{100 * relative:.1f} %"]
        )  # fmt: skip
    head = ["class", "cases", f"true mean ({unit})", f"difference mean ({unit})", "sd", "relative difference, absolute"]
    return (
        f'<div class="grid">{"".join(figures)}</div>'
        + markup.table(f"Predicted less true {quantity}", head, rows)
    )  # fmt: skip


def training(content: Content) -> str:
    """Curves of the runs, a line a fold."""
    runs = [run for run in content.runs if run.loss]
    if not runs:
        return ""

    def lines(column: str) -> list[Series]:
        return [Series(f"fold {run.fold}", getattr(run, column), at) for at, run in enumerate(runs)]

    best = {run.fold: max(run.dice, key=lambda point: point[1], default=None) for run in runs}
    last = ", ".join(f"fold {run.fold} {run.loss[-1][1]:.3f}" for run in runs)
    top = ", ".join(f"fold {fold} {point[1]:.3f}" for fold, point in best.items() if point is not None)
    charts = [
        markup.figure(
            line_chart(lines("loss"), f"Training loss by epoch; at the end {last}.", "epoch"), "Training loss"
        )
    ]
    if all_dice := [value for run in runs for _, value in run.dice]:
        chart = line_chart(lines("dice"), f"Validation Dice by epoch; best {top}.", "epoch", score_range(all_dice))
        charts.append(markup.figure(chart, "Validation Dice, mean over classes, at the network's spacing"))
    rates = line_chart(lines("learning_rate"), "Learning rate by epoch.", "epoch")
    charts.append(markup.figure(rates, "Learning rate"))
    rows = [
        [f"fold {run.fold}", f"{run.loss[-1][0]:.0f}", _duration(run.minutes), f"{run.loss[-1][1]:.4f}",
         *([f"{point[1]:.4f}", f"{point[0]:.0f}"] if (point := best[run.fold]) is not None else [NOTHING, NOTHING])]
        for run in runs
    ]  # fmt: skip
    names = [(f"fold {run.fold}", Series("", [], at).style) for at, run in enumerate(runs)]
    head = ["run", "epochs", "time", "last loss", "best validation Dice", "in epoch"]
    return (
        (markup.legend(names) if len(runs) > 1 else "")
        + f'<div class="grid">{"".join(charts)}</div>'
        + markup.table("Runs", head, rows)
    )


def all_cases(content: Content) -> str:
    """Every case, worst first."""
    if not content.cases:
        return ""
    classes, folds = _classes(content), len(content.reports) > 1
    head = ["case", *(["fold"] if folds else []), "mean Dice", *(f"Dice {name}" for name in classes)]
    unit = _unit(content, "hd95")
    head += [f"HD95 {name} ({unit})" for name in classes]
    rows = [
        [case.name, *([str(case.fold)] if folds else []), _shown(case.mean, ".4f"),
         *(_shown(case.scores["dice"][name], ".4f") for name in classes),
         *(_shown(case.scores["hd95"][name], ".2f") for name in classes)]
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


def plan(content: Content) -> str:
    """The data and the choices with their reasons, as the bundle's documentation has them."""
    return "".join(markup.markdown(content.readme[name]) for name in (DATA, PLAN) if name in content.readme)


def about(content: Content) -> str:
    """Where the figures come from and what they mean."""
    parts = []
    if content.reports:
        report = _report(content)
        tolerance = next(
            iter(value for key, value in report["metrics"]["surface_dice"].items() if key.startswith("tol"))
        )
        limits = ", ".join(f"{name} {limit:g}" for name, limit in tolerance.items())
        parts.append(
            markup.paragraph(
                "Dice is twice the overlap over the sum of both sizes. HD95 is the 95th percentile of the distance of"
                " both surfaces. Surface Dice is the share of both surfaces that lies within a tolerance"
                f" ({limits} {_unit(content, 'hd95')}) of the other; all of them on the grid of the label file."
            )
        )
        parts.append(markup.paragraph(str(report["absent"])))
        one_sided = {
            name: sum(each["one_sided"][name] for each in content.reports.values()) for name in _classes(content)
        }
        if any(one_sided.values()):
            words = ", ".join(f"{name} {count}" for name, count in one_sided.items() if count)
            parts.append(markup.paragraph(f"In only one of label and prediction: {words}."))
    facts = {
        "Task": "task", "Authors": "authors", "Copyright": "copyright", "Data": "data_source",
        "MONAI": "monai_version", "PyTorch": "pytorch_version",
    }  # fmt: skip
    rows = [[name, str(content.metadata[key])] for name, key in facts.items() if content.metadata.get(key)]
    changes = content.metadata.get("changelog")
    if isinstance(changes, dict):
        rows += [[f"Version {version}", str(text)] for version, text in changes.items()]
    parts.append(markup.table("The bundle", ["of", "what is stated"], rows, kind="facts"))
    return "".join(parts)


def _report(content: Content) -> Mapping[str, Any]:
    return next(iter(content.reports.values()))


def _classes(content: Content) -> list[str]:
    return list(_report(content)["classes"]) if content.reports else []


def _values(content: Content, metric: str, name: str) -> list[float]:
    return [value for case in content.cases if (value := case.scores[metric][name]) is not None]


def _unit(content: Content, metric: str) -> str:
    unit = str(_report(content)["metrics"][metric]["unit"])
    return unit.replace("mm2", "mm²")


def size_heading(content: Content) -> str:
    """What the part on sizes is called."""
    return "Volumes" if not content.reports or _quantity(content) == "volume" else "Areas"


def _quantity(content: Content) -> str:
    return "volume" if _unit(content, "volume_difference") == "ml" else "area"


def _color(content: Content, name: str, number: int) -> int | str:
    """The class's own colour, or one of the page's."""
    chosen = content.colors.get(name)
    return number if chosen is None else f"rgb({', '.join(str(int(channel)) for channel in chosen)})"


def _label(case: Case) -> str:
    return case.name if case.fold is None else f"{case.name} (fold {case.fold})"


def _spread(values: Sequence[float]) -> list[str]:
    if not values:
        return [NOTHING] * 4
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return [_shown(v, ".4f") for v in (mean_of(values), deviation, statistics.median(values), min(values))]


def _plus_minus(cell: Mapping[str, Any]) -> str:
    if cell["mean"] is None:
        return NOTHING
    return f"{cell['mean']:.4f}" + ("" if cell["sd"] is None else f" ± {cell['sd']:.4f}")


def _shown(value: float | None, form: str) -> str:
    if value is None or not math.isfinite(value):
        return NOTHING
    shown = format(value, form)
    return shown.lstrip("+-") if float(shown) == 0 else shown


def _duration(minutes: float) -> str:
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
