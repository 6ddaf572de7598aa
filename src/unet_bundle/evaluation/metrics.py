"""How well a label map agrees with the truth: overlap, distance of the surfaces in mm, size in ml or mm².

The surface of a class is its voxels that have a face neighbour outside it (or lie at the edge of the scan), at their
centres: the definition of MetricsReloaded (Maier-Hein et al. 2024, Nature Methods 21:195) and of MONAI without
sub-voxels, whose values these are; but an axis of a single voxel has no edge, so that a volume of one slice scores as
the plane that it is. They are computed here because MONAI's functions want one-hot volumes (12 GB for 20
classes of 512 x 512 x 300), look for the nearest surface once for each metric, and compare distances of single
precision with the tolerance, where a spacing of 1.0000001 mm is farther than 1 mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree
from scipy.spatial.distance import pdist

from unet_bundle.geometry import corners

SURFACE_TOLERANCE_MM = 1.0
"""Distance within which two surfaces agree, where nobody states another."""

SLACK_MM = 1e-4
"""Added to the tolerance: affines in files have single precision, so a step of 1 mm may be a little longer."""

PERCENTILE = 95

ABSENT = (
    "A class in neither label nor prediction is not counted (null), in one of them only it is the worst case: "
    "Dice and surface Dice 0, HD95 the diagonal of the scan (after MetricsReloaded, Maier-Hein et al. 2024); "
    "one_sided counts these cases."
)
"""What is done with absent classes, in words; MetricsReloaded's advice."""


class ClassScores(NamedTuple):
    """How well one class of one case was found; all None where it is in neither label nor prediction.

    The distances are None, too, where all of one surface lies between voxels of which some do not count.

    Attributes:
        dice: overlap, 0 to 1.
        hd95: 95th percentile of the Hausdorff distance in mm: of both directions the larger.
        surface_dice: share of both surfaces that lies within the tolerance of the other (NSD), 0 to 1.
        volume_difference: predicted less true volume in ml; of planes the area in mm².
        one_sided: 1 where the class is in one of label and prediction only, else 0.
    """

    dice: float | None = None
    hd95: float | None = None
    surface_dice: float | None = None
    volume_difference: float | None = None
    one_sided: float | None = None


def case_scores(
    prediction: npt.NDArray[Any],
    label: npt.NDArray[Any],
    num_classes: int,
    affine: npt.ArrayLike,
    tolerances: Sequence[float] | None = None,
    counted: npt.NDArray[np.bool_] | None = None,
) -> list[ClassScores]:
    """Scores of each class of a case but the background.

    Args:
        prediction: class indices, shape [*spatial], of an integer type.
        label: class indices, the same shape.
        num_classes: number of classes, background included.
        affine: 4x4, voxel index to mm; its spacing counts, and its shear, if it has one.
        tolerances: mm for the surface Dice, one a class without the background; 1 mm each if None.
        counted: which voxels were labelled, the same shape; the others count nowhere, and no surface lies between one
            of them and another voxel. None: all.

    Returns:
        One entry a class. See `ABSENT` for classes that are missing.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    axes = label.ndim
    voxel = float(abs(np.linalg.det(matrix[:axes, :axes]))) / (1000 if axes > 2 else 1)
    if counted is not None:
        prediction, label = prediction * counted, label * counted
    limits = [SURFACE_TOLERANCE_MM] * (num_classes - 1) if tolerances is None else tolerances
    found, true, common = class_counts(prediction, label, num_classes)
    ours, theirs = (_surfaces(each, num_classes, matrix, counted) for each in (prediction, label))
    scores = []
    for index, (one, other, tolerance) in enumerate(zip(ours, theirs, limits, strict=True), start=1):
        difference = (found[index] - true[index]) * voxel
        if not found[index] and not true[index]:
            scores.append(ClassScores())
        elif not found[index] or not true[index]:
            scores.append(ClassScores(0.0, _diagonal(label.shape, matrix), 0.0, difference, 1.0))
        else:
            dice = 2 * common[index] / (found[index] + true[index])
            scores.append(ClassScores(dice, *_distances(one, other, tolerance), difference, 0.0))
    return scores


def _distances(
    one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], tolerance: float
) -> tuple[float | None, float | None]:
    """HD95 and surface Dice of two surfaces, arrays [points, 3] in mm; None if one has no points."""
    if not len(one) or not len(other):
        return None, None
    there, back = KDTree(other).query(one)[0], KDTree(one).query(other)[0]
    within = sum(np.count_nonzero(distances <= tolerance + SLACK_MM) for distances in (there, back))
    hd95 = float(max(np.percentile(there, PERCENTILE), np.percentile(back, PERCENTILE)))
    return hd95, int(within) / (len(there) + len(back))


def dice_scores(prediction: npt.NDArray[Any], label: npt.NDArray[Any], num_classes: int) -> list[float | None]:
    """Dice of each class but the background, as `case_scores` has it, for those who need no distances."""
    found, true, common = class_counts(prediction, label, num_classes)
    totals = [found[index] + true[index] for index in range(num_classes)]
    return [2 * common[index] / totals[index] if totals[index] else None for index in range(1, num_classes)]


def class_counts(
    prediction: npt.NDArray[Any], label: npt.NDArray[Any], num_classes: int
) -> tuple[list[int], list[int], list[int]]:
    """Voxels of each class, background included, in the prediction, in the label, and in both at once."""
    counts = np.zeros((3, num_classes), np.int64)
    for predicted, labelled in zip(prediction, label, strict=True):  # slice by slice: bincount copies to 64 bits
        for row, values in enumerate((predicted, labelled, labelled[predicted == labelled])):
            counts[row] += np.bincount(values.ravel(), minlength=num_classes)
    found, true, common = counts.tolist()
    return found, true, common


def _surfaces(
    label: npt.NDArray[Any],
    num_classes: int,
    affine: npt.NDArray[np.float64],
    counted: npt.NDArray[np.bool_] | None = None,
) -> list[npt.NDArray[np.float64]]:
    """Surface voxels of each class but the background, all in one pass over the label map.

    A label map one voxel thick is a plane, whose surface are its outlines: across it, every voxel would be at the edge.

    Returns:
        One array [points, 3] a class: their centres in mm, but for the origin, which all share.
    """
    edge = np.full(label.shape, label.size == 1)
    for axis in (axis for axis, side in enumerate(label.shape) if side > 1):
        values, marks = np.moveaxis(label, axis, 0), np.moveaxis(edge, axis, 0)
        differ = values[1:] != values[:-1]
        if counted is not None:
            known = np.moveaxis(counted, axis, 0)
            differ &= known[1:] & known[:-1]
        marks[1:] |= differ
        marks[:-1] |= differ
        marks[[0, -1]] = True
    edge &= label > 0
    voxels = np.flatnonzero(edge)
    classes = label.ravel()[voxels]
    voxels = voxels[np.argsort(classes, kind="stable")]
    ends = np.cumsum(np.bincount(classes, minlength=num_classes))[:-1]
    return [
        np.stack(np.unravel_index(part, label.shape), axis=-1) @ affine[:3, : label.ndim].T
        for part in np.split(voxels, ends)[1:]
    ]


def _diagonal(shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> float:
    """Largest distance in mm that two voxels of a scan can have."""
    return float(pdist(corners(shape, affine)).max())
