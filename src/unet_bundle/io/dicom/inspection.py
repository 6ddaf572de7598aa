"""What DICOM input holds, series by series, and what the reader would do with it; headers only."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unet_bundle.errors import InputError
from unet_bundle.io.dicom.grouping import Volume, find_volumes, instance_uid, uid_ending
from unet_bundle.io.dicom.headers import Header, survey_headers
from unet_bundle.io.dicom.reader import DicomSeriesReader
from unet_bundle.io.dicom.sources import FilePath, Source, find_sources
from unet_bundle.io.dicom.splitting import shown
from unet_bundle.io.dicom.stack import Stack, check_stack, stack_of

OBLIQUE_DEGREES = 1.0
"""Angle from which a plane is called oblique: people tilt a scan by more, positions round to less."""

_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Inspected:
    """One volume of a DICOM series, or one file of another format. Nothing in it names a patient but `description`.

    Attributes:
        name: what messages call it.
        modality: CT, MR, PT or unknown; None of a file that does not state it.
        series_number: SeriesNumber, None where there is none.
        uid_ending: end of the SeriesInstanceUID, which ``series_uid`` takes; None of other files.
        description: SeriesDescription; None unless it was asked for, since people put names there.
        size: voxels along columns, rows and slices; None where it could not be told.
        spacing: mm, in the same order.
        plane: ``"axial"``, ``"oblique sagittal (12 degrees)"``; None where it could not be told.
        files: how many it comes from.
        problems: what is wrong with it, a sentence for each.
        refusal: why the reader would not read it; None if it would.
        choice: how to choose it of several volumes of its series, which are refused until one is chosen; None where
            there is no other.
        paths: files of its series relative to what was given, in the order in which messages of `predict` number them;
            None unless they were asked for, since people put names there.
        units: of a PET's voxels, as its header has them (BQML, CNTS): they are read as they are, never turned into SUV;
            None of other scans.
        left_out: why it is not taken although it could be read; None if it is.
    """

    name: str
    modality: str | None
    series_number: int | None
    uid_ending: str | None
    description: str | None
    size: tuple[int, ...] | None
    spacing: tuple[float, ...] | None
    plane: str | None
    files: int
    problems: tuple[str, ...]
    refusal: str | None
    choice: str | None = None
    paths: tuple[str, ...] | None = None
    units: str | None = None
    left_out: str | None = None


@dataclass(frozen=True)
class Inspection:
    """What a DICOM folder, archive or file holds.

    Attributes:
        volumes: in the order in which the reader numbers them.
        left_out: how many objects are no scans, for each reason.
        damaged: what is said of files whose header cannot be read. A slice of any series may be lost with each, so
            nothing is read until they are whole or gone.
        paths: of all files relative to what was given, in the order in which messages number them; None unless they
            were asked for, since people put names there.
        note: what else a person has to know, a sentence; None if there is nothing.
    """

    volumes: tuple[Inspected, ...]
    left_out: Counter[str]
    damaged: tuple[str, ...] = ()
    paths: tuple[str, ...] | None = None
    note: str | None = None

    @property
    def readable(self) -> list[Inspected]:
        """Those that would be read as they are."""
        return [
            each
            for each in self.volumes
            if not (each.refusal or each.choice or each.left_out or (self.damaged and each.modality))
        ]


def inspect_dicom(path: FilePath, *, show_descriptions: bool = False, show_paths: bool = False) -> Inspection:
    """Look at all headers below a path, without voxels.

    Args:
        path: a folder, a zip archive, a DICOMDIR or a file.
        show_descriptions: whether `Inspected.description` is filled, which may hold a patient's name.
        show_paths: whether paths are told, which may hold one, too.

    Raises:
        InputError: if nothing there is DICOM, or no header can be read.
    """
    sources = find_sources(path)
    headers, refusals = survey_headers(sources)
    if not headers:
        raise refusals[0]
    volumes, left_out = find_volumes(headers)
    by_series: dict[str, list[Volume]] = defaultdict(list)
    for volume in volumes:
        by_series[volume.series_uid].append(volume)
    copies = _copies(headers)
    found = []
    for uid, group in by_series.items():
        paths = _paths_of(group, path) if show_paths else None
        others = by_series.keys() - {uid}
        found += [
            _inspected(each, group, others, copies[uid], paths, show_descriptions=show_descriptions) for each in group
        ]
    return Inspection(
        tuple(found),
        left_out,
        tuple(map(str, refusals)),
        tuple(_relative(source, path) for source in sources) if show_paths else None,
    )


def _paths_of(series: Sequence[Volume], path: FilePath) -> tuple[str, ...]:
    headers = {header.number: header for volume in series for header in volume.headers}
    return tuple(_relative(headers[number].source, path) for number in sorted(headers))


def _relative(source: Source, path: FilePath) -> str:
    """Where a file is: below the folder that was given, or in the archive."""
    if source.member is not None:
        return source.member
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return source.path.relative_to(folder).as_posix()


def plane_of(normal: npt.ArrayLike) -> str:
    """The anatomical plane that slices with this normal lie in.

    Args:
        normal: vector across the slices, LPS or RAS.

    Example:
        >>> plane_of([0, 0, -1]), plane_of([0.1, 0, 1])
        ('axial', 'oblique axial (6 degrees)')
    """
    parts = np.abs(np.asarray(normal, dtype=np.float64))
    nearest = int(parts.argmax())
    degrees = float(np.degrees(np.arccos(min(1.0, parts[nearest] / np.linalg.norm(parts)))))
    name = _PLANES[nearest]
    return name if degrees < OBLIQUE_DEGREES else f"oblique {name} ({degrees:.0f} degrees)"


def _copies(headers: Sequence[Header]) -> Counter[str]:
    """For each series how many files come again under the same instance UID."""
    seen = Counter((header.text("SeriesInstanceUID"), instance_uid(header)) for header in headers)
    copies: Counter[str] = Counter()
    for (series, instance), count in seen.items():
        copies[series] += count - 1 if instance else 0
    return copies


def _inspected(
    volume: Volume,
    series: Sequence[Volume],
    others: AbstractSet[str],
    copies: int,
    paths: tuple[str, ...] | None,
    *,
    show_descriptions: bool,
) -> Inspected:
    header = volume.headers[0]
    stack: Stack | None = None
    problems: list[str] = []
    try:
        refusal = None
        if volume.problem is None:
            stack = stack_of(volume.frames, volume.name)
            problems += _stack_problems(stack, volume.name)
            if len(stack.frames) == 1:
                problems.append("is a single slice, taken for the whole series, as thick as its header says")
        DicomSeriesReader().check([volume])
    except InputError as error:
        refusal = str(error)
    if copies:
        have = "s of its series have" if copies > 1 else " of its series has"
        problems.append(f"{copies} file{have} the SOPInstanceUID of another")
    first = stack.frames[0] if stack is not None else volume.frames[0] if volume.frames else None
    spacing = None
    if first is not None and stack is not None:
        spacing = (first.pixel_spacing[1], first.pixel_spacing[0], stack.distance)
    return Inspected(
        name=volume.name,
        modality=volume.modality,
        series_number=_series_number(header),
        uid_ending=uid_ending(header) or None,
        description=header.text("SeriesDescription") if show_descriptions else None,
        size=None if first is None else (first.shape[1], first.shape[0], len(volume.frames)),
        spacing=spacing,
        plane=None if first is None else plane_of(first.normal),
        files=len(volume.headers),
        problems=tuple(problems),
        refusal=refusal,
        choice=_choice(volume, series, others) if len(series) > 1 else None,
        paths=paths,
        units=shown(first.marks.get("Units", "")) if first is not None and volume.modality == "PT" else None,
    )


def _choice(volume: Volume, series: Sequence[Volume], others: AbstractSet[str]) -> str:
    """What tells a volume from the others of its series, and the options of `predict` that choose it."""
    ending = uid_ending(volume.headers[0])
    if any(uid.endswith(ending) for uid in others):
        ending = volume.series_uid
    chosen = [f"--dicom::series_uid \"'{ending}'\""] if ending else []  # in quotes twice: it may look like a number
    return (
        f"one of {len(series)} volumes in its series ({volume.mark or 'no mark'}), which is refused until one is "
        f"chosen: {' '.join([*chosen, f'--dicom::volume {series.index(volume) + 1}'])}"
    )


def _stack_problems(stack: Stack, name: str) -> list[str]:
    """Tilt and gaps, each by itself: the reader's refusal names the first that it meets."""
    found = []
    if not stack.is_regular:
        found.append(_refusal_of(stack, name, resample_tilt=True, resample_gaps=False))
    if stack.is_tilted:
        found.append(_refusal_of(stack, name, resample_tilt=False, resample_gaps=True))
    return list(dict.fromkeys(each for each in found if each))


def _refusal_of(stack: Stack, name: str, **options: bool) -> str:
    try:
        check_stack(stack, name, **options)
    except InputError as error:
        return str(error).removeprefix(f"{name} ")
    return ""


def _series_number(header: Header) -> int | None:
    try:
        number = header.number_of("SeriesNumber")
    except InputError:
        return None
    return None if number is None else int(number)
