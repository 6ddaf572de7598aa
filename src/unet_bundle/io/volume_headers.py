"""Headers of NRRD and MetaImage files, taken literally: what they do not state is not assumed.

ITK and SimpleITK fill in what is missing (an identity orientation, the origin 0, a unit) and read a damaged MetaImage
stream as other voxels without an error, so they serve the tests only.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet_bundle.errors import InputError
from unet_bundle.geometry import Affine, format_spacing
from unet_bundle.io.checks import REPLACE

MAX_HEADER_BYTES = 2**22
"""How much of a file is searched for the end of its header: names of thousands of segments fit."""

UNIT_TOLERANCE = 1e-3
"""How far a direction may be from unit length: headers are rounded to a few digits."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf)", re.IGNORECASE)
_WHOLE = re.compile(r"\d{1,18}")


@dataclass(frozen=True)
class VolumeHeader:
    """What a header says of its voxels.

    Attributes:
        shape: along every axis of the file, the fastest first.
        stored_type: of the voxels, with the byte order.
        affine: 4x4, index along the three spatial axes to mm, RAS.
        channel_axis: axis of the file that is not one of space; None: there is none.
        data_file: base name of the file of the voxels; None: they follow the header.
        offset: where the voxels begin in their file, bytes.
        compressed: whether they are a gzip or zlib stream.
    """

    shape: tuple[int, ...]
    stored_type: np.dtype[Any]
    affine: Affine
    channel_axis: int | None
    data_file: str | None
    offset: int
    compressed: bool

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape with the axes of space first."""
        if self.channel_axis is None:
            return self.shape
        spatial = (side for axis, side in enumerate(self.shape) if axis != self.channel_axis)
        return (*spatial, self.shape[self.channel_axis])


def with_byte_order(stored_type: str, big: bool | None, name: str) -> np.dtype[Any]:
    """The type of the voxels; a byte order that is not stated (None) is refused where it matters."""
    if big is None and not stored_type.endswith("1"):
        raise InputError(f"{name} does not state the byte order of its voxels: save it again from its source")
    return np.dtype((">" if big else "<") + stored_type)


def numbers(text: str, name: str, kind: str) -> list[float]:
    """The numbers of a field, between which there are spaces or commas; anything else is refused."""
    parts = text.replace(",", " ").split()
    if not all(_NUMBER.fullmatch(part) for part in parts):
        raise bad_header(name, kind)
    return [float(part) for part in parts]


def whole_numbers(text: str | None, name: str, kind: str) -> list[int]:
    """The whole numbers of a field, one at least; anything else is refused."""
    parts = (text or "").split()
    if not parts or not all(_WHOLE.fullmatch(part) for part in parts):
        raise bad_header(name, kind)
    return [int(part) for part in parts]


def check_unit(*units: str, name: str) -> None:
    """Refuse units of length that are not mm; a unit left empty is taken for mm."""
    for unit in units:
        if unit.strip().lower() not in ("mm", "millimeter", "millimetre", "", "?"):
            raise InputError(f"{name} says that its voxel sizes are in {unit}: save it in millimetres")


def check_positive(spacing: Sequence[float], name: str) -> None:
    """Refuse voxel sizes below zero: some programs mirror the scan by them, others do not. Zero is no affine's.

    Args:
        spacing: along the axes of space, mm.
        name: base name of the file.
    """
    if min(spacing) < 0:
        raise InputError(
            f"{name} has a voxel size below zero ({format_spacing(spacing)} mm): save it again from its source"
        )


def beside(data_file: str, name: str) -> str:
    """The base name of the file of the voxels, which has to lie in the header's folder."""
    if data_file.upper().startswith("LIST") or "%" in data_file or re.fullmatch(r".*\S \d+", data_file):
        raise InputError(f"{name} has its voxels in several files: save it as one")
    if not data_file or data_file in (".", "..") or re.search(r"[/\\\0]", data_file):
        raise InputError(f"{name} names a voxel file that is not beside it: put both into one folder, by base name")
    return Path(data_file).name


def bad_header(name: str, kind: str) -> InputError:
    """The refusal of a header that breaks the rules of its format."""
    return InputError(f"{name} has a damaged {kind} header: {REPLACE}")


def bad_axes(name: str, axes: int) -> InputError:
    """The refusal of planes, and of more than one axis beyond space."""
    return InputError(f"{name} has {axes} axes of space, not 3: save it as a volume, a plane as one of one slice")


def unknown_orientation(name: str, reason: str) -> InputError:
    """The refusal of a header that does not say how the patient lies."""
    return InputError(f"{name} has an unknown orientation ({reason}): convert it again from its source")


def unknown_position(name: str) -> InputError:
    """The refusal of a header that does not say where the first voxel is."""
    return InputError(f"{name} states no position in space (its origin): convert it again from its source")


def doubtful_directions(spacing: Sequence[float], name: str) -> InputError:
    """The refusal of directions longer or shorter than 1: which of them and the voxel size is right is unknown."""
    return InputError(
        f"{name} has directions that are not of unit length, so its voxel size of {format_spacing(spacing)} mm "
        "is in doubt: save it again from its source"
    )
