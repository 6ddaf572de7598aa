"""What lengths and sizes are counted in: volumes in mm and ml, planes in mm and mm², pictures in pixels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from unet_bundle.errors import InputError
from unet_bundle.io import is_picture


class Units(NamedTuple):
    """Units of an evaluation or a measurement.

    Attributes:
        length: of distances.
        size: of what a structure takes up.
        quantity: what `size` measures.
    """

    length: str
    size: str
    quantity: str


VOLUMES = Units("mm", "ml", "volume")
PLANES = Units("mm", "mm2", "area")
PICTURES = Units("px", "px", "area")
"""PNG and TIFF have no spacing to be trusted: a pixel counts as 1."""

ALL = (VOLUMES, PLANES, PICTURES)


def units_of(file: str, axes: int) -> Units:
    """Units of an image.

    Args:
        file: that it was read from.
        axes: number of its spatial axes.
    """
    if axes > 2:
        return VOLUMES
    return PICTURES if is_picture(file) else PLANES


def common_units(found: Iterable[Units]) -> Units:
    """The units that all images have; `VOLUMES` where there is none.

    Raises:
        InputError: they differ.
    """
    different = sorted(set(found))
    if len(different) > 1:
        kinds = " and ".join(f"{units.quantity}s in {units.size}" for units in different)
        raise InputError(f"The images have {kinds}, which make no common figures: evaluate one kind at a time.")
    return different[0] if different else VOLUMES
