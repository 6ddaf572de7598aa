"""From a heap of objects to volumes: by series, then by what one series may mix."""

import hashlib
import logging
import re
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from unet_bundle.errors import InputError
from unet_bundle.geometry import format_shape
from unet_bundle.io.dicom.frames import Frame
from unet_bundle.io.dicom.headers import Header
from unet_bundle.io.dicom.kinds import MODALITIES, has_place, is_localizer, left_out
from unet_bundle.io.dicom.objects import frames_of
from unet_bundle.io.dicom.splitting import split_meanings, split_repeats

logger = logging.getLogger(__name__)

ORIENTATION_TOLERANCE = 1e-4
"""Difference of direction cosines up to which planes are parallel: 0.03 mm at 300 mm from the first voxel."""

PIXEL_SPACING_TOLERANCE = 1e-4
"""Relative difference of pixel spacings up to which they are the same: rounding of decimal strings."""

MAX_CLUSTERS = 100
"""Most orientations, sizes and pixel spacings of one series: planes round an axis have more, and are no volume."""

_UID = re.compile(
    r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*"
)  # in a damaged header an element may hold another's text, also a name

UID_ENDING = 12
"""How many characters of a series UID messages show."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Planes of one series that belong together, not yet checked as a stack.

    Attributes:
        headers: of the objects it comes from.
        frames: the planes, in no order; empty where they could not be told.
        mark: what tells it from the other volumes of its series, for people; empty if nothing has to.
        problem: why it cannot be read, found while grouping; None if nothing was found.
    """

    headers: tuple[Header, ...]
    frames: tuple[Frame, ...]
    mark: str = ""
    problem: InputError | None = None

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID, empty if the files have none."""
        return self.headers[0].text("SeriesInstanceUID")

    @property
    def modality(self) -> str:
        """One of `MODALITIES`, else "unknown"."""
        return _modality(self.headers[0])

    @property
    def name(self) -> str:
        """What messages call it: modality, series number, end of the UID; nothing that names a patient."""
        return series_name(self.headers[0])

    def describe(self) -> str:
        """One clause for a table of volumes to choose from."""
        size = ""
        if self.frames:
            rows, columns = self.frames[0].shape
            size = f" {format_shape((columns, rows, len(self.frames)))}"
        trouble = " (cannot be read)" if self.problem else ""
        return f"{self.name}{size}{f', {self.mark}' if self.mark else ''}{trouble}"


def series_name(header: Header) -> str:
    """Name of a series for messages; descriptions and file names are left out, since people put names there."""
    modality, uid, ending = _modality(header), header.text("SeriesInstanceUID"), uid_ending(header)
    try:
        number = header.numbers("SeriesNumber", 1)
    except InputError:
        number = None
    shown = f"{'...' if len(uid) > len(ending) > 0 else ''}{ending}"
    return f"{modality} series{f' {number[0]:g}' if number else ''}{f' ({shown})' if shown else ''}"


def uid_ending(header: Header) -> str:
    """End of the SeriesInstanceUID for people; empty where there is none or it is no UID."""
    uid = header.text("SeriesInstanceUID")
    return uid[-UID_ENDING:] if _UID.fullmatch(uid) else ""


def _modality(header: Header) -> str:
    modality = header.text("Modality").upper()
    return modality if modality in MODALITIES else "unknown"


def find_volumes(headers: Sequence[Header]) -> tuple[list[Volume], Counter[str]]:
    """Sort objects into volumes.

    Args:
        headers: of all objects, of any kind.

    Returns:
        The volumes, ordered by series number and by what tells them apart; and how many objects were left out for
        each reason.
    """
    reasons = [left_out(header) for header in headers]
    series: dict[str, list[Header]] = defaultdict(list)
    for header, reason in zip(headers, reasons, strict=True):
        if reason is None:
            series[header.text("SeriesInstanceUID")].append(header)
    foreign = {
        header.text("SeriesInstanceUID")
        for header, reason in zip(headers, reasons, strict=True)
        if reason is not None and has_place(header) and not is_localizer(header)
    }
    ordered = sorted(series.items(), key=lambda item: _series_order(item[1]))
    volumes = []
    for uid, group in ordered:
        problem = _mixed_up(uid, group, foreign)
        volumes += _volumes_of_series(group) if problem is None else [Volume(tuple(group), (), problem=problem)]
    return volumes, Counter(reason for reason in reasons if reason is not None)


def _mixed_up(uid: str, group: Sequence[Header], foreign: AbstractSet[str]) -> InputError | None:
    """What makes it unsafe to take a series for one, or to name results after it.

    Args:
        uid: of the series, empty if it has none.
        group: its objects.
        foreign: UIDs of series that also hold objects which lie in the patient and are no scans.
    """
    if uid and not _UID.fullmatch(uid):  # it becomes a file name
        return InputError(f"{series_name(group[0])} has a SeriesInstanceUID that is no UID: export it again")
    studies = {header.text("StudyInstanceUID") for header in group}
    if len(studies) > 1:
        return InputError(f"{series_name(group[0])} mixes {len(studies)} studies: export each again from its source")
    patients = {header.patient for header in group if header.patient}
    if len(patients) > 1:
        return InputError(f"{series_name(group[0])} mixes {len(patients)} patients: export each again from its source")
    if uid and uid in foreign:  # a damaged or mislabelled slice would go missing without a trace
        return InputError(
            f"{series_name(group[0])} also holds objects that are no scan: export the series again from its source"
        )
    return None


def _series_order(headers: list[Header]) -> tuple[str, str]:
    return headers[0].text("SeriesNumber").zfill(12), headers[0].text("SeriesInstanceUID")


def _volumes_of_series(headers: list[Header]) -> list[Volume]:
    try:
        groups = _cluster([frame for header in headers for frame in frames_of(header)])
    except InputError as problem:
        return [Volume(tuple(headers), (), problem=problem)]
    volumes = []
    for number, group in enumerate(groups, 1):
        place = [f"orientation or voxel size {number}"] if len(groups) > 1 else []
        try:
            parts = split_meanings(without_copies(group))
        except InputError as problem:
            volumes.append(Volume(_headers_of(group), tuple(group), ", ".join(place), problem))
            continue
        for meaning, part in parts:
            marks = [*place, meaning] if meaning else place
            volumes += _volumes_of_repeats(part, marks)
    return volumes


def _volumes_of_repeats(frames: list[Frame], marks: list[str]) -> list[Volume]:
    try:
        parts = split_repeats(frames, series_name(frames[0].header))
    except InputError as problem:
        return [Volume(_headers_of(frames), tuple(frames), ", ".join(marks), problem)]
    return [
        Volume(_headers_of(part), tuple(part), ", ".join([*marks, mark] if mark else marks)) for mark, part in parts
    ]


def _headers_of(frames: Iterable[Frame]) -> tuple[Header, ...]:
    return tuple(dict.fromkeys(frame.header for frame in frames))


def _cluster(frames: list[Frame]) -> list[list[Frame]]:
    """Planes of the same size, pixel spacing, direction and modality, in the order in which they come first.

    Raises:
        InputError: if there are more than `MAX_CLUSTERS` kinds.
    """
    groups: list[list[Frame]] = []
    for frame in frames:
        for group in groups:
            if _alike(frame, group[0]):
                group.append(frame)
                break
        else:
            groups.append([frame])
        if len(groups) > MAX_CLUSTERS:
            raise InputError(
                f"{series_name(frame.header)} has more than {MAX_CLUSTERS} orientations or voxel sizes, so it is no "
                "stack of slices: give the series that it was made from"
            )
    return groups


def _alike(frame: Frame, other: Frame) -> bool:
    return (
        frame.shape == other.shape
        and bool(np.abs(frame.orientation - other.orientation).max() <= ORIENTATION_TOLERANCE)
        and bool(np.allclose(frame.pixel_spacing, other.pixel_spacing, rtol=PIXEL_SPACING_TOLERANCE, atol=0))
        and frame.header.text("Modality") == other.header.text("Modality")
    )


def without_copies(frames: list[Frame]) -> list[Frame]:
    """Drop planes of files that hold the same bytes as another file of the same instance.

    Raises:
        InputError: if files differ under one instance UID, or one cannot be read again.
    """
    headers = _headers_of(frames)
    claims = Counter(_claim(header) for header in headers)
    kept: dict[tuple[str, bytes], Header] = {}
    for header in headers:
        claim = _claim(header)
        kept.setdefault((claim, _digest(header) if claims[claim] > 1 else b""), header)
    instances = Counter(instance for instance in map(instance_uid, kept.values()) if instance)
    differing = [count for count in instances.values() if count > 1]
    if differing:
        raise InputError(
            f"{series_name(headers[0])} has {sum(differing)} files that differ under {len(differing)} "
            f"SOPInstanceUID{'s' if len(differing) > 1 else ''}: export it again from its source"
        )
    if len(kept) == len(headers):
        return frames
    copies = len(headers) - len(kept)
    said = (
        "%s: %d files are copies of others and are left out" if copies > 1 else "%s: %d file is a copy and is left out"
    )
    logger.warning(said, series_name(headers[0]), copies)
    rest = set(kept.values())
    return [frame for frame in frames if frame.header in rest]


def _claim(header: Header) -> str:
    """What an object says it is: its instance UID, or its place where it has none."""
    return instance_uid(header) or header.text("ImagePositionPatient")


def _digest(header: Header) -> bytes:
    try:
        return hashlib.sha256(header.source.read()).digest()
    except (OSError, zipfile.BadZipFile, zlib.error):
        raise InputError(f"{header.name} cannot be read again: check that nothing changes the input") from None


def instance_uid(header: Header) -> str:
    """SOPInstanceUID, else that of the file's meta information."""
    meta = getattr(header.dataset, "file_meta", None)
    return header.text("SOPInstanceUID") or str((meta.get("MediaStorageSOPInstanceUID") if meta else None) or "")
