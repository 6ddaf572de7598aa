"""Tilted and unevenly spaced planes onto a grid, and labels back."""

import numpy as np
import pytest

from unet_bundle.errors import InputError
from unet_bundle.io.dicom import DicomSeriesReader, SourceSeries, to_source_slices

TILT = (0.1, float(np.tan(np.radians(15))))


def smooth(series):
    """A voxel value that is linear in patient space, so that linear interpolation must give it back."""
    columns, rows = series.voxels.shape[2], series.voxels.shape[1]
    places = (
        series.positions[:, None, None]
        + np.arange(columns)[None, None, :, None] * series.spacing[0] * series.axes[0]
        + np.arange(rows)[None, :, None, None] * series.spacing[1] * series.axes[1]
    )
    return np.rint((places * [-1, -1, 1]) @ [7.0, 11.0, 13.0]).astype(np.int16)


def written_smooth(write, synthetic, **options):
    """A series whose voxels tell their place in patient space."""
    series = write(**options)
    for path in series.files:
        dataset = synthetic.pydicom.dcmread(path)
        number = int(dataset.SOPInstanceUID.rsplit(".", 1)[1]) - 1
        synthetic.set_pixels(dataset, smooth(series)[number].view(np.uint16))
        dataset.save_as(path)
    return series


@pytest.mark.parametrize("orientation", ["axial", "oblique", "negated cosines"])
@pytest.mark.parametrize(
    ("lean", "depths"), [(TILT, None), ((0, 0), [0, 2, 5, 6, 8, 10, 13, 14]), (TILT, [0, 2, 5, 6, 8, 10, 13, 14])]
)
def test_anatomy_stays_where_it_is(write, synthetic, orientation, lean, depths):
    series = written_smooth(
        write, synthetic, shape=(40, 30, 8), lean=lean, depths=depths, orientation=orientation, spacing=(0.8, 0.9, 2)
    )
    reader = DicomSeriesReader(on_tilt="resample", on_gaps="resample")
    array, meta = reader.get_data(reader.read(series.folder))
    affine = meta["affine"]
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    index = np.stack(np.meshgrid(*map(np.arange, array.shape), indexing="ij"), axis=-1)
    expected = (index @ affine[:3, :3].T + affine[:3, 3]) @ [7.0, 11.0, 13.0]
    inside = (slice(15, 25), slice(14, 18), slice(None))
    np.testing.assert_allclose(array[inside], expected[inside], atol=1.0)  # the phantom is rounded to whole numbers


@pytest.mark.parametrize(("lean", "depths"), [(TILT, None), ((0, 0), [0, 2, 5, 6, 8, 10, 13, 14]), ((0, 0), None)])
def test_labels_return_to_the_planes_they_came_from(write, synthetic, lean, depths):
    series = written_smooth(write, synthetic, shape=(40, 30, 8), lean=lean, depths=depths)
    reader = DicomSeriesReader(on_tilt="resample", on_gaps="resample")
    array, meta = reader.get_data(reader.read(series.folder))
    source = SourceSeries.from_json(meta["dicom_source"])
    threshold = np.median(smooth(series))
    labels = to_source_slices((array > threshold).astype(np.uint8), meta["affine"], source)
    expected = (smooth(series) > threshold).transpose(2, 1, 0)
    assert labels.shape == (40, 30, 8)
    assert labels.dtype == np.uint8
    # Nearest voxels move the border by up to half a voxel: only there may labels differ.
    border = np.abs(smooth(series).transpose(2, 1, 0) - threshold) < 13 + 11 + 7 * 2
    np.testing.assert_array_equal(labels[~border], expected[~border])
    assert (labels == expected).mean() > 0.97


def test_a_grid_beyond_measure_is_refused_before_voxels_are_read(write):
    """Tiny voxels under a tilt: a plane of 10 rows would become one of a million."""
    series = write(spacing=(0.8, 2e-4, 90.0), shape=(500, 10, 8), lean=TILT)
    for path in series.files:
        path.write_bytes(path.read_bytes()[:-64])
    reader = DicomSeriesReader(on_tilt="resample")
    with pytest.raises(InputError, match="would fill more than 2147483648 voxels when it is resampled"):
        reader.read(series.folder)


def test_the_record_names_the_instance_of_every_slice(write):
    series = write()
    reader = DicomSeriesReader()
    _, meta = reader.get_data(reader.read(series.folder))
    source = SourceSeries.from_json(meta["dicom_source"])
    assert not source.resampled
    assert [int(each.sop_instance_uid.rsplit(".", 1)[1]) for each in source.slices] == list(range(1, 9))
    np.testing.assert_allclose(source.positions, series.positions)
    assert {each.sop_class_uid for each in source.slices} == {"1.2.840.10008.5.1.4.1.1.2"}
    assert sorted(each.source.path for each in source.slices) == sorted(series.files)
