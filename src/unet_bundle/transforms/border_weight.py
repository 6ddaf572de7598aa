"""The weight map of the U-Net of 2015: a loss that counts most on the narrow borders between objects."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from unet_bundle.errors import ConfigError
from unet_bundle.transforms.instances import numbers_of

TOLERANCE = 5e-8
"""Border terms below it are left out: beside a weight of 1, float32 cannot tell them from 0."""

WEIGHT_POSTFIX = "_weight"
"""Behind the key of a label map, the key of its weights."""


def border_weight(
    objects: npt.NDArray[np.integer[Any]],
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    spacing: Sequence[float] | None = None,
    balance: bool = False,
) -> npt.NDArray[np.float32]:
    """Weights of a loss, after Ronneberger et al. 2015 (https://arxiv.org/abs/1505.04597, equation 2).

    ``w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2))``, where d1 and d2 are the distances from the middle of
    the voxel x to the middle of the nearest voxel of the nearest and of the second nearest object. The border term is
    that of background voxels; voxels of objects have w_c alone, as in the paper's figure 3d: what is to be learned is
    the gap. Where there is one object, or none, nothing has a border term.

    The distances are exact. One distance transform is made for each object that has another within reach, within its
    reach: a border term above `TOLERANCE` needs ``d1 + d2 < sigma sqrt(2 ln(w0 / TOLERANCE))``, about 6 sigma.

    Args:
        objects: number of the object at each voxel, 0 for background; shape [*spatial].
        w0: weight of a border of no width.
        sigma: width over which it falls off, in the unit of `spacing`.
        spacing: sizes of a voxel; None: 1 along each axis.
        balance: w_c makes background and objects count alike, 1 on the mean; otherwise it is 1 everywhere.

    Returns:
        Weights of the same shape.

    Raises:
        ConfigError: if `w0` or `sigma` cannot be.
    """
    _check(w0, sigma)
    sizes = [1.0] * objects.ndim if spacing is None else list(spacing)
    background = objects == 0
    weights = _balanced(background) if balance else np.ones(objects.shape, np.float32)
    reach = sigma * math.sqrt(2 * math.log(w0 / TOLERANCE)) if w0 > TOLERANCE else 0.0
    margins = [math.ceil(reach / size) for size in sizes]
    nearest = np.full(objects.shape, np.inf, np.float32)
    second = nearest.copy()
    for number, box in enumerate(ndimage.find_objects(objects), start=1):
        if box is None:
            continue
        around = tuple(
            slice(max(side.start - margin, 0), side.stop + margin) for side, margin in zip(box, margins, strict=True)
        )
        part = objects[around]
        outside = part != number
        if not part[outside].any():
            continue  # with d1 + d2 within reach, the other object is, too
        distance = ndimage.distance_transform_edt(outside, sampling=sizes).astype(np.float32)
        near, next_to = nearest[around], second[around]
        np.minimum(next_to, np.maximum(near, distance), out=next_to)
        np.minimum(near, distance, out=near)
    term = w0 * np.exp(-np.square(nearest + second) / (2 * sigma**2))
    weights[background] += term[background]
    return weights


class BorderWeightd(MapTransform):
    """Make the weights of a loss from a label map that numbers its objects, see `border_weight`.

    They stand beside the label map under ``<key>_weight``, on its grid, and are to be resampled, cropped and deformed
    with it, by linear interpolation. It belongs before the numbers are merged to classes.

    Args:
        keys: label maps, shape [1, *spatial], whole numbers.
        w0: weight of a border of no width.
        sigma: width over which it falls off: mm, or pixels of pictures and of tensors without an affine.
        balance: whether background and objects count alike.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.

    Raises:
        ConfigError: if `w0` or `sigma` cannot be.

    Example:
        >>> two = torch.tensor([[[1, 0, 2, 0, 0, 0, 0, 0]]])
        >>> BorderWeightd("label", w0=10.0, sigma=1.0)({"label": two})["label_weight"][0, 0, :4]
        tensor([1.0000, 2.3534, 1.0000, 1.0034])
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        w0: float = 10.0,
        sigma: float = 5.0,
        balance: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        _check(w0, sigma)
        self.w0, self.sigma, self.balance = w0, sigma, balance

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the weights of each label map: float32, its shape and metadata."""
        weighed = dict(data)
        for key in self.key_iterator(weighed):
            label = weighed[key]
            objects, spacing = numbers_of(label)
            weights = torch.from_numpy(
                border_weight(objects, w0=self.w0, sigma=self.sigma, spacing=spacing, balance=self.balance)[None]
            ).to(label.device)
            own = MetaTensor(weights, meta=label.meta) if isinstance(label, MetaTensor) else weights
            weighed[f"{key}{WEIGHT_POSTFIX}"] = own
        return weighed


def _balanced(background: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    share = float(background.mean())
    if share in (0.0, 1.0):
        return np.ones(background.shape, np.float32)
    return np.where(background, 0.5 / share, 0.5 / (1 - share)).astype(np.float32)


def _check(w0: float, sigma: float) -> None:
    if not (0 <= w0 < math.inf and 0 < sigma < math.inf):
        raise ConfigError(f"border weights have w0 {w0!r} and sigma {sigma!r}: w0 must be at least 0, sigma above 0")
