"""One record for each plane of an image, whatever object it comes in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unet_bundle.errors import InputError
from unet_bundle.io.dicom.headers import MAX_SIDE, Header

if TYPE_CHECKING:
    from pydicom import Dataset

Vector = npt.NDArray[np.float64]

COSINE_TOLERANCE = 1e-3
"""How far ImageOrientationPatient may be from two perpendicular vectors of length one (decimal rounding)."""

_REPLACE = "export the series again from its source"


@dataclass(frozen=True, eq=False)
class Frame:
    """A plane of voxels: a single-frame file, a frame of a multi-frame object, or a tile of a mosaic.

    Attributes:
        header: of its file.
        index: of the frame in the file, from 0.
        corner: row and column of its first voxel in the frame's picture (other than 0, 0 for a tile only).
        shape: rows and columns.
        position: ImagePositionPatient: centre of its first voxel, mm, LPS.
        orientation: 2x3, ImageOrientationPatient: directions in which the columns' index and the rows' index grow, LPS.
        pixel_spacing: mm between rows and between columns.
        depth: mm that the plane stands for, None if unknown; used where it is the only one.
        slope: RescaleSlope.
        intercept: RescaleIntercept.
        marks: values of `unet_bundle.io.dicom.marks.MARKS`, as text, those that are there.
    """

    header: Header
    index: int
    corner: tuple[int, int]
    shape: tuple[int, int]
    position: Vector
    orientation: Vector
    pixel_spacing: tuple[float, float]
    depth: float | None
    slope: float
    intercept: float
    marks: dict[str, str]

    @property
    def normal(self) -> Vector:
        """Unit vector across the plane, right-handed with the two in it."""
        normal = np.cross(*self.orientation)
        return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)


def make_frame(
    header: Header,
    *,
    position: tuple[float, ...] | None,
    orientation: tuple[float, ...] | None,
    pixel_spacing: tuple[float, ...] | None,
    depth: float | None,
    rescale: tuple[float, float],
    marks: dict[str, str],
    index: int = 0,
    corner: tuple[int, int] = (0, 0),
    shape: tuple[int, int] | None = None,
) -> Frame:
    """A `Frame` from checked values.

    Raises:
        InputError: if one of the three that place it is missing or impossible.
    """
    for keyword, value in (
        ("ImagePositionPatient", position),
        ("ImageOrientationPatient", orientation),
        ("PixelSpacing", pixel_spacing),
    ):
        if value is None:
            raise InputError(f"{header.name} has no {keyword}, so its place is unknown: {_REPLACE}")
    axes = np.asarray(orientation, dtype=np.float64).reshape(2, 3)
    if not np.allclose(axes @ axes.T, np.eye(2), atol=COSINE_TOLERANCE):
        raise InputError(f"{header.name} has an ImageOrientationPatient that is no pair of directions: {_REPLACE}")
    axes = axes / np.linalg.norm(axes, axis=1, keepdims=True)  # rounding of the cosines must not change the spacing
    row, column = pixel_spacing or (0.0, 0.0)
    if not (row > 0 and column > 0):
        raise InputError(f"{header.name} has a PixelSpacing that is not positive: {_REPLACE}")
    full = header.whole("Rows", 1, MAX_SIDE), header.whole("Columns", 1, MAX_SIDE)
    place = np.asarray(position, dtype=np.float64)
    return Frame(header, index, corner, shape or full, place, axes, (row, column), depth, *rescale, marks)


def rescale_of(header: Header, dataset: "Mapping[str, Any] | Dataset | None") -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept; 1 and 0 where MR has none.

    Raises:
        InputError: if a CT or PET has none, one without the other, a slope of zero, or CT values that are no
            Hounsfield units.
    """
    slope = None if dataset is None else header.number_of("RescaleSlope", dataset)
    intercept = None if dataset is None else header.number_of("RescaleIntercept", dataset)
    modality = header.text("Modality").upper()
    if slope is None and intercept is None and modality == "MR":
        return 1.0, 0.0
    if slope is None or intercept is None or slope == 0:
        raise InputError(f"{header.name} has no usable RescaleSlope and RescaleIntercept for {modality}: {_REPLACE}")
    kind = str((dataset.get("RescaleType") if dataset is not None else None) or "HU").strip().upper()
    if modality == "CT" and kind not in ("HU", "US"):  # US: unspecified, which some converters write for HU
        raise InputError(f"{header.name} is a CT whose values are no Hounsfield units: give the scan it was made from")
    return slope, intercept
