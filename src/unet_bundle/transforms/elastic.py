"""Elastic deformation, the augmentation that let the U-Net learn from thirty images.

Random displacements at the points of a coarse grid, interpolated by cubic splines (Ronneberger et al. 2015,
https://arxiv.org/abs/1505.04597: 3 x 3 points, standard deviation 10 pixels; Çiçek et al. 2016,
https://arxiv.org/abs/1606.06650: points 32 voxels apart, standard deviation 4 voxels).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.transforms.interpolation import MODES
from unet_bundle.transforms.sampling import PatchDraw, sample_patches
from unet_bundle.transforms.splines import ControlGrid, control_shape

UNITS = ("voxels", "mm")
ON_FOLDING = ("reduce", "refuse")


@dataclass(frozen=True)
class ElasticDeformation:
    """Draws displacements; all lengths are in `units`.

    Attributes:
        sd: Standard deviation of the displacement of a control point, alike along all axes.
        control_spacing: Distance of control points: one number, or one per axis. The grid covers the image.
        control_points: Instead: number of control points per axis, the outer ones at the image's ends.
        units: ``"voxels"`` or ``"mm"``.
        spacing: Voxel sizes in mm; needed for ``"mm"``.
        on_folding: What to do with a displacement that would fold space: ``"reduce"`` it or ``"refuse"`` it.

    Raises:
        ConfigError: If not exactly one of `control_spacing` and `control_points` is given, or a value is impossible.
    """

    sd: float
    control_spacing: float | Sequence[float] | None = None
    control_points: int | Sequence[int] | None = None
    units: str = "voxels"
    spacing: Sequence[float] | None = None
    on_folding: str = "reduce"

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if (self.control_spacing is None) == (self.control_points is None):
            raise ConfigError("elastic deformation takes either control_spacing or control_points: give one of them")
        distances, counts = (
            [] if value is None else np.ravel(value).tolist() for value in (self.control_spacing, self.control_points)
        )
        if not all(0 < distance < math.inf for distance in distances):
            raise ConfigError(f"control_spacing must be positive, not {self.control_spacing!r}")
        if not all(count == int(count) >= 1 for count in counts):
            raise ConfigError(f"control_points must be whole numbers of at least 1, not {self.control_points!r}")
        if not _is_size(self.sd):
            raise ConfigError(f"the sd of an elastic deformation must be a number of at least 0, not {self.sd!r}")
        if self.units not in UNITS or (self.units == "mm" and self.spacing is None):
            raise ConfigError(f"units must be one of {', '.join(UNITS)} (mm with a spacing), not {self.units!r}")
        if self.spacing is not None and not all(0 < edge < math.inf for edge in self.spacing):
            raise ConfigError(f"spacing must be positive lengths in mm, not {list(self.spacing)}")
        if self.on_folding not in ON_FOLDING:
            raise ConfigError(f"on_folding must be one of {', '.join(ON_FOLDING)}, not {self.on_folding!r}")

    def draw(self, random: np.random.RandomState, spatial_size: Sequence[int]) -> ControlGrid:
        """Draw a displacement of a patch; along an axis of a single voxel nothing moves.

        Args:
            random: the source of all randomness.
            spatial_size: voxels of the patch per axis.

        Raises:
            ConfigError: the settings are for another number of axes, or the displacement folds and is to be refused.
            InputError: the image has not two or three axes of space, each of at least one voxel.
        """
        dims = len(spatial_size)
        if dims not in (2, 3) or not all(spatial_size):
            raise InputError(
                "elastic deformation takes images [channels, *spatial] with 2 or 3 axes of space, not "
                f"{dims} ({' x '.join(map(str, spatial_size))} voxels): add or remove axes first"
            )
        voxel = np.ones(dims) if self.units == "voxels" else self._per_axis(self.spacing, dims, "spacing")
        if self.control_points is None:
            steps = self._per_axis(self.control_spacing, dims, "control_spacing") / voxel
            counts = control_shape(spatial_size, steps.tolist())
        else:
            wanted = self._per_axis(self.control_points, dims, "control_points").astype(int)
            counts = tuple(1 if edge == 1 else int(count) for edge, count in zip(spatial_size, wanted, strict=True))
            steps = np.asarray(
                [(edge - 1) / max(count - 1, 1) for edge, count in zip(spatial_size, counts, strict=True)]
            )
        values = random.normal(0.0, self.sd, (dims, *counts))
        values *= (np.where(np.asarray(spatial_size) > 1, 1.0, 0.0) / voxel).reshape(-1, *[1] * dims)
        grid = ControlGrid(values, tuple(float(step) or 1.0 for step in steps))
        return grid.unfolded(spatial_size, refuse=self.on_folding == "refuse")

    def _per_axis(self, value: Any, dims: int, name: str) -> npt.NDArray[np.float64]:
        values = np.asarray(value, dtype=np.float64).ravel()
        if len(values) not in (1, dims):
            raise ConfigError(f"{name} has {len(values)} numbers for an image of {dims} axes: give 1 or {dims}")
        return np.array(np.broadcast_to(values, (dims,)))


class RandElasticDeform(RandomizableTransform):
    """Deform an image elastically, on its own grid.

    Beyond the image are zeros. Linear interpolation and nearest voxels are computed by torch on the image's device;
    ``"spline"`` is SciPy's cubic spline, on the CPU and many times slower.

    Args:
        sd: standard deviation of a control point's displacement, in `units`.
        control_spacing: distance of control points, in `units`.
        control_points: or their number per axis, e.g. 3 as in the paper.
        units: ``"voxels"``, or ``"mm"`` for displacements that are the same in mm along all axes.
        spacing: voxel sizes in mm; None with ``units="mm"``: the image's own, of its ``MetaTensor``.
        on_folding: ``"reduce"`` a displacement that folds until it does not, or ``"refuse"`` it.
        mode: ``"bilinear"``, ``"nearest"``, ``"one-hot"`` (labels: the class with the largest linear share) or
            ``"spline"``.
        prob: share of images that are deformed.

    Raises:
        ConfigError: if a setting is impossible, or, when called, a displacement folds and is to be refused.

    Example:
        >>> deform = RandElasticDeform(sd=2.0, control_points=3).set_random_state(0)
        >>> deform(torch.rand(1, 32, 32)).shape
        torch.Size([1, 32, 32])
    """

    def __init__(
        self,
        sd: float,
        *,
        control_spacing: float | Sequence[float] | None = None,
        control_points: int | Sequence[int] | None = None,
        units: str = "voxels",
        spacing: Sequence[float] | None = None,
        on_folding: str = "reduce",
        mode: str = "bilinear",
        prob: float = 1.0,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        self.spacing = spacing
        # The spacing of an image is not known yet: 1 mm stands for it.
        self.deformation = ElasticDeformation(
            sd, control_spacing, control_points, units, [1.0] if spacing is None else spacing, on_folding
        )
        self.mode = checked_mode(mode)
        self.displacement: ControlGrid | None = None

    def randomize(self, data: Any) -> None:
        """Draw whether and how `data`, a tensor [channels, *spatial], is deformed; kept in `displacement`."""
        super().randomize(None)
        self.displacement = None
        if self._do_transform:
            deformation = self.deformation
            if self.spacing is None and deformation.units == "mm":
                if not isinstance(data, MetaTensor):
                    raise ConfigError(
                        "units 'mm' needs the voxel sizes: give spacing, or a MetaTensor as LoadImaged does"
                    )
                deformation = replace(deformation, spacing=[float(edge) for edge in data.pixdim[: data.ndim - 1]])
            self.displacement = deformation.draw(self.R, tuple(data.shape[1:]))

    def __call__(self, img: torch.Tensor, mode: str | None = None, randomize: bool = True) -> torch.Tensor:
        """Return the deformed image, of the same shape, type and metadata.

        Args:
            img: shape [channels, *spatial].
            mode: another than the transform's.
            randomize: draw anew; otherwise the last draw is applied again.
        """
        if randomize:
            self.randomize(img)
        return self.apply([img], [checked_mode(mode or self.mode)])[0]

    def apply(self, images: Sequence[torch.Tensor], modes: Sequence[str]) -> list[torch.Tensor]:
        """Apply the last draw to several images on one grid.

        Args:
            images: each of shape [channels, *spatial].
            modes: for each image.
        """
        if self.displacement is None:
            return list(images)
        shape = np.asarray(images[0].shape[1:])
        drawn = PatchDraw((shape - 1) / 2, np.eye(len(shape)), self.displacement)
        deformed = sample_patches(images, drawn, shape.tolist(), modes)
        return [convert_to_dst_type(new, old)[0] for new, old in zip(deformed, images, strict=True)]


class RandElasticDeformd(MapTransform, RandomizableTransform):
    """`RandElasticDeform` of several images alike: one draw moves image and label together.

    Args:
        keys: tensors of shape [channels, *spatial], all of one spatial shape.
        sd: see `RandElasticDeform`, as all that is not here.
        mode: for each key, or one for all.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        sd: float,
        *,
        control_spacing: float | Sequence[float] | None = None,
        control_points: int | Sequence[int] | None = None,
        units: str = "voxels",
        spacing: Sequence[float] | None = None,
        on_folding: str = "reduce",
        mode: str | Sequence[str] = "bilinear",
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.modes = modes_of_keys(mode, self.keys)
        self.deform = RandElasticDeform(
            sd,
            control_spacing=control_spacing,
            control_points=control_points,
            units=units,
            spacing=spacing,
            on_folding=on_folding,
            prob=prob,
        )

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandElasticDeformd:
        """Seed the draws."""
        super().set_random_state(seed, state)
        self.deform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each tensor by its deformed one."""
        deformed = dict(data)
        present = list(self.key_iterator(deformed, self.modes))
        if not present:
            return deformed
        self.deform.randomize(deformed[present[0][0]])
        images = self.deform.apply([deformed[key] for key, _ in present], [mode for _, mode in present])
        return {**deformed, **dict(zip((key for key, _ in present), images, strict=True))}


def _is_size(value: object) -> bool:
    return isinstance(value, Real) and 0 <= float(value) < math.inf


def checked_mode(mode: str) -> str:
    """A mode of interpolation, or a refusal."""
    if mode not in MODES:
        raise ConfigError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    return mode


def modes_of_keys(mode: str | Sequence[str], keys: Sequence[Hashable]) -> list[str]:
    """One mode of interpolation for each key."""
    modes = [mode] * len(keys) if isinstance(mode, str) else list(mode)
    if len(modes) != len(keys):
        raise ConfigError(f"mode has {len(modes)} entries for {len(keys)} keys: give one for each")
    return [checked_mode(entry) for entry in modes]
