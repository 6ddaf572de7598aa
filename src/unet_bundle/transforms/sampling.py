"""Sampling a scan where a patch lies in it: an affine map and a smooth displacement, computed slab by slab.

A coordinate is affine in the patch's voxel plus a cubic spline of a few control values. Both are sums of products of
one factor per axis, so all coordinates of a slab come out of one matrix product, already in the layout that
``grid_sample`` reads, and never more than a slab of them exists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from unet_bundle.errors import InputError
from unet_bundle.transforms.interpolation import (
    AS_SIGNED,
    SPLINE_MARGIN,
    sample_linear,
    sample_nearest,
    sample_one_hot,
    sample_spline,
)
from unet_bundle.transforms.splines import ControlGrid

FloatArray = npt.NDArray[np.float64]

SLAB_VOXELS = 2**18
"""Voxels whose coordinates are computed at a time: small enough for a CPU's cache, and little memory beside a patch."""
LEAST_SLABS = 12
"""Slabs that a patch is made in at least: what a slab needs is less than the coordinates of all voxels."""
GPU_SLAB_VOXELS = 2**22
"""The same on a GPU, where few large steps are faster."""
_SAMPLERS = {"bilinear": sample_linear, "nearest": sample_nearest, "one-hot": sample_one_hot}


@dataclass(frozen=True)
class PatchDraw:
    """Where a patch lies in its scan.

    The voxel at the offset o from the patch's middle shows the scan at ``center + matrix @ (o + u(o))``, u being the
    displacement.

    Attributes:
        center: Voxel coordinates (of the scan) of the patch's middle; halves where the patch has an even edge.
        matrix: Steps in the scan, in voxels, for one voxel along each axis of the patch (columns).
        displacement: Elastic displacement in voxels of the patch, or None.
        mirrored: Axes of the patch along which `matrix` mirrors it.
    """

    center: FloatArray
    matrix: FloatArray
    displacement: ControlGrid | None = None
    mirrored: tuple[int, ...] = ()


def sample_patch(image: torch.Tensor, draw: PatchDraw, spatial_size: Sequence[int], mode: str) -> torch.Tensor:
    """The patch of one image; see `sample_patches`."""
    return sample_patches([image], draw, spatial_size, [mode])[0]


def sample_patches(
    images: Sequence[torch.Tensor], draw: PatchDraw, spatial_size: Sequence[int], modes: Sequence[str]
) -> list[torch.Tensor]:
    """The same patch of several images, zero beyond them.

    Args:
        images: each of shape [channels, *spatial], on one grid and one device.
        draw: where the patch lies.
        spatial_size: voxels of the patch per axis.
        modes: one of `interpolation.MODES` for each image.

    Returns:
        For each image, shape [channels, *spatial_size], its type.

    Raises:
        InputError: the images are not of one shape.
    """
    regions, inside = crop_for_patch(images, draw, spatial_size, modes)
    return sample_regions(regions, inside, spatial_size, modes)


def crop_for_patch(
    images: Sequence[torch.Tensor], draw: PatchDraw, spatial_size: Sequence[int], modes: Sequence[str]
) -> tuple[list[torch.Tensor], PatchDraw]:
    """What a patch needs of its scan: views of the images, empty if it lies beyond them, and the draw within them.

    Args:
        images: each of shape [channels, *spatial], on one grid.
        draw: where the patch lies in them.
        spatial_size: voxels of the patch per axis.
        modes: of interpolation, for each image; a cubic spline needs a margin.

    Raises:
        InputError: the images are not of one shape.
    """
    shapes = list(dict.fromkeys(" x ".join(map(str, image.shape[1:])) for image in images))
    if len(shapes) > 1:
        raise InputError(
            f"images that are to move together are of different shapes ({' and '.join(shapes)}): resample them to one "
            "grid first"
        )
    half = (np.asarray(spatial_size) - 1) / 2
    reach = np.abs(draw.matrix) @ (half if draw.displacement is None else half + draw.displacement.bound())
    if "spline" in modes:
        reach = reach + SPLINE_MARGIN
    shape = np.asarray(images[0].shape[1:])
    low = np.clip(np.floor(draw.center - reach), 0, shape).astype(int)
    high = np.clip(np.ceil(draw.center + reach) + 1, low, shape).astype(int)
    within = (slice(None), *map(slice, low.tolist(), high.tolist()))
    regions = [_plain(image)[within] for image in images]
    return regions, PatchDraw(draw.center - low, draw.matrix, draw.displacement, draw.mirrored)


def _plain(image: torch.Tensor | npt.NDArray[Any]) -> torch.Tensor:
    """The image without metadata; an array that is read backwards, which torch cannot, as a copy."""
    if isinstance(image, np.ndarray) and any(stride < 0 for stride in image.strides):
        image = np.ascontiguousarray(image)
    return torch.as_tensor(image).as_subclass(torch.Tensor)


def sample_regions(
    regions: Sequence[torch.Tensor], draw: PatchDraw, spatial_size: Sequence[int], modes: Sequence[str]
) -> list[torch.Tensor]:
    """The patches of what `crop_for_patch` gave; see `sample_patches`. In float32 also within autocast."""
    if regions[0].numel() == 0:
        return [region.new_zeros((region.shape[0], *spatial_size)) for region in regions]
    if _keeps_voxels(draw, (np.asarray(spatial_size) - 1) / 2):
        return [_mirrored(region, draw, spatial_size) for region in regions]
    with torch.autocast(regions[0].device.type, enabled=False):
        return _interpolated(regions, draw, spatial_size, modes)


def coordinates(draw: PatchDraw, spatial_size: Sequence[int]) -> torch.Tensor:
    """Voxel coordinates in the scan of every voxel of a patch; shape [*spatial_size, axes]."""
    grid = _Grid(draw, spatial_size, [1.0] * len(spatial_size), [0.0] * len(spatial_size), torch.device("cpu"))
    return grid.rows(0, spatial_size[0]).flip(-1)


def _keeps_voxels(draw: PatchDraw, half: FloatArray) -> bool:
    """Whether every voxel of the patch falls on one of the scan: mirrored at most."""
    first = draw.center - half
    straight = np.array_equal(np.abs(draw.matrix), np.eye(len(draw.matrix)))
    still = draw.displacement is None or not draw.displacement.values.any()
    return straight and still and np.array_equal(first, np.rint(first))


def _mirrored(region: torch.Tensor, draw: PatchDraw, spatial_size: Sequence[int]) -> torch.Tensor:
    if region.dtype in AS_SIGNED:
        return _mirrored(region.view(AS_SIGNED[region.dtype]), draw, spatial_size).view(region.dtype)
    patch = region.new_zeros((region.shape[0], *spatial_size))
    first = np.rint(draw.center - (np.asarray(spatial_size) - 1) / 2).astype(int)
    inside, taken = [slice(None)], [slice(None)]
    for start, edge, side in zip(first.tolist(), spatial_size, region.shape[1:], strict=True):
        begin, end = max(-start, 0), min(side - start, edge)
        inside.append(slice(begin, end))
        taken.append(slice(start + begin, start + end))
    patch[tuple(inside)] = region[tuple(taken)]
    mirrored = [axis + 1 for axis in range(len(spatial_size)) if draw.matrix[axis, axis] < 0]
    return patch.flip(mirrored) if mirrored else patch


def _interpolated(
    regions: Sequence[torch.Tensor], draw: PatchDraw, spatial_size: Sequence[int], modes: Sequence[str]
) -> list[torch.Tensor]:
    device, sides = regions[0].device, regions[0].shape[1:]
    # Voxel coordinates to grid_sample's: -1 and 1 are the outer faces of the first and last voxel.
    grid = _Grid(draw, spatial_size, [2 / side for side in sides], [1 / side - 1 for side in sides], device)
    patches = [region.new_empty((region.shape[0], *spatial_size)) for region in regions]
    sources = [region.float() if mode == "bilinear" else region for region, mode in zip(regions, modes, strict=True)]
    # The slab does not depend on the number of threads: the same draw gives the same patch to the last bit.
    limit = min(SLAB_VOXELS, math.prod(spatial_size) // LEAST_SLABS) if device.type == "cpu" else GPU_SLAB_VOXELS
    rows = max(limit // math.prod(spatial_size[1:]), 1)
    for start in range(0, spatial_size[0], rows):
        stop = min(start + rows, spatial_size[0])
        slab = grid.rows(start, stop)
        for patch, source, mode in zip(patches, sources, modes, strict=True):
            if mode != "spline":
                values = _SAMPLERS[mode](source, slab)
                whole = values.is_floating_point() and not patch.is_floating_point()
                patch[:, start:stop] = values.round() if whole else values
    return [
        sample_spline(region, coordinates(draw, spatial_size)) if mode == "spline" else patch
        for region, patch, mode in zip(regions, patches, modes, strict=True)
    ]


class _Grid:
    """Coordinates of a patch, a slab of rows (first axis) at a time; the last axis of space comes first, as in torch.

    Every coordinate is a sum of terms, each a product of one factor per axis: 1 and the voxel's offset for the affine
    part, the spline's weights for the displacement. All but the last axis are multiplied out per slab; the last one is
    one matrix product for all coordinates at once.
    """

    def __init__(
        self,
        draw: PatchDraw,
        spatial_size: Sequence[int],
        scale: Sequence[float],
        shift: Sequence[float],
        device: torch.device,
    ) -> None:
        # Elsewhere float32 products may be of ten bits (TF32), which would put voxels a tenth off.
        self.dtype = torch.float32 if device.type == "cpu" else torch.float64
        self.size, self.device = list(spatial_size), device
        dims = len(self.size)
        gain = np.asarray(scale)
        matrix = draw.matrix * gain[:, None]
        self.center = (draw.center * gain + np.asarray(shift))[::-1].copy()
        self.matrix = matrix[::-1].copy()
        offsets = [np.arange(edge) - (edge - 1) / 2 for edge in self.size]
        self.along = [self._tensor(offset) for offset in offsets]
        self.weights: list[torch.Tensor] = []
        self.control = None
        if draw.displacement is not None:
            mixed = np.tensordot(self.matrix, draw.displacement.values, axes=1)
            self.weights = [self._tensor(weights) for weights in draw.displacement.weights(self.size)]
            # Upsampled along all axes but the first and the last, once: [axes, first, *middle, last].
            self.control = self._tensor(mixed)
            for axis in range(1, dims - 1):
                self.control = torch.movedim(
                    torch.tensordot(self.control, self.weights[axis], dims=([axis + 1], [1])), -1, axis + 1
                )
        self.last = self._last_factors()

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Coordinates of the rows from `start` to before `stop`; shape [rows, *spatial_size[1:], axes]."""
        dims, count = len(self.size), stop - start
        middle = self.size[1:-1]
        affine = torch.empty((dims, count, *middle, 2), dtype=self.dtype, device=self.device)
        for axis in range(dims):
            plane = self.center[axis] + self.matrix[axis, 0] * self.along[0][start:stop].reshape(
                [-1] + [1] * len(middle)
            )
            if middle:
                plane = plane + self.matrix[axis, 1] * self.along[1]
            affine[axis, ..., 0] = plane
            affine[axis, ..., 1] = self.matrix[axis, -1]
        factors = affine
        if self.control is not None:
            upsampled = torch.movedim(
                torch.tensordot(self.control, self.weights[0][start:stop], dims=([1], [1])), -1, 1
            )
            factors = torch.cat([affine, upsampled], dim=-1)
        terms = torch.movedim(factors, 0, -2).reshape(count * math.prod(middle), -1)
        return (terms @ self.last).float().reshape(count, *middle, self.size[-1], dims)

    def _last_factors(self) -> torch.Tensor:
        """The last axis' factors, repeated for each coordinate; shape [axes * terms, last edge * axes]."""
        dims, edge = len(self.size), self.size[-1]
        rows = [torch.ones(edge, dtype=self.dtype, device=self.device), self.along[-1]]
        if self.control is not None:
            rows += list(self.weights[-1].T)
        factors = torch.stack(rows)
        repeated = torch.zeros((dims, len(rows), edge, dims), dtype=self.dtype, device=self.device)
        for axis in range(dims):
            repeated[axis, :, :, axis] = factors
        return repeated.reshape(dims * len(rows), edge * dims)

    def _tensor(self, values: npt.NDArray[np.floating[Any]]) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(values), dtype=self.dtype, device=self.device)
