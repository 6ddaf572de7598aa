"""The parts of a report's page that show no scores; empty where there is nothing to show."""

from __future__ import annotations

import statistics

from unet_bundle.evaluation.page import markup
from unet_bundle.evaluation.page.charts import Series, line_chart, score_range
from unet_bundle.evaluation.page.content import Content
from unet_bundle.evaluation.page.values import (
    NOTHING,
    classes_of,
    duration,
    first_report,
    shown,
    unit_of,
    values_of,
)
from unet_bundle.evaluation.report import mean_of

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
        per_class = [mean_of(values_of(content, "dice", name)) for name in classes_of(content)]
        entries.append((shown(mean_of(per_class), ".3f"), "mean Dice"))
        entries.append((shown(statistics.median(means), ".3f"), "median of the cases"))
        hd95 = [mean_of(values_of(content, "hd95", name)) for name in classes_of(content)]
        entries.append((shown(mean_of(hd95), ".2f"), f"mean HD95 in {unit_of(content, 'hd95')}"))
    if content.cases:
        entries.append((str(len(content.cases)), "cases kept back" if len(content.cases) > 1 else "case kept back"))
    if len(content.reports) > 1:
        entries.append((str(len(content.reports)), "folds, each case by weights that never saw it"))
    if content.runs:
        minutes = sum(run.minutes for run in content.runs)
        entries.append((duration(minutes), "of training" + (f", {len(content.runs)} runs" if content.runs[1:] else "")))
    if not entries:
        return markup.paragraph("Neither trained nor evaluated yet: run unet-bundle train, then evaluate.")
    text = "" if content.cases else markup.paragraph("Not evaluated yet: run unet-bundle evaluate.")
    note = outdated(content)
    return (markup.paragraph(note, "notice") if note else "") + markup.cards(entries) + text


def outdated(content: Content) -> str:
    """A sentence that names scores which are older than the weights they stand for; empty if none is."""
    if not content.outdated:
        return ""
    numbers = [str(fold) for fold in content.outdated if fold is not None]
    folds = f" of fold{'s' if numbers[1:] else ''} {', '.join(numbers)}" if numbers else ""
    return f"The scores{folds} are older than the weights: trained again since? Run unet-bundle evaluate again."


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
        [f"fold {run.fold}", f"{run.loss[-1][0]:.0f}", duration(run.minutes), f"{run.loss[-1][1]:.4f}",
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


def plan(content: Content) -> str:
    """The data and the choices with their reasons, as the bundle's documentation has them."""
    return "".join(markup.markdown(content.readme[name]) for name in (DATA, PLAN) if name in content.readme)


def about(content: Content) -> str:
    """Where the figures come from and what they mean."""
    parts = []
    if content.reports:
        report = first_report(content)
        tolerance = next(
            iter(value for key, value in report["metrics"]["surface_dice"].items() if key.startswith("tol"))
        )
        limits = ", ".join(f"{name} {limit:g}" for name, limit in tolerance.items())
        parts.append(
            markup.paragraph(
                "Dice is twice the overlap over the sum of both sizes. HD95 is the 95th percentile of the distance of"
                " both surfaces. Surface Dice is the share of both surfaces that lies within a tolerance"
                f" ({limits} {unit_of(content, 'hd95')}) of the other; all of them on the grid of the label file."
            )
        )
        parts.append(markup.paragraph(str(report["absent"])))
        one_sided = {
            name: sum(each["one_sided"][name] for each in content.reports.values()) for name in classes_of(content)
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
