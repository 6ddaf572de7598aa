"""Which of three ways to look at the scans: at full resolution, at low resolution, or slice by slice.

nnU-Net plans, trains and compares all that a data set allows (Isensee et al. 2021, Nature Methods 18:203). A bundle is
one of them:

- ``full``: patches at the scans' own resolution; what is planned where nothing is said.
- ``low``: resampled to coarser voxels, until a patch covers a quarter of a scan. nnU-Net makes it where the patch at
  full resolution covers less, so that a network knows where in the body it is. Here it is advised, and made when asked
  for, because it loses what is smaller than its voxels.
- ``2d``: slices of volumes. Planned without being asked for only where a 3D network would be a 2D network in all but
  its coarsest stage, because slices are thicker than all the finer stages' voxels are long: there is no context that
  three dimensions would add.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unet_bundle.errors import ConfigError
from unet_bundle.planning import topology
from unet_bundle.planning.architecture import Architecture, by
from unet_bundle.planning.overrides import SET_IN_CARD, Choices

Configuration = Literal["full", "low", "2d"]

ENOUGH_COVERAGE = 0.25
"""The share of the median scan a patch should cover; nnU-Net's threshold for a low-resolution configuration."""

MIN_REDUCTION = 2.0
"""Low resolution must bring at least this many times fewer voxels to be worth its loss (nnU-Net's)."""

GROWTH = 1.03
"""Factor of a step to coarser voxels (nnU-Net's)."""

MAX_STEPS = 256
"""Steps of `GROWTH`, about a factor of 2000: no scan needs more."""

Architect = Callable[[Sequence[float], Sequence[int]], Architecture]
"""From spacing (mm) and median shape (voxels) to network and patch."""


@dataclass(frozen=True)
class View:
    """How the scans are looked at, with the network and patch for it.

    Attributes:
        configuration: ``"full"``, ``"low"`` or ``"2d"``.
        spacing: Target spacing in mm per axis of the scans; None leaves an axis as it is.
        shape: Median shape of the scans there, in voxels.
        slice_axis: The axis slices are taken across; None for patches with as many axes as the scans.
        architecture: Network and patch, of two axes for slices.
        reason: One sentence on the configuration.
        spacing_reason: One sentence on the spacing.
        advice: One sentence on a configuration that may be better; None if there is none.
    """

    configuration: Configuration
    spacing: list[float | None]
    shape: list[int]
    slice_axis: int | None
    architecture: Architecture
    reason: str
    spacing_reason: str
    advice: str | None = None

    @property
    def spacing_of_patch(self) -> list[float]:
        """Spacing (mm) along the axes of the patch."""
        return [edge for axis, edge in enumerate(self.spacing) if edge is not None and axis != self.slice_axis]


@dataclass(frozen=True)
class _Scans:
    """Grids of the scans, the spacing of full resolution with its unit and reason, and what plans network and patch."""

    cases: Mapping[str, Any]
    full: list[float]
    unit: str
    reason: str
    architect: Architect

    def shape(self, spacing: Sequence[float | None]) -> list[int]:
        """Median shape at a spacing."""
        return topology.median_shape(self.cases["spacings"], self.cases["shapes"], spacing)


def choose_view(
    fingerprint: Mapping[str, Any], choices: Choices, wanted: Configuration | None, architect: Architect
) -> View:
    """Choose the configuration, and plan spacing, patch and network for it.

    Args:
        fingerprint: What `measure_fingerprint` returned.
        choices: The card's overrides.
        wanted: The configuration a person asked for; it goes before the card's. None: the card's or the planner's.
        architect: Plans network and patch.

    Raises:
        ConfigError: The configuration is not possible for these scans, or another override contradicts it.
    """
    stated: Configuration | None = wanted or choices.overrides.get("configuration")
    reason = "asked for when it was planned" if wanted else SET_IN_CARD
    patch_axes = len(choices.overrides.get("patch_size", ()))
    scan_axes = int(fingerprint["spatial_dims"])
    if stated is None and patch_axes:
        stated, reason = ("2d" if patch_axes < scan_axes else "full"), "as the patch that is set in the task card"
    _check_axes(stated, scan_axes, patch_axes)

    target, target_reason = _target_spacing(fingerprint)
    full = list(choices.overrides.get("spacing", target))
    scans = _Scans(fingerprint["cases"], full, length_unit(fingerprint), target_reason, architect)
    own_network = {"kernel_sizes", "strides"} & set(choices.network)
    if stated is None and scan_axes == 3 and not own_network:
        thick = _why_slices(scans)
        stated, reason = ("2d", thick) if thick is not None else (None, reason)
    if stated == "2d":
        return _slices(scans, reason, keep_slices="spacing" not in choices.overrides)
    if stated == "low":
        return _low(scans, choices, reason)
    return _full(scans, None if stated is None else reason)


def length_unit(fingerprint: Mapping[str, Any]) -> str:
    """What lengths of the scans are counted in: mm, or pixels of pictures, whose files tell no true size."""
    return "pixels" if fingerprint.get("pixels") else "mm"


def _check_axes(stated: Configuration | None, scan_axes: int, patch_axes: int) -> None:
    if stated == "2d" and scan_axes == 2:
        raise ConfigError("configuration 2d is for slices of volumes, and these images are flat: leave it out")
    if patch_axes and patch_axes != (2 if stated == "2d" else scan_axes):
        raise ConfigError(
            f"patch_size under overrides in the task card has {patch_axes} numbers, which is not for configuration "
            f"{stated!r}: give as many as a patch has axes there, or leave one of them out"
        )


def _target_spacing(fingerprint: Mapping[str, Any]) -> tuple[list[float], str]:
    cases = fingerprint["cases"]
    spacing, anisotropic = topology.target_spacing(cases["spacings"], cases["shapes"])
    reason = f"median of {fingerprint['num_cases']} cases per axis"
    if anisotropic is not None:
        reason += (
            f"; axis {anisotropic} has thick slices (over {topology.ANISOTROPY:g} times the others' spacing and fewer "
            f"voxels), so there the {topology.THICK_SLICE_PERCENTILE}th percentile"
        )
    return spacing, reason


def _slice_axis(spacing: Sequence[float], shape: Sequence[int]) -> int:
    """The axis of a single voxel, or else of the coarsest spacing; among equals the last, which gives axial slices."""
    return max(range(len(spacing)), key=lambda axis: (shape[axis] == 1, spacing[axis], axis))


def _why_slices(scans: _Scans) -> str | None:
    """Why three dimensions would gain nothing, or None where they would."""
    shape = scans.shape(scans.full)
    axis = _slice_axis(scans.full, shape)
    if shape[axis] == 1:
        return "most scans are a single slice"
    if topology.sees_across(scans.architect(scans.full, shape).network["kernel_sizes"], axis):
        return None
    thick = scans.full[axis] / min(scans.full)
    return (
        f"slices are {thick:.0f} times thicker than a voxel is wide, so that no stage of a 3D network but the coarsest "
        "would join one to the next: 3D gains nothing"
    )


def _slices(scans: _Scans, reason: str, *, keep_slices: bool) -> View:
    axis = _slice_axis(scans.full, scans.shape(scans.full))
    spacing: list[float | None] = [*scans.full]
    spacing_reason = scans.reason
    if keep_slices:
        spacing[axis] = None
        spacing_reason += "; slices stay where they are, as in nnU-Net: resampling would blend them"
    shape = scans.shape(spacing)
    in_plane = [other for other in range(len(shape)) if other != axis]
    planned = scans.architect([scans.full[other] for other in in_plane], [shape[other] for other in in_plane])
    return View("2d", spacing, shape, axis, planned, reason, spacing_reason)


def _full(scans: _Scans, reason: str | None) -> View:
    """Full resolution, with advice where low resolution may be better; `reason` is None if nobody asked for it."""
    shape = scans.shape(scans.full)
    planned = scans.architect(scans.full, shape)
    covered = planned.coverage(shape)
    low = _coarser(scans, covered) if len(shape) == 3 else None
    advice = None
    if low is not None:
        spacing, low_shape, lower = low
        advice = (
            f"the patch covers {covered:.1%} of the median scan, less than {ENOUGH_COVERAGE:.0%}; at {by(spacing)} "
            f"{scans.unit} it would cover {lower.coverage(low_shape):.0%}"
        )
    reason = reason or f"the patch covers {covered:.0%} of the median scan"
    return View("full", [*scans.full], shape, None, planned, reason, scans.reason, advice)


def _low(scans: _Scans, choices: Choices, reason: str) -> View:
    if "spacing" in choices.overrides:
        raise ConfigError(
            "spacing stands under overrides in the task card, but the low-resolution configuration plans it: "
            "leave one of them out"
        )
    shape = scans.shape(scans.full)
    covered = scans.architect(scans.full, shape).coverage(shape)
    low = _coarser(scans, covered)
    if low is None:
        raise ConfigError(
            f"low resolution gains nothing: at full resolution the patch covers {covered:.0%} of the median scan "
            f"({ENOUGH_COVERAGE:.0%} are enough), or would with less than {MIN_REDUCTION:g} times fewer voxels: plan "
            "configuration full"
        )
    spacing, shape, planned = low
    spacing_reason = (
        f"coarser than the scans' {by(scans.full)} {scans.unit}, in steps of {GROWTH - 1:.0%}, until a patch covers "
        f"{planned.coverage(shape):.0%} of the median scan instead of {covered:.1%}"
    )
    return View("low", [*spacing], shape, None, planned, reason, spacing_reason)


def _coarser(scans: _Scans, covered: float) -> tuple[list[float], list[int], Architecture] | None:
    """The finest coarser spacing whose patch covers enough, found by bisection; None if it gains nothing."""
    if covered >= ENOUGH_COVERAGE:
        return None

    def planned(steps: int) -> tuple[list[float], list[int], Architecture]:
        spacing = _grown(scans.full, steps)
        shape = scans.shape(spacing)
        return spacing, shape, scans.architect(spacing, shape)

    def covers(steps: int) -> bool:
        _, shape, architecture = planned(steps)
        return architecture.coverage(shape) >= ENOUGH_COVERAGE

    most = 1
    while not covers(most):
        most *= 2
        if most > MAX_STEPS:
            return None
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if covers(middle) else (middle, most)
    spacing, shape, architecture = planned(most)
    if math.prod(spacing) / math.prod(scans.full) < MIN_REDUCTION:
        return None
    return spacing, shape, architecture


def _grown(spacing: Sequence[float], steps: int) -> list[float]:
    """Coarser voxels: first only the axes that are over twice as fine as the coarsest, then all; to 4 decimals."""
    grown = list(spacing)
    for _ in range(steps):
        fine = [max(grown) / edge > topology.MAX_SPACING_RATIO for edge in grown]
        grown = [edge * GROWTH if is_fine or not any(fine) else edge for edge, is_fine in zip(grown, fine, strict=True)]
    return [round(edge, 4) for edge in grown]
