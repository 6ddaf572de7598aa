"""Patches drawn from scans: crop, elastic deformation, rotation, scaling, shear and mirroring in one resampling.

Only the voxels of the patch are computed, so the cost follows the patch and not the scan, and what a rotation turns in
from outside the patch is the scan itself. Drawing the random numbers (`PatchSampler.draw`) is apart from applying them
(`sampling.sample_patches`), so that a draw can be replayed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable

from unet_bundle.errors import ConfigError
from unet_bundle.transforms.elastic import ElasticDeformation, modes_of_keys
from unet_bundle.transforms.sampling import PatchDraw, crop_for_patch, sample_patches

FloatArray = npt.NDArray[np.float64]

DRAW = "draw"
"""Key under which a deferred draw travels with its item."""
LEFT_RIGHT_AXIS = 0
"""The axis across which scans in the plan's orientation (RAS) are mirrored when left becomes right."""


class RandSpatiald(Randomizable, MapTransform):
    """Draw a patch of a scan and its label map: position, deformation, rotation, zoom, shear and mirroring.

    With probability `foreground_fraction` the patch is centred on a voxel of a class that is drawn first, so that small
    organs come up as often as large ones; otherwise its position is uniform. It stays within the scan before it is
    turned and deformed; a scan that is smaller than the patch lies in the patch's middle. Beyond the scan are zeros.
    The scheme is nnU-Net's (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z) with the elastic
    deformation of the U-Net (`RandElasticDeform`); angles and displacements are in mm space, so that anisotropic voxels
    do not shear.

    Args:
        keys: tensors of shape [channels, *spatial], all of one spatial shape.
        spatial_size: voxels of the patch per axis.
        mode: for each key: ``"bilinear"``, ``"nearest"``, ``"one-hot"`` or ``"spline"``, see `RandElasticDeform`.
        indices_key: key of the flat voxel indices of each class, background first, as MONAI's ``ClassesToIndicesd``
            leaves them; it is taken out of the dictionary. None: every position is uniform.
        foreground_fraction: share of patches centred on a voxel of a class other than background.
        labelled_only: the other patches are centred on a voxel of any class, background included, instead of anywhere:
            where labels are sparse, many a patch would show none. Needs `indices_key`.
        elastic_sd: standard deviation (mm) of the displacement of control points.
        elastic_spacing: distance (mm) of control points.
        elastic_prob: share of patches that are deformed elastically.
        rotate_range: largest angle (degrees) either way about each axis; in 2D a single one.
        rotate_prob: share of patches that are rotated.
        zoom_range: smallest and largest magnification; drawn evenly on a logarithmic scale.
        zoom_prob: share of patches that are zoomed.
        shear_range: largest shear either way, as a slope, of each axis along the ones after it.
        shear_prob: share of patches that are sheared.
        translate_range: largest shift (mm) either way along each axis, on top of the position that is drawn.
        translate_prob: share of patches that are shifted.
        flip_axes: axes along which a patch is mirrored, each for itself.
        flip_prob: share of patches mirrored along an axis.
        swapped_labels: pairs of values that label maps (all keys not interpolated between voxels) exchange when
            they are mirrored along the first axis: left and right organs.
        spacing: voxel sizes (mm) of the scan; None: 1 mm.
        deferred: only draw and crop: the tensors become what the patch needs of the scan, and the draw is put under
            ``DRAW``, for `finish` to sample the patch elsewhere, on a GPU. Metadata are left out.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.

    Raises:
        ConfigError: if an argument does not fit the number of axes, or a range is impossible; when called, if the scan
            has another number of axes.
        InputError: when called, if the tensors are not of one spatial shape.

    Example:
        >>> scan = {"image": torch.rand(1, 60, 50, 40), "label": torch.ones(1, 60, 50, 40, dtype=torch.uint8)}
        >>> draw = RandSpatiald(
        ...     ["image", "label"], [32, 32, 32], mode=["bilinear", "nearest"], elastic_prob=0.3,
        ...     rotate_range=[30.0, 30.0, 30.0], rotate_prob=0.3, flip_axes=[0, 1, 2],
        ... )
        >>> draw.set_random_state(0)(scan)["image"].shape
        torch.Size([1, 32, 32, 32])
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        spatial_size: Sequence[int],
        *,
        mode: str | Sequence[str] = "bilinear",
        indices_key: str | None = None,
        foreground_fraction: float = 0.33,
        labelled_only: bool = False,
        elastic_sd: float = 4.0,
        elastic_spacing: float = 32.0,
        elastic_prob: float = 0.0,
        rotate_range: Sequence[float] = (),
        rotate_prob: float = 0.0,
        zoom_range: Sequence[float] = (1.0, 1.0),
        zoom_prob: float = 0.0,
        shear_range: float = 0.0,
        shear_prob: float = 0.0,
        translate_range: float = 0.0,
        translate_prob: float = 0.0,
        flip_axes: Sequence[int] = (),
        flip_prob: float = 0.5,
        swapped_labels: Sequence[Sequence[int]] = (),
        spacing: Sequence[float] | None = None,
        deferred: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        size = _numbers(spatial_size)
        spacing = [1.0] * len(size) if spacing is None else _numbers(spacing)
        self.sampler = PatchSampler(
            spatial_size=size,
            foreground_fraction=foreground_fraction if indices_key is not None else 0.0,
            elastic=ElasticDeformation(elastic_sd, control_spacing=elastic_spacing, units="mm", spacing=spacing),
            elastic_prob=elastic_prob,
            rotate_range=_numbers(rotate_range),
            rotate_prob=rotate_prob,
            zoom_range=_numbers(zoom_range),
            zoom_prob=zoom_prob,
            shear_range=shear_range,
            shear_prob=shear_prob,
            translate_range=translate_range,
            translate_prob=translate_prob,
            flip_axes=_numbers(flip_axes),
            flip_prob=flip_prob,
            spacing=tuple(spacing),
        )
        self.modes = modes_of_keys(mode, self.keys)
        self.swapped_labels = _checked_pairs(swapped_labels)
        self.indices_key, self.labelled_only = indices_key, labelled_only
        self.deferred = deferred
        self.drawn: PatchDraw | None = None

    def randomize(self, data: Mapping[Hashable, Any]) -> None:
        """Draw a patch of the scan in `data`; kept in `drawn`."""
        self.drawn = self._draw(data)

    def _draw(self, data: Mapping[Hashable, Any]) -> PatchDraw:
        indices = data.get(self.indices_key) if self.indices_key is not None else None
        shape = data[next(iter(self.key_iterator(dict(data))))].shape[1:]
        labelled = indices if self.labelled_only and indices is not None else []
        return self.sampler.draw(self.R, shape, [] if indices is None else indices[1:], labelled)

    def __call__(self, data: Mapping[Hashable, Any], randomize: bool = True) -> dict[Hashable, Any]:
        """Replace each tensor by its patch, of shape [channels, *spatial_size].

        Args:
            data: the scan; a ``MetaTensor`` keeps its metadata and gets the affine of the patch (undeformed).
            randomize: draw anew; otherwise the last draw is applied again.
        """
        self.drawn = drawn = self._draw(data) if randomize or self.drawn is None else self.drawn
        item = dict(data)
        item.pop(self.indices_key, None)
        if not self.deferred:
            return self._sampled(item, drawn)
        present = dict(self.key_iterator(item, self.modes))
        images, modes = [item[key] for key in present], list(present.values())
        regions, item[DRAW] = crop_for_patch(images, drawn, self.sampler.spatial_size, modes)
        # Copies: a view would take the whole scan along to another process.
        return {**item, **{key: region.clone() for key, region in zip(present, regions, strict=True)}}

    def finish(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Sample the patch that a deferred call left, on the device that its tensors are on by now."""
        item = dict(data)
        return self._sampled(item, item.pop(DRAW))

    def _sampled(self, item: dict[Hashable, Any], drawn: PatchDraw) -> dict[Hashable, Any]:
        present, size = dict(self.key_iterator(item, self.modes)), self.sampler.spatial_size
        patches = sample_patches([item[key] for key in present], drawn, size, list(present.values()))
        for (key, mode), patch in zip(present.items(), patches, strict=True):
            image, item[key] = item[key], patch
            if mode in ("nearest", "one-hot") and LEFT_RIGHT_AXIS in drawn.mirrored:
                item[key] = swap_labels(patch, self.swapped_labels)
            if isinstance(image, MetaTensor):
                meta = {**image.meta, "affine": _patch_affine(image.affine, drawn, size)}
                item[key] = MetaTensor(item[key], meta=meta, applied_operations=image.applied_operations)
        return item


def _numbers(values: Any) -> tuple[Any, ...]:
    """One number or several as Python's own."""
    return tuple(np.ravel(values).tolist())


def _checked_pairs(pairs: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs of values, none of which comes up twice: exchanging them twice is nothing."""
    values = [int(value) for pair in pairs for value in np.ravel(pair)]
    if any(np.shape(pair) != (2,) for pair in pairs) or len(set(values)) < len(values):
        raise ConfigError(f"swapped_labels must be pairs of values, each in one pair only, not {list(pairs)}")
    return list(zip(values[::2], values[1::2], strict=True))


def swap_labels(label: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Exchange the values of each pair in a label map."""
    swapped = label
    for left, right in pairs:
        swapped = torch.where(label == left, right, torch.where(label == right, left, swapped)).to(label.dtype)
    return swapped


def _patch_affine(affine: torch.Tensor, drawn: PatchDraw, size: Sequence[int]) -> torch.Tensor:
    """The affine of a patch, without its displacement: patch voxel to scan voxel to mm."""
    dims = len(size)
    to_scan = np.eye(len(affine))  # 3 x 3 for a picture, or 4 x 4
    to_scan[:dims, :dims] = drawn.matrix
    to_scan[:dims, -1] = drawn.center - drawn.matrix @ ((np.asarray(size) - 1) / 2)
    return affine @ torch.as_tensor(to_scan, dtype=affine.dtype, device=affine.device)


@dataclass(frozen=True)
class PatchSampler:
    """Draws patches; for the arguments see `RandSpatiald`."""

    spatial_size: tuple[int, ...]
    foreground_fraction: float
    elastic: ElasticDeformation
    elastic_prob: float
    rotate_range: tuple[float, ...]
    rotate_prob: float
    zoom_range: tuple[float, ...]
    zoom_prob: float
    shear_range: float
    shear_prob: float
    translate_range: float
    translate_prob: float
    flip_axes: tuple[int, ...]
    flip_prob: float
    spacing: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what no patch can be drawn with."""
        dims = len(self.spatial_size)
        angles = 1 if dims == 2 else dims
        if dims not in (2, 3) or not all(isinstance(edge, int) and edge > 0 for edge in self.spatial_size):
            raise ConfigError(f"spatial_size must be 2 or 3 whole numbers of voxels, not {list(self.spatial_size)}")
        if len(self.rotate_range) not in (0, angles) or not np.isfinite(self.rotate_range).all():
            raise ConfigError(f"rotate_range needs {angles} angles in {dims}D, not {list(self.rotate_range)}")
        if len(self.zoom_range) != 2 or not 0 < self.zoom_range[0] <= self.zoom_range[1] < math.inf:
            raise ConfigError(f"zoom_range must be a smaller and a larger positive number, not {self.zoom_range!r}")
        if not 0 <= self.shear_range < 1:
            raise ConfigError(f"shear_range must be a slope of at least 0 and below 1, not {self.shear_range!r}")
        if not 0 <= self.translate_range < math.inf:
            raise ConfigError(f"translate_range must be a length in mm of at least 0, not {self.translate_range!r}")
        if len(self.spacing) != dims or not all(0 < edge < math.inf for edge in self.spacing):
            raise ConfigError(f"spacing must be {dims} positive lengths in mm, not {list(self.spacing)}")
        if not set(self.flip_axes) <= set(range(dims)):
            raise ConfigError(f"flip_axes must be from 0 to {dims - 1}, not {list(self.flip_axes)}")
        for name, value in vars(self).items():
            if (name == "foreground_fraction" or name.endswith("_prob")) and not 0 <= value <= 1:
                raise ConfigError(f"{name} must be from 0 to 1, not {value!r}")

    def draw(
        self,
        random: np.random.RandomState,
        shape: Sequence[int],
        foreground: Sequence[Any],
        labelled: Sequence[Any] = (),
    ) -> PatchDraw:
        """Draw a patch of a scan.

        Args:
            random: the source of all randomness.
            shape: voxels of the scan per axis.
            foreground: flat indices of the voxels of each class but background; empty where a class is absent.
            labelled: those of voxels on one of which any other patch is centred; empty for patches anywhere.

        Raises:
            ConfigError: the scan has another number of axes than the patch.
        """
        if len(shape) != len(self.spatial_size):
            raise ConfigError(
                f"spatial_size has {len(self.spatial_size)} edges, but the scan has {len(shape)} axes beside its "
                "channels: give one edge for each"
            )
        center = self._draw_center(random, shape, foreground, labelled)
        matrix, mirrored = self._draw_matrix(random)
        if self.translate_range and random.uniform() < self.translate_prob:
            center = center + random.uniform(-1, 1, len(shape)) * self.translate_range / np.asarray(self.spacing)
        moved = random.uniform() < self.elastic_prob
        return PatchDraw(center, matrix, self.elastic.draw(random, self.spatial_size) if moved else None, mirrored)

    def _draw_center(
        self, random: np.random.RandomState, shape: Sequence[int], foreground: Sequence[Any], labelled: Sequence[Any]
    ) -> FloatArray:
        present = [voxels for voxels in foreground if len(voxels)]
        anywhere = [voxels for voxels in labelled if len(voxels)]
        free = [max(side - edge, 0) for side, edge in zip(shape, self.spatial_size, strict=True)]
        voxels = None
        if random.uniform() < self.foreground_fraction and present:
            voxels = present[random.randint(len(present))]
        elif anywhere:
            voxels = np.concatenate(anywhere)
        if voxels is not None:
            voxel = np.unravel_index(int(voxels[random.randint(len(voxels))]), tuple(shape))
            wanted = [int(v) - (edge - 1) // 2 for v, edge in zip(voxel, self.spatial_size, strict=True)]
            start = [min(max(first, 0), last) for first, last in zip(wanted, free, strict=True)]
        else:
            start = [random.randint(last + 1) for last in free]
        # A scan smaller than the patch starts inside it.
        short = [max(edge - side, 0) // 2 for side, edge in zip(shape, self.spatial_size, strict=True)]
        return np.asarray(start, dtype=np.float64) - short + (np.asarray(self.spatial_size) - 1) / 2

    def _draw_matrix(self, random: np.random.RandomState) -> tuple[FloatArray, tuple[int, ...]]:
        dims = len(self.spatial_size)
        matrix = np.eye(dims)
        if self.rotate_range and random.uniform() < self.rotate_prob:
            matrix = rotation([random.uniform(-angle, angle) for angle in self.rotate_range])
        if random.uniform() < self.zoom_prob:
            matrix = matrix / np.exp(random.uniform(*np.log(self.zoom_range)))
        if random.uniform() < self.shear_prob:
            slopes = random.uniform(-self.shear_range, self.shear_range, (dims, dims))
            matrix = matrix @ (np.eye(dims) + np.triu(slopes, 1))
        mirrored = tuple(axis for axis in self.flip_axes if random.uniform() < self.flip_prob)
        matrix[:, list(mirrored)] *= -1
        spacing = np.asarray(self.spacing)
        return np.asarray(matrix * spacing / spacing[:, None]), mirrored


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
