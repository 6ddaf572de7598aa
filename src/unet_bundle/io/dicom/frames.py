"""One record for each plane of an image, whatever object it comes in."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from unet_bundle.errors import InputError
from unet_bundle.io.dicom.headers import MAX_SIDE, Header
from unet_bundle.io.dicom.kinds import MODALITIES
from unet_bundle.io.dicom.marks import marks_of

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


def frames_of(header: Header) -> list[Frame]:
    """The planes of an object.

    Raises:
        InputError: if it is coloured, has no pixels, or lacks or contradicts what says where its planes are.
    """
    from unet_bundle.io.dicom.mosaic import check_mosaic, is_mosaic, mosaic_frames
    from unet_bundle.io.dicom.multiframe import is_multiframe, multiframe_frames

    check_image(header)
    check_mosaic(header)
    if is_multiframe(header):
        return multiframe_frames(header)
    if is_mosaic(header):
        return mosaic_frames(header)
    if header.whole("NumberOfFrames", 0, 2**31, default=1) > 1:
        raise InputError(f"{header.name} has several frames without functional groups: {_REPLACE}")
    return [
        make_frame(
            header,
            position=header.numbers("ImagePositionPatient", 3),
            orientation=header.numbers("ImageOrientationPatient", 6),
            pixel_spacing=header.numbers("PixelSpacing", 2),
            depth=header.number_of("SliceThickness"),
            rescale=rescale_of(header, header.dataset),
            marks=marks_of(header.dataset),
        )
    ]


def check_image(header: Header) -> None:
    """Refuse objects whose voxels are no single grey value each, or whose size is none of a plane."""
    if header.text("Modality").upper() not in MODALITIES:  # not shown: in a damaged header it may hold anything
        raise InputError(f"{header.name} has no known Modality: {_REPLACE}")
    photometric = header.text("PhotometricInterpretation").upper()
    coloured = header.text("PixelPresentation").upper() in ("COLOR", "MIXED")
    if (
        coloured
        or header.whole("SamplesPerPixel", 1, 4, default=1) > 1
        or photometric.startswith(("RGB", "YBR", "PAL"))
    ):
        raise InputError(f"{header.name} is a colour image, not one of intensities: give the scan it was made from")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError(f"{header.name} has no known PhotometricInterpretation: {_REPLACE}")
    if photometric == "MONOCHROME1" and header.text("Modality").upper() == "MR":
        raise InputError(f"{header.name} is an inverted MR image (MONOCHROME1): export it as MONOCHROME2")
    if "ModalityLUTSequence" in header.dataset:
        raise InputError(
            f"{header.name} maps its voxels by a table (ModalityLUTSequence): export it with a rescale slope"
        )
    if header.pixel_offset is None:
        raise InputError(f"{header.name} has no pixels: {_REPLACE}")
    if not header.text("PixelRepresentation"):
        raise InputError(
            f"{header.name} has no PixelRepresentation, as images of floating-point numbers: "
            "export it in whole numbers with a rescale slope"
        )
    for side in ("Rows", "Columns"):
        header.whole(side, 1, MAX_SIDE)


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


def rescale_of(header: Header, dataset: "Dataset | None") -> tuple[float, float]:
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
