"""Smooth displacements from a few control points: cubic splines, and whether they fold space.

The spline goes through the control values and is level at the ends of the grid, which is what mirroring the grid at
its ends gives: the same as ``scipy.ndimage.map_coordinates(order=3, mode="mirror")`` of the control values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from scipy.interpolate import CubicSpline

from unet_bundle.errors import ConfigError

FloatArray = npt.NDArray[np.float64]

MIN_DETERMINANT = 0.05
"""Least Jacobian determinant of a displacement that does not fold: above 0, since it is looked at on a lattice."""
LATTICE_PER_CELL = 8
"""Places per distance of two control points, along each axis, where the determinant is looked at."""
REDUCTION = 0.9
"""What a displacement that folds is multiplied by until it does not."""
LATTICE_SLAB = 2**14
"""Places of the lattice that are looked at together at most, for memory."""


@dataclass(frozen=True)
class ControlGrid:
    """A displacement of every voxel of a patch, by values at control points.

    Attributes:
        values: Displacements in voxels, shape [axes, *control points per axis].
        steps: Voxels from one control point to the next per axis; the grid's middle is the patch's.
    """

    values: FloatArray
    steps: tuple[float, ...]

    def weights(self, spatial_size: Sequence[int], derivative: int = 0) -> list[FloatArray]:
        """Per axis, how much each voxel (rows) has of each control point (columns)."""
        return [
            _weights(edge, count, step, derivative)
            for edge, count, step in zip(spatial_size, self.values.shape[1:], self.steps, strict=True)
        ]

    def bound(self) -> FloatArray:
        """No voxel is displaced further than this along each axis, in voxels."""
        # B-splines are positive and add up to one, so a spline stays within its coefficients.
        return np.asarray([np.abs(_coefficients(axis)).max() for axis in self.values])

    def field(self, spatial_size: Sequence[int]) -> FloatArray:
        """Displacement of every voxel; shape [axes, *spatial_size]."""
        return _multiplied_out(self.values, self.weights(spatial_size))

    def scaled(self, factor: float) -> ControlGrid:
        """The same displacement, smaller or larger."""
        return ControlGrid(self.values * factor, self.steps)

    def unfolded(self, spatial_size: Sequence[int], *, refuse: bool = False) -> ControlGrid:
        """This displacement, or a smaller one if it folds space: Jacobian determinant positive everywhere.

        Args:
            spatial_size: voxels of the patch.
            refuse: do not reduce it.

        Raises:
            ConfigError: it folds, and is to be refused.
        """
        places = [
            _lattice(edge, count, step)
            for edge, count, step in zip(spatial_size, self.values.shape[1:], self.steps, strict=True)
        ]
        parts = np.array_split(places[0], min(-(-math.prod(map(len, places)) // LATTICE_SLAB), len(places[0])))
        # With many parts they are looked at again rather than kept.
        kept = [_determinant_terms(self, places)] if len(parts) == 1 else None
        factor, settled = 1.0, False
        while not settled:
            settled = True  # unless a smaller displacement folds where a larger one did not
            for terms in kept or (_determinant_terms(self, [part, *places[1:]]) for part in parts):
                while (least := _least_determinant(terms, factor)) < MIN_DETERMINANT:
                    if refuse:
                        raise ConfigError(
                            f"an elastic displacement folds space (Jacobian determinant {least:.2f}): lower its sd, "
                            "put the control points further apart, or set on_folding to 'reduce'"
                        )
                    factor *= REDUCTION
                    settled = False
        return self if factor == 1.0 else self.scaled(factor)


def control_shape(spatial_size: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
    """Control points per axis that cover a patch, `spacing` voxels apart; one along an axis of a single voxel."""
    return tuple(math.ceil((edge - 1) / step) + 1 for edge, step in zip(spatial_size, spacing, strict=True))


@lru_cache(maxsize=256)
def _weights(edge: int, count: int, step: float, derivative: int) -> FloatArray:
    return _basis(np.arange(edge) - (edge - 1) / 2, count, step, derivative)


def _basis(offsets: npt.NDArray[np.floating[Any]], count: int, step: float, derivative: int) -> FloatArray:
    """Values (or slopes, per voxel) of the splines through one control value of 1 each; shape [offsets, count]."""
    if count == 1:
        return np.full((len(offsets), 1), 1.0 - derivative)
    places = offsets / step + (count - 1) / 2
    return np.asarray(_splines(count)(places, derivative)) / step**derivative


@lru_cache(maxsize=256)
def _splines(count: int) -> CubicSpline:
    # Mirrored ends are level ends: the "clamped" cubic spline.
    return CubicSpline(np.arange(count), np.eye(count), bc_type="clamped")


def _lattice(edge: int, count: int, step: float) -> FloatArray:
    """Offsets from the middle of a patch where the determinant is looked at."""
    half = (edge - 1) / 2
    number = 1 if edge == 1 else max(round((edge - 1) / step * LATTICE_PER_CELL), 1) + 1
    return np.linspace(-half, half, number) if count > 1 else np.zeros(1)


def _coefficients(values: FloatArray) -> FloatArray:
    for axis, count in enumerate(values.shape):
        if count > 1:
            values = ndimage.spline_filter1d(values, order=3, axis=axis, mode="mirror")
    return values


def _multiplied_out(values: FloatArray, weights: Sequence[FloatArray]) -> FloatArray:
    # By torch: NumPy's own threads go on spinning after a product and take the cores from torch's (measured: 2x).
    product = torch.from_numpy(values)
    for axis, factor in enumerate(weights, start=1):
        product = torch.movedim(torch.tensordot(product, torch.from_numpy(factor), dims=([axis], [1])), -1, axis)
    return product.numpy()


def _determinant_terms(grid: ControlGrid, places: Sequence[FloatArray]) -> list[FloatArray]:
    """For every place of the lattice, the factors of s, s², ... in the determinant of 1 + s * slopes."""
    counts = grid.values.shape[1:]
    flat, sloped = (
        [_basis(where, count, step, d) for where, count, step in zip(places, counts, grid.steps, strict=True)]
        for d in (0, 1)
    )
    dims = range(len(places))
    slopes = [
        _multiplied_out(grid.values, [sloped[axis] if axis == along else flat[axis] for axis in dims]) for along in dims
    ]
    g = np.stack(slopes, axis=1)  # [displaced axis, along axis, *lattice]
    if len(places) == 2:
        return [g[0, 0] + g[1, 1], g[0, 0] * g[1, 1] - g[0, 1] * g[1, 0]]
    minors = [g[a, a] * g[b, b] - g[a, b] * g[b, a] for a, b in ((0, 1), (0, 2), (1, 2))]
    full = (
        g[0, 0] * minors[2]
        - g[0, 1] * (g[1, 0] * g[2, 2] - g[1, 2] * g[2, 0])
        + g[0, 2] * (g[1, 0] * g[2, 1] - g[1, 1] * g[2, 0])
    )
    return [g[0, 0] + g[1, 1] + g[2, 2], minors[0] + minors[1] + minors[2], full]


def _least_determinant(terms: Sequence[FloatArray], factor: float) -> float:
    total = np.ones_like(terms[0])
    for power, term in enumerate(terms, start=1):
        total += factor**power * term
    return float(total.min())
