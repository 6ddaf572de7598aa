"""Label maps of DICOM series as DICOM Segmentation objects (PS3.3 A.51), by highdicom."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from unet_bundle import __version__
from unet_bundle.errors import ConfigError, InputError
from unet_bundle.geometry import as_4x4, spacing_of
from unet_bundle.io.algorithm import MANUFACTURER, Algorithm
from unet_bundle.io.dicom.record import SourceSeries
from unet_bundle.io.dicom_seg_frames import FULL, FrameLayout, SegmentationType, save_frames
from unet_bundle.io.label_writer import SeriesWriter
from unet_bundle.io.segments import Code, Segment, code_parts, segments_of
from unet_bundle.io.source_grid import BREAKS_STANDARD, UTF_8, series_number, source_header

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom import Dataset

logging.getLogger("highdicom").setLevel(logging.ERROR)  # it logs what it copies of a header

_SINGLE_FRAME = "1.2.840.10008.5.1.4.1.1.2"


class DicomSegWriter(SeriesWriter):
    """Write a label map as a DICOM SEG that refers to the slices it was made from.

    The object lies on the series' own slices, in their frame of reference, also where reading had to resample them, and
    takes patient and study over from them. Segment numbers are the values of the label map: a class that does not occur
    is described and has no frame, so that the others keep names and numbers. Of an empty result one empty frame is
    written, since an image must have one. The transfer syntax is explicit little endian.

    Args:
        dtype: of the label map, ``"uint8"`` or ``"uint16"``.
        segments: see `unet_bundle.io.segments.segments_of`.
        algorithm: see `unet_bundle.io.algorithm.Algorithm`.
        kind: ``"BINARY"``, ``"LABELMAP"`` (smaller, for newer readers) or ``"FRACTIONAL"`` (each voxel 0 or `FULL`).

    Raises:
        ConfigError: if `kind` is another, or highdicom is not installed.
    """

    output_format = "dicom-seg"

    def __init__(
        self,
        dtype: npt.DTypeLike = np.uint8,
        segments: Mapping[str, Mapping[str, Any]] | None = None,
        algorithm: Mapping[str, Any] | None = None,
        kind: SegmentationType = "BINARY",
    ) -> None:
        if kind not in get_args(SegmentationType):
            raise ConfigError(f"a DICOM SEG is {', '.join(get_args(SegmentationType))}, not {kind!r}")
        try:
            import highdicom  # noqa: F401
        except ImportError:
            raise ConfigError("writing DICOM SEG needs highdicom: pip install 'unet-bundle[dicom]'") from None
        super().__init__(dtype, segments, algorithm)
        self.kind: SegmentationType = kind
        self.depth = 0.0

    def _place(self, meta: Mapping[str, Any]) -> None:
        super()._place(meta)
        self.depth = spacing_of(as_4x4(meta["original_affine"]))[2]

    def _save_result(self, path: Path, source: SourceSeries) -> None:
        planes = np.ascontiguousarray(self.labels.transpose(2, 1, 0))
        segments = segments_of(self.described, planes)
        skeleton = _skeleton(source, source_header(source), segments, self.algorithm, self.kind, self.depth)
        _refer_to(skeleton, source)
        save_frames(skeleton, planes, FrameLayout.of(planes, segments, self.kind), path)


def _skeleton(
    source: SourceSeries,
    header: Dataset,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    kind: SegmentationType,
    depth: float,
) -> Dataset:
    """The object by highdicom, with a frame of one voxel for each plane: all that does not depend on voxels.

    Frames are many (segments times slices), and building and writing each as a pydicom data set takes milliseconds.
    """
    import highdicom as hd
    from pydicom.uid import generate_uid

    numbers = [segment.value for segment in segments]
    if kind != "LABELMAP" and numbers != list(range(1, len(numbers) + 1)):
        raise ConfigError(f"segments have values {numbers}: a DICOM SEG numbers them 1, 2, 3 without a gap")
    name, version = algorithm.name, algorithm.version
    identification = hd.AlgorithmIdentificationSequence(name, _code(algorithm.family), version)
    voxels = np.full((len(source.slices), 1, 1), numbers[0], np.uint16 if numbers[-1] > 255 else np.uint8)
    images = _stand_ins(source, header, depth)
    descriptions = [_description(segment, identification, algorithm.type) for segment in segments]
    try:
        with warnings.catch_warnings():  # of an unusual patient's name highdicom warns with that name
            warnings.simplefilter("ignore", UserWarning)
            return hd.seg.Segmentation(
                source_images=images,
                pixel_array=voxels,
                segmentation_type=kind,
                segment_descriptions=descriptions,
                series_instance_uid=generate_uid(),
                series_number=series_number(header),
                sop_instance_uid=generate_uid(),
                instance_number=1,
                manufacturer=MANUFACTURER,
                manufacturer_model_name=name,
                software_versions=__version__,
                device_serial_number=version,
                fractional_type="OCCUPANCY",
                max_fractional_value=FULL,
                content_label="SEGMENTATION",
                content_description=name,
                content_creator_name=f"{MANUFACTURER}^",
                series_description=f"{name} {version}"[:64],
                content_qualification="RESEARCH",  # no cleared product makes it
            )
    except (ValueError, TypeError, AttributeError):  # their texts may show what stands in the header
        raise InputError(BREAKS_STANDARD) from None


def _stand_ins(source: SourceSeries, header: Dataset, depth: float) -> list[Dataset]:
    """A single-frame image for each plane, whatever object it comes from: what highdicom asks of a source.

    Each has a UID of its own, since planes of multi-frame objects share theirs; `_refer_to` puts the right ones in.
    """
    from pydicom import Dataset
    from pydicom.valuerep import format_number_as_ds

    common = Dataset()
    common.update(header)
    common.SpecificCharacterSet = UTF_8  # texts are decoded by now, whatever they were in
    common.SOPClassUID = _SINGLE_FRAME
    common.Rows = common.Columns = 1
    common.ImageOrientationPatient = [format_number_as_ds(float(cosine)) for cosine in source.orientation]
    common.PixelSpacing = [format_number_as_ds(float(length)) for length in source.pixel_spacing]
    common.SliceThickness = format_number_as_ds(float(depth))
    images = []
    for keyword in ("SOPInstanceUID", "ImagePositionPatient"):  # elements are shared, these differ
        common.pop(keyword, None)
    for number, each in enumerate(source.slices, 1):
        image = Dataset()
        image.update(common)
        image.SOPInstanceUID = _stand_in_uid(number)
        image.ImagePositionPatient = [format_number_as_ds(float(length)) for length in each.position]
        images.append(image)
    return images


def _stand_in_uid(number: int) -> str:
    return f"1.2.{number}"


def _refer_to(skeleton: Dataset, source: SourceSeries) -> None:
    """Put the true objects in the place of the stand-ins, and the planes in the series' order, not in highdicom's."""
    from pydicom import Dataset

    by_uid = {_stand_in_uid(number): each for number, each in enumerate(source.slices, 1)}
    tiled = len({(each.sop_instance_uid, each.frame) for each in source.slices}) < len(source.slices)
    by_plane: dict[int, Dataset] = {}
    for groups in skeleton.PerFrameFunctionalGroupsSequence:
        (reference,) = groups.DerivationImageSequence[0].SourceImageSequence
        by_plane[int(reference.ReferencedSOPInstanceUID.rpartition(".")[2])] = groups
        each = by_uid[reference.ReferencedSOPInstanceUID]
        reference.ReferencedSOPClassUID = each.sop_class_uid
        reference.ReferencedSOPInstanceUID = each.sop_instance_uid
        reference.SpatialLocationsPreserved = "NO" if tiled else "YES"
        if each.frame_number is not None:
            reference.ReferencedFrameNumber = each.frame_number
    skeleton.PerFrameFunctionalGroupsSequence = [by_plane[number] for number in sorted(by_plane)]
    references = []
    for uid, class_uid in {each.sop_instance_uid: each.sop_class_uid for each in source.slices}.items():
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = class_uid, uid
        references.append(reference)
    skeleton.SourceImageSequence = references
    skeleton.ReferencedSeriesSequence[0].ReferencedInstanceSequence = references


def _description(segment: Segment, identification: Any, algorithm_type: str) -> SegmentDescription:
    import highdicom as hd

    codes = segment.codes
    description = hd.seg.SegmentDescription(
        segment_number=segment.value,
        segment_label=segment.label,
        segmented_property_category=_code(codes["category"]),
        segmented_property_type=_code(codes["type"]),
        algorithm_type=algorithm_type,
        algorithm_identification=identification,
        anatomic_regions=[_code(codes["region"])] if "region" in codes else None,
        display_color=hd.color.CIELabColor.from_rgb(*segment.color),
    )
    if "type_modifier" in codes:
        (kind,) = description.SegmentedPropertyTypeCodeSequence
        kind.SegmentedPropertyTypeModifierCodeSequence = [_code(codes["type_modifier"])]
    if "region" in codes and "region_modifier" in codes:
        (region,) = description.AnatomicRegionSequence
        region.AnatomicRegionModifierSequence = [_code(codes["region_modifier"])]
    return description


def _code(code: Code) -> Any:
    import highdicom as hd

    return hd.sr.CodedConcept(*code_parts(code))
