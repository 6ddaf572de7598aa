"""Labels as annotators store them: which can be trained on, and which of them are kept back for validation."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from unet_bundle.errors import InputError
from unet_bundle.geometry import grid_difference
from unet_bundle.io import LoadImaged, case_name
from unet_bundle.training.trained_cases import TrainedCases

logger = logging.getLogger(__name__)

Case = Mapping[str, str]
"""``image`` and ``label``, paths."""


def reason_to_leave_out(case: Case, known: Iterable[int]) -> str | None:
    """Why a case cannot be trained on; None if it can.

    Args:
        case: its files.
        known: values of the bundle's classes, with the background.
    """
    try:
        loaded = LoadImaged(keys=("label", "image"))({"label": case["label"], "image": case["image"]})
    except InputError as error:
        return str(error)
    labels, image = loaded["label"], loaded["image"]
    difference = grid_difference(labels.shape[1:], labels.affine, image.shape[1:], image.affine)
    if difference:
        return f"its label map is not on the scan's grid ({difference})"
    unknown = sorted(set(np.unique(labels.numpy()).tolist()) - set(known))
    return f"its label map has {_listed(unknown)}, which the bundle has no class for" if unknown else None


def usable_cases(cases: Sequence[Case], known: Iterable[int]) -> tuple[list[Case], dict[str, str]]:
    """Cases that can be trained on, and why the others cannot, by name.

    A label map with a class that the bundle does not know is left out as a whole: to take the class for background
    would teach the network that it is not there. One off its scan's grid would end the training of all others.
    """
    known = set(known)
    usable: list[Case] = []
    left_out: dict[str, str] = {}
    for case in cases:
        reason = reason_to_leave_out(case, known)
        if reason is None:
            usable.append(case)
        else:
            left_out[case_name(case["image"])] = reason
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


def _listed(values: Sequence[float]) -> str:
    return f"value{'' if len(values) == 1 else 's'} {', '.join(f'{value:.15g}' for value in values)}"
