"""Writing label maps of pictures as PNG, pixel for pixel."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from unet_bundle.io.files import replacing
from unet_bundle.io.label_arrays import check_on_grid, label_array, on_cpu

logger = logging.getLogger(__name__)


class PlaneWriter:
    """Write a label map as a grey PNG that lies pixel for pixel over its picture.

    A pixel's grey value is its class: 8 bits for ``"uint8"``, 16 for ``"uint16"``.

    Args:
        dtype: ``"uint8"`` or ``"uint16"``.
    """

    def __init__(self, dtype: npt.DTypeLike = np.uint8) -> None:
        self.dtype = np.dtype(dtype)
        self.labels: npt.NDArray[Any] = np.empty((0, 0), self.dtype)

    def set_data_array(self, data_array: Any, channel_dim: int | None = 0) -> None:
        """Take the label map; see `unet_bundle.io.label_arrays.label_array` for arguments and errors."""
        self.labels = label_array(data_array, self.dtype, channel_dim)

    def set_metadata(self, meta_dict: Mapping[str, Any]) -> None:
        """Compare with the picture's size and axes, from the metadata of the label map's `MetaTensor`.

        Raises:
            ConfigError: if the label map is not on the picture's grid.
        """
        meta = {key: on_cpu(value) for key, value in meta_dict.items()}
        check_on_grid(self.labels, meta, tuple(int(side) for side in meta["spatial_shape"]))

    def write(self, filename: str | PathLike[str], verbose: bool = False) -> None:
        """Write under a temporary name beside the final one, then rename it: nothing half-written stays."""
        path = Path(filename)
        with replacing(path) as temporary:
            Image.fromarray(np.ascontiguousarray(self.labels.T)).save(temporary, format="PNG")
        if verbose:
            logger.info("wrote %s", path.name)
