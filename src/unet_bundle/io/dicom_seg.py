"""Label maps of DICOM series as DICOM Segmentation objects (PS3.3 A.51), by highdicom."""

from __future__ import annotations

import logging
import math
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, get_args

import numpy as np
import numpy.typing as npt

from unet_bundle import __version__
from unet_bundle.errors import ConfigError, InputError
from unet_bundle.geometry import as_4x4, spacing_of
from unet_bundle.io.dicom.record import SourceSeries
from unet_bundle.io.label_writer import SeriesWriter
from unet_bundle.io.segments import ARTIFICIAL_INTELLIGENCE, Code, Segment, segments_of
from unet_bundle.io.source_grid import UTF_8, source_header

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom import Dataset

logging.getLogger("highdicom").setLevel(logging.ERROR)  # it logs what it copies of a header

SegmentationType = Literal["BINARY", "LABELMAP", "FRACTIONAL"]

MANUFACTURER = "unet-bundle"
FULL = 255
"""MaximumFractionalValue: what a voxel that lies wholly in its segment has in a FRACTIONAL object."""

MAX_PIXEL_BYTES = 2**32 - 2
"""Longest pixel data that a native transfer syntax can hold."""

_REPEATED = (0x0008, 0x0010, 0x0012, 0x0020)  # groups of patient, study, trial and frame of reference
_SINGLE_FRAME = "1.2.840.10008.5.1.4.1.1.2"
_FRAME_GROUPS, _PIXEL_DATA = (0x5200, 0x9230), (0x7FE0, 0x0010)
_INDEX_VALUES = b"\x20\x00\x57\x91UL"  # tag and value representation, before the length of two bytes
_SEGMENT_NUMBER = b"\x62\x00\x0b\x00US"


class DicomSegWriter(SeriesWriter):
    """Write a label map as a DICOM SEG that refers to the slices it was made from.

    The object lies on the series' own slices, in their frame of reference, also where reading had to resample them, and
    takes patient and study over from them. Segment numbers are the values of the label map: a class that does not occur
    is described and has no frame, so that the others keep names and numbers. Of an empty result one empty frame is
    written, since an image must have one. The transfer syntax is explicit little endian.

    Args:
        dtype: of the label map, ``"uint8"`` or ``"uint16"``.
        segments: see `unet_bundle.io.segments.segments_of`.
        algorithm: ``name``, ``version`` and, as a coded term, ``family``; see `ARTIFICIAL_INTELLIGENCE`.
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
        _save(skeleton, planes, _Layout.of(planes, segments, self.kind), path)


@dataclass(frozen=True)
class _Layout:
    """Which frames an object has: for each its segment (0: all) and its plane, in their order."""

    kind: SegmentationType
    dtype: np.dtype[Any]
    frames: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, planes: npt.NDArray[Any], segments: Sequence[Segment], kind: SegmentationType) -> _Layout:
        present = [np.bincount(plane.ravel(), minlength=segments[-1].value + 1) > 0 for plane in planes]
        dtype = np.dtype("<u1")
        if kind == "LABELMAP":
            frames = [(0, index) for index, found in enumerate(present) if found[1:].any()]
            dtype = np.dtype("<u1" if segments[-1].value < 256 else "<u2")
        else:
            frames = [
                (each.value, index) for each in segments for index, found in enumerate(present) if found[each.value]
            ]
        empty = (0 if kind == "LABELMAP" else segments[0].value, 0)
        return cls(kind, dtype, tuple(frames) or (empty,))

    @property
    def bits(self) -> int:
        """Bits of a voxel."""
        return 1 if self.kind == "BINARY" else 8 * self.dtype.itemsize

    def pixels(self, planes: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
        """Voxels of each frame, flat; of BINARY 0 and 1, not yet packed."""
        for segment, index in self.frames:
            if self.kind == "LABELMAP":
                yield planes[index].astype(self.dtype).ravel()
            else:
                inside = (planes[index] == segment).view(np.uint8).ravel()
                yield inside if self.bits == 1 else inside * np.uint8(FULL)


def _skeleton(
    source: SourceSeries,
    header: Dataset,
    segments: Sequence[Segment],
    algorithm: Mapping[str, Any],
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
    name, version = str(algorithm.get("name") or MANUFACTURER)[:64], str(algorithm.get("version") or __version__)
    identification = hd.AlgorithmIdentificationSequence(
        name, _code(algorithm.get("family") or ARTIFICIAL_INTELLIGENCE), version
    )
    voxels = np.full((len(source.slices), 1, 1), numbers[0], np.uint16 if numbers[-1] > 255 else np.uint8)
    images = _stand_ins(source, header, depth)
    descriptions = [_description(segment, identification) for segment in segments]
    try:
        with warnings.catch_warnings():  # of an unusual patient's name highdicom warns with that name
            warnings.simplefilter("ignore", UserWarning)
            return hd.seg.Segmentation(
                source_images=images,
                pixel_array=voxels,
                segmentation_type=kind,
                segment_descriptions=descriptions,
                series_instance_uid=generate_uid(),
                series_number=1,
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
            )
    except (ValueError, TypeError, AttributeError):  # their texts may show what stands in the header
        raise InputError(
            "the DICOM series has patient or study data that break the standard, so no DICOM SEG can repeat them: "
            "use output_format 'nifti'"
        ) from None


def _stand_ins(source: SourceSeries, header: Dataset, depth: float) -> list[Dataset]:
    """A single-frame image for each plane, whatever object it comes from: what highdicom asks of a source.

    Each has a UID of its own, since planes of multi-frame objects share theirs; `_refer_to` puts the right ones in.
    """
    from pydicom import Dataset
    from pydicom.valuerep import format_number_as_ds

    common = Dataset()
    for element in header:
        if element.tag.group in _REPEATED or element.keyword.startswith("LossyImageCompression"):
            common.add(element)
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
    shared = len({each.sop_instance_uid for each in source.slices}) < len(source.slices)
    tiled = len({(each.sop_instance_uid, each.frame) for each in source.slices}) < len(source.slices)
    by_plane: dict[int, Dataset] = {}
    for groups in skeleton.PerFrameFunctionalGroupsSequence:
        (reference,) = groups.DerivationImageSequence[0].SourceImageSequence
        by_plane[int(reference.ReferencedSOPInstanceUID.rpartition(".")[2])] = groups
        each = by_uid[reference.ReferencedSOPInstanceUID]
        reference.ReferencedSOPClassUID = each.sop_class_uid
        reference.ReferencedSOPInstanceUID = each.sop_instance_uid
        reference.SpatialLocationsPreserved = "NO" if tiled else "YES"
        if shared and not tiled:
            reference.ReferencedFrameNumber = each.frame + 1
    skeleton.PerFrameFunctionalGroupsSequence = [by_plane[number] for number in sorted(by_plane)]
    references = []
    for uid, class_uid in {each.sop_instance_uid: each.sop_class_uid for each in source.slices}.items():
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = class_uid, uid
        references.append(reference)
    skeleton.SourceImageSequence = references
    skeleton.ReferencedSeriesSequence[0].ReferencedInstanceSequence = references


def _description(segment: Segment, identification: Any) -> SegmentDescription:
    import highdicom as hd

    codes = segment.codes
    description = hd.seg.SegmentDescription(
        segment_number=segment.value,
        segment_label=segment.label,
        segmented_property_category=_code(codes["category"]),
        segmented_property_type=_code(codes["type"]),
        algorithm_type="AUTOMATIC",
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

    try:
        return hd.sr.CodedConcept(str(code["value"]), str(code["scheme"]), str(code["meaning"]))
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{code!r} is no coded term: give value, scheme and meaning, of 64 letters at most") from None


def _save(skeleton: Dataset, planes: npt.NDArray[Any], layout: _Layout, path: Path) -> None:
    """The skeleton without frames by pydicom, and behind it the frames, one after the other."""
    rows, columns = planes.shape[1:]
    length = math.ceil(len(layout.frames) * rows * columns * layout.bits / 8)
    if length > MAX_PIXEL_BYTES:
        raise InputError(
            f"a {layout.kind} segmentation of {len(layout.frames)} frames is above the 4 GB that DICOM can hold: "
            "use output_format 'dicom-seg-labelmap'"
        )
    items = _frame_items(skeleton, layout)
    skeleton.Rows, skeleton.Columns, skeleton.NumberOfFrames = rows, columns, len(layout.frames)
    for keyword in ("PerFrameFunctionalGroupsSequence", "PixelData", "DimensionOrganizationType"):
        if keyword in skeleton:
            delattr(skeleton, keyword)
    skeleton.save_as(path)
    with path.open("ab") as file:
        file.write(_element(_FRAME_GROUPS, b"SQ", sum(map(len, items))))
        file.writelines(items)
        file.write(_element(_PIXEL_DATA, b"OB" if layout.bits <= 8 else b"OW", length + length % 2))
        written = _write_bits(file, layout.pixels(planes)) if layout.bits == 1 else _write(file, layout.pixels(planes))
        file.write(bytes(written % 2))


def _element(tag: tuple[int, int], representation: bytes, length: int) -> bytes:
    """Start of an element in explicit little endian with a length of four bytes."""
    return struct.pack("<HH2s2xI", *tag, representation, length)


def _write(file: BinaryIO, frames: Iterator[npt.NDArray[Any]]) -> int:
    return sum(file.write(frame.tobytes()) for frame in frames)


def _write_bits(file: BinaryIO, frames: Iterator[npt.NDArray[Any]]) -> int:
    """Write voxels as bits, the first the lowest; a frame begins in the byte where the last ended (PS3.5 8.2)."""
    rest = np.empty(0, np.uint8)
    written = 0
    for frame in frames:
        voxels = np.concatenate([rest, frame]) if rest.size else frame
        whole = voxels.size // 8 * 8
        written += file.write(np.packbits(voxels[:whole], bitorder="little").tobytes())
        rest = voxels[whole:]
    return written + file.write(np.packbits(rest, bitorder="little").tobytes())


def _frame_items(skeleton: Dataset, layout: _Layout) -> list[bytes]:
    """The functional groups of every frame, as items of a sequence: those of its plane, with its numbers put in."""
    templates = [_item(groups) for groups in skeleton.PerFrameFunctionalGroupsSequence]
    used = sorted({index for _, index in layout.frames})
    place = {index: number for number, index in enumerate(used, 1)}
    items = []
    for segment, index in layout.frames:
        item = bytearray(templates[index])
        # Dimension indices: the segment's number, and the plane's place among those that have a frame.
        values = [place[index]] if layout.kind == "LABELMAP" else [segment, place[index]]
        _put(item, _INDEX_VALUES, np.array(values, "<u4").tobytes())
        if _SEGMENT_NUMBER in item:  # of a single segment it stands in the shared groups
            _put(item, _SEGMENT_NUMBER, segment.to_bytes(2, "little"))
        items.append(bytes(item))
    return items


def _put(item: bytearray, element: bytes, value: bytes) -> None:
    start = item.index(element + len(value).to_bytes(2, "little")) + len(element) + 2
    item[start : start + len(value)] = value


def _item(dataset: Dataset) -> bytes:
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_sequence_item

    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_sequence_item(buffer, dataset, ["iso8859"])
    return bytes(buffer.getvalue())
