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
from unet_bundle.io.dicom.frames import Frame, make_frame, marks_of, rescale_of
from unet_bundle.io.dicom.headers import DEFLATED, Header, inflated

NORMAL_TOLERANCE = 1e-3
"""How far the CSA header's SliceNormalVector (single precision) may be from the planes' normal."""

MAX_TILES = 1024
"""Most planes in a mosaic."""

_EXPORT = "export it as enhanced MR or as single slices"


def is_mosaic(header: Header) -> bool:
    """Whether the image type says that the picture is a mosaic."""
    return "MOSAIC" in [part.upper() for part in header.dataset.get("ImageType") or []]


def mosaic_frames(header: Header) -> list[Frame]:
    """The planes of a mosaic.

    Raises:
        InputError: if the CSA header, or something needed in it, is missing or contradicts the rest.
    """
    tags = _csa_tags(header)
    count = _items(tags, "NumberOfImagesInMosaic")
    csa_normal = np.asarray(_items(tags, "SliceNormalVector"), dtype=np.float64)
    distance = header.number_of("SpacingBetweenSlices")
    if (
        len(count) != 1
        or not 1 <= int(count[0]) <= MAX_TILES
        or csa_normal.shape != (3,)
        or not distance
        or distance < 0
    ):
        raise InputError(
            f"{header.name} is a Siemens mosaic without a usable CSA header (or SpacingBetweenSlices): {_EXPORT}"
        )
    side = math.ceil(math.sqrt(int(count[0])))
    rows, columns = header.whole("Rows", 1, 2**16), header.whole("Columns", 1, 2**16)
    if rows % side or columns % side:
        raise InputError(f"{header.name} is a Siemens mosaic whose sides do not divide by {side}: {_EXPORT}")
    first = make_frame(
        header,
        position=header.numbers("ImagePositionPatient", 3),
        orientation=header.numbers("ImageOrientationPatient", 6),
        pixel_spacing=header.numbers("PixelSpacing", 2),
        depth=distance,
        rescale=rescale_of(header, header.dataset),
        marks=marks_of(header.dataset),
        shape=(rows // side, columns // side),
    )
    turned = float(csa_normal @ first.normal)
    if abs(abs(turned) - 1) > NORMAL_TOLERANCE:
        raise InputError(f"{header.name} is a Siemens mosaic whose CSA header has another orientation: {_EXPORT}")
    step = math.copysign(distance, turned) * first.normal
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
        for number in range(int(count[0]))
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


def _items(tags: dict[str, Any], name: str) -> list[Any]:
    return list(tags.get(name, {}).get("items", []))
