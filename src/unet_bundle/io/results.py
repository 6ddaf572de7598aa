"""Whether a result that is there was made of these very slices."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unet_bundle.errors import InputError
from unet_bundle.io.dicom.record import SourceSeries
from unet_bundle.io.dicom.stack import DISTANCE_TOLERANCE, SHIFT_TOLERANCE_MM
from unet_bundle.io.inspection import grid_of

if TYPE_CHECKING:
    from pydicom import Dataset

_LPS_TO_RAS = (-1, -1, 1)
_REFERRING = ("SourceImageSequence", "ReferencedFrameOfReferenceSequence")
_FRAMES = "PerFrameFunctionalGroupsSequence"


def is_result_of(path: Path, source: SourceSeries) -> bool:
    """Whether a result was made of a series as it is now: not of some of its slices, nor of another of its volumes.

    A DICOM result says which instances it is of. Of another format only the grid is known, so that of another volume of
    the series on the same grid passes.

    Args:
        path: of the result.
        source: the planes that would be read.

    Returns:
        False also if it cannot be read.
    """
    if not path.name.lower().endswith(".dcm"):
        return _lies_on(path, source)
    if referenced_instances(path) != {each.sop_instance_uid for each in source.slices}:
        return False
    frames = {(each.sop_instance_uid, each.frame_number) for each in source.slices}
    whole = all(number is None for _, number in frames)
    return whole or _referenced_frames(path) <= frames


def referenced_instances(path: Path) -> set[str]:
    """SOPInstanceUIDs of the images that a SEG or an RTSTRUCT was made of; none if it cannot be read."""
    return {uid for uid, _ in _references(path, _REFERRING)}


def _referenced_frames(path: Path) -> set[tuple[str, int | None]]:
    """UID and frame number of what a SEG's frames or an RTSTRUCT refer to."""
    return {(uid, number) for uid, number in _references(path, (*_REFERRING[1:], _FRAMES)) if number is not None}


def _references(path: Path, keywords: tuple[str, ...]) -> set[tuple[str, int | None]]:
    import pydicom

    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))
        items = list(_items(dataset))
        return {(str(each.ReferencedSOPInstanceUID), each.get("ReferencedFrameNumber")) for each in items}
    except Exception:  # noqa: BLE001 - pydicom raises many kinds for damaged bytes; all mean the same
        return set()


def _items(dataset: "Dataset") -> Iterator["Dataset"]:
    """The references to images, wherever SEG and RTSTRUCT hold them (PS3.3 C.7.6.16, C.8.20, C.8.8.5)."""
    yield from dataset.get("SourceImageSequence") or []
    for frame in dataset.get(_FRAMES) or []:
        for derivation in frame.get("DerivationImageSequence") or []:
            yield from derivation.get("SourceImageSequence") or []
    for reference in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in reference.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                yield from series.get("ContourImageSequence") or []


def _lies_on(path: Path, source: SourceSeries) -> bool:
    try:
        shape, affine = grid_of(path)
    except InputError:
        return False
    if tuple(shape[:3]) != source.shape:
        return False
    positions = source.positions * _LPS_TO_RAS
    placed = affine[:3, 3] + np.arange(len(positions))[:, None] * affine[:3, 2]
    step = float(np.linalg.norm(affine[:3, 2]))
    return bool(np.abs(placed - positions).max() <= SHIFT_TOLERANCE_MM + DISTANCE_TOLERANCE * step)
