"""Slices of volumes, for networks of two dimensions."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import MapTransform, Randomizable

from unet_bundle.errors import ConfigError


class RandSliced(Randomizable, MapTransform):
    """Draw one slice of a volume and its label map.

    With probability `foreground_fraction` it is the slice through a voxel of a class that is drawn first, so that small
    organs come up as often as large ones; otherwise any slice. As nnU-Net's 2D sampling does (Isensee et al. 2021,
    https://doi.org/10.1038/s41592-020-01008-z).

    Args:
        keys: tensors of shape [channels, *spatial] with three spatial axes of one shape.
        axis: spatial axis across which slices lie.
        indices_key: key of the flat voxel indices of each class, background first, as MONAI's ``ClassesToIndicesd``
            leaves them. It is replaced by what a patch of the slice is to be centred on: indices within the slice of
            the class that was drawn, after an empty background; nothing where no class was.
        foreground_fraction: share of slices drawn for a class other than background.
        labelled_only: the other slices are drawn for a voxel of any class, background included, and their patches are
            centred on such voxels (see `RandSpatiald`), which stand for the background in `indices_key`.

    Raises:
        ConfigError: if `axis` or `foreground_fraction` is out of range.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        axis: int,
        indices_key: str,
        foreground_fraction: float = 0.33,
        labelled_only: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys)
        if axis not in (0, 1, 2):
            raise ConfigError(f"axis must be 0, 1 or 2, not {axis!r}")
        if not 0 <= foreground_fraction <= 1:
            raise ConfigError(f"foreground_fraction must be from 0 to 1, not {foreground_fraction!r}")
        self.axis = axis
        self.indices_key = indices_key
        self.foreground_fraction = foreground_fraction
        self.labelled_only = labelled_only

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each tensor by its slice, of shape [channels, *the other two axes]."""
        item = dict(data)
        shape = tuple(int(side) for side in item[self.keys[0]].shape[1:])
        labelled = [np.asarray(voxels) for voxels in item[self.indices_key]]
        present = [voxels for voxels in labelled[1:] if len(voxels)]
        wanted = [np.empty(0, dtype=np.int64)]
        if self.R.uniform() < self.foreground_fraction and present:
            number, voxels = self._draw_slice(present[self.R.randint(len(present))], shape)
            wanted.append(voxels)
        elif self.labelled_only and any(map(len, labelled)):
            number, wanted[0] = self._draw_slice(np.concatenate(labelled), shape)
        else:
            number = int(self.R.randint(shape[self.axis]))
        for key in self.keys:
            volume = torch.as_tensor(item[key]).as_subclass(torch.Tensor)
            item[key] = volume.select(self.axis + 1, number).contiguous()
        item[self.indices_key] = wanted
        return item

    def _draw_slice(self, voxels: npt.NDArray[Any], shape: tuple[int, ...]) -> tuple[int, npt.NDArray[np.int64]]:
        """The slice of one of the voxels, flat indices in the volume, and the flat indices of those in it."""
        places = np.unravel_index(voxels, shape)
        number = int(places[self.axis][self.R.randint(len(voxels))])
        here = [place[places[self.axis] == number] for axis, place in enumerate(places) if axis != self.axis]
        return number, np.ravel_multi_index(here, tuple(np.delete(shape, self.axis)))
