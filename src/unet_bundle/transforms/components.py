"""Objects of a label map: which are kept, and whether they have holes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from unet_bundle.errors import ConfigError
from unet_bundle.geometry import spacing_of
from unet_bundle.stages import stage

Labels = npt.NDArray[np.integer[Any]]


class CleanLabelsd(MapTransform):
    """Keep the largest object of a class, drop objects that are too small, fill holes; class by class, in this order.

    Objects are voxels of a class that touch by faces, edges or corners; holes are background inside them, touching
    by faces only. SciPy finds both, within the box that holds the class.

    Args:
        keys: label maps, shape [1, *spatial], whole numbers.
        keep_largest: classes of which all but the largest object become background.
        smallest_object_ml: objects smaller than this become background (of a plane: mm2 / 1000): one volume for all
            classes, or a volume by class (``{"1": 0.05}``, as JSON wants its keys), then none of the other classes.
        fill_holes: classes whose holes become theirs.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.

    Raises:
        ConfigError: if a class is none above 0, or a volume negative; when called, if there are several channels to
            clean.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        keep_largest: Sequence[int] = (),
        smallest_object_ml: float | Mapping[str | int, float] = 0.0,
        fill_holes: Sequence[int] = (),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        by_class = smallest_object_ml if isinstance(smallest_object_ml, Mapping) else {1: smallest_object_ml}
        classes = [*keep_largest, *fill_holes, *(int(key) if str(key).isdigit() else 0 for key in by_class)]
        if min(classes) < 1 or not all(volume >= 0 for volume in by_class.values()):
            raise ConfigError(
                f"keep_largest {list(keep_largest)} and fill_holes {list(fill_holes)} must be classes above 0, "
                f"smallest_object_ml {smallest_object_ml} at least 0, or such volumes by class"
            )
        self.keep_largest, self.fill_holes = set(keep_largest), set(fill_holes)
        self.smallest_object_ml = smallest_object_ml
        if isinstance(smallest_object_ml, Mapping):
            self.smallest_object_ml = {int(key): volume for key, volume in smallest_object_ml.items()}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Clean the label maps; those on which nothing is asked for are passed on as they are."""
        cleaned = dict(data)
        if self.keep_largest or self.fill_holes or self.smallest_object_ml:
            with stage("postprocess"):
                for key in self.key_iterator(cleaned):
                    cleaned[key] = self._cleaned(cleaned[key])
        return cleaned

    def _cleaned(self, labels: torch.Tensor) -> torch.Tensor:
        if len(labels) > 1:
            raise ConfigError(
                f"keep_largest, smallest_object_ml and fill_holes work on one label map, not on {len(labels)} channels:"
                " set region_channels to false"
            )
        voxels: Labels = labels[0].cpu().numpy().copy()
        spacing = spacing_of(labels.affine)[: voxels.ndim] if isinstance(labels, MetaTensor) else [1.0] * voxels.ndim
        voxel_ml = float(np.prod(spacing)) / 1000
        for value, box in enumerate(ndimage.find_objects(voxels), start=1):
            if box is not None:
                part = voxels[box]
                mask = part == value
                kept = self._kept(mask, value, self._least_ml(value) / voxel_ml)
                part[mask & ~kept] = 0
                if value in self.fill_holes:
                    part[ndimage.binary_fill_holes(kept) & (part == 0)] = value
        new = torch.from_numpy(voxels)[None].to(labels.device)
        return MetaTensor(new, meta=labels.meta) if isinstance(labels, MetaTensor) else new

    def _kept(self, mask: npt.NDArray[np.bool_], value: int, least: float) -> npt.NDArray[np.bool_]:
        if value not in self.keep_largest and least <= 1:
            return mask
        objects, sizes = objects_of(mask)
        chosen = sizes >= max(least, 1)
        if value in self.keep_largest:
            chosen &= np.arange(len(sizes)) == sizes.argmax()
        return np.asarray(chosen[objects], dtype=np.bool_)

    def _least_ml(self, value: int) -> float:
        least = self.smallest_object_ml
        return float(least.get(value, 0.0) if isinstance(least, Mapping) else least)


def objects_of(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.int64]]:
    """The objects of a mask: voxels that touch by faces, edges or corners.

    Args:
        mask: shape [*spatial].

    Returns:
        The number of each voxel's object, from 1, 0 outside; and the voxels of each object by its number, 0 for 0.
    """
    objects, number = ndimage.label(mask, np.ones([3] * mask.ndim))
    sizes = np.bincount(objects.ravel(), minlength=number + 1)
    sizes[0] = 0
    return objects, sizes
