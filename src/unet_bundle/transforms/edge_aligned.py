"""Resampling between grids that share their outer edges: the voxels' sizes differ, what they cover does not.

This is how nnU-Net resamples (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z). Interpolation along an
axis is linear in the voxels, so it is a matrix for each axis: SciPy makes it, once for a pair of sizes, and the
products take a fraction of the time that SciPy needs for the whole volume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform
from scipy import ndimage

from unet_bundle.geometry import nearest_places

ORDERS = {"bilinear": 1, "cubic": 3}
"""Order of the spline by mode."""

BLOCK = 64
"""Planes of the result that are made at once: they depend on little more than as many of the source."""

NEGLIGIBLE = 1e-8
"""Share of a voxel below which it is left out: the weights of a cubic spline fade by a factor of 3.7 a voxel."""


class ResampleEdgeAligned(InvertibleTransform):
    """An image on a grid with the same outer edges and another number of voxels; back by linear interpolation."""

    def __call__(  # type: ignore[override]
        self, data: MetaTensor, shape: Sequence[int], mode: str, slice_axis: int | None = None
    ) -> MetaTensor:
        """Resample.

        Args:
            data: shape [channels, *spatial].
            shape: voxels of the result per axis.
            mode: ``"cubic"``, ``"bilinear"`` or ``"nearest"``.
            slice_axis: the axis along which the nearest slice counts; None: none.
        """
        before = [int(side) for side in data.shape[1:]]
        affine = data.affine.clone()
        new = _on(data, resample_edge_aligned(_plain(data), shape, mode, slice_axis), before, affine)
        steps = {"shape": before, "affine": affine.tolist(), "mode": mode, "slice_axis": slice_axis}
        self.push_transform(new, orig_size=before, extra_info=steps)
        return new

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Back to the former grid; a cubic image linearly, as scores are."""
        steps: dict[str, Any] = self.pop_transform(data)["extra_info"]
        mode = "nearest" if steps["mode"] == "nearest" else "bilinear"
        back = resample_edge_aligned(_plain(data), steps["shape"], mode, steps["slice_axis"])
        restored = MetaTensor(back, meta=data.meta, applied_operations=data.applied_operations)
        restored.affine = torch.as_tensor(steps["affine"], dtype=torch.float64)
        return restored


def resample_edge_aligned(
    image: torch.Tensor, shape: Sequence[int], mode: str, slice_axis: int | None = None
) -> torch.Tensor:
    """Voxels of an image on a grid with the same outer edges; beyond them its outermost voxels count.

    A cubic spline overshoots at edges in the image: it is kept between the smallest and the largest value of the image,
    or of the slice where slices are resampled each by itself.

    Args:
        image: shape [channels, *spatial].
        shape: voxels of the result per axis.
        mode: ``"cubic"``, ``"bilinear"`` or ``"nearest"``.
        slice_axis: the axis along which the nearest slice counts; None: none.

    Returns:
        Shape [channels, *shape]; float32, or for ``"nearest"`` of the image's own type. An image that has the shape
        already is passed on as it is.
    """
    sides = list(image.shape[1:])
    if sides == list(shape):
        return image
    interpolated = mode != "nearest"
    values = image.to(torch.float32) if interpolated else image
    within = [axis + 1 for axis in range(len(sides)) if axis != slice_axis]
    least, most = (values.amin(within, keepdim=True), values.amax(within, keepdim=True)) if mode == "cubic" else (0, 0)
    # Axes that lose voxels first: that leaves less to do for the others.
    for axis in sorted(range(len(sides)), key=lambda axis: shape[axis] / sides[axis]):
        if interpolated and axis != slice_axis and shape[axis] != sides[axis]:
            values = _along(values, axis + 1, interpolation_matrix(sides[axis], shape[axis], ORDERS[mode]))
    if mode == "cubic":
        values = torch.maximum(torch.minimum(values, most), least)  # type: ignore[arg-type]
    for axis, (side, wanted) in enumerate(zip(sides, shape, strict=True)):
        if side != wanted and (axis == slice_axis or not interpolated):
            places = torch.from_numpy(nearest_places(edge_aligned_places(side, wanted), side))
            values = values.index_select(axis + 1, places.to(values.device))
    return values


def edge_aligned_places(side: int, wanted: int) -> npt.NDArray[np.float64]:
    """Where the centres of `wanted` voxels lie between those of `side` voxels that cover the same."""
    places: npt.NDArray[np.float64] = (np.arange(wanted, dtype=np.float64) + 0.5) * (side / wanted) - 0.5
    return places


@lru_cache(maxsize=32)
def interpolation_matrix(side: int, wanted: int, order: int) -> npt.NDArray[np.float32]:
    """Weight of each of `side` voxels in each of `wanted` voxels that cover the same, shape [wanted, side].

    Args:
        side: voxels there are.
        wanted: voxels of the result.
        order: of the spline.
    """
    # A column is what SciPy makes of an image that is 1 in one voxel.
    weights = ndimage.zoom(np.eye(side), (wanted / side, 1), order=order, mode="nearest", grid_mode=True)
    matrix: npt.NDArray[np.float32] = np.where(np.abs(weights) > NEGLIGIBLE, weights, 0).astype(np.float32)
    return matrix


def edge_aligned_affine(affine: npt.ArrayLike, before: Sequence[int], after: Sequence[int]) -> npt.NDArray[np.float64]:
    """Affine of a grid with the same outer edges.

    Args:
        affine: voxel to mm of the grid, square with a row and column more than it has axes, or 4x4.
        before: its voxels per axis.
        after: voxels of the other grid per axis.
    """
    old = np.asarray(affine, dtype=np.float64)
    step = np.eye(len(old))
    for axis, (side, wanted) in enumerate(zip(before, after, strict=True)):
        step[axis, axis] = side / wanted
        step[axis, -1] = (side / wanted - 1) / 2
    new: npt.NDArray[np.float64] = old @ step
    return new


def _along(values: torch.Tensor, axis: int, matrix: npt.NDArray[np.float32]) -> torch.Tensor:
    """The product with a matrix along one axis."""
    wanted, side = matrix.shape
    shape = values.shape
    stacked = values.reshape(math.prod(shape[:axis]), side, math.prod(shape[axis + 1 :]))
    result = stacked.new_empty(len(stacked), wanted, stacked.shape[2])
    for start in range(0, wanted, BLOCK):
        rows = matrix[start : start + BLOCK]
        used = np.flatnonzero(rows.any(axis=0))
        first, last = int(used[0]), int(used[-1]) + 1
        part = torch.from_numpy(rows[:, first:last]).to(values.device)
        if stacked.shape[2] == 1:
            result[:, start : start + BLOCK, 0] = stacked[:, first:last, 0] @ part.T
        else:
            result[:, start : start + BLOCK] = torch.matmul(part, stacked[:, first:last])
    return result.reshape(*shape[:axis], wanted, *shape[axis + 1 :])


def _plain(image: torch.Tensor) -> torch.Tensor:
    return image.as_subclass(torch.Tensor)


def _on(image: MetaTensor, voxels: torch.Tensor, before: Sequence[int], affine: torch.Tensor) -> MetaTensor:
    """Resampled voxels with the metadata of the image they were made of, and their own affine."""
    new = MetaTensor(voxels, meta=image.meta, applied_operations=image.applied_operations)
    new.affine = torch.from_numpy(edge_aligned_affine(affine, before, voxels.shape[1:]))
    return new
