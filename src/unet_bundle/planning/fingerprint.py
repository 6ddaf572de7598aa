"""The fingerprint: what a program measures on a data set, so that a bundle can be planned again without the scans."""

import math
import os
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from unet_bundle.errors import InputError
from unet_bundle.geometry import grid_difference, orientation_of, spacing_of
from unet_bundle.io import LoadImaged, case_name, fit_colors, is_picture, subject_of, wanted_channels
from unet_bundle.planning.task_card import TaskCard
from unet_bundle.transforms import MergeLabelsd

FORMAT = 1
"""Version of the fingerprint's own form; a plan refuses any other."""

SAMPLES_PER_CASE = 10_000
"""Foreground voxels drawn per case, with replacement, so that every case weighs the same (as nnU-Net does)."""

MAX_WORKERS = 4
"""More threads hold more whole scans in memory at a time than they gain in speed."""

_AXIS_OF_CODE = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


@dataclass(frozen=True)
class _CaseMeasures:
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    samples: np.ndarray
    voxels: dict[str, int]
    ignored: int
    voxel_ml: float


def measure_fingerprint(
    cases: Sequence[Mapping[str, str]], card: TaskCard, workers: int | None = None, progress: bool = True
) -> dict[str, Any]:
    """Measure shapes, spacings, foreground intensities and label volumes of a labelled data set.

    Shapes and spacings are given along the axes right, anterior, superior (RAS), whatever the order in the files.
    Intensities are those of `SAMPLES_PER_CASE` foreground voxels of each case, drawn with a seed that depends on the
    case's name alone: neither the order of the cases nor the number of workers changes a byte of the result.

    Args:
        cases: ``{"image": path, "label": path}`` per case (see `unet_bundle.io.find_cases`).
        card: The task card; its labels, modality and subject key are used.
        workers: Threads that read in parallel; None: one per processor, at most `MAX_WORKERS`.
        progress: Show a progress bar on stderr.

    Returns:
        A dict that JSON can hold, without case names and paths: spacings in mm to 6 decimals, intensities to 6
        significant digits, volumes in ml; with a value to be ignored also the share of voxels that have it.

    Raises:
        InputError: If a case cannot be read, its label lies on another grid or holds an unknown value, the channel
            count differs, or no case has any foreground.
    """
    if not cases:
        raise InputError("there are no labelled cases to measure: check the data set's dataset.json")
    ordered = sorted(cases, key=lambda case: case_name(case["image"]))
    names = [case_name(case["image"]) for case in ordered]
    count = workers or min(os.cpu_count() or 1, MAX_WORKERS)
    with ThreadPoolExecutor(count) as pool:
        results = pool.map(lambda case: _measure_case(case, card), ordered)
        bar = tqdm(results, total=len(ordered), desc="measuring", unit="case", disable=not progress)
        measures = list(bar)

    grids = sorted((measure.shape, measure.spacing) for measure in measures)
    pictures = all(is_picture(path) for case in cases for path in _paths(case["image"]))
    return {
        "format": FORMAT,
        **({"pixels": True} if pictures else {}),
        "spatial_dims": len(grids[0][0]),
        "num_cases": len(measures),
        "num_subjects": len({subject_of(name, card.subject) for name in names}),
        "num_channels": len(card.modality),
        "cases": {
            "shapes": [list(shape) for shape, _ in grids],
            "spacings": [list(spacing) for _, spacing in grids],
        },
        "orientations": dict(sorted(Counter(measure.orientation for measure in measures).items())),
        "intensities": _intensities(np.concatenate([measure.samples for measure in measures], axis=1)),
        "labels": {name: _label_volumes(name, measures) for name in card.labels},
        **({} if card.ignore is None else {"ignored": _ignored_share(measures)}),
    }


def significant(value: float, digits: int = 6) -> float:
    """`value` rounded to significant digits, so that a plan does not hold the noise of the last bits."""
    return float(f"{float(value):.{digits}g}")


def _paths(image: str | Sequence[str]) -> Sequence[str]:
    return [image] if isinstance(image, str) else image


def _measure_case(case: Mapping[str, str], card: TaskCard) -> _CaseMeasures:
    name = case_name(case["image"])
    data = LoadImaged(keys=("image", "label"))({"image": case["image"], "label": case["label"]})
    image, label = data["image"], data["label"]
    if is_picture(case["image"]):
        image = fit_colors(image, wanted_channels(card.modality))
    if is_picture(case["label"]):
        label = fit_colors(label, 1)
    values = card.class_values()
    if values is not None:
        label = MergeLabelsd("label", values)({"label": label})["label"]
    affine = np.asarray(image.affine, dtype=np.float64)
    difference = grid_difference(
        tuple(image.shape[1:]), affine, tuple(label.shape[1:]), np.asarray(label.affine, dtype=np.float64)
    )
    if difference is not None:
        raise InputError(f"{name}: image and label do not lie on the same grid ({difference}): correct one of them")
    if image.shape[0] != len(card.modality):
        raise InputError(
            f"{name}: the image has {image.shape[0]} channels but {len(card.modality)} are stated "
            f"({', '.join(card.modality)}): correct the image or the modality in the task card"
        )
    if label.shape[0] != 1:
        raise InputError(f"{name}: the label has {label.shape[0]} channels: it must hold one whole number a voxel")

    voxels = np.asarray(label)
    ignored = 0
    if card.ignore is not None:
        unlabelled = voxels == card.ignore_index
        ignored, voxels = int(unlabelled.sum()), np.where(unlabelled, 0, voxels)
    codes = orientation_of(affine)
    axes = image.ndim - 1
    order = np.argsort([_AXIS_OF_CODE[code] for code in codes[:axes]])
    spacing = np.asarray(spacing_of(affine))
    return _CaseMeasures(
        shape=tuple(int(image.shape[1 + axis]) for axis in order),
        spacing=tuple(round(float(spacing[axis]), 6) for axis in order),
        orientation=codes,
        samples=_draw_foreground(np.asarray(image), voxels[0], name),
        voxels=_count_labels(voxels, ignored, card, name),
        ignored=ignored,
        voxel_ml=float(np.prod(spacing)) / 1000,
    )


def _draw_foreground(image: np.ndarray, label: np.ndarray, name: str) -> np.ndarray:
    """Intensities of randomly drawn foreground voxels, shape [channels, samples]; no samples without foreground."""
    (foreground,) = np.nonzero(label.ravel() > 0)
    if not len(foreground):
        return np.empty((image.shape[0], 0), dtype=np.float32)
    # RandomState's stream is frozen for good, that of default_rng is not.
    draw = np.random.RandomState(zlib.crc32(name.encode())).randint(len(foreground), size=SAMPLES_PER_CASE)
    drawn: np.ndarray = image.reshape(image.shape[0], -1)[:, foreground[draw]]
    return drawn


def _count_labels(label: np.ndarray, ignored: int, card: TaskCard, name: str) -> dict[str, int]:
    """Voxels of each label; `ignored` of those that are 0 stand for voxels that nobody labelled."""
    values, counts = np.unique(label, return_counts=True)
    unknown = [f"{value:g}" for value in values.tolist() if value not in card.labels.values()]
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise InputError(
            f"{name}: the label holds {shown}, but the label values are 0 to {max(card.labels.values())}: "
            "correct the file or state the label in the task card"
        )
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    found[0] = found.get(0, 0) - ignored
    return {organ: int(found.get(value, 0)) for organ, value in card.labels.items()}


def _intensities(samples: np.ndarray) -> list[dict[str, float]]:
    """Statistics per channel of samples of shape [channels, samples]."""
    if not samples.shape[1]:
        raise InputError("no case has a labelled voxel besides background: check the labels")
    statistics = []
    # Sorted first, so that the order of the cases cannot show in the last bits of a sum.
    for channel in np.sort(samples.astype(np.float64), axis=1):
        low, median, high = np.percentile(channel, (0.5, 50, 99.5))
        values = {
            "percentile_00_5": low,
            "percentile_99_5": high,
            "mean": channel.mean(),
            "std": channel.std(),
            "median": median,
            "min": channel[0],
            "max": channel[-1],
        }
        statistics.append({key: significant(value) for key, value in values.items()})
    return statistics


def _ignored_share(measures: Sequence[_CaseMeasures]) -> float:
    """The share of all voxels that nobody labelled."""
    total = sum(math.prod(measure.shape) for measure in measures)
    return significant(sum(measure.ignored for measure in measures) / total)


def _label_volumes(name: str, measures: Sequence[_CaseMeasures]) -> dict[str, float]:
    """Cases that hold the label, its voxels in all of them, and the median volume (ml) where it is present."""
    present = [measure for measure in measures if measure.voxels[name]]
    volumes = [measure.voxels[name] * measure.voxel_ml for measure in present]
    return {
        "cases": len(present),
        "voxels": sum(measure.voxels[name] for measure in present),
        "ml": significant(float(np.median(volumes))) if volumes else 0.0,
    }
