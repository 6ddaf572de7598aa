"""The rules that turn spacings and shapes into a target spacing, a patch and the stages of a U-Net.

They follow nnU-Net's planner (Isensee et al. 2021, Nature Methods 18:203, and its supplement), so that a plan made here
has the topology that nnU-Net would give the same scans. All sequences have one entry per axis.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ANISOTROPY = 3.0
"""An axis is anisotropic if its spacing is more than this many times the others' and its size as much smaller."""

THICK_SLICE_PERCENTILE = 10
"""Percentile of an anisotropic axis' spacings that becomes the target: thick-slice scans are not the measure of all."""

MIN_FEATURE_EDGE = 4
"""Least edge (voxels) of the smallest feature map."""

MAX_SPACING_RATIO = 2.0
"""Axes are pooled, and convolved across, only while their spacing is within this factor of the finest."""

START_VOXELS = {2: 2048, 3: 256}
"""Edge of the square or cube whose volume the first, far too large patch has."""


@dataclass(frozen=True)
class Topology:
    """Stages of a U-Net: kernel size and stride of each stage per axis, and the patch they fit.

    Attributes:
        strides: Stride at the entrance of each stage; ones in the first.
        kernel_sizes: Kernel size of each stage's convolutions.
        patch_size: The patch, rounded up so that every stride divides it.
    """

    strides: list[list[int]]
    kernel_sizes: list[list[int]]
    patch_size: list[int]


def target_spacing(
    spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]
) -> tuple[list[float], int | None]:
    """The spacing (mm) that scans are resampled to, and the anisotropic axis if there is one.

    The median per axis; on an anisotropic axis the 10th percentile, but never finer than the other axes.
    """
    all_spacings = np.asarray(spacings, dtype=np.float64)
    target = np.median(all_spacings, axis=0)
    size = np.median(np.asarray(shapes, dtype=np.float64), axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(len(target)) if axis != worst]
    coarsest_other = max(target[axis] for axis in others)
    thick = target[worst] > ANISOTROPY * coarsest_other
    few = size[worst] * ANISOTROPY < min(size[axis] for axis in others)
    if thick and few:
        target[worst] = max(np.percentile(all_spacings[:, worst], THICK_SLICE_PERCENTILE), coarsest_other)
    return [round(float(edge), 6) for edge in target], worst if thick and few else None


def median_shape(
    spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]], target: Sequence[float | None]
) -> list[int]:
    """Median size (voxels) of the scans once they are resampled to the target spacing (mm; None keeps an axis)."""
    factors = [
        np.ones(len(spacings)) if edge is None else np.asarray(own, dtype=np.float64) / edge
        for own, edge in zip(zip(*spacings, strict=True), target, strict=True)
    ]
    resampled = np.rint(np.asarray(shapes) * np.stack(factors, axis=1))
    return [max(int(edge + 0.5), 1) for edge in np.median(resampled, axis=0)]


def initial_patch(spacing: Sequence[float], shape: Sequence[int]) -> list[int]:
    """A patch with equal edges in mm, with the volume of a 256-voxel cube (2048-pixel square), within the scans."""
    per_mm = [1 / edge for edge in spacing]
    scale = START_VOXELS[len(spacing)] / math.prod(per_mm) ** (1 / len(spacing))
    return [max(min(round(edge * scale), limit), 1) for edge, limit in zip(per_mm, shape, strict=True)]


def plan_topology(spacing: Sequence[float], patch_size: Sequence[int]) -> Topology:
    """Stages for a patch: each one halves the axes that are long enough and not much coarser than the finest.

    Args:
        spacing: Target spacing in mm.
        patch_size: Wanted patch in voxels.

    Returns:
        Strides, kernel sizes and the patch rounded up to multiples of the total strides. An axis has kernel size 1
        until its spacing is within `MAX_SPACING_RATIO` of the finest; the last stage has 3 on all axes.
    """
    dims = range(len(spacing))
    current_spacing, current_size = list(spacing), list(patch_size)
    strides, kernels = [[1 for _ in dims]], []
    kernel = [1 for _ in dims]
    while True:
        long_enough = [axis for axis in dims if current_size[axis] >= 2 * MIN_FEATURE_EDGE]
        if not long_enough:
            break
        finest = min(current_spacing[axis] for axis in long_enough)
        pooled = [axis for axis in long_enough if current_spacing[axis] / finest < MAX_SPACING_RATIO]
        # A last axis on its own is pooled only if it stays clearly longer than the limit.
        if len(pooled) == 1 and current_size[pooled[0]] < 3 * MIN_FEATURE_EDGE:
            break
        finest = min(current_spacing)
        kernel = [3 if size == 3 or current_spacing[axis] / finest < MAX_SPACING_RATIO else 1
                  for axis, size in enumerate(kernel)]  # fmt: skip
        kernels.append(kernel)
        strides.append([2 if axis in pooled else 1 for axis in dims])
        for axis in pooled:
            current_spacing[axis] *= 2
            current_size[axis] = math.ceil(current_size[axis] / 2)
    kernels.append([3 for _ in dims])
    return Topology(strides, kernels, round_up(patch_size, total_stride(strides)))


def sees_across(kernel_sizes: Sequence[Sequence[int]], axis: int) -> bool:
    """Whether any stage but the coarsest, which always does, has convolutions that join voxels along an axis."""
    return any(kernel[axis] > 1 for kernel in kernel_sizes[:-1])


def total_stride(strides: Sequence[Sequence[int]]) -> list[int]:
    """Product of the strides of all stages: a patch must be a multiple of it."""
    return [int(math.prod(axis)) for axis in zip(*strides, strict=True)]


def round_up(size: Sequence[int], multiple: Sequence[int]) -> list[int]:
    """The least multiples that are not smaller than `size`."""
    return [math.ceil(edge / step) * step for edge, step in zip(size, multiple, strict=True)]


def axes_by_coverage(patch_size: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Axes in the order in which to cut: by how much of the scans the patch covers, the most first, then by length."""
    return sorted(
        range(len(shape)), key=lambda axis: (patch_size[axis] / shape[axis], patch_size[axis], axis), reverse=True
    )
