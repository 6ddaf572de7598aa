"""Voxel grid and patient space: the one place where affines are read, compared and converted.

An affine is a 4x4 float64 matrix from voxel index to millimetres. NIfTI's (and MONAI's) world axes
point right, anterior, superior (RAS); DICOM's and ITK's point left, posterior, superior (LPS).
"""

import itertools
from collections.abc import Iterable, Sequence

import nibabel as nib
import numpy as np
import numpy.typing as npt

from unet_bundle.errors import InputError

Affine = npt.NDArray[np.float64]

GRID_TOLERANCE_MM = 0.1
"""How far corresponding corner voxels of two grids may lie apart while the grids count as the same.

Wide enough for affines that went through float32 or a quaternion, far below what shifts a segmentation.
Never more than `GRID_TOLERANCE_VOXELS` of the smallest voxel edge.
"""

GRID_TOLERANCE_VOXELS = 0.5
"""The same limit as a fraction of the smallest voxel edge: it binds for voxels below 0.2 mm."""

MIN_SPACING_MM = 1e-4
MAX_SPACING_MM = 100.0
"""No scanner or microscope of volumes makes voxels outside this range: it is a wrong unit or a broken header."""

MIN_UNIT_VOLUME = 1e-2
"""Least volume spanned by the three unit axis vectors (1 for perpendicular axes, 0 for coplanar ones)."""

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def spacing_of(affine: npt.ArrayLike) -> tuple[float, ...]:
    """Edge lengths of a voxel.

    Args:
        affine: 4x4 (or 3x3 for planes), voxel index to mm.

    Returns:
        One length in mm for each voxel axis: the norms of the affine's columns.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    return tuple(float(edge) for edge in np.linalg.norm(matrix[:-1, :-1], axis=0))


def as_4x4(affine: npt.ArrayLike) -> Affine:
    """An affine as 4x4: MONAI has 3x3 for planes, which then count as 1 mm thick."""
    matrix = np.asarray(affine, dtype=np.float64)
    rank = len(matrix) - 1
    square = np.eye(4)
    square[:rank, :rank], square[:rank, 3] = matrix[:rank, :rank], matrix[:rank, -1]
    return square


def orientation_of(affine: npt.ArrayLike) -> str:
    """World direction that each voxel axis points to most, as letters, e.g. ``"RAS"`` or ``"PSR"``.

    Args:
        affine: 4x4, voxel index to mm, RAS.
    """
    return "".join(str(letter) for letter in nib.aff2axcodes(np.asarray(affine, dtype=np.float64)))


def obliquity_degrees(affine: npt.ArrayLike) -> float:
    """Largest angle in degrees between a voxel axis and the world axis nearest to it.

    Args:
        affine: 4x4, voxel index to mm.
    """
    return float(np.degrees(nib.affines.obliquity(np.asarray(affine, dtype=np.float64))).max())


def shear_degrees(affine: npt.ArrayLike) -> float:
    """Largest angle in degrees by which two voxel axes are not perpendicular.

    Args:
        affine: 4x4 (or 3x3 for planes), voxel index to mm.
    """
    matrix = as_4x4(affine)[:3, :3]
    axes = matrix / np.linalg.norm(matrix, axis=0)
    cosines = (axes.T @ axes)[np.triu_indices(3, k=1)]
    return float(np.degrees(np.arcsin(np.abs(cosines).clip(0, 1))).max())


def ras_to_lps(affine: npt.ArrayLike) -> Affine:
    """The affine with its world axes turned from RAS (NIfTI, MONAI) to LPS (DICOM, ITK)."""
    lps: Affine = _LPS_FROM_RAS @ np.asarray(affine, dtype=np.float64)
    return lps


def lps_to_ras(affine: npt.ArrayLike) -> Affine:
    """The affine with its world axes turned from LPS (DICOM, ITK) to RAS (NIfTI, MONAI)."""
    return ras_to_lps(affine)  # turning both axes about is its own inverse


def slices_affine(
    orientation: npt.ArrayLike, pixel_spacing: Sequence[float], position: npt.ArrayLike, step: npt.ArrayLike
) -> Affine:
    """Affine of a stack of DICOM slices (PS3.3 C.7.6.2.1.1), in DICOM's own terms.

    Args:
        orientation: 2x3, directions in which the columns' and the rows' index grow (ImageOrientationPatient).
        pixel_spacing: mm between rows and between columns (PixelSpacing), in this order.
        position: mm, centre of the first voxel (ImagePositionPatient of the first slice).
        step: mm, from a slice to the next.

    Returns:
        4x4, index of column, row and slice to mm, LPS.
    """
    axes = np.asarray(orientation, dtype=np.float64)
    affine = np.eye(4)
    affine[:3, 0] = axes[0] * pixel_spacing[1]
    affine[:3, 1] = axes[1] * pixel_spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = position
    return affine


def check_affine(affine: npt.ArrayLike, name: str) -> None:
    """Refuse an affine that cannot be that of a scan.

    Args:
        affine: voxel index to mm; 4x4 expected.
        name: what the message calls the scan, usually the file's base name.

    Raises:
        InputError: if it is not a finite 4x4 matrix with the last row 0 0 0 1, if the axes do not span
            space, or if a voxel edge is outside `MIN_SPACING_MM` to `MAX_SPACING_MM`.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.array_equal(matrix[3], [0.0, 0.0, 0.0, 1.0]):
        raise InputError(
            f"{name} has an affine that is not a 4x4 matrix ending in 0 0 0 1: save it again from its source"
        )
    if not np.isfinite(matrix).all():
        raise InputError(f"{name} has an affine with NaN or infinite entries: save it again from its source")
    spacing = spacing_of(matrix)
    if not all(MIN_SPACING_MM <= edge <= MAX_SPACING_MM for edge in spacing):
        raise InputError(
            f"{name} has a voxel size of {format_spacing(spacing)} mm, "
            f"outside {MIN_SPACING_MM:g} to {MAX_SPACING_MM:g} mm: correct its affine"
        )
    if abs(np.linalg.det(matrix[:3, :3] / np.asarray(spacing))) < MIN_UNIT_VOLUME:
        raise InputError(f"{name} has an affine whose axes lie in one plane: save it again from its source")


def grid_difference(
    shape_a: Sequence[int],
    affine_a: npt.ArrayLike,
    shape_b: Sequence[int],
    affine_b: npt.ArrayLike,
    tolerance_mm: float = GRID_TOLERANCE_MM,
) -> str | None:
    """Say how two voxel grids differ, or None if they are the same.

    The positions of the eight corner voxels are compared one by one, so a flip, a swap of axes, a shift,
    a tilt and another spacing are all found, each at the place where it shows most.

    Args:
        shape_a: voxels along each spatial axis of the first grid (up to three).
        affine_a: its affine, 4x4, voxel index to mm.
        shape_b: voxels of the second grid.
        affine_b: its affine.
        tolerance_mm: distance at which two corners are no longer the same; `GRID_TOLERANCE_VOXELS`
            of the smallest voxel edge if that is less.

    Returns:
        A clause such as ``"shape 10 x 10 x 5 against 10 x 10 x 6"``, or None.
    """
    if tuple(shape_a) != tuple(shape_b):
        return f"shape {format_shape(shape_a)} against {format_shape(shape_b)}"
    first, second = np.asarray(affine_a, dtype=np.float64), np.asarray(affine_b, dtype=np.float64)
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return "an affine with NaN or infinite entries"
    distance = float(np.linalg.norm(corners(shape_a, first) - corners(shape_a, second), axis=1).max())
    limit = min(tolerance_mm, GRID_TOLERANCE_VOXELS * min(spacing_of(first)))
    if distance <= limit:
        return None
    orientations = orientation_of(first), orientation_of(second)
    if orientations[0] != orientations[1]:
        return f"axes {orientations[0]} against {orientations[1]}"
    spacings = format_spacing(spacing_of(first)), format_spacing(spacing_of(second))
    if spacings[0] != spacings[1]:
        return f"voxels of {spacings[0]} mm against {spacings[1]} mm"
    return f"corners up to {distance:.3g} mm apart"


def corners(shape: Sequence[int], affine: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Positions in mm of the corner voxels' centres, in a fixed order.

    Args:
        shape: voxels along each spatial axis; axes missing up to three count as one voxel.
        affine: 4x4, voxel index to mm.

    Returns:
        Array of shape (8, 3).
    """
    matrix = np.asarray(affine, dtype=np.float64)
    sides = [*shape, 1, 1][:3]
    indices = np.array(list(itertools.product(*[(0, side - 1) for side in sides])), dtype=np.float64)
    positions: npt.NDArray[np.float64] = indices @ matrix[:3, :3].T + matrix[:3, 3]
    return positions


def format_shape(shape: Sequence[int]) -> str:
    """A shape for people: ``"35 x 51 x 35"``."""
    return " x ".join(str(int(side)) for side in shape)


def format_spacing(spacing: Iterable[float]) -> str:
    """A voxel size for people, without unit: ``"1 x 1 x 2.5"``."""
    return " x ".join(f"{edge:.4g}" for edge in spacing)


ANISOTROPY = 3.0
"""Slices more than this many times as thick as pixels are wide: resampled each by itself, as nnU-Net does."""

SAME_EDGE = 1e-5
"""Relative difference of voxel edges that went through affines, or float32, while they count as the same."""


def thick_axis(spacing: Sequence[float], other: Sequence[float]) -> int | None:
    """The axis along which slices are so thick that interpolation between them would blend what is far apart.

    Args:
        spacing: voxel size in mm per axis; it decides if one of its axes is that thick.
        other: decides else.

    Returns:
        The axis, or None where no axis, or more than one, is `ANISOTROPY` times as long as the shortest.
    """
    for edges in (spacing, other):
        longest = max(edges)
        if longest > ANISOTROPY * (1 + SAME_EDGE) * min(edges):
            thick = [axis for axis, edge in enumerate(edges) if edge >= longest * (1 - SAME_EDGE)]
            return thick[0] if len(thick) == 1 else None
    return None


def nearest_places(places: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.int64]:
    """The nearest of `side` voxels to places between them; the later one where two are as near, as in SciPy."""
    nearest: npt.NDArray[np.int64] = np.floor(places + 0.5).astype(np.int64).clip(0, side - 1)
    return nearest
