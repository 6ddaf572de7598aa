"""Label maps of DICOM series as contours, in an RT Structure Set (PS3.3 A.19)."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unet_bundle import __version__
from unet_bundle.errors import ConfigError
from unet_bundle.io.algorithm import MANUFACTURER, Algorithm
from unet_bundle.io.dicom.record import SourceSeries, SourceSlice
from unet_bundle.io.label_writer import SeriesWriter
from unet_bundle.io.segments import ANATOMY, Code, Segment, code_parts, segments_of
from unet_bundle.io.source_grid import UTF_8, series_number, source_header

if TYPE_CHECKING:
    from pydicom import Dataset

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
STUDY_COMPONENT = "1.2.840.10008.3.1.2.3.1"
"""SOP class that a structure set refers to its study by; retired, and demanded still."""

DECIMALS = 4
"""Of a contour's coordinates in mm."""

_ANATOMICAL = (ANATOMY["value"], "123037004")  # the second is what older lists have for it
_SHORT_CODE = 16  # letters of CodeValue; a longer one is a LongCodeValue (PS3.3 8.1)
_PATIENT = (0x0010, 0x0012)  # groups of patient and trial, with the marks of de-identification
_STUDY = (
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription"),
    *("ReferringPhysicianName", "AccessionNumber"),
)

Polygon = npt.NDArray[np.float64]


class RtStructWriter(SeriesWriter):
    """Write a label map as closed contours in the planes of the series it was made from.

    A contour runs half way between the voxels inside and those outside, so that every voxel's centre lies on its side.
    Holes are reached through a channel of no width (the keyhole technique of PS3.3 C.8.8.6.3), so any rule of filling
    gives the same voxels. A class that does not occur is a structure without contours.

    Args:
        dtype: of the label map, ``"uint8"`` or ``"uint16"``.
        segments: see `unet_bundle.io.segments.segments_of`.
        algorithm: what made the label map, see `unet_bundle.io.algorithm.Algorithm.of`.

    Raises:
        ConfigError: if contourpy or pydicom is not installed.
    """

    output_format = "rtstruct"

    def __init__(
        self,
        dtype: npt.DTypeLike = np.uint8,
        segments: Mapping[str, Mapping[str, Any]] | None = None,
        algorithm: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import contourpy  # noqa: F401
            import pydicom  # noqa: F401
        except ImportError:
            raise ConfigError("writing RTSTRUCT needs more packages: pip install 'unet-bundle[rtstruct]'") from None
        super().__init__(dtype, segments, algorithm)

    def _save_result(self, path: Path, source: SourceSeries) -> None:
        planes = self.labels.transpose(2, 1, 0)
        dataset = _structure_set(source_header(source), source, self.algorithm)
        for segment in segments_of(self.described, planes):
            _add_structure(dataset, segment, source, planes, self.algorithm)
        dataset.save_as(path, enforce_file_format=True)


def contours_of(mask: npt.NDArray[np.bool_]) -> Iterator[Polygon]:
    """Closed contours round the voxels of a plane.

    Args:
        mask: [rows, columns].

    Yields:
        Corners [points, 2] as column and row, the last not the first again.
    """
    from contourpy import FillType, contour_generator

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return
    # Within the voxels' own box and one voxel round it, so that contours close at the edge of the picture, too.
    box = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1).astype(np.float64)
    filled: Any = contour_generator(z=box, fill_type=FillType.OuterOffset).filled(0.5, 2.0)
    for points, offsets in zip(*filled, strict=True):
        rings = [_corners(points[start : end - 1]) for start, end in itertools.pairwise(offsets)]
        yield _with_keyholes(rings) + np.array([columns[0] - 1, rows[0] - 1])


def _corners(ring: Polygon) -> Polygon:
    """The ring without points in the middle of straight lines."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return ring[np.abs(turns) > 1e-9]


def _with_keyholes(rings: Sequence[Polygon]) -> Polygon:
    """The outer ring and its holes as one, each hole joined where it is nearest: there and back by the same line."""
    outline, *holes = rings
    for hole in holes:
        distances = np.linalg.norm(outline[:, None] - hole[None], axis=2)
        at, start = np.unravel_index(int(distances.argmin()), distances.shape)
        around = np.roll(hole, -int(start), axis=0)
        outline = np.concatenate([outline[: at + 1], around, around[:1], outline[at:]])
    return outline


def _structure_set(header: Dataset, source: SourceSeries, algorithm: Algorithm) -> Dataset:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, generate_uid

    now = dt.datetime.now().astimezone()  # of the clock on the wall, as the study's own times
    dataset = Dataset()
    dataset.SpecificCharacterSet = UTF_8  # texts are decoded by now, whatever they were in
    for element in header:
        if element.tag.group in _PATIENT or element.keyword in _STUDY:
            dataset.add(element)
    dataset.file_meta = FileMetaDataset()
    # In an explicit one ContourData (DS) must be below 64 KB, some 2,000 points.
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = RT_STRUCTURE_SET, generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SeriesNumber = (
        "RTSTRUCT",
        generate_uid(),
        series_number(header),
    )
    dataset.SeriesDescription, dataset.OperatorsName = f"{algorithm.name} {algorithm.version}"[:64], ""
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, algorithm.name
    dataset.SoftwareVersions, dataset.InstanceNumber = __version__, 1
    dataset.ContentQualification = "RESEARCH"  # no cleared product makes it
    dataset.InstanceCreationDate = dataset.StructureSetDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = dataset.StructureSetTime = now.strftime("%H%M%S")
    dataset.StructureSetLabel, dataset.ApprovalStatus = "SEGMENTATION", "UNAPPROVED"
    dataset.FrameOfReferenceUID = header.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = header.get("PositionReferenceIndicator", "")
    images = {(each.sop_instance_uid, each.frame_number): each for each in source.slices}  # tiles share theirs
    series = _item(
        SeriesInstanceUID=header.SeriesInstanceUID,
        ContourImageSequence=[_reference(each) for each in images.values()],
    )
    study = _item(
        ReferencedSOPClassUID=STUDY_COMPONENT,
        ReferencedSOPInstanceUID=header.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    dataset.ReferencedFrameOfReferenceSequence = [
        _item(FrameOfReferenceUID=header.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    ]
    dataset.StructureSetROISequence, dataset.ROIContourSequence, dataset.RTROIObservationsSequence = [], [], []
    return dataset


def _add_structure(
    dataset: Dataset,
    segment: Segment,
    source: SourceSeries,
    planes: npt.NDArray[Any],
    algorithm: Algorithm,
) -> None:
    structure = _item(
        ROINumber=segment.value,
        ReferencedFrameOfReferenceUID=dataset.FrameOfReferenceUID,
        ROIName=segment.label,
        ROIGenerationAlgorithm=algorithm.type,
        ROIGenerationDescription=f"{algorithm.name} {algorithm.version}"[:64],
        ROIDerivationAlgorithmIdentificationSequence=[
            _item(
                AlgorithmFamilyCodeSequence=[_coded(algorithm.family)],
                AlgorithmName=algorithm.name,
                AlgorithmVersion=algorithm.version,
            )
        ],
    )
    contours = []
    axes = np.asarray(source.orientation).reshape(2, 3)
    per_index = np.stack([axes[0] * source.pixel_spacing[1], axes[1] * source.pixel_spacing[0]])
    for plane, each in zip(planes, source.slices, strict=True):
        for polygon in contours_of(plane == segment.value):
            points = np.asarray(each.position) + polygon @ per_index
            contours.append(
                _item(
                    ContourImageSequence=[_reference(each)],
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(points),
                    ContourData=[format(length, f".{DECIMALS}f") for length in points.ravel()],
                )
            )
    contour = _item(ROIDisplayColor=list(segment.color), ReferencedROINumber=segment.value)
    if contours:
        contour.ContourSequence = contours
    observation = _item(
        ObservationNumber=segment.value,
        ReferencedROINumber=segment.value,
        RTROIIdentificationCodeSequence=[_coded(segment.codes["type"])],
        RTROIInterpretedType="ORGAN" if segment.codes["category"].get("value") in _ANATOMICAL else "",
        ROIInterpreter="",
    )
    dataset.StructureSetROISequence.append(structure)
    dataset.ROIContourSequence.append(contour)
    dataset.RTROIObservationsSequence.append(observation)


def _reference(each: SourceSlice) -> Dataset:
    reference = _item(ReferencedSOPClassUID=each.sop_class_uid, ReferencedSOPInstanceUID=each.sop_instance_uid)
    if each.frame_number is not None:
        reference.ReferencedFrameNumber = each.frame_number
    return reference


def _coded(code: Code) -> Dataset:
    value, scheme, meaning = code_parts(code)
    item = _item(CodingSchemeDesignator=scheme, CodeMeaning=meaning)
    setattr(item, "CodeValue" if len(value) <= _SHORT_CODE else "LongCodeValue", value)
    return item


def _item(**elements: Any) -> Dataset:
    from pydicom import Dataset

    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset
