"""How well single objects were found: average precision, SEG, AJI, and how many were merged.

Objects are matched whatever their class is. All scores are counted from the voxels that each object of the prediction
shares with each object of the truth.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

THRESHOLDS = tuple(step / 100 for step in range(50, 100, 5))
"""Overlaps (IoU) above which two objects match, as in the Data Science Bowl of 2018: 0.5, 0.55, ... 0.95. Above a half,
an object matches one other at most."""

DEFINITIONS = {
    "ap": "TP / (TP + FP + FN), where objects match that have an IoU above a threshold; mean over the thresholds 0.5, "
    "0.55, ... 0.95 (Data Science Bowl 2018)",
    "ap50": "the same at 0.5",
    "ap75": "the same at 0.75",
    "seg": "mean over true objects of the IoU with the object that covers more than half of it, 0 if none does "
    "(Cell Tracking Challenge)",
    "aji": "aggregated Jaccard index (Kumar et al. 2017, IEEE TMI 36:1550)",
    "merged": "found objects that cover more than half of each of two or more true ones",
    "true": "objects of the label file",
    "found": "objects of the prediction",
}
"""What each score is, for the report."""

COUNTS = ("merged", "true", "found")
"""Scores that are added up over cases."""


class InstanceScores(NamedTuple):
    """Scores of the objects of a case, see `DEFINITIONS`; None where they measure nothing, for want of objects."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    seg: float | None
    aji: float | None
    merged: float
    true: float
    found: float


class _Pairs(NamedTuple):
    """Objects of prediction and truth, from 0 on, that share voxels: for each pair its two objects and their overlap.

    Attributes:
        ours: object of the prediction.
        theirs: object of the truth.
        shared: voxels of both.
        overlap: their IoU.
        found: voxels of each object of the prediction.
        true: voxels of each object of the truth.
    """

    ours: npt.NDArray[np.int64]
    theirs: npt.NDArray[np.int64]
    shared: npt.NDArray[np.int64]
    overlap: npt.NDArray[np.float64]
    found: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]


def instance_scores(prediction: npt.NDArray[np.integer[Any]], label: npt.NDArray[np.integer[Any]]) -> InstanceScores:
    """Scores of a case.

    Args:
        prediction: number of the object at each voxel, 0 for background.
        label: the same of the truth; the same shape. Numbers may have gaps.
    """
    pairs = _pairs(prediction, label)
    found, true = len(pairs.found), len(pairs.true)
    precision = [_average_precision(pairs, threshold) for threshold in THRESHOLDS] if found or true else []
    covered = pairs.shared * 2 > pairs.true[pairs.theirs]
    return InstanceScores(
        ap=float(np.mean(precision)) if precision else None,
        ap50=precision[THRESHOLDS.index(0.5)] if precision else None,
        ap75=precision[THRESHOLDS.index(0.75)] if precision else None,
        seg=float(pairs.overlap[covered].sum()) / true if true else None,
        aji=_aji(pairs) if precision else None,
        merged=float(np.count_nonzero(np.bincount(pairs.ours[covered]) > 1)),
        true=float(true),
        found=float(found),
    )


def _pairs(prediction: npt.NDArray[Any], label: npt.NDArray[Any]) -> _Pairs:
    ours, found = _consecutive(prediction)
    theirs, true = _consecutive(label)
    both = (ours > 0) & (theirs > 0)
    codes, shared = np.unique((ours[both] - 1) * len(true) + theirs[both] - 1, return_counts=True)
    first, second = np.divmod(codes, max(len(true), 1))
    overlap = shared / (found[first] + true[second] - shared)
    return _Pairs(first, second, shared.astype(np.int64), overlap, found, true)


def _consecutive(objects: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The objects numbered from 1 on without a gap, 0 staying, and the voxels of each."""
    voxels = objects.astype(np.int64)
    counts = np.bincount(voxels.ravel(), minlength=1)
    counts[0] = 0
    present = counts > 0
    numbers: npt.NDArray[np.int64] = np.cumsum(present, dtype=np.int64) * present
    return numbers[voxels], counts[present]


def _average_precision(pairs: _Pairs, threshold: float) -> float:
    hits = int(np.count_nonzero(pairs.overlap > threshold))
    return hits / (len(pairs.found) + len(pairs.true) - hits)


def _aji(pairs: _Pairs) -> float:
    """Each true object with the one that overlaps it most, which may be taken more than once; and all never taken."""
    order = np.lexsort((-pairs.overlap, pairs.theirs))
    _, first = np.unique(pairs.theirs[order], return_index=True)
    best = order[first]
    common = int(pairs.shared[best].sum())
    unused = np.ones(len(pairs.found), np.bool_)
    unused[pairs.ours[best]] = False
    together = int(pairs.true.sum() + pairs.found[pairs.ours[best]].sum()) - common
    return common / (together + int(pairs.found[unused].sum()))
