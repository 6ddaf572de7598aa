"""What writers of label maps have in common: the label map is taken, placed on its scan's grid, and written whole."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from unet_bundle.errors import ConfigError
from unet_bundle.io.algorithm import Algorithm
from unet_bundle.io.dicom.record import SourceSeries
from unet_bundle.io.files import replacing
from unet_bundle.io.label_arrays import check_on_grid, label_array, on_cpu
from unet_bundle.io.source_grid import on_slices, source_series

logger = logging.getLogger(__name__)


class LabelWriter(ABC):
    """Writes a label map in a format of its own, by the three calls of MONAI's ``ImageWriter``.

    Args:
        dtype: of the label map, ``"uint8"`` or ``"uint16"``.
    """

    def __init__(self, dtype: npt.DTypeLike = np.uint8) -> None:
        self.dtype = np.dtype(dtype)
        self.labels: npt.NDArray[Any] = np.empty((0, 0, 0), self.dtype)

    def set_data_array(self, data_array: Any, channel_dim: int | None = 0) -> None:
        """Take the label map; see `unet_bundle.io.label_arrays.label_array` for arguments and errors."""
        self.labels = label_array(data_array, self.dtype, channel_dim)

    def set_metadata(self, meta_dict: Mapping[str, Any]) -> None:
        """Take the grid from the metadata of the label map's `MetaTensor`.

        Raises:
            ConfigError: if the label map is not on its scan's grid, or the scan cannot have a result in this format.
            InputError: if the format cannot say where the scan's slices lie.
        """
        self._place({key: on_cpu(value) for key, value in meta_dict.items()})

    def write(self, filename: str | PathLike[str], verbose: bool = False) -> None:
        """Write under a temporary name beside the final one, then rename it: nothing half-written stays.

        Raises:
            ConfigError: if the label map has a value that the format needs described and that is not.
            InputError: if a DICOM series lacks what a result must repeat or refer to, or the result is too large.
        """
        path = Path(filename)
        with replacing(path) as temporary:
            self._save(temporary)
        if verbose:
            logger.info("wrote %s", path.name)

    @abstractmethod
    def _place(self, meta: Mapping[str, Any]) -> None:
        """Check `labels` against the scan's grid, and take from it what the file says."""

    @abstractmethod
    def _save(self, path: Path) -> None:
        """Write the file."""


class SeriesWriter(LabelWriter):
    """Writes a label map as a DICOM object that refers to the slices it was made from.

    Args:
        dtype: of the label map, ``"uint8"`` or ``"uint16"``.
        segments: see `unet_bundle.io.segments.segments_of`.
        algorithm: what made the label map, see `unet_bundle.io.algorithm.Algorithm.of`.
    """

    output_format: ClassVar[str]

    def __init__(
        self,
        dtype: npt.DTypeLike = np.uint8,
        segments: Mapping[str, Mapping[str, Any]] | None = None,
        algorithm: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(dtype)
        self.described, self.algorithm = segments, Algorithm.of(algorithm)
        self.source: SourceSeries | None = None

    def _place(self, meta: Mapping[str, Any]) -> None:
        """Take the series, and bring the label map to its slices."""
        self.source = source_series(meta, self.output_format)
        check_on_grid(self.labels, meta, tuple(int(side) for side in meta["spatial_shape"]))
        self.labels = on_slices(self.labels, meta, self.source)

    def _save(self, path: Path) -> None:
        if self.source is None:
            raise ConfigError(f"{type(self).__name__} writes what set_metadata was called for: call it first")
        self._save_result(path, self.source)

    @abstractmethod
    def _save_result(self, path: Path, source: SourceSeries) -> None:
        """Write the file."""
