"""Writing label maps of pictures as PNG, pixel for pixel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unet_bundle.io.label_arrays import check_on_grid
from unet_bundle.io.label_writer import LabelWriter

COMPRESSION = 3
"""Of 9: labels are small at any level, and higher ones take twice the time."""


class PlaneWriter(LabelWriter):
    """Write a label map as a grey PNG that lies pixel for pixel over its picture.

    A pixel's grey value is its class: 8 bits for ``"uint8"``, 16 for ``"uint16"``.

    Args:
        dtype: ``"uint8"`` or ``"uint16"``.
    """

    def _place(self, meta: Mapping[str, Any]) -> None:
        check_on_grid(self.labels, meta, tuple(int(side) for side in meta["spatial_shape"]))

    def _save(self, path: Path) -> None:
        plane = Image.fromarray(np.ascontiguousarray(self.labels.T))
        plane.save(path, format="PNG", compress_level=COMPRESSION)
