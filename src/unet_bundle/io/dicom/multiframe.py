"""Enhanced CT, MR and PET: many planes in one object, placed by functional groups (PS3.3 C.7.6.16)."""

from typing import TYPE_CHECKING

from unet_bundle.errors import InputError
from unet_bundle.io.dicom.frames import Frame, make_frame, marks_of, rescale_of
from unet_bundle.io.dicom.headers import Header

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_FRAMES = 100_000
"""Most frames of one object: more is a damaged header."""

_ENHANCED = (
    *("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"),
    *("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4"),
    *("1.2.840.10008.5.1.4.1.1.130", "1.2.840.10008.5.1.4.1.1.128.1"),
)
"""Enhanced CT, MR and PET Image Storage with their legacy converted kin."""

_MARK_GROUPS = ("FrameContentSequence", "MREchoSequence", "MRDiffusionSequence", "MRImageFrameTypeSequence")


def is_multiframe(header: Header) -> bool:
    """Whether the planes of an object are placed by functional groups."""
    return header.text("SOPClassUID") in _ENHANCED or "PerFrameFunctionalGroupsSequence" in header.dataset


def multiframe_frames(header: Header) -> list[Frame]:
    """The planes of an enhanced object, each from its own functional groups, else from the shared ones.

    Raises:
        InputError: if there are no functional groups, not one for each frame, or a frame's place is missing.
    """
    shared = header.dataset.get("SharedFunctionalGroupsSequence") or []
    frames = header.dataset.get("PerFrameFunctionalGroupsSequence") or []
    count = header.whole("NumberOfFrames", 1, MAX_FRAMES)
    if len(frames) != count:
        raise InputError(
            f"{header.name} has {count} frames but functional groups for {len(frames)}, so where they are is unknown: "
            "export the series again from its source"
        )
    common = shared[0] if len(shared) else None
    return [_frame(header, index, groups, common) for index, groups in enumerate(frames)]


def _frame(header: Header, index: int, groups: "Dataset", shared: "Dataset | None") -> Frame:
    plane = _group("PlanePositionSequence", groups, shared)
    orientation = _group("PlaneOrientationSequence", groups, shared)
    measures = _group("PixelMeasuresSequence", groups, shared)
    rescale = _group("PixelValueTransformationSequence", groups, shared)
    marking = [_group(name, groups, shared) for name in _MARK_GROUPS]
    marks = marks_of(*[each for each in marking if each is not None], header.dataset)
    for own, name in (("EffectiveEchoTime", "EchoTime"), ("FrameAcquisitionNumber", "AcquisitionNumber")):
        value = next((each.get(own) for each in marking if each is not None and each.get(own) is not None), None)
        if value is not None:
            marks[name] = str(value)
    return make_frame(
        header,
        index=index,
        position=None if plane is None else header.numbers("ImagePositionPatient", 3, plane),
        orientation=None if orientation is None else header.numbers("ImageOrientationPatient", 6, orientation),
        pixel_spacing=None if measures is None else header.numbers("PixelSpacing", 2, measures),
        depth=None if measures is None else header.number_of("SliceThickness", measures),
        rescale=rescale_of(header, rescale),
        marks=marks,
    )


def _group(name: str, groups: "Dataset", shared: "Dataset | None") -> "Dataset | None":
    for dataset in (groups, shared):
        items = dataset.get(name) if dataset is not None else None
        if items is not None and len(items):
            item: Dataset = items[0]
            return item
    return None
