"""Label maps of DICOM series back on the series' own slices."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.geometry import Affine, as_4x4, lps_to_ras, slices_affine
from unet_bundle.io.dicom.record import SourceSeries
from unet_bundle.io.dicom.resampling import to_source_slices
from unet_bundle.io.dicom.stack import DISTANCE_TOLERANCE, DISTANCE_TOLERANCE_MM

if TYPE_CHECKING:
    from pydicom import Dataset

SOURCE = "dicom_source"
"""Where the metadata hold the record of a DICOM series."""

UTF_8 = "ISO_IR 192"
"""SpecificCharacterSet of results: it holds every patient's name."""

BREAKS_STANDARD = (
    "the DICOM series has patient or study data that break the standard, so no DICOM result can repeat them: "
    "use output_format 'nifti'"
)
"""What is said of a header that cannot be repeated, without a word of it."""

WITHOUT_NUMBER = 1001
"""SeriesNumber of a result whose source has none that leaves room."""

_ONE_DISTANCE = ("nifti", "nrrd", "seg.nrrd")
_LARGEST_IS = 2**31 - 1
_REPEATED = (0x0008, 0x0010, 0x0012, 0x0020)  # groups of patient, study, trial and frame of reference
_LOSSY = (0x00282110, 0x00282112, 0x00282114)  # elements that say how the source was compressed
_TYPE_2 = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
"""Elements of patient and study that must be there, be it empty."""


def is_dicom(meta: Mapping[str, Any]) -> bool:
    """Whether an image was read from a DICOM series."""
    return SOURCE in meta


def source_series(meta: Mapping[str, Any], output_format: str) -> SourceSeries:
    """The planes that an image was read from.

    Args:
        meta: of the image.
        output_format: that needs them, for the message.

    Raises:
        ConfigError: if the image is not of a DICOM series.
    """
    if not is_dicom(meta):
        raise ConfigError(f"output_format {output_format!r} is for DICOM series only: use 'nifti' or 'nrrd'")
    return SourceSeries.from_json(str(meta[SOURCE]))


def on_slices(labels: npt.NDArray[Any], meta: Mapping[str, Any], source: SourceSeries) -> npt.NDArray[Any]:
    """A label map on the grid that the reader gave, on the series' own slices.

    Args:
        labels: [columns, rows, slices].
        meta: with ``original_affine``.
        source: of the same metadata.

    Returns:
        [columns, rows, planes]; where reading resampled nothing, `labels` itself.
    """
    return to_source_slices(labels, as_4x4(meta["original_affine"]), source)


def grid_of_slices(meta: Mapping[str, Any], source: SourceSeries) -> Affine:
    """The affine of the series' own slices, for formats that place them by one: a tilt stands in its third column.

    Args:
        meta: with ``original_affine``.
        source: of the same metadata.

    Returns:
        4x4, voxel index to mm, RAS.

    Raises:
        InputError: if their distances differ, which no affine can say.
    """
    if not source.resampled:
        return as_4x4(meta["original_affine"])
    positions = source.positions
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    off_place = np.abs(positions - positions[0] - step * np.arange(len(positions))[:, None]).max()
    if off_place > max(DISTANCE_TOLERANCE * float(np.linalg.norm(step)), DISTANCE_TOLERANCE_MM):
        raise InputError(
            "the series has unequal slice distances, which NIfTI and NRRD cannot say: "
            "use output_format 'dicom-seg' or 'rtstruct'"
        )
    axes = np.asarray(source.orientation).reshape(2, 3)
    return lps_to_ras(slices_affine(axes, source.pixel_spacing, positions[0], step))


def check_sayable(source: SourceSeries, output_format: str) -> None:
    """Refuse a series whose slices a format cannot place, before the network runs.

    Args:
        source: the planes that are read.
        output_format: one of `unet_bundle.io.FORMATS`.

    Raises:
        InputError: if its slice distances differ and the format has one.
    """
    if source.resampled and output_format in _ONE_DISTANCE:
        grid_of_slices({}, source)


def source_header(source: SourceSeries) -> Dataset:
    """Of the header of a series' first slice what results must repeat: patient, study, trial, frame of reference.

    Raises:
        InputError: if the file cannot be read any more, is damaged there, or lacks what a result must refer to.
    """
    import pydicom

    file = source.slices[0].source
    try:
        contents: Any = file.path if file.member is None else BytesIO(file.read())
        header = pydicom.dcmread(contents, stop_before_pixels=True, force=True)
    except (OSError, pydicom.errors.InvalidDicomError):
        raise InputError("the DICOM series cannot be read again: keep it until its result is written") from None
    _keep_repeated(header)
    _check_referable(header, source)
    for keyword in _TYPE_2:
        if keyword not in header:
            setattr(header, keyword, "")
    return header


def series_number(header: Dataset) -> int:
    """SeriesNumber of a result: that of its source times 100 and 1, as scanners number what they derive."""
    number = header.get("SeriesNumber")
    try:
        number = int(number) * 100 + 1
    except (TypeError, ValueError):
        return WITHOUT_NUMBER
    return number if 0 < number <= _LARGEST_IS else WITHOUT_NUMBER


def _keep_repeated(header: Dataset) -> None:
    for tag in list(header.keys()):
        if tag.group not in _REPEATED and tag not in _LOSSY:
            del header[tag]
    for tag in list(header.keys()):
        try:
            element = header[tag]  # conversion is lazy, and what a damaged value raises may show it
        except Exception:  # noqa: BLE001 - pydicom raises many kinds for damaged values; all mean the same
            raise InputError(BREAKS_STANDARD) from None
        if element.VR in ("DS", "IS") and any(isinstance(each, str) for each in np.atleast_1d(element.value)):
            del header[tag]  # no number, as a weight with its unit


def _check_referable(header: Dataset, source: SourceSeries) -> None:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        if not header.get(keyword):
            raise InputError(
                f"the DICOM series has no {keyword}, so no DICOM result can refer to it: use output_format 'nifti'"
            )
    if not all(each.sop_instance_uid and each.sop_class_uid for each in source.slices):
        raise InputError(
            "the DICOM series has instances without UID, so no DICOM result can refer to it: use output_format 'nifti'"
        )
