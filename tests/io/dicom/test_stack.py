"""A stack comes out right in patient space, or it is refused."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from unet_bundle.errors import InputError
from unet_bundle.io.dicom import DicomSeriesReader

NAMES = ("axial", "sagittal", "coronal", "oblique", "feet first", "prone", "negated cosines")


def read(path, **options):
    reader = DicomSeriesReader(**options)
    return reader.get_data(reader.read(path))


def assert_right(series, array, meta, shape=None):
    """Every voxel has the value that was written, at the place where it was written."""
    columns, rows, count = shape or series.voxels.shape[::-1]
    assert array.shape == (columns, rows, count)
    to_index = np.linalg.inv(meta["affine"])
    for number in range(count):
        for column, row in ((0, 0), (columns - 1, 0), (0, rows - 1), (columns - 1, rows - 1), (3, 4)):
            index = to_index @ [*series.ras(column, row, number), 1]
            nearest = np.rint(index[:3]).astype(int)
            where = meta["affine"] @ [*nearest, 1]
            assert np.linalg.norm(where[:3] - series.ras(column, row, number)) <= 1e-3
            assert array[tuple(nearest)] == series.voxels[number, row, column]


@pytest.mark.parametrize("orientation", NAMES)
def test_shuffled_files_come_out_in_the_order_of_their_positions(write, orientation):
    series = write(orientation=orientation)
    assert_right(series, *read(series.folder))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    spacing=st.tuples(st.floats(0.2, 5), st.floats(0.2, 5), st.floats(0.3, 10)),
    origin=st.tuples(*[st.floats(-800, 800)] * 3),
    count=st.integers(2, 9),
)
def test_any_orientation_puts_every_voxel_where_it_is(synthetic, tmp_path_factory, seed, spacing, origin, count):
    axes = Rotation.random(random_state=seed).as_matrix()[:2]
    series = synthetic.write_series(
        tmp_path_factory.mktemp("any"), (6, 7, count), spacing, axes, origin, seed=seed % 1000
    )
    assert_right(series, *read(series.folder))


def test_missing_slices_are_named_by_their_positions(write):
    series = write(skip=(3, 5))
    with pytest.raises(InputError, match=r"lacks 2 slices at 16\.0, 20\.0 mm along the normal"):
        read(series.folder)


def test_missing_slices_are_interpolated_on_demand(write):
    full, gapped = write("full"), write("gapped", skip=(3,))
    (expected, meta), (array, gapped_meta) = read(full.folder), read(gapped.folder, on_gaps="resample")
    np.testing.assert_allclose(gapped_meta["affine"], meta["affine"], atol=1e-9)
    np.testing.assert_allclose(array[..., 3], (expected[..., 2].astype(float) + expected[..., 4]) / 2)
    np.testing.assert_array_equal(np.delete(array, 3, axis=2), np.delete(expected, 3, axis=2))


def test_too_wide_a_gap_is_refused_also_where_gaps_are_interpolated(write):
    series = write(skip=(2, 3, 4))
    with pytest.raises(InputError, match=r"the widest 4\.0 times the usual, too wide"):
        read(series.folder, on_gaps="resample")


def test_uneven_distances_are_refused_with_their_range(write):
    series = write(depths=[0, 2, 4, 6, 9, 12, 15, 18])
    with pytest.raises(InputError, match=r"slice distances from 2 to 3 mm.*dicom::on_gaps to resample"):
        read(series.folder)


def test_a_distance_a_little_off_is_no_missing_slice(write):
    series = write(depths=[0, 2, 4, 6.08, 8.08, 10.08, 12.08, 14.08])
    with pytest.raises(InputError, match=r"slice distances from 2 to 2\.08 mm"):
        read(series.folder)


@pytest.mark.parametrize("orientation", NAMES)
def test_a_tilted_gantry_is_refused_with_its_angle(write, orientation):
    series = write(orientation=orientation, lean=(0.0, np.tan(np.radians(12.0))))
    with pytest.raises(InputError, match=r"gantry tilt of 12\.0 degrees.*dicom::on_tilt to resample"):
        read(series.folder)


def test_rounding_of_positions_is_no_tilt_and_no_gap(write):
    def rounded(_index, dataset):
        dataset.ImagePositionPatient = [f"{float(value):.3f}" for value in dataset.ImagePositionPatient]

    series = write(orientation="oblique", spacing=(0.8, 0.9, 0.625), edit=rounded)
    array, meta = read(series.folder)
    np.testing.assert_array_equal(array, series.voxels.transpose(2, 1, 0))
    np.testing.assert_allclose(np.linalg.norm(meta["affine"][:3, 2]), 0.625, atol=1e-3)


def test_one_slice_shifted_sideways_is_refused(write):
    def shift(index, dataset):
        if index == 4:
            dataset.ImagePositionPatient[0] += 1.0

    with pytest.raises(InputError, match="shifted against each other by up to 1 mm"):
        read(write(edit=shift).folder)


def test_two_frames_of_reference_are_refused(write):
    def other(index, dataset):
        if index > 4:
            dataset.FrameOfReferenceUID = "1.2.3"

    with pytest.raises(InputError, match="mixes 2 frames of reference"):
        read(write(edit=other).folder)


def test_one_slice_needs_a_thickness(write):
    def without(_index, dataset):
        del dataset.SliceThickness

    array, meta = read(write("thick", shape=(5, 6, 1)).folder)
    assert array.shape == (5, 6, 1)
    np.testing.assert_allclose(meta["affine"][2, 2], 2.0)
    with pytest.raises(InputError, match="single slice without SliceThickness"):
        read(write("thin", shape=(5, 6, 1), edit=without).folder)
