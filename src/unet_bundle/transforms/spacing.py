"""Resampling to the voxel size that a model was trained at, and back."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import compute_shape_offset, zoom_affine
from monai.transforms import InvertibleTransform, MapTransform, SpatialResample
from monai.utils import ensure_tuple_rep

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.geometry import as_4x4, grid_difference, spacing_of, thick_axis
from unet_bundle.transforms.edge_aligned import ResampleEdgeAligned
from unet_bundle.transforms.naming import name_of

SPACING_TOLERANCE = 1e-3
"""Relative difference of voxel sizes up to which a scan is used as it is: 0.9995 mm in a header passes for 1 mm."""

MODES = {"centers": ("bilinear", "nearest"), "edges": ("bilinear", "nearest", "cubic")}
"""What can be interpolated how, by `align`."""

ROUNDING = 4
"""Decimals to which a size in voxels is taken for what it is: spacings come from affines in float32."""


class ResampleToSpacingd(MapTransform, InvertibleTransform):
    """Resample images and label maps to one voxel size; leave them bit for bit alone if they have it.

    MONAI's `SpatialResample` interpolates, and MONAI's `Invertd` takes results back to exactly the former shape and
    affine.
    Orientation is kept, so `spacing` follows the axes as they are (put `Orientationd` first). Beyond the border the
    nearest voxel counts. All keys of one dictionary must lie on one grid, and get the same output shape. Other keys
    of the dictionary are never looked at (MONAI 1.6's `Spacingd` fails on MONAI Label's ``image_path``).

    With ``align="edges"`` it does what nnU-Net does: the new grid has the outer edges of the old one and the number of
    voxels nearest to what `spacing` asks for, so that its voxel size is about `spacing`; and where slices are more than
    three times as thick as pixels are wide, in the scan or in `spacing`, each is resampled by itself and the
    nearest one counts.

    Args:
        keys: keys of the tensors, `MetaTensor` of shape [channels, *spatial].
        spacing: voxel size in mm for each spatial axis; None leaves an axis as it is.
        mode: ``"bilinear"`` for images (trilinear in 3D), or ``"cubic"`` with ``align="edges"`` (nnU-Net's order 3);
            ``"nearest"`` for label maps; for all keys or for each.
        tolerance: relative difference up to which an axis is left as it is; with ``align="edges"`` it is if it would
            have as many voxels.
        align: ``"centers"``: the first voxels' centres coincide; ``"edges"``: the outer edges of the volume do.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.

    Raises:
        ConfigError: if the spacing is not positive, or a mode or `align` is unknown.
        InputError: when called, if image and label are on different grids, or do not have as many axes as `spacing`.

    Example:
        >>> resample = ResampleToSpacingd(["image", "label"], spacing=[1, 1, 2.5], mode=["bilinear", "nearest"])
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        spacing: Sequence[float | None],
        mode: str | Sequence[str] = "bilinear",
        tolerance: float = SPACING_TOLERANCE,
        allow_missing_keys: bool = False,
        align: str = "centers",
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not all(edge is None or (np.isfinite(edge) and edge > 0) for edge in spacing):
            raise ConfigError(f"spacing is {list(spacing)}: each voxel edge must be a positive number of mm")
        self.spacing = [None if edge is None else float(edge) for edge in spacing]
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        if align not in MODES:
            raise ConfigError(f"align is {align!r}: it must be 'centers' or 'edges'")
        if not set(self.mode) <= set(MODES[align]):
            names = " or ".join(repr(name) for name in MODES[align])
            raise ConfigError(f"mode is {mode!r}: it must be {names} with align {align!r}, for all keys or for each")
        self.align, self.tolerance = align, tolerance
        self.resample_edge_aligned = ResampleEdgeAligned()
        self.resample = SpatialResample(padding_mode="border", align_corners=False, dtype=np.float32)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample the tensors of all keys onto the grid that the first one gets."""
        if self.align == "edges":
            return self._edge_aligned(data)
        resampled = dict(data)
        first: MetaTensor | None = None
        target: tuple[torch.Tensor, list[int]] | None = None
        for key, mode in self.key_iterator(resampled, self.mode):
            image = resampled[key]
            if first is None:
                first, target = image, self._target_grid(image)
            else:
                _check_same_grid(image, first)
            # Its own grid as the target: MONAI passes the voxels on and records the step, which `Invertd` looks for.
            affine, shape = target or (image.affine, image.shape[1:])
            resampled[key] = self.resample(image, dst_affine=affine, spatial_size=shape, mode=mode)
        return resampled

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Take the tensors back to the grid they came from."""
        restored = dict(data)
        for key in self.key_iterator(restored):
            if self.align == "edges":
                restored[key] = self.resample_edge_aligned.inverse(restored[key])
                continue
            record = self.resample.get_most_recent_transform(restored[key])
            affine = torch.as_tensor(record["extra_info"]["src_affine"]).clone()
            restored[key] = self.resample.inverse(restored[key])
            restored[key].affine = affine  # MONAI multiplies there and back, which is not quite the same
        return restored

    def _edge_aligned(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample the tensors of all keys onto the grid that has the edges of their own."""
        resampled = dict(data)
        first: MetaTensor | None = None
        for key, mode in self.key_iterator(resampled, self.mode):
            image = resampled[key]
            if first is None:
                first = image
                present, wanted = self._spacings(image)
            else:
                _check_same_grid(image, first)
            sizes = [old / new * side for old, new, side in zip(present, wanted, image.shape[1:], strict=True)]
            shape = [max(1, round(round(size, ROUNDING))) for size in sizes]
            resampled[key] = self.resample_edge_aligned(image, shape, mode, thick_axis(present, wanted))
        return resampled

    def _spacings(self, image: MetaTensor) -> tuple[list[float], list[float]]:
        """The image's voxel size, and the one that is wanted."""
        shape = image.shape[1:]
        if len(shape) != len(self.spacing):
            raise InputError(
                f"{name_of(image, 'image')} has {len(shape)} spatial axes, the model needs {len(self.spacing)}: "
                "give a scan like those the model was trained on"
            )
        present = list(spacing_of(image.affine)[: len(shape)])
        return present, [own if edge is None else edge for edge, own in zip(self.spacing, present, strict=True)]

    def _target_grid(self, image: MetaTensor) -> tuple[torch.Tensor, list[int]] | None:
        """Affine and shape to resample to, or None if the image has the voxel size already."""
        shape, affine = [int(side) for side in image.shape[1:]], image.affine
        present, wanted = map(np.asarray, self._spacings(image))
        agrees = np.abs(present - wanted) <= self.tolerance * wanted
        if agrees.all():
            return None
        rank = len(shape)
        matrix = as_4x4(affine)[np.ix_([*range(rank), 3], [*range(rank), 3])]  # 3x3 for planes, as MONAI has it
        target = zoom_affine(matrix, np.where(agrees, present, wanted), diagonal=False)
        target_shape, offset = compute_shape_offset(shape, matrix, target)
        target[:rank, -1] = offset[:rank]
        return torch.as_tensor(target, dtype=torch.float64), [max(1, int(side)) for side in target_shape]


def _check_same_grid(image: MetaTensor, first: MetaTensor) -> None:
    difference = grid_difference(image.shape[1:], image.affine, first.shape[1:], first.affine)
    if difference:
        raise InputError(
            f"{name_of(image, 'label')} is not on the grid of {name_of(first, 'image')} ({difference}): "
            "resample it onto that"
        )
