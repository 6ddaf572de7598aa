"""What a report is made of: the files that training, evaluation and planning left in a bundle."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.evaluation.report import mean_of
from unet_bundle.evaluation.volumes import FILE as VOLUMES
from unet_bundle.evaluation.worst import picture_path

CROSS_VALIDATION = "cross_validation.json"
SCORES = "scores.json"
METRICS = ("hd95", "surface_dice", "volume_difference")
"""Beside Dice."""


@dataclass(frozen=True)
class Case:
    """A scored case.

    Attributes:
        name: as the evaluation shows it.
        fold: that kept it back; None if the evaluation was of one fold only.
        mean: its mean Dice; None if nothing was to be found and nothing was.
        scores: each metric by name, ``"dice"`` among them, of each class.
        sizes: predicted and true volume (or area) of each class that is in one of them.
        picture: of the case, if there is one.
    """

    name: str
    fold: int | None
    mean: float | None
    scores: Mapping[str, Mapping[str, float | None]]
    sizes: Mapping[str, tuple[float, float]]
    picture: Path | None


@dataclass(frozen=True)
class Run:
    """The training of a fold: columns of its curves.csv as points (epoch, value)."""

    fold: str
    loss: list[tuple[float, float]]
    dice: list[tuple[float, float]]
    learning_rate: list[tuple[float, float]]
    minutes: float


@dataclass(frozen=True)
class Content:
    """All that a report shows.

    Attributes:
        metadata: the bundle's ``metadata.json``.
        colors: red, green and blue (0 to 255) by name of a class.
        readme: sections of the bundle's ``docs/README.md`` by heading.
        runs: in the order of the folds.
        reports: the ``scores.json`` of each fold that was evaluated; of one fold alone under None.
        gathered: ``cross_validation.json``, if the evaluation was of several folds.
        cases: worst first; those without a score last.
        outdated: folds (None: the one that was evaluated alone) whose weights are newer than their scores.
    """

    metadata: Mapping[str, Any]
    colors: Mapping[str, Any]
    readme: Mapping[str, str]
    runs: list[Run]
    reports: Mapping[int | None, Mapping[str, Any]]
    gathered: Mapping[str, Any] | None
    cases: list[Case]
    outdated: tuple[int | None, ...] = ()


def read_content(bundle: Path, evaluation: Path) -> Content:
    """Read what is there of a bundle's runs and scores; the data set is not needed.

    Args:
        bundle: folder of the bundle.
        evaluation: output folder of an evaluation, of one fold or of several.

    Raises:
        ConfigError: `bundle` is no bundle.
        InputError: a file is broken, or not one that was written here.
    """
    metadata = _json(bundle / "configs" / "metadata.json")
    if metadata is None:
        raise ConfigError(f"{bundle} is no bundle: give the folder that `unet-bundle plan` wrote.")
    gathered = _json(evaluation / CROSS_VALIDATION)
    reports: dict[int | None, Mapping[str, Any]] = {}
    cases: list[Case] = []
    outdated: list[int | None] = []
    for fold in [None] if gathered is None else [int(fold) for fold in gathered["cases"]]:
        folder = evaluation if fold is None else evaluation / f"fold_{fold}"
        report = _json(folder / SCORES)
        if report is None:
            continue
        if not {"cases", "classes", "metrics", "worst", "missing"} <= set(report):
            raise InputError(f"{folder.name}/{SCORES} is not of an evaluation with unet-bundle: evaluate again.")
        reports[fold] = report
        weights = bundle / ("models/model.pt" if fold is None else f"runs/fold_{fold}/best.pt")
        if weights.is_file() and weights.stat().st_mtime > (folder / SCORES).stat().st_mtime:
            outdated.append(fold)
        cases += _cases(folder, fold, report)
    return Content(
        metadata,
        (_json(bundle / "configs" / "evaluate.json") or {}).get("colors") or {},
        _sections(bundle / "docs" / "README.md"),
        [_run(path) for path in sorted((bundle / "runs").glob("fold_*/curves.csv"))],
        reports,
        gathered,
        sorted(cases, key=lambda case: (case.mean is None, case.mean, case.name)),
        tuple(outdated),
    )


def _json(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path.parent.name}/{path.name} cannot be read as JSON: make it again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path.parent.name}/{path.name} is not what was written here: make it again.")
    return content


def _cases(folder: Path, fold: int | None, report: Mapping[str, Any]) -> list[Case]:
    predicted = _predicted_sizes(folder / VOLUMES)
    pictures = {name: picture_path(folder, rank, name) for rank, name in enumerate(report["worst"], start=1)}
    cases = []
    for name, dice in report["cases"].items():
        scores = {"dice": dice, **{metric: report["metrics"][metric]["cases"][name] for metric in METRICS}}
        sizes = {}
        for organ, difference in scores["volume_difference"].items():
            found = predicted.get((name, organ))
            if found is not None and difference is not None:
                sizes[organ] = found, max(found - difference, 0.0)
        picture = pictures.get(name)
        there = picture if picture is not None and picture.is_file() else None
        cases.append(Case(name, fold, mean_of(list(dice.values())), scores, sizes, there))
    return cases


def _predicted_sizes(path: Path) -> dict[tuple[str, str], float]:
    """Predicted size by case and class."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return {(row[0], row[1]): float(row[2]) for row in list(csv.reader(file))[1:]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path.parent.name}/{path.name} is not one that was written here: evaluate again.") from error


def _run(path: Path) -> Run:
    columns: dict[str, list[tuple[float, float]]] = {"loss": [], "validation_dice": [], "learning_rate": []}
    minutes, before = 0.0, 0.0
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, points in columns.items():
                    if row[name]:
                        points.append((float(row["epoch"]), float(row[name])))
                seconds = float(row["seconds"])
                minutes += (seconds - before if seconds >= before else seconds) / 60  # a resumed run counts from 0
                before = seconds
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path.parent.name}/{path.name} is not one that was written here: move it away.") from error
    fold = path.parent.name.removeprefix("fold_")
    return Run(fold, columns["loss"], columns["validation_dice"], columns["learning_rate"], minutes)


def _sections(path: Path) -> dict[str, str]:
    """Text below each heading of the second level."""
    try:
        parts = f"\n{path.read_text(encoding='utf-8')}".split("\n## ")[1:]
    except (OSError, ValueError):
        return {}
    return {head.strip(): text.strip() for head, _, text in (part.partition("\n") for part in parts)}
