"""Where the voxels of a scan lie between those that the network saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from unet_bundle.errors import InputError
from unet_bundle.geometry import as_4x4, nearest_places, shear_degrees, spacing_of, thick_axis

STRAIGHT = 1e-3
"""How far, in voxels over the whole scan, its axes may be from those of the network's grid."""

ROUNDING = 1e-6
"""Voxels by which a place between two voxels may miss the middle and still be taken to the later one."""

LEAST_SHEAR_DEGREES = 1e-3
"""Less is rounding: nothing that would be said of a scan."""

OUTSIDE = 0.5
"""Voxels beyond the centre of the last one of the network's grid, its edge, beyond which a scan was cropped away:
background."""


@dataclass(frozen=True)
class AxisMap:
    """Along one axis of the network's grid: where planes of the scan lie, which follow each other.

    Attributes:
        first: the first of these planes of the scan.
        lower: network's plane before each plane of the scan, shape [planes of the scan].
        upper: the plane after it; the same where the scan's plane lies on one.
        share: of the upper plane, from 0 to 1.
        inside: whether the network saw that plane of the scan.
    """

    first: int
    lower: torch.Tensor
    upper: torch.Tensor
    share: torch.Tensor
    inside: torch.Tensor

    def __len__(self) -> int:
        """How many planes of the scan there are."""
        return len(self.lower)

    @property
    def same(self) -> bool:
        """Whether every plane of the scan is one of the network's grid."""
        return bool((self.lower == self.upper).all())

    def between(self, start: int, stop: int, begin: int) -> AxisMap:
        """The planes of the scan that the network's planes from `start` to before `stop` complete.

        Args:
            start: network's plane.
            stop: network's plane.
            begin: the network's plane that is number 0 of what is at hand.
        """
        chosen = torch.nonzero((self.upper >= start) & (self.upper < stop))[:, 0]
        first, count = (int(chosen[0]), len(chosen)) if len(chosen) else (0, 0)
        lower, upper, share, inside = (
            part[first : first + count] for part in (self.lower, self.upper, self.share, self.inside)
        )
        return AxisMap(self.first + first, lower - begin, upper - begin, share, inside)

    def part(self, start: int, stop: int) -> AxisMap:
        """Some of these planes of the scan, from number `start` to before `stop`."""
        parts = (values[start:stop] for values in (self.lower, self.upper, self.share, self.inside))
        return AxisMap(self.first + start, *parts)

    def to(self, device: torch.device) -> AxisMap:
        """The same on a device."""
        return AxisMap(self.first, *(part.to(device) for part in (self.lower, self.upper, self.share, self.inside)))


@dataclass(frozen=True)
class ScanGrid:
    """A scan's grid, seen from the network's, whose axes are the scan's in another order, direction and step.

    Attributes:
        shape: of the scan.
        axes: for each axis of the network's grid, that of the scan which runs along it.
        maps: for each axis of the network's grid.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    maps: tuple[AxisMap, ...]

    def ordered(self, axes: Sequence[int]) -> ScanGrid:
        """The same for a network's grid with its axes in this order."""
        return ScanGrid(self.shape, tuple(self.axes[axis] for axis in axes), tuple(self.maps[axis] for axis in axes))

    def strip(self, start: int, stop: int, begin: int) -> ScanGrid:
        """The part of the scan that a strip across the second axis completes; see `AxisMap.between`."""
        first, second, *rest = self.maps
        return ScanGrid(self.shape, self.axes, (first, second.between(start, stop, begin), *rest))


def scan_grid(
    scan_shape: Sequence[int],
    scan_affine: Any,
    network_shape: Sequence[int],
    network_affine: Any,
    padded: Sequence[int],
    separate_slices: Sequence[float | None] | None = None,
) -> ScanGrid:
    """How two grids of one patient space lie in each other.

    Args:
        scan_shape: voxels of the scan per axis.
        scan_affine: voxel to mm of the scan.
        network_shape: voxels of the grid on which the network ran.
        network_affine: voxel to mm of that grid.
        padded: rows that were put before its first one, per axis; maps count from them.
        separate_slices: voxel size in mm that was asked for on the network's grid, None for an axis that kept the
            scan's; where slices are thick in it, or in the scan, the nearest one counts. None: in no case.

    Raises:
        InputError: if an axis of one is not along an axis of the other.
    """
    rank = len(scan_shape)
    to_network = np.linalg.inv(_square(network_affine, rank)) @ _square(scan_affine, rank)
    matrix, offset = to_network[:rank, :rank], to_network[:rank, rank]
    axes = tuple(int(axis) for axis in np.abs(matrix).argmax(axis=1))
    rest = np.abs(matrix)
    rest[range(rank), axes] = 0
    if sorted(axes) != list(range(rank)) or (rest @ np.asarray(scan_shape)).max() > STRAIGHT:
        raise InputError(_turned(scan_affine))
    thick = None
    if separate_slices is not None:
        scans = spacing_of(scan_affine)
        present = [scans[axis] for axis in axes]
        stated = [own if edge is None else edge for own, edge in zip(present, separate_slices, strict=True)]
        thick = thick_axis(stated, present)
    maps = tuple(
        _axis_map(
            matrix[own, other] * np.arange(scan_shape[other]) + offset[own],
            network_shape[own],
            padded[own],
            nearest=own == thick,
        )
        for own, other in enumerate(axes)
    )
    return ScanGrid(tuple(scan_shape), axes, maps)


def _turned(scan_affine: Any) -> str:
    """Why the grids' axes are not along each other."""
    shear = shear_degrees(scan_affine)
    if shear > LEAST_SHEAR_DEGREES:
        return (
            f"the scan's axes are not perpendicular, by up to {shear:.2g} degrees, as after an affine registration: "
            "give the scan as it was acquired, or resample it to right angles"
        )
    return "the grid that the network sees is turned against the scan's: resample along its axes only"


def _axis_map(places: npt.NDArray[np.float64], side: int, padded: int, *, nearest: bool = False) -> AxisMap:
    """For planes at `places`, in voxels of the network's grid, which has `side` of them behind those `padded`."""
    inside = (places >= -OUTSIDE - STRAIGHT) & (places <= side - 1 + OUTSIDE + STRAIGHT)
    if nearest:
        places = nearest_places(places + ROUNDING, side).astype(np.float64)
    near = np.rint(places)
    places = np.where(np.abs(places - near) < STRAIGHT, near, places)  # rounding of affines is no step aside
    places = places.clip(0, side - 1)
    lower = np.floor(places)
    upper = np.ceil(places)
    return AxisMap(
        0,
        torch.from_numpy(lower.astype(np.int64) + padded),
        torch.from_numpy(upper.astype(np.int64) + padded),
        torch.from_numpy((places - lower).astype(np.float32)),
        torch.from_numpy(inside),
    )


def _square(affine: Any, rank: int) -> npt.NDArray[np.float64]:
    return np.asarray(as_4x4(affine), dtype=np.float64)[np.ix_([*range(rank), 3], [*range(rank), 3])]
