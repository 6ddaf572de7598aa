"""Where the windows of a volume lie, and how much each of their voxels counts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.data.utils import compute_importance_map
from scipy import ndimage


@dataclass(frozen=True)
class Tiling:
    """Windows that cover a volume.

    Attributes:
        size: voxels of the volume per axis, each at least the window's.
        window: voxels of a window per axis.
        starts: first voxels of the windows, per axis; a window starts at every combination of them.
        weights: of the voxels of a window, shape `window`, positive.
    """

    size: tuple[int, ...]
    window: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    weights: torch.Tensor

    @property
    def count(self) -> int:
        """How many windows there are."""
        return math.prod(map(len, self.starts))

    def longest_axis(self) -> int:
        """The axis along which a walk holds the smallest share of the volume."""
        return max(range(len(self.size)), key=lambda axis: self.size[axis] / self.window[axis])

    def ordered(self, axes: Sequence[int]) -> Tiling:
        """The same windows of the volume with its axes in this order."""
        size, window, starts = (
            tuple(values[axis] for axis in axes) for values in (self.size, self.window, self.starts)
        )
        return Tiling(size, window, starts, self.weights.permute(*axes))  # type: ignore[arg-type]


def make_tiling(
    size: Sequence[int],
    window: Sequence[int],
    overlap: Sequence[float],
    mode: str = "gaussian",
    sigma_scale: float | Sequence[float] = 0.125,
    spacing: str = "fixed",
) -> Tiling:
    """Windows over a volume.

    Args:
        size: voxels of the volume per axis.
        window: voxels of a window per axis, none larger than the volume.
        overlap: share of a window that it has in common with the next, per axis.
        mode: ``"gaussian"`` weights the middles of windows more, `NNUNET` still more, ``"constant"`` all voxels alike.
        sigma_scale: standard deviation of those weights, in windows.
        spacing: one of `WINDOW_SPACINGS`.
    """
    starts = tuple(map(WINDOW_SPACINGS[spacing], size, window, overlap))
    sigmas = sigma_scale if isinstance(sigma_scale, int | float) else tuple(sigma_scale)
    return Tiling(tuple(size), tuple(window), starts, _weights(tuple(window), mode, sigmas))


@functools.lru_cache(maxsize=4)
def _weights(window: tuple[int, ...], mode: str, sigma_scale: float | tuple[float, ...]) -> torch.Tensor:
    """Of a window's voxels; not to be written to."""
    if mode == NNUNET:
        return nnunet_weights(window)
    return torch.as_tensor(compute_importance_map(window, mode=mode, sigma_scale=sigma_scale, dtype=torch.float32))


NNUNET = "nnunet"
"""Mode of windows whose weights are nnU-Net's."""
NNUNET_SIGMA, NNUNET_PEAK, NNUNET_LEAST = 1 / 8, 10.0, 2.0**-24
"""Standard deviation in windows, and largest and smallest weight: the least float16, in which nnU-Net keeps them."""


def nnunet_weights(window: Sequence[int]) -> torch.Tensor:
    """Weights of a window's voxels as nnU-Net has them: the blur of its middle voxel.

    MONAI's Gaussian does not fall below a thousandth, so that ends of windows count for more there.

    Source: nnU-Net, Isensee et al. 2021.
    """
    profiles = []
    for side in window:
        middle = np.zeros(side)
        middle[side // 2] = 1
        profiles.append(ndimage.gaussian_filter1d(middle, side * NNUNET_SIGMA, mode="constant"))
    product = functools.reduce(np.multiply.outer, profiles)
    weights = np.clip(product / product.max() * NNUNET_PEAK, NNUNET_LEAST, None)
    return torch.from_numpy(weights.astype(np.float32))


def fixed_starts(size: int, window: int, overlap: float) -> tuple[int, ...]:
    """First voxels of windows along one axis, a fixed step apart; the last window ends with the volume.

    Source: ``monai.data.utils.dense_patch_slices``, with the interval of ``sliding_window_inference``.
    """
    step = window if window == size else max(int(window * (1 - overlap)), 1)
    number = math.ceil(max(size - window, 0) / step) + 1
    return tuple(min(index * step, size - window) for index in range(number))


def even_starts(size: int, window: int, overlap: float) -> tuple[int, ...]:
    """First voxels of windows along one axis, spread evenly, so that each shares at least `overlap` with the next.

    Source: nnU-Net, Isensee et al. 2021.
    """
    gaps = math.ceil((size - window) / max(window * (1 - overlap), 1))
    return tuple(round(index * (size - window) / gaps) for index in range(gaps + 1)) if gaps else (0,)


WINDOW_SPACINGS: Mapping[str, Callable[[int, int, float], tuple[int, ...]]] = {
    "even": even_starts,
    "fixed": fixed_starts,
}
"""How windows follow each other along an axis: as in nnU-Net, or as in MONAI."""
