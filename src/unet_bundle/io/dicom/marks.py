"""What a header says of a plane beside its place: elements by which planes of one series are told apart."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

MEANINGS = (
    *("EchoTime", "EchoNumbers", "DiffusionBValue", "InversionTime", "Units", "RescaleType", "RescaleSlope"),
    *("ComplexImageComponent", "FrameType", "ImageType"),
    *("TemporalPositionIdentifier", "TemporalPositionIndex"),
)
"""Elements that change what a voxel means, the most telling first: planes that differ in one are not one volume."""

MARKS = (
    *(keyword for keyword in MEANINGS if keyword != "RescaleSlope"),
    *("NominalCardiacTriggerDelayTime", "NominalPercentageOfCardiacPhase", "NominalPercentageOfRespiratoryPhase"),
    *("TriggerTime", "TemporalPositionTimeOffset", "FrameReferenceTime", "DiffusionGradientOrientation", "FlipAngle"),
    *("KVP", "ConvolutionKernel"),
    *("StackID", "AcquisitionNumber", "AcquisitionTime"),
)
"""Elements that tell planes at the same position apart, the most telling first.

Those that are no `MEANINGS` may also vary within a volume: acquisitions, tube voltages and kernels of a CT, beds of a
PET, times of 2D slices.
"""

SAME_SETTING = 0.1
"""Relative step up to which sorted times and b-values are one setting: scanners vary them a little between slices."""

_SETTINGS = ("EchoTime", "InversionTime", "DiffusionBValue")
_TEMPORAL = ("TemporalPositionIdentifier", "TemporalPositionIndex")


def texts_of(dataset: "Mapping[str, Any] | Dataset", keyword: str) -> list[str]:
    """An element's values as text, empty where it is missing; numbers in their shortest form.

    Args:
        dataset: to look in.
        keyword: of an element with one value or several.
    """
    value: Any = dataset.get(keyword)
    if value is None or value == "":
        return []
    values = [value] if isinstance(value, (str, bytes, int, float)) or not isinstance(value, Sequence) else value
    return [f"{float(each):.10g}" if isinstance(each, (int, float)) else str(each).strip() for each in values]


def image_type(dataset: "Mapping[str, Any] | Dataset") -> list[str]:
    """The values of ImageType in capitals, also where there is but one."""
    return [part.upper() for part in texts_of(dataset, "ImageType")]


def marks_of(dataset: "Mapping[str, Any] | Dataset") -> dict[str, str]:
    """What a data set says of `MARKS`, as text."""
    found = ((keyword, "\\".join(texts_of(dataset, keyword))) for keyword in MARKS)
    return {keyword: value for keyword, value in found if value}


def meaning_of(keyword: str, value: str, modality: str) -> str:
    """What of a mark counts for the meaning of a voxel; empty where nothing does.

    Args:
        keyword: one of `MEANINGS`.
        value: text of the mark.
        modality: "CT", "MR" or "PT".
    """
    if keyword == "RescaleType" and modality == "CT":
        return ""  # checked to be Hounsfield units, which scanners name in several ways
    if keyword == "FrameType":  # what follows the contrast that a frame was derived for is the maker's
        return "\\".join(value.upper().split("\\")[:4])
    if keyword == "ImageType" and modality != "MR":
        # From the third on the values of CT and PET are the maker's, and differ within true volumes (HELIX, SPI).
        return "\\".join(value.upper().split("\\")[:2])
    return value.upper()


def settings_of(keyword: str, values: Sequence[str]) -> list[str]:
    """Each value of a mark, or the least of those that are the same setting.

    Args:
        keyword: one of `MEANINGS`.
        values: one a plane, empty where a plane has none.
    """
    distinct = set(values)
    if keyword in _TEMPORAL and len(distinct) == len(values):
        return [""] * len(values)  # a time for every slice is the order of a slice-wise scan, not a row of volumes
    if keyword not in _SETTINGS:
        return list(values)
    same: dict[str, str] = {}
    last: str | None = None
    for value in sorted(distinct, key=natural):
        near = last is not None and _is_near(last, value)
        same[value] = same[last] if near and last is not None else value
        last = value
    return [same[value] for value in values]


def _is_near(low: str, high: str) -> bool:
    try:
        return float(high) - float(low) <= SAME_SETTING * abs(float(low))
    except ValueError:
        return False


def natural(value: str) -> tuple[float, str]:
    """Key that sorts numbers by their size, before text."""
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value
