"""Planes as a stack: sorted along their normal, and checked to be a regular grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unet_bundle.errors import InputError
from unet_bundle.geometry import Affine, slices_affine
from unet_bundle.io.dicom.frames import Frame
from unet_bundle.io.dicom.splitting import SAME_POSITION_MM

TILT_TOLERANCE_DEGREES = 0.1
"""Largest angle between the line through the planes and their normal that is rounding, not a tilted gantry."""

SHIFT_TOLERANCE_MM = 0.05
"""Largest in-plane shift that is rounding: of the whole stack by tilt, or of one plane from the line."""

DISTANCE_TOLERANCE = 0.02
"""Largest difference of a slice distance from the mean, and of a plane from its place, as a part of the distance."""

DISTANCE_TOLERANCE_MM = 0.01
"""The same limit in mm: it binds for distances below 0.5 mm, where decimal strings round to more than that."""

MISSING_TOLERANCE = 0.05
"""How far a gap may be from a multiple of the slice distance, as a fraction of it, to count as missing slices."""

MAX_GAP_FACTOR = 3.0
"""Largest gap that ``on_gaps="resample"`` fills, in slice distances: at most two slices are made up at a place."""

MAX_TILT_DEGREES = 45.0
"""Largest tilt that ``on_tilt="resample"`` shears right: gantries tilt up to 30 degrees, more is another fault."""

_SHOWN_POSITIONS = 5


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes in the order of their positions along the normal.

    Attributes:
        frames: the planes, the lowest first.
        depths: mm along the normal from the first plane, [planes].
        lean: in-plane shift for each mm along the normal, LPS; zero without tilt.
    """

    frames: tuple[Frame, ...]
    depths: npt.NDArray[np.float64]
    lean: npt.NDArray[np.float64]

    @property
    def tilt_degrees(self) -> float:
        """Angle between the line through the planes and their normal."""
        return math.degrees(math.atan(float(np.linalg.norm(self.lean))))

    @property
    def is_tilted(self) -> bool:
        """Whether the tilt is more than rounding."""
        shift = float(np.linalg.norm(self.lean)) * float(self.depths[-1])
        return self.tilt_degrees > TILT_TOLERANCE_DEGREES and shift > SHIFT_TOLERANCE_MM

    @property
    def is_regular(self) -> bool:
        """Whether the planes have one distance."""
        return _is_regular(self.depths)

    @property
    def distance(self) -> float:
        """Slice distance along the normal, mm: the mean of a regular stack, the median of another."""
        if len(self.frames) == 1:
            return self.frames[0].depth or 0.0
        return float(self.depths[-1] / (len(self.depths) - 1) if self.is_regular else np.median(np.diff(self.depths)))

    def affine(self) -> Affine:
        """4x4, index of column, row and plane to mm, LPS, of a regular stack; a tilt stands in its third column."""
        first = self.frames[0]
        step = self.distance * (first.normal + self.lean)
        return slices_affine(first.orientation, first.pixel_spacing, first.position, step)


def stack_of(frames: Sequence[Frame], name: str) -> Stack:
    """Sort planes of one direction, each at a position of its own.

    Args:
        frames: planes, in any order.
        name: what messages call the series.

    Raises:
        InputError: if two lie beside each other at one depth, they are in several frames of reference, they are
            shifted against each other, or a single plane does not say how thick it is.
    """
    references = {frame.header.text("FrameOfReferenceUID") for frame in frames}
    if len(references) > 1:
        raise InputError(f"{name} mixes {len(references)} frames of reference: give the files of one")
    normal = frames[0].normal
    ordered = sorted(frames, key=lambda frame: float(frame.position @ normal))
    offsets = np.array([frame.position for frame in ordered]) - ordered[0].position
    depths = offsets @ normal
    if len(ordered) == 1:
        if not frames[0].depth or frames[0].depth <= 0:
            raise InputError(f"{name} is a single slice without SliceThickness: give the whole series")
        return Stack(tuple(ordered), depths, np.zeros(3))
    if np.diff(depths).min() <= SAME_POSITION_MM:
        raise InputError(f"{name} has slices beside each other at the same depth: give the files of one volume")
    aside = offsets - depths[:, None] * normal
    lean = aside[-1] / depths[-1]
    shift = float(np.linalg.norm(aside - depths[:, None] * lean, axis=1).max())
    if shift > SHIFT_TOLERANCE_MM:
        raise InputError(
            f"{name} has slices shifted against each other by up to {shift:.3g} mm: export it again from its source"
        )
    return Stack(tuple(ordered), depths, lean)


def check_stack(stack: Stack, name: str, *, resample_tilt: bool, resample_gaps: bool) -> None:
    """Refuse a stack that is no grid, except where resampling is asked for and can mend it.

    Args:
        stack: see `stack_of`.
        name: what messages call the series.
        resample_tilt: whether a tilt will be sheared right.
        resample_gaps: whether unequal distances will be interpolated.

    Raises:
        InputError: naming the angle, the missing positions or the distances.
    """
    if stack.is_tilted and not resample_tilt:
        raise InputError(
            f"{name} has a gantry tilt of {stack.tilt_degrees:.1f} degrees: "
            "set dicom::on_tilt to resample to have it sheared right"
        )
    if stack.is_tilted and stack.tilt_degrees > MAX_TILT_DEGREES:
        raise InputError(
            f"{name} has its slices along a line {stack.tilt_degrees:.1f} degrees off their normal, "
            f"more than a gantry's {MAX_TILT_DEGREES:g}: export it again from its source"
        )
    if stack.is_regular:
        return
    found = _gaps(stack, name)
    if not resample_gaps:
        raise InputError(f"{found}: give the whole series, or set dicom::on_gaps to resample to have them interpolated")
    factor = float(np.diff(stack.depths).max() / stack.distance)
    if factor > MAX_GAP_FACTOR:
        raise InputError(
            f"{found}, the widest {factor:.1f} times the usual, too wide to interpolate "
            f"(limit {MAX_GAP_FACTOR:g}): give the whole series"
        )


def _is_regular(depths: npt.NDArray[np.float64]) -> bool:
    if len(depths) < 3:
        return True
    distance = depths[-1] / (len(depths) - 1)
    limit = max(DISTANCE_TOLERANCE * distance, DISTANCE_TOLERANCE_MM)
    off_place = np.abs(depths - distance * np.arange(len(depths))).max()
    off_distance = np.abs(np.diff(depths) - distance).max()
    return bool(off_place <= limit and off_distance <= limit)


def _gaps(stack: Stack, name: str) -> str:
    """A clause that says what is wrong with the distances: which slices are missing, or that they vary."""
    steps = np.diff(stack.depths)
    ratios = steps / stack.distance
    wholes = np.maximum(np.round(ratios), 1)
    if np.abs(ratios - wholes).max() > MISSING_TOLERANCE or wholes.max() == 1:
        return f"{name} has slice distances from {steps.min():.3g} to {steps.max():.3g} mm"
    start = float(stack.frames[0].position @ stack.frames[0].normal)
    missing = [
        start + stack.depths[index] + stack.distance * number
        for index, whole in enumerate(wholes)
        for number in range(1, int(whole))
    ]
    shown = ", ".join(f"{depth:.1f}" for depth in missing[:_SHOWN_POSITIONS])
    more = f" and {len(missing) - _SHOWN_POSITIONS} more" if len(missing) > _SHOWN_POSITIONS else ""
    return f"{name} lacks {len(missing)} slice{'s' if len(missing) > 1 else ''} at {shown} mm{more} along the normal"
