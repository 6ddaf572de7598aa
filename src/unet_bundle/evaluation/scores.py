"""Scores on the scan's own grid, against the untouched label file: a table of cases and classes, as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import monai.handlers
import torch
from ignite.engine import Engine, Events
from monai.handlers import from_engine
from monai.metrics import DiceMetric
from monai.utils import evenly_divisible_all_gather, string_list_all_gather

from unet_bundle.errors import InputError
from unet_bundle.geometry import grid_difference
from unet_bundle.io import case_name

logger = logging.getLogger(__name__)


class MeanDice(monai.handlers.MeanDice):
    """Mean Dice over cases and classes without the background; a class absent from a label does not count in that case.

    Args:
        num_classes: number of classes, background included.
        output_transform: from the engine's output to (predictions, labels), class indices of shape [1, *spatial];
            the default takes ``"pred"`` and ``"label"``.
    """

    def __init__(self, num_classes: int, output_transform: Callable[[Any], Any] | None = None) -> None:
        super().__init__(
            include_background=False,
            num_classes=num_classes,
            output_transform=output_transform or from_engine(["pred", "label"]),
        )


def dice_table(prediction: torch.Tensor, label: torch.Tensor, num_classes: int) -> list[float | None]:
    """Dice of each class but the background.

    Args:
        prediction: class indices, shape [1, *spatial].
        label: class indices, the same shape.
        num_classes: number of classes, background included.

    Returns:
        One value a class. None where the class is in neither: nothing was to be found and nothing was, which is no
        measure of overlap. 0 where it is in one of them only.
    """
    metric = DiceMetric(include_background=False, num_classes=num_classes, ignore_empty=True)
    values = torch.as_tensor(metric(prediction[None].long(), label[None].long()))
    table: list[float | None] = []
    for index, value in enumerate(values[0].tolist(), start=1):
        if not math.isnan(value):
            table.append(value)
        else:
            table.append(0.0 if bool((prediction == index).any()) else None)
    return table


class SaveScores:
    """Scores every case against its label file and writes ``scores.csv`` and ``scores.json``.

    Args:
        labels: name of each class and its value.
        output_dir: where the two files go.
    """

    def __init__(self, labels: Mapping[str, int], output_dir: str) -> None:
        self.classes = [name for name, value in sorted(labels.items(), key=lambda item: item[1]) if value != 0]
        self.folder = Path(output_dir)
        self._names: list[str] = []
        self._rows: list[list[float | None]] = []

    def attach(self, engine: Engine) -> None:
        """Score after each iteration of `engine`, write after its epoch."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self, _engine: Engine) -> None:
        self._names.clear()
        self._rows.clear()

    def _score(self, engine: Engine) -> None:
        output: Any = engine.state.output
        for item in output:
            prediction, label = item["pred"], item["label"]
            name = case_name(label.meta["filename_or_obj"])
            difference = grid_difference(
                prediction.shape[1:], prediction.affine.numpy(), label.shape[1:], label.affine.numpy()
            )
            if difference is not None:
                raise InputError(f"{name}: image and label are not on one grid: {difference}; correct the label file.")
            _check_values(label, len(self.classes) + 1, name)
            self._names.append(name)
            self._rows.append(dice_table(prediction, label, len(self.classes) + 1))

    def _write(self, engine: Engine) -> None:
        names, rows = _gathered(self._names, self._rows)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"Several label files are named {twice[0]}: name each case differently.")
        if getattr(engine.state, "rank", 0) != 0:
            return
        report = score_report(dict(zip(names, rows, strict=True)), self.classes)
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_text(self.folder / "scores.json", json.dumps(report, indent=2) + "\n")
        _write_text(self.folder / "scores.csv", _as_csv(report, self.classes))
        logger.info("Dice on the original grid, %d cases: %s.", len(names), describe(report))


def score_report(rows: Mapping[str, list[float | None]], classes: list[str]) -> dict[str, Any]:
    """The content of ``scores.json``: a value a case and class, the mean of each class and of all classes.

    Args:
        rows: Dice of each class by case; None where the class is in neither label nor prediction.
        classes: names of the classes, in the order of the rows.
    """
    cases = {name: dict(zip(classes, rows[name], strict=True)) for name in sorted(rows)}
    means = {c: _mean([case[c] for case in cases.values()]) for c in classes}
    return {"metric": "dice", "grid": "original", "mean": _mean(list(means.values())), "classes": means, "cases": cases}


def describe(report: Mapping[str, Any]) -> str:
    """One line: the mean of each class and of all."""
    parts = [f"{name} {'-' if value is None else format(value, '.4f')}" for name, value in report["classes"].items()]
    mean = report["mean"]
    return ", ".join([*parts, f"mean {'-' if mean is None else format(mean, '.4f')}"])


def _check_values(label: torch.Tensor, num_classes: int, name: str) -> None:
    unknown = [value for value in torch.unique(label).tolist() if value not in range(num_classes)]
    if unknown:
        raise InputError(
            f"{name}: the label file holds the value {unknown[0]:g}, the classes are 0 to {num_classes - 1}: correct it"
            " or use a bundle that was planned for it."
        )


def _mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present else None


def _as_csv(report: Mapping[str, Any], classes: list[str]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["case", *classes])
    for name, values in [*report["cases"].items(), ("mean", report["classes"])]:
        writer.writerow([name, *("" if values[c] is None else f"{values[c]:.6f}" for c in classes)])
    return buffer.getvalue()


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _gathered(names: list[str], rows: list[list[float | None]]) -> tuple[list[str], list[list[float | None]]]:
    """Names and rows of all processes of a distributed run."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return names, rows
    table = torch.tensor([[math.nan if v is None else v for v in row] for row in rows], dtype=torch.float64)
    table = evenly_divisible_all_gather(table, concat=True)
    return string_list_all_gather(names), [[None if math.isnan(v) else v for v in row] for row in table.tolist()]
