"""Enhanced CT, MR and PET: many planes in one object, placed by functional groups (PS3.3 C.7.6.16)."""

from typing import TYPE_CHECKING

from unet_bundle.errors import InputError
from unet_bundle.io.dicom.frames import Frame, make_frame, rescale_of
from unet_bundle.io.dicom.headers import Header
from unet_bundle.io.dicom.marks import marks_of, texts_of

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

_FRAME_ELEMENTS = (
    "FrameContentSequence.TemporalPositionIndex",
    "FrameContentSequence.StackID",
    "TemporalPositionSequence.TemporalPositionTimeOffset",
    "CardiacSynchronizationSequence.NominalCardiacTriggerDelayTime",
    "CardiacSynchronizationSequence.NominalPercentageOfCardiacPhase",
    "RespiratorySynchronizationSequence.NominalPercentageOfRespiratoryPhase",
    "CTImageFrameTypeSequence.FrameType",
    "MRImageFrameTypeSequence.FrameType",
    "PETFrameTypeSequence.FrameType",
    "MRImageFrameTypeSequence.ComplexImageComponent",
    "MRTimingAndRelatedParametersSequence.FlipAngle",
    "MRDiffusionSequence.DiffusionBValue",
    "MRDiffusionSequence.DiffusionGradientDirectionSequence.DiffusionGradientOrientation",
    "CTXRayDetailsSequence.KVP",
    "CTReconstructionSequence.ConvolutionKernel",
    "PixelValueTransformationSequence.RescaleType",
)
"""Elements of functional groups that are `MARKS` by their own name, and the sequences they stand in."""

_RENAMED = {
    "FrameContentSequence.FrameAcquisitionNumber": "AcquisitionNumber",
    "MREchoSequence.EffectiveEchoTime": "EchoTime",
    "MRModifierSequence.InversionTimes": "InversionTime",
    "RealWorldValueMappingSequence.MeasurementUnitsCodeSequence.CodeValue": "Units",
}
"""The same for elements that are called otherwise in objects of one frame: see `MARKS`."""


_REPLACE = "export the series again from its source"


def is_multiframe(header: Header) -> bool:
    """Whether the planes of an object are placed by functional groups."""
    return header.text("SOPClassUID") in _ENHANCED or "PerFrameFunctionalGroupsSequence" in header.dataset


def multiframe_frames(header: Header) -> list[Frame]:
    """The planes of an enhanced object, each from its own functional groups, else from the shared ones.

    Raises:
        InputError: if there are no functional groups, not one for each frame, or a frame's place is missing.
    """
    try:
        return _frames(header)
    except InputError:
        raise
    except Exception:  # noqa: BLE001 - pydicom converts items when they are asked for: many kinds, all damage
        raise InputError(f"{header.name} cannot be placed, its functional groups are damaged: {_REPLACE}") from None


def _frames(header: Header) -> list[Frame]:
    shared = header.dataset.get("SharedFunctionalGroupsSequence") or []
    frames = header.dataset.get("PerFrameFunctionalGroupsSequence") or []
    count = header.whole("NumberOfFrames", 1, MAX_FRAMES)
    if len(frames) != count:
        raise InputError(
            f"{header.name} has {count} frames but functional groups for {len(frames)}, so where they are is unknown: "
            f"{_REPLACE}"
        )
    common = shared[0] if len(shared) else None
    return [_frame(header, index, groups, common) for index, groups in enumerate(frames)]


def _frame(header: Header, index: int, groups: "Dataset", shared: "Dataset | None") -> Frame:
    plane = _group("PlanePositionSequence", groups, shared)
    orientation = _group("PlaneOrientationSequence", groups, shared)
    measures = _group("PixelMeasuresSequence", groups, shared)
    rescale = _group("PixelValueTransformationSequence", groups, shared)
    return make_frame(
        header,
        index=index,
        position=None if plane is None else header.numbers("ImagePositionPatient", 3, plane),
        orientation=None if orientation is None else header.numbers("ImageOrientationPatient", 6, orientation),
        pixel_spacing=None if measures is None else header.numbers("PixelSpacing", 2, measures),
        depth=None if measures is None else header.number_of("SliceThickness", measures),
        rescale=rescale_of(header, rescale),
        marks={**marks_of(header.values), **_frame_marks(groups, shared)},
    )


def _frame_marks(groups: "Dataset", shared: "Dataset | None") -> dict[str, str]:
    marks = {}
    for path, mark in [*((path, path.rsplit(".", 1)[1]) for path in _FRAME_ELEMENTS), *_RENAMED.items()]:
        sequence, *inner, element = path.split(".")
        item = _group(sequence, groups, shared)
        for name in inner:
            item = None if item is None else _group(name, item, None)
        value = "" if item is None else "\\".join(texts_of(item, element))
        if value:
            marks[mark] = value
    return marks


def _group(name: str, groups: "Dataset", shared: "Dataset | None") -> "Dataset | None":
    for dataset in (groups, shared):
        items = dataset.get(name) if dataset is not None else None
        if items is not None and len(items):
            item: Dataset = items[0]
            return item
    return None
