"""Tilted or unevenly spaced planes onto a regular grid, and label maps back onto the planes."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from unet_bundle.errors import InputError
from unet_bundle.geometry import Affine, ras_to_lps, slices_affine
from unet_bundle.io.dicom.pixels import MAX_VOXELS
from unet_bundle.io.dicom.record import SourceSeries
from unet_bundle.io.dicom.stack import Stack

_INSIDE = 0.5 + 1e-3  # half a voxel: how far beyond the outermost centres a label still counts


def check_size(stack: Stack, name: str) -> None:
    """Refuse a stack whose grid would be beyond measure: a shear widens every plane by what it shifts.

    Args:
        stack: the planes.
        name: what messages call the series.

    Raises:
        InputError: if the grid would have more than `MAX_VOXELS` voxels.
    """
    _, field = _field(stack)
    if float(np.prod(field)) * max(len(stack.frames), _count(stack)) > MAX_VOXELS:
        raise InputError(
            f"{name} would fill more than {MAX_VOXELS} voxels when it is resampled: export it again from its source"
        )


def _field(stack: Stack) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """First row and column of the field that holds all planes, and its rows and columns; whole numbers."""
    first = stack.frames[0]
    reach = _shift_per_mm(stack) * stack.depths[-1]
    low = np.floor(np.minimum(0, reach))
    return low, np.array(first.shape) + np.ceil(np.maximum(0, reach)) - low


def _shift_per_mm(stack: Stack) -> npt.NDArray[np.float64]:
    """Rows and columns by which a plane is shifted for each mm along the normal."""
    first = stack.frames[0]
    lean = stack.lean if stack.is_tilted else np.zeros(3)
    return np.array([lean @ first.orientation[1], lean @ first.orientation[0]]) / first.pixel_spacing


def _count(stack: Stack) -> int:
    """Slices of the regular grid."""
    return len(stack.frames) if stack.is_regular else math.floor(stack.depths[-1] / stack.distance + 0.5) + 1


def resample(stack: Stack, voxels: npt.NDArray[Any], fill: float) -> tuple[npt.NDArray[np.float32], Affine]:
    """Put the planes onto a grid whose third axis is their normal and whose slices have one distance.

    Each plane is shifted within itself against the tilt, by linear interpolation, onto a field wide enough for all;
    then planes at the grid's depths are interpolated linearly between the two nearest. The first and the last depth
    stay. Without tilt, or without gaps, that half changes nothing.

    Args:
        stack: the planes.
        voxels: [planes, rows, columns].
        fill: value outside the planes.

    Returns:
        Voxels [slices, rows, columns] and their affine, LPS.
    """
    first = stack.frames[0]
    per_mm = _shift_per_mm(stack)
    low, sides = _field(stack)
    field = (int(sides[0]), int(sides[1]))
    straight = np.empty((len(stack.frames), *field), np.float32)
    for plane, depth, target in zip(voxels, stack.depths, straight, strict=True):
        if stack.is_tilted:
            _shift(plane, low - per_mm * depth, fill, target)
        else:
            target[...] = plane
    depths = stack.depths
    if not stack.is_regular:
        depths = np.linspace(0, depths[-1], _count(stack))
        straight = _between(straight, stack.depths, depths)
    distance = stack.distance if len(depths) < 2 else float(depths[-1] / (len(depths) - 1))
    position = (
        first.position
        + low[1] * first.pixel_spacing[1] * first.orientation[0]
        + low[0] * first.pixel_spacing[0] * first.orientation[1]
    )
    step = distance * (first.normal if stack.is_tilted else first.normal + stack.lean)
    return straight, slices_affine(first.orientation, first.pixel_spacing, position, step)


def _shift(
    plane: npt.NDArray[Any], offset: npt.NDArray[np.float64], fill: float, target: npt.NDArray[np.float32]
) -> None:
    """The plane with its voxel `offset` at the start of `target`; half a voxel beyond its edge still belongs to it."""
    ndimage.affine_transform(plane.astype(np.float32), [1, 1], offset, output=target, order=1, mode="nearest")
    for axis, (start, size) in enumerate(zip(offset, plane.shape, strict=True)):
        outside = ~_known(start + np.arange(target.shape[axis]), size)
        np.moveaxis(target, axis, 0)[outside] = fill


def _between(
    voxels: npt.NDArray[np.float32], known: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    below = np.clip(np.searchsorted(known, wanted, side="right") - 1, 0, len(known) - 2)
    weights = ((wanted - known[below]) / (known[below + 1] - known[below])).astype(np.float32)
    result = np.empty((len(wanted), *voxels.shape[1:]), np.float32)
    for target, index, weight in zip(result, below, weights, strict=True):
        target[...] = (1 - weight) * voxels[index] + weight * voxels[index + 1]
    return result


def to_source_slices(labels: npt.NDArray[Any], affine: npt.ArrayLike, source: SourceSeries) -> npt.NDArray[Any]:
    """A label map on the grid of a volume back onto the planes that the volume was made of.

    Each voxel of a plane takes the label nearest to its centre; where the volume has none it is 0.

    Args:
        labels: [columns, rows, slices], on the grid that `affine` tells, whose axes are parallel to the planes'.
        affine: 4x4, voxel index to mm, RAS.
        source: from the metadata of the volume: ``SourceSeries.from_json(meta["dicom_source"])``.

    Returns:
        Labels of type and order of `labels`, [columns, rows, planes], plane by plane as in ``source.slices``.
    """
    if not source.resampled:
        return labels
    to_index = np.linalg.inv(ras_to_lps(affine))
    columns, rows, _ = source.shape
    axes = np.asarray(source.orientation).reshape(2, 3)
    across, down = axes[0] * source.pixel_spacing[1], axes[1] * source.pixel_spacing[0]
    result = np.zeros(source.shape, labels.dtype)
    for number, position in enumerate(source.positions):
        start = to_index[:3, :3] @ position + to_index[:3, 3]
        i = start[0] + (to_index[:3, :3] @ across)[0] * np.arange(columns)
        j = start[1] + (to_index[:3, :3] @ down)[1] * np.arange(rows)
        known_i, known_j = _known(i, labels.shape[0]), _known(j, labels.shape[1])
        if not _known(start[2:], labels.shape[2]).all():
            continue
        k = int(np.clip(np.rint(start[2]), 0, labels.shape[2] - 1))
        nearest_i = np.clip(np.rint(i), 0, labels.shape[0] - 1).astype(int)
        nearest_j = np.clip(np.rint(j), 0, labels.shape[1] - 1).astype(int)
        result[:, :, number] = labels[:, :, k][np.ix_(nearest_i, nearest_j)] * np.outer(known_i, known_j)
    return result


def _known(index: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.bool_]:
    return np.asarray((index >= -_INSIDE) & (index <= size - 1 + _INSIDE))
