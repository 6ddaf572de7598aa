"""Scores of all processes of a distributed evaluation, together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.utils import evenly_divisible_all_gather, string_list_all_gather

from unet_bundle.evaluation.instances import InstanceScores
from unet_bundle.evaluation.metrics import ClassScores
from unet_bundle.training.distributed import is_distributed


def gathered_scores(
    names: list[str], rows: list[list[ClassScores]], classes: int
) -> tuple[list[str], list[list[ClassScores]]]:
    """Names and rows of all processes of a distributed run."""
    if not is_distributed():
        return names, rows
    values = [[value for scores in row for value in scores] for row in rows]
    width = len(ClassScores._fields)
    gathered = [
        [ClassScores(*row[first : first + width]) for first in range(0, classes * width, width)]
        for row in _everywhere(values, classes * width)
    ]
    return string_list_all_gather(names), gathered


def gathered_objects(rows: list[InstanceScores]) -> list[InstanceScores]:
    """The scores of single objects of all processes, in the order of `gathered_scores`."""
    if not is_distributed():
        return rows
    return [InstanceScores(*row) for row in _everywhere(rows, len(InstanceScores._fields))]


def _everywhere(rows: Sequence[Sequence[float | None]], width: int) -> list[list[Any]]:
    """The rows of all processes, each of `width` values."""
    values = [[math.nan if value is None else value for value in row] for row in rows]
    table = torch.tensor(values, dtype=torch.float64).reshape(len(rows), width)
    gathered = evenly_divisible_all_gather(table, concat=True).tolist()
    return [[None if math.isnan(value) else value for value in row] for row in gathered]
