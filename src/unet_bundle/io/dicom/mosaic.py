"""Siemens mosaics: all planes of a volume side by side in one picture, placed by the private CSA header.

Method: nibabel's notes on Siemens mosaics (nibabel.org/nipy/dicom/dicom_mosaic): ImagePositionPatient belongs to a
picture of the mosaic's size around the centre of the first plane, so it is moved by half the difference of the sizes.
"""

import io
import math
import warnings
from typing import Any

import numpy as np

from unet_bundle.errors import InputError
from unet_bundle.io.dicom.frames import Frame, Vector, make_frame, rescale_of
from unet_bundle.io.dicom.headers import Header
from unet_bundle.io.dicom.marks import image_type, marks_of
from unet_bundle.io.dicom.multiframe import is_multiframe
from unet_bundle.io.dicom.parsing import DEFLATED, inflated

NORMAL_TOLERANCE = 1e-3
"""How far the CSA header's SliceNormalVector (single precision) may be from the planes' normal."""

MAX_TILES = 1024
"""Most planes in a mosaic."""

_OTHER_MOSAIC = "VFRAME"
"""Value of ImageType of United Imaging's mosaics (github.com/rordenlab/dcm2niix/issues/225)."""

_EXPORT = "export it as enhanced MR or as single slices"


def is_mosaic(header: Header) -> bool:
    """Whether the image type says that the picture is a mosaic."""
    return "MOSAIC" in image_type(header.values)


def check_mosaic(header: Header) -> None:
    """Refuse mosaics that are not taken apart: one picture of many planes would be one plane.

    Those of Siemens are, see `mosaic_frames`, but not in an enhanced object. Of one with several frames the scanner
    itself took the mosaics apart and left the word.

    Raises:
        InputError: if it is one.
    """
    if header.whole("NumberOfFrames", 0, 2**31, default=1) > 1:
        return
    if _OTHER_MOSAIC in image_type(header.values) or (is_mosaic(header) and is_multiframe(header)):
        raise InputError(f"{header.name} is a mosaic that is not read: {_EXPORT}")


def mosaic_frames(header: Header) -> list[Frame]:
    """The planes of a mosaic.

    Raises:
        InputError: if the CSA header, or something needed in it, is missing or contradicts the rest.
    """
    tags = _csa_tags(header)
    count = _numbers(tags, "NumberOfImagesInMosaic", 1)
    csa_normal = _numbers(tags, "SliceNormalVector", 3)
    distance = header.number_of("SpacingBetweenSlices") or 0.0
    if csa_normal is None or count is None or count[0] not in range(1, MAX_TILES + 1) or distance <= 0:
        raise InputError(
            f"{header.name} is a Siemens mosaic without a usable CSA header (or SpacingBetweenSlices): {_EXPORT}"
        )
    tiles = int(count[0])
    side = math.ceil(math.sqrt(tiles))
    rows, columns = header.whole("Rows", 1, 2**16), header.whole("Columns", 1, 2**16)
    if rows % side or columns % side:
        raise InputError(f"{header.name} is a Siemens mosaic whose sides do not divide by {side}: {_EXPORT}")
    first = make_frame(
        header,
        position=header.numbers("ImagePositionPatient", 3),
        orientation=header.numbers("ImageOrientationPatient", 6),
        pixel_spacing=header.numbers("PixelSpacing", 2),
        depth=distance,
        rescale=rescale_of(header, header.values),
        marks=marks_of(header.values),
        shape=(rows // side, columns // side),
    )
    direction = math.copysign(1, csa_normal @ first.normal)
    if np.abs(csa_normal - direction * first.normal).max() > NORMAL_TOLERANCE:
        raise InputError(f"{header.name} is a Siemens mosaic whose CSA header has another orientation: {_EXPORT}")
    step = direction * distance * first.normal
    tile_rows, tile_columns = first.shape
    shift = (columns - tile_columns) / 2 * first.pixel_spacing[1] * first.orientation[0]
    shift = shift + (rows - tile_rows) / 2 * first.pixel_spacing[0] * first.orientation[1]
    return [
        Frame(
            header,
            0,
            (number // side * tile_rows, number % side * tile_columns),
            first.shape,
            first.position + shift + number * step,
            first.orientation,
            first.pixel_spacing,
            distance,
            first.slope,
            first.intercept,
            first.marks,
        )
        for number in range(tiles)
    ]


def _csa_tags(header: Header) -> dict[str, Any]:
    """Tags of the CSA image header, empty where there is none that can be read."""
    import pydicom

    with warnings.catch_warnings():  # nibabel calls all its DICOM readers experimental; this one is checked here
        warnings.simplefilter("ignore")
        from nibabel.nicom import csareader

    try:
        contents = header.source.read()
        if header.transfer_syntax == DEFLATED:
            contents = inflated(contents)
        private = list(range(0x00290010, 0x00290100)) + list(range(0x00291010, 0x0029FF11, 0x100))
        dataset = pydicom.dcmread(io.BytesIO(contents), stop_before_pixels=True, specific_tags=private, force=True)
        found = csareader.get_csa_header(dataset, "image")
        return dict(found["tags"]) if found else {}
    except Exception:  # noqa: BLE001 - a damaged private element fails in many ways
        return {}


def _numbers(tags: dict[str, Any], name: str, count: int) -> Vector | None:
    """A tag as `count` finite numbers, None where it is missing or has others."""
    try:
        values = np.array(tags.get(name, {}).get("items", []), dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return values if values.shape == (count,) and np.isfinite(values).all() else None
