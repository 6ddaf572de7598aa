"""Labels as annotators store them: which can be trained on, and which of them are kept back for validation."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from unet_bundle.errors import InputError
from unet_bundle.io import LoadImaged, case_name
from unet_bundle.training.trained_cases import TrainedCases

logger = logging.getLogger(__name__)

Case = Mapping[str, str]
"""``image`` and ``label``, paths."""


def unknown_values(label: str | Path, known: Iterable[int]) -> list[int]:
    """Values of a label map that the bundle has no class for.

    Args:
        label: its file.
        known: values of the bundle's classes, with the background.

    Raises:
        InputError: it cannot be read.
    """
    labels = LoadImaged(keys="label")({"label": str(label)})["label"].numpy()
    return sorted(int(value) for value in set(np.unique(labels).tolist()) - set(known))


def usable_cases(cases: Sequence[Case], known: Iterable[int]) -> tuple[list[Case], dict[str, str]]:
    """Cases that can be trained on, and why the others cannot, by name.

    A label map with a class that the bundle does not know is left out as a whole: to take the class for background
    would teach the network that it is not there.
    """
    known = set(known)
    usable: list[Case] = []
    left_out: dict[str, str] = {}
    for case in cases:
        name = case_name(case["image"])
        try:
            values = unknown_values(case["label"], known)
        except InputError as error:
            left_out[name] = str(error)
            continue
        if values:
            left_out[name] = f"its label map has {_listed(values)}, which the bundle has no class for"
        else:
            usable.append(case)
    return usable, left_out


def values_of_annotators(stated: Sequence[Sequence[int | str]], labels: Iterable[int]) -> list[list[int]]:
    """`label_values` of a train.json for label maps that annotators store: their values are the classes.

    Those of the data set that the bundle was planned for may be others: its 3 may be what the bundle calls 2.

    Args:
        stated: of the data set; for each class its values, and last those that are ignored, which annotators have none
            of.
        labels: values of the bundle's classes, with the background.
    """
    classes = set(labels)
    return [[number] if number in classes else [] for number in range(len(stated))]


def split_cases(
    cases: Sequence[Case], share: float, trained: TrainedCases | None = None
) -> tuple[list[Case], list[Case]]:
    """Training and validation cases, by a hash of their names.

    However many labels come, a case that was trained on is not validated on later, so that each model's score can be
    compared with that of the one before it. Where all were trained on they are split all the same: both models have
    seen them then, and a comparison is better than none.

    Args:
        cases: all that can be used.
        share: of validation cases, 0 to 1. With two cases or more there is one to train on, and unless it is 0 one to
            validate on.
        trained: what the weights that training starts from have seen.
    """
    unseen = sorted((case for case in cases if trained is None or not trained.among([case])), key=_place)
    unseen = unseen or sorted(cases, key=_place)
    count = sum(_place(case) < share for case in unseen)
    if share > 0:
        count = min(max(count, 1), len(unseen), len(cases) - 1)
    kept = unseen[:count]
    return [case for case in cases if case not in kept], kept


def _place(case: Case) -> float:
    """Of a case between 0 and 1, the same for ever."""
    return int(hashlib.sha256(case_name(case["image"]).encode()).hexdigest()[:12], 16) / 16**12


def _listed(values: Sequence[int]) -> str:
    return f"value{'' if len(values) == 1 else 's'} {', '.join(map(str, values))}"
