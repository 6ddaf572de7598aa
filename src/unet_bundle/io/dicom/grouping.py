"""From a heap of objects to volumes: by series, then by what one series may mix."""

import hashlib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from unet_bundle.errors import InputError
from unet_bundle.geometry import format_shape
from unet_bundle.io.dicom.frames import MARKS, MODALITIES, Frame, frames_of, is_localizer, left_out
from unet_bundle.io.dicom.headers import Header

logger = logging.getLogger(__name__)

ORIENTATION_TOLERANCE = 1e-4
"""Difference of direction cosines up to which planes are parallel: 0.03 mm at 300 mm from the first voxel."""

PIXEL_SPACING_TOLERANCE = 1e-4
"""Relative difference of pixel spacings up to which they are the same: rounding of decimal strings."""

SAME_POSITION_MM = 1e-3
"""Distance below which two planes are at the same position: rounding of decimal strings."""

_CODE = re.compile(r"[A-Z0-9_. \\/+-]{1,64}")
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
        if reason is not None and not is_localizer(header)
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
        foreign: UIDs of series that also hold objects which are no scans.
    """
    if uid and not _UID.fullmatch(uid):  # it becomes a file name
        return InputError(f"{series_name(group[0])} has a SeriesInstanceUID that is no UID: export it again")
    studies = {header.text("StudyInstanceUID") for header in group}
    if len(studies) > 1:
        return InputError(f"{series_name(group[0])} mixes {len(studies)} studies: export each again from its source")
    if uid and uid in foreign:  # a damaged or mislabelled slice would go missing without a trace
        return InputError(
            f"{series_name(group[0])} also holds objects that are no scan: export the series again from its source"
        )
    return None


def _series_order(headers: list[Header]) -> tuple[str, str]:
    return headers[0].text("SeriesNumber").zfill(12), headers[0].text("SeriesInstanceUID")


def _volumes_of_series(headers: list[Header]) -> list[Volume]:
    try:
        frames = [frame for header in headers for frame in frames_of(header)]
    except InputError as problem:
        return [Volume(tuple(headers), (), problem=problem)]
    volumes = []
    groups = _cluster(frames)
    for number, group in enumerate(groups, 1):
        try:
            parts = _split_repeats(_without_copies(group), series_name(headers[0]))
        except InputError as problem:
            volumes.append(Volume(_headers_of(group), tuple(group), problem=problem))
            continue
        for mark, part in parts:
            marks = [mark] if mark else []
            if len(groups) > 1:
                marks.insert(0, f"orientation or voxel size {number}")
            volumes.append(Volume(_headers_of(part), tuple(part), ", ".join(marks)))
    return volumes


def _headers_of(frames: Iterable[Frame]) -> tuple[Header, ...]:
    return tuple(dict.fromkeys(frame.header for frame in frames))


def _cluster(frames: list[Frame]) -> list[list[Frame]]:
    """Planes of the same size, pixel spacing, direction and modality, in the order in which they come first."""
    groups: list[list[Frame]] = []
    for frame in frames:
        for group in groups:
            if _alike(frame, group[0]):
                group.append(frame)
                break
        else:
            groups.append([frame])
    return groups


def _alike(frame: Frame, other: Frame) -> bool:
    return (
        frame.shape == other.shape
        and bool(np.abs(frame.orientation - other.orientation).max() <= ORIENTATION_TOLERANCE)
        and bool(np.allclose(frame.pixel_spacing, other.pixel_spacing, rtol=PIXEL_SPACING_TOLERANCE, atol=0))
        and frame.header.text("Modality") == other.header.text("Modality")
    )


def positions_of(frames: Sequence[Frame]) -> list[int]:
    """Number of the position of each plane, 0 for the lowest along the normal; equal numbers for equal positions."""
    places = np.array([frame.position for frame in frames])
    order = np.argsort(places @ frames[0].normal, kind="stable")
    numbers, current = [0] * len(frames), -1
    recent: list[int] = []  # the first plane of every position near the present depth
    for index in order:
        depth = places[index] @ frames[0].normal
        recent = [each for each in recent if depth - places[each] @ frames[0].normal <= SAME_POSITION_MM]
        same = next((each for each in recent if np.linalg.norm(places[each] - places[index]) <= SAME_POSITION_MM), None)
        if same is None:
            current += 1
            numbers[index] = current
            recent.append(int(index))
        else:
            numbers[index] = numbers[same]
    return numbers


def _without_copies(frames: list[Frame]) -> list[Frame]:
    """Drop planes of files that hold the same bytes as another file of the same instance."""
    instances = Counter(instance_uid(frame.header) for frame in {frame.header: frame for frame in frames}.values())
    if all(count == 1 or not uid for uid, count in instances.items()):
        return frames
    kept: dict[tuple[str, bytes], Header] = {}
    for header in _headers_of(frames):
        if instances[instance_uid(header)] > 1:
            digest = hashlib.sha256(header.source.read()).digest()
            kept.setdefault((instance_uid(header), digest), header)
        else:
            kept[instance_uid(header), b""] = header
    rest = [frame for frame in frames if frame.header in set(kept.values())]
    dropped = len(_headers_of(frames)) - len(kept)
    if dropped:
        logger.warning("%s: %d files are copies of others and are left out", series_name(frames[0].header), dropped)
    return rest


def instance_uid(header: Header) -> str:
    """SOPInstanceUID, else that of the file's meta information."""
    meta = getattr(header.dataset, "file_meta", None)
    return header.text("SOPInstanceUID") or str((meta.get("MediaStorageSOPInstanceUID") if meta else None) or "")


def _split_repeats(frames: list[Frame], name: str) -> list[tuple[str, list[Frame]]]:
    """Split planes that come several times at a position into volumes that have each once.

    Returns:
        A text that tells the volume apart, and its planes, for each volume; one without text if no position repeats.

    Raises:
        InputError: if no element of `MARKS`, nor all of them together, splits them so.
    """
    numbers = positions_of(frames)
    repeats = max(Counter(numbers).values())
    if repeats == 1:
        return [("", frames)]
    place = {id(frame): number for frame, number in zip(frames, numbers, strict=True)}
    stable = tuple(keyword for keyword in MARKS if keyword != "AcquisitionTime")  # differs from plane to plane
    for keywords in [*[(keyword,) for keyword in MARKS], stable]:
        parts: dict[tuple[str, ...], list[Frame]] = defaultdict(list)
        for frame in frames:
            parts[tuple(frame.marks.get(keyword, "") for keyword in keywords)].append(frame)
        once = all(len({place[id(frame)] for frame in part}) == len(part) for part in parts.values())
        if once and len(parts) == repeats:
            used = [k for i, k in enumerate(keywords) if len({values[i] for values in parts}) > 1]
            return [
                (", ".join(f"{k} {_shown(v)}" for k, v in zip(keywords, values, strict=True) if k in used), part)
                for values, part in sorted(parts.items(), key=lambda item: tuple(map(_natural, item[0])))
            ]
    raise InputError(
        f"{name} has {len(frames)} slices at {len(set(numbers))} position{'s' if len(set(numbers)) > 1 else ''} "
        "and nothing in their headers tells volumes apart: give the files of one volume"
    )


def _natural(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def _shown(value: str) -> str:
    """A mark for people, unless it is no number or code: see `_UID`."""
    return value if _CODE.fullmatch(value) else "other" if value else "none"
