import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.quaternions import angle_axis2quat, quat2mat

from unet_bundle.errors import InputError
from unet_bundle.geometry import (
    GRID_TOLERANCE_MM,
    check_affine,
    corners,
    grid_difference,
    lps_to_ras,
    obliquity_degrees,
    orientation_of,
    ras_to_lps,
    slices_affine,
    spacing_of,
)

SHAPE = (20, 30, 10)
AXIAL = np.array([[-1.0, 0, 0, 10], [0, 1, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]])

edges = st.floats(0.3, 6.0)
positions = st.floats(-300, 300)


@st.composite
def affines(draw):
    """Affines of scans: any rotation, handedness, spacing and position."""
    axis = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 3))) + np.array([0.0, 0.0, 1e-3])
    rotation = quat2mat(angle_axis2quat(draw(st.floats(-np.pi, np.pi)), axis))
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([draw(edges) * draw(st.sampled_from([-1, 1])), draw(edges), draw(edges)])
    affine[:3, 3] = draw(st.tuples(positions, positions, positions))
    return affine


@given(affines())
def test_affines_of_scans_are_accepted_and_equal_themselves(affine):
    check_affine(affine, "scan.nii")
    assert grid_difference(SHAPE, affine, SHAPE, affine) is None
    np.testing.assert_allclose(spacing_of(affine), np.linalg.norm(affine[:3, :3], axis=0))
    np.testing.assert_array_equal(lps_to_ras(ras_to_lps(affine)), affine)
    assert 0 <= obliquity_degrees(affine) <= 55  # no direction is farther from its nearest axis


@given(affines(), st.sampled_from(["flip", "shift", "spacing", "swap"]), st.integers(0, 2))
def test_any_change_of_the_grid_is_found(affine, change, axis):
    other = affine.copy()
    if change == "flip":
        other[:3, 3] += affine[:3, axis] * (SHAPE[axis] - 1)
        other[:3, axis] *= -1
    elif change == "shift":
        other[axis, 3] += 1.5 * GRID_TOLERANCE_MM
    elif change == "spacing":
        other[:3, axis] *= 1 + 1.5 * GRID_TOLERANCE_MM / (spacing_of(affine)[axis] * (SHAPE[axis] - 1))
    else:
        other[:3, [axis, (axis + 1) % 3]] = affine[:3, [(axis + 1) % 3, axis]]
    assert grid_difference(SHAPE, affine, SHAPE, other)


@given(affines())
def test_an_affine_that_went_through_a_nifti_header_counts_as_the_same(affine):
    """Also from the qform alone, whose float32 quaternion is least exact near a half turn."""
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    assert grid_difference(SHAPE, affine, SHAPE, header.get_sform()) is None
    assert grid_difference(SHAPE, affine, SHAPE, header.get_qform()) is None


def test_differences_are_told_by_what_shows_most():
    assert grid_difference(SHAPE, AXIAL, (20, 30, 11), AXIAL) == "shape 20 x 30 x 10 against 20 x 30 x 11"
    assert grid_difference(SHAPE, AXIAL, SHAPE, np.diag([1, 1, 2.5, 1])) == "axes LAS against RAS"
    assert grid_difference(SHAPE, AXIAL, SHAPE, AXIAL @ np.diag([1, 1, 2, 1])) == (
        "voxels of 1 x 1 x 2.5 mm against 1 x 1 x 5 mm"
    )
    shifted = AXIAL.copy()
    shifted[0, 3] += 4
    assert grid_difference(SHAPE, AXIAL, SHAPE, shifted) == "corners up to 4 mm apart"
    assert grid_difference(SHAPE, AXIAL, SHAPE, np.full((4, 4), np.nan)) == "an affine with NaN or infinite entries"


def test_the_tolerance_shrinks_with_small_voxels():
    fine, shifted = np.diag([0.05, 0.05, 0.05, 1.0]), np.diag([0.05, 0.05, 0.05, 1.0])
    shifted[0, 3] = 0.05
    assert grid_difference(SHAPE, fine, SHAPE, shifted) == "corners up to 0.05 mm apart"


def test_itk_reads_the_lps_affine(tmp_path):
    """ITK's index to point map, an independent reading of the file, is our affine turned to LPS."""
    SimpleITK = pytest.importorskip("SimpleITK")  # noqa: N806
    affine = nib.affines.from_matvec(quat2mat(angle_axis2quat(0.3, [1, 2, 3])) @ np.diag([1.0, 0.8, 3.0]), [5, -70, 33])
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), affine), tmp_path / "oblique.nii")
    image = SimpleITK.ReadImage(str(tmp_path / "oblique.nii"))
    lps = ras_to_lps(affine)
    for corner, index in zip(corners(SHAPE, lps), corners(SHAPE, np.eye(4)), strict=True):
        np.testing.assert_allclose(image.TransformContinuousIndexToPhysicalPoint(index.tolist()), corner, atol=1e-4)


def test_orientation_and_obliquity():
    assert orientation_of(AXIAL) == "LAS"
    assert orientation_of(AXIAL[:, [2, 1, 0, 3]]) == "SAL"
    assert obliquity_degrees(AXIAL) == pytest.approx(0)
    tilted = nib.affines.from_matvec(nib.eulerangles.euler2mat(x=np.radians(12)))
    assert obliquity_degrees(tilted) == pytest.approx(12)


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.eye(3), "not a 4x4 matrix"),
        (np.diag([1.0, 1, 1, 2]), "ending in 0 0 0 1"),
        (np.diag([1.0, np.nan, 1, 1]), "NaN or infinite"),
        (np.diag([1.0, 0.0, 1, 1]), "voxel size of 1 x 0 x 1 mm"),
        (np.diag([1000.0, 1, 1, 1]), "voxel size of 1000 x 1 x 1 mm"),
        (np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "axes lie in one plane"),
    ],
)
def test_what_is_no_affine_of_a_scan_is_refused_by_name(affine, message):
    with pytest.raises(InputError, match=f"scan.nii has .*{message}"):
        check_affine(affine, "scan.nii")


@given(affine=affines(), column=st.integers(0, 500), row=st.integers(0, 500), number=st.integers(0, 200))
def test_slices_affine_is_dicoms_own_equation(affine, column, row, number):
    """PS3.3 C.7.6.2.1.1: PixelSpacing counts rows first, ImageOrientationPatient the direction along a row."""
    spacing = spacing_of(affine)
    axes = (affine[:3, :3] / spacing).T
    stack = slices_affine(axes[:2], (spacing[1], spacing[0]), affine[:3, 3], affine[:3, 2])
    place = affine[:3, 3] + column * spacing[0] * axes[0] + row * spacing[1] * axes[1] + number * affine[:3, 2]
    np.testing.assert_allclose((stack @ [column, row, number, 1])[:3], place, atol=1e-6)
