"""Parallel planes of one series into volumes: by what their voxels mean, then by what tells repeats apart."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from unet_bundle.errors import InputError
from unet_bundle.io.dicom.frames import Frame
from unet_bundle.io.dicom.marks import MARKS, MEANINGS, meaning_of, natural, settings_of

SAME_POSITION_MM = 1e-3
"""Distance below which two planes are at the same position: rounding of decimal strings."""

_CODE = re.compile(  # in a damaged header an element may hold another's text, also a name
    r"[A-Z0-9_. \\/+-]{1,64}|[A-Za-z]{1,2}[0-9]{1,3}[a-z]?(\\[0-9])?"  # the second: kernels, as Br40f and H31s
)

Part = tuple[str, list[Frame]]
"""A text that tells planes apart from the others, empty if nothing has to, and the planes."""


def positions_of(frames: Sequence[Frame]) -> list[int]:
    """Number of the position of each plane, 0 for the lowest along the normal; equal numbers for equal positions."""
    places = np.array([frame.position for frame in frames])
    depths = places @ frames[0].normal
    numbers, current = [0] * len(frames), -1
    recent: list[int] = []  # the first plane of every position near the present depth
    for index in map(int, np.argsort(depths, kind="stable")):
        recent = [each for each in recent if depths[index] - depths[each] <= SAME_POSITION_MM]
        same = next((each for each in recent if np.linalg.norm(places[each] - places[index]) <= SAME_POSITION_MM), None)
        if same is None:
            current += 1
            numbers[index] = current
            recent.append(index)
        else:
            numbers[index] = numbers[same]
    return numbers


def split_meanings(frames: list[Frame]) -> list[Part]:
    """Split planes of one modality whose voxels mean different things, whether or not a position repeats."""
    modality = frames[0].header.text("Modality").upper()
    parts: list[tuple[list[str], list[Frame]]] = [([], frames)]
    for keyword in MEANINGS:
        finer: list[tuple[list[str], list[Frame]]] = []
        for marks, part in parts:
            settings = settings_of(keyword, [_meaning(frame, keyword, modality) for frame in part])
            found: dict[str, list[Frame]] = defaultdict(list)
            for frame, setting in zip(part, settings, strict=True):
                found[setting].append(frame)
            for setting in sorted(found, key=natural):
                mark = [f"{keyword} {shown(setting)}"] if len(found) > 1 else []
                finer.append(([*marks, *mark], found[setting]))
        parts = finer
    return [(", ".join(marks), part) for marks, part in parts]


def _meaning(frame: Frame, keyword: str, modality: str) -> str:
    if keyword == "RescaleSlope":  # of MR the slope may be missing, and differ from slice to slice, but not both
        return "NONE" if modality == "MR" and (frame.slope, frame.intercept) == (1, 0) else "SOME"
    return meaning_of(keyword, frame.marks.get(keyword, ""), modality)


def split_repeats(frames: list[Frame], name: str) -> list[Part]:
    """Split planes that come several times at a position into volumes that have each once.

    Args:
        frames: planes of one meaning.
        name: what messages call the series.

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
                (", ".join(f"{k} {shown(v)}" for k, v in zip(keywords, values, strict=True) if k in used), part)
                for values, part in sorted(parts.items(), key=lambda item: tuple(map(natural, item[0])))
            ]
    count = len(set(numbers))
    raise InputError(
        f"{name} has {len(frames)} slices at {count} position{'s' if count > 1 else ''} "
        "and nothing in their headers tells volumes apart: give the files of one volume"
    )


def shown(value: str) -> str:
    """A mark for people, unless it is no number or code."""
    return value if _CODE.fullmatch(value) else "other" if value else "none"
