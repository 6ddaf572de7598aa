"""Leaving away what is empty round a scan."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Crop, InvertibleTransform, MapTransform


class CropToNonzerod(MapTransform, InvertibleTransform):
    """Crop images to the smallest box that holds every voxel of another value than 0, of any channel.

    nnU-Net does so before it normalises: air that a scanner or a brain extraction set to 0 has no share in means.
    MONAI's `Crop` crops and keeps the affine right; an image that holds nothing but zeros stays whole.

    Args:
        keys: images, `MetaTensor` of shape [channels, *spatial]; the first one says where the box is.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.
    """

    def __init__(self, keys: str | Sequence[str], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.crop = Crop()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop the images of all keys."""
        cropped = dict(data)
        box: tuple[slice, ...] | None = None
        for key in self.key_iterator(cropped):
            if box is None:
                box = nonzero_box(cropped[key])
            cropped[key] = self.crop(cropped[key], box)
        return cropped

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put zeros back round the images."""
        restored = dict(data)
        for key in self.key_iterator(restored):
            restored[key] = self.crop.inverse(restored[key])
        return restored


def nonzero_box(image: torch.Tensor) -> tuple[slice, ...]:
    """The smallest box that holds what is not 0 in an image [channels, *spatial]; all of it where all is 0."""
    filled = (image.as_subclass(torch.Tensor) if isinstance(image, MetaTensor) else image).ne(0).any(dim=0)
    if not filled.any():
        return tuple(slice(0, side) for side in filled.shape)
    box = []
    for axis in range(filled.ndim):
        others = [other for other in range(filled.ndim) if other != axis]
        used = torch.nonzero(filled.any(dim=others) if others else filled)
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)
