"""The planes of an object: a file of one plane, a multi-frame object or a mosaic."""

from unet_bundle.errors import InputError
from unet_bundle.io.dicom.frames import Frame, make_frame, rescale_of
from unet_bundle.io.dicom.headers import MAX_SIDE, Header
from unet_bundle.io.dicom.kinds import MODALITIES
from unet_bundle.io.dicom.marks import marks_of
from unet_bundle.io.dicom.mosaic import check_mosaic, is_mosaic, mosaic_frames
from unet_bundle.io.dicom.multiframe import is_multiframe, multiframe_frames

_REPLACE = "export the series again from its source"


def frames_of(header: Header) -> list[Frame]:
    """The planes of an object.

    Raises:
        InputError: if it is coloured, has no pixels, or lacks or contradicts what says where its planes are.
    """
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
            rescale=rescale_of(header, header.values),
            marks=marks_of(header.values),
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
