"""The formats of results: which one a scan's gets, and what its file is called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unet_bundle.errors import ConfigError
from unet_bundle.io.layouts import case_name
from unet_bundle.io.planes import is_picture

AUTO, NIFTI, PNG, DICOM_SEG, RTSTRUCT = "auto", "nifti", "png", "dicom-seg", "rtstruct"

SUFFIXES = {
    NIFTI: ".nii.gz",
    "nrrd": ".nrrd",
    "seg.nrrd": ".seg.nrrd",
    DICOM_SEG: ".dcm",
    "dicom-seg-labelmap": ".labelmap.dcm",
    "dicom-seg-fractional": ".fractional.dcm",
    RTSTRUCT: ".rtstruct.dcm",
}
"""Ending of a file in each format that a volume's result can have; all differ, so that one never passes for another."""

FORMATS = (AUTO, *SUFFIXES)
"""What ``output_format`` may be. ``"auto"``: of pictures PNG, of DICOM series DICOM SEG, of all other scans NIfTI, and
also of a DICOM series that lacks what a SEG must refer to: study, frame of reference, UIDs."""

PICTURE_SUFFIX = ".png"


def check_format(output_format: str) -> str:
    """The format itself.

    Raises:
        ConfigError: if it is none of `FORMATS`.
    """
    if output_format not in FORMATS:
        raise ConfigError(f"output_format is {output_format!r}: it must be one of {', '.join(FORMATS)}")
    return output_format


def format_for(output_format: str, source: str | Path, *, dicom: bool) -> str:
    """The format that a scan's result is written in.

    Args:
        output_format: one of `FORMATS`.
        source: of the scan.
        dicom: whether it is a DICOM series.

    Raises:
        ConfigError: if the scan cannot have a result in that format.
    """
    picture = not dicom and is_picture(source)
    if check_format(output_format) == AUTO:
        return DICOM_SEG if dicom else PNG if picture else NIFTI
    if picture:
        raise ConfigError(f"output_format is {output_format!r}, but results of pictures are PNG: leave it 'auto'")
    if not dicom and output_format.startswith((DICOM_SEG, RTSTRUCT)):
        raise ConfigError(
            f"output_format {output_format!r} is for DICOM series only, {Path(source).name} is none: "
            "use 'nifti', 'nrrd' or 'seg.nrrd'"
        )
    return output_format


def output_name(
    image_path: str | Path | Sequence[str],
    output_postfix: str = "seg",
    output_format: str = AUTO,
    *,
    dicom: bool = False,
) -> str:
    """File name of the label map of a scan: ``"liver_004.nii"`` gives ``"liver_004_seg.nii.gz"``, a TIFF or PNG a PNG.

    Args:
        image_path: of the scan, or of its channels; of a DICOM series its UID, since a folder may be a patient's.
        output_postfix: put behind the case's name.
        output_format: one of `FORMATS`.
        dicom: whether the scan is a DICOM series.

    Raises:
        ConfigError: if the scan cannot have a result in that format.
    """
    first = image_path if isinstance(image_path, (str, Path)) else image_path[0]
    chosen = format_for(output_format, first, dicom=dicom)
    name = str(first) if dicom else case_name(image_path)
    return f"{name}{f'_{output_postfix}' if output_postfix else ''}{suffix_of(chosen)}"


def suffix_of(chosen: str) -> str:
    """Ending of a file in a format that `format_for` gave."""
    return SUFFIXES.get(chosen, PICTURE_SUFFIX)
