"""Patches drawn from scans: crop, rotation, scaling and mirroring in one resampling.

Only the voxels of the patch are computed, so the cost follows the patch and not the scan, and what a rotation turns in
from outside the patch is the scan itself. Drawing the random numbers (`PatchSampler.draw`) is apart from applying them
(`sample_patch`), so that a draw can be replayed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import MapTransform, Randomizable
from torch.nn import functional

from unet_bundle.errors import ConfigError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PatchDraw:
    """Where a patch lies in its scan.

    Attributes:
        center: Voxel coordinates (of the scan) of the patch's middle; halves where the patch has an even edge.
        matrix: Steps in the scan, in voxels, for one voxel along each axis of the patch (columns).
    """

    center: FloatArray
    matrix: FloatArray


class RandSpatiald(Randomizable, MapTransform):
    """Draw a patch of a scan and its label map: position, rotation, zoom and mirroring, in one resampling.

    With probability `foreground_fraction` the patch is centred on a voxel of a class that is drawn first, so that small
    organs come up as often as large ones; otherwise its position is uniform. It stays within the scan before it is
    rotated and zoomed; a scan that is smaller than the patch lies in the patch's middle. Beyond the scan are zeros.
    The scheme is nnU-Net's (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z); rotations are about the
    axes in mm, so that anisotropic voxels do not shear.

    Args:
        keys: tensors of shape [channels, *spatial], all of one spatial shape.
        spatial_size: voxels of the patch per axis.
        mode: ``"bilinear"`` or ``"nearest"``, for each key.
        indices_key: key of the flat voxel indices of each class, background first, as MONAI's ``ClassesToIndicesd``
            leaves them; it is taken out of the dictionary. None: every position is uniform.
        foreground_fraction: share of patches centred on a voxel of a class other than background.
        rotate_range: largest angle (degrees) either way about each axis; in 2D a single one.
        rotate_prob: share of patches that are rotated.
        zoom_range: smallest and largest magnification; drawn evenly on a logarithmic scale.
        zoom_prob: share of patches that are zoomed.
        flip_axes: axes along which a patch is mirrored, each for itself.
        flip_prob: share of patches mirrored along an axis.
        spacing: voxel sizes (mm) of the scan; None: the same along all axes.

    Raises:
        ConfigError: if an argument does not fit the number of axes, or a range is impossible.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        spatial_size: Sequence[int],
        *,
        mode: str | Sequence[str] = "bilinear",
        indices_key: str | None = None,
        foreground_fraction: float = 0.33,
        rotate_range: Sequence[float] = (),
        rotate_prob: float = 0.0,
        zoom_range: Sequence[float] = (1.0, 1.0),
        zoom_prob: float = 0.0,
        flip_axes: Sequence[int] = (),
        flip_prob: float = 0.5,
        spacing: Sequence[float] | None = None,
    ) -> None:
        MapTransform.__init__(self, keys)
        self.sampler = PatchSampler(
            spatial_size=tuple(spatial_size),
            foreground_fraction=foreground_fraction if indices_key is not None else 0.0,
            rotate_range=tuple(rotate_range),
            rotate_prob=rotate_prob,
            zoom_range=tuple(zoom_range),
            zoom_prob=zoom_prob,
            flip_axes=tuple(flip_axes),
            flip_prob=flip_prob,
            spacing=tuple(spacing) if spacing is not None else (1.0,) * len(spatial_size),
        )
        self.modes = [mode] * len(self.keys) if isinstance(mode, str) else list(mode)
        if len(self.modes) != len(self.keys) or not set(self.modes) <= {"bilinear", "nearest"}:
            raise ConfigError(f"mode must be 'bilinear' or 'nearest' for each of {list(self.keys)}, not {mode!r}")
        self.indices_key = indices_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each tensor by its patch, of shape [channels, *spatial_size]."""
        patches = dict(data)
        indices = patches.pop(self.indices_key, None) if self.indices_key is not None else None
        shape = patches[self.keys[0]].shape[1:]
        draw = self.sampler.draw(self.R, shape, [] if indices is None else indices[1:])
        for key, mode in zip(self.keys, self.modes, strict=True):
            patches[key] = sample_patch(patches[key], draw, self.sampler.spatial_size, mode)
        return patches


@dataclass(frozen=True)
class PatchSampler:
    """Draws patches; for the arguments see `RandSpatiald`."""

    spatial_size: tuple[int, ...]
    foreground_fraction: float
    rotate_range: tuple[float, ...]
    rotate_prob: float
    zoom_range: tuple[float, ...]
    zoom_prob: float
    flip_axes: tuple[int, ...]
    flip_prob: float
    spacing: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what no patch can be drawn with."""
        dims = len(self.spatial_size)
        angles = 1 if dims == 2 else dims
        if dims not in (2, 3) or any(edge < 1 for edge in self.spatial_size):
            raise ConfigError(f"spatial_size must be 2 or 3 edges of at least 1 voxel, not {list(self.spatial_size)}")
        if len(self.rotate_range) not in (0, angles):
            raise ConfigError(f"rotate_range needs {angles} angles in {dims}D, not {list(self.rotate_range)}")
        if len(self.zoom_range) != 2 or not 0 < self.zoom_range[0] <= self.zoom_range[1]:
            raise ConfigError(f"zoom_range must be a smaller and a larger positive number, not {self.zoom_range!r}")
        if len(self.spacing) != dims or not all(edge > 0 for edge in self.spacing):
            raise ConfigError(f"spacing must be {dims} positive lengths in mm, not {list(self.spacing)}")
        if not set(self.flip_axes) <= set(range(dims)):
            raise ConfigError(f"flip_axes must be from 0 to {dims - 1}, not {list(self.flip_axes)}")
        for name in ("foreground_fraction", "rotate_prob", "zoom_prob", "flip_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be from 0 to 1, not {getattr(self, name)!r}")

    def draw(self, random: np.random.RandomState, shape: Sequence[int], foreground: Sequence[Any]) -> PatchDraw:
        """Draw a patch of a scan.

        Args:
            random: the source of all randomness.
            shape: voxels of the scan per axis.
            foreground: flat indices of the voxels of each class but background; empty where a class is absent.
        """
        return PatchDraw(self._draw_center(random, shape, foreground), self._draw_matrix(random))

    def _draw_center(
        self, random: np.random.RandomState, shape: Sequence[int], foreground: Sequence[Any]
    ) -> FloatArray:
        present = [voxels for voxels in foreground if len(voxels)]
        free = [max(side - edge, 0) for side, edge in zip(shape, self.spatial_size, strict=True)]
        if random.uniform() < self.foreground_fraction and present:
            voxels = present[random.randint(len(present))]
            voxel = np.unravel_index(int(voxels[random.randint(len(voxels))]), tuple(shape))
            wanted = [int(v) - (edge - 1) // 2 for v, edge in zip(voxel, self.spatial_size, strict=True)]
            start = [min(max(first, 0), last) for first, last in zip(wanted, free, strict=True)]
        else:
            start = [random.randint(last + 1) for last in free]
        # A scan smaller than the patch starts inside it.
        short = [max(edge - side, 0) // 2 for side, edge in zip(shape, self.spatial_size, strict=True)]
        return np.asarray(start, dtype=np.float64) - short + (np.asarray(self.spatial_size) - 1) / 2

    def _draw_matrix(self, random: np.random.RandomState) -> FloatArray:
        dims = len(self.spatial_size)
        matrix = np.eye(dims)
        if self.rotate_range and random.uniform() < self.rotate_prob:
            matrix = rotation([random.uniform(-angle, angle) for angle in self.rotate_range])
        if random.uniform() < self.zoom_prob:
            matrix = matrix / np.exp(random.uniform(*np.log(self.zoom_range)))
        for axis in self.flip_axes:
            if random.uniform() < self.flip_prob:
                matrix[:, axis] *= -1
        spacing = np.asarray(self.spacing)
        return np.asarray(matrix * spacing / spacing[:, None])


def rotation(degrees: Sequence[float]) -> FloatArray:
    """Rotation matrix: about the only axis in 2D (one angle), about the first, then second, then third axis in 3D."""
    dims = 2 if len(degrees) == 1 else 3
    planes = [(0, 1)] if dims == 2 else [(1, 2), (2, 0), (0, 1)]
    matrix = np.eye(dims)
    for angle, (first, second) in zip(np.radians(degrees), planes, strict=True):
        turn = np.eye(dims)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def sample_patch(image: torch.Tensor, draw: PatchDraw, spatial_size: Sequence[int], mode: str) -> torch.Tensor:
    """The patch of an image, zero beyond it.

    Args:
        image: shape [channels, *spatial].
        draw: where the patch lies.
        spatial_size: voxels of the patch per axis.
        mode: ``"bilinear"`` (linear between voxels) or ``"nearest"``.

    Returns:
        Shape [channels, *spatial_size], the type of `image`.
    """
    image = torch.as_tensor(image).as_subclass(torch.Tensor)
    half = (np.asarray(spatial_size) - 1) / 2
    reach = np.abs(draw.matrix) @ half
    shape = np.asarray(image.shape[1:])
    low = np.clip(np.floor(draw.center - reach), 0, shape).astype(int)
    high = np.clip(np.ceil(draw.center + reach) + 1, low, shape).astype(int)
    region = image[(slice(None), *map(slice, low.tolist(), high.tolist()))]
    if region.numel() == 0:
        return image.new_zeros((image.shape[0], *spatial_size))
    center = draw.center - low
    if _keeps_voxels(draw.matrix, center, half):
        return _mirrored(region, draw.matrix, center, spatial_size)
    return _interpolated(region, draw.matrix, center, spatial_size, mode)


def _keeps_voxels(matrix: FloatArray, center: FloatArray, half: FloatArray) -> bool:
    """Whether every voxel of the patch falls on one of the scan: mirrored at most."""
    first = center - half
    return np.array_equal(np.abs(matrix), np.eye(len(matrix))) and np.array_equal(first, np.rint(first))


def _mirrored(
    region: torch.Tensor, matrix: FloatArray, center: FloatArray, spatial_size: Sequence[int]
) -> torch.Tensor:
    patch = region.new_zeros((region.shape[0], *spatial_size))
    first = np.rint(center - (np.asarray(spatial_size) - 1) / 2).astype(int)
    inside, taken = [slice(None)], [slice(None)]
    for start, edge, side in zip(first.tolist(), spatial_size, region.shape[1:], strict=True):
        begin, end = max(-start, 0), min(side - start, edge)
        inside.append(slice(begin, end))
        taken.append(slice(start + begin, start + end))
    patch[tuple(inside)] = region[tuple(taken)]
    mirrored = [axis + 1 for axis in range(len(matrix)) if matrix[axis, axis] < 0]
    return patch.flip(mirrored) if mirrored else patch


def _interpolated(
    region: torch.Tensor, matrix: FloatArray, center: FloatArray, spatial_size: Sequence[int], mode: str
) -> torch.Tensor:
    dims, axes = len(spatial_size), range(len(spatial_size))
    grid = torch.empty((*spatial_size, dims), dtype=torch.float32, device=region.device)
    for axis in axes:
        coordinate = torch.full((1,) * dims, center[axis], dtype=torch.float32, device=region.device)
        for step, edge in enumerate(spatial_size):
            along = torch.arange(edge, dtype=torch.float32, device=region.device) - (edge - 1) / 2
            coordinate = coordinate + (along * matrix[axis, step]).reshape(
                [-1 if d == step else 1 for d in range(dims)]
            )
        # Voxel coordinates to grid_sample's: -1 and 1 are the outer faces of the first and last voxel, x comes first.
        grid[..., dims - 1 - axis] = (coordinate * 2 + 1) / region.shape[1 + axis] - 1
    sampled = functional.grid_sample(
        region[None].float(), grid[None], mode=mode, padding_mode="zeros", align_corners=False
    )
    return sampled[0].to(region.dtype)
