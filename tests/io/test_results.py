"""Whether a result is of the very planes that would be read."""

import pytest
import torch

from unet_bundle.io import LoadImaged, SaveImaged
from unet_bundle.io.dicom.study import read_study
from unet_bundle.io.results import is_result_of

pytest.importorskip("highdicom")
pytest.importorskip("contourpy")

FORMATS = ["nifti", "nrrd", "seg.nrrd", "dicom-seg", "dicom-seg-labelmap", "dicom-seg-fractional", "rtstruct"]
DICOM = FORMATS[3:]


def saved(path, folder, output_format, *, terms=None, **options):
    """The result of a series: one box; with terms nothing, so that they say what could be there."""
    labels = torch.zeros_like(LoadImaged(keys="image", dicom=options)({"image": path})["image"])
    if terms is None:
        labels[0, 3:8, 2:7] = 1
    SaveImaged(keys="pred", output_dir=folder, output_format=output_format, segments=terms)({"pred": labels})
    return next(folder.iterdir())


def source(path, **options):
    (series,) = read_study(path, options).fitting
    return series.source


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("orientation", ["axial", "oblique", "negated cosines"])
def test_of_the_same_slices_and_of_no_others(synthetic, tmp_path, output_format, orientation):
    sizes = {"orientation": orientation, "shape": (12, 10, 8)}
    whole = synthetic.write_series(tmp_path / "whole", **sizes)
    fewer = synthetic.write_series(tmp_path / "fewer", **sizes, skip=(7,))
    result = saved(whole.folder, tmp_path / "out", output_format)
    assert is_result_of(result, source(whole.folder))
    assert not is_result_of(result, source(fewer.folder))
    assert not is_result_of(saved(fewer.folder, tmp_path / "out fewer", output_format), source(whole.folder))


@pytest.mark.parametrize("output_format", FORMATS)
def test_of_a_series_that_was_resampled(synthetic, tmp_path, output_format):
    series = synthetic.write_series(tmp_path / "series", shape=(12, 10, 8), lean=(0.0, 0.3))
    options = {"on_tilt": "resample"}
    assert is_result_of(
        saved(series.folder, tmp_path / "out", output_format, **options), source(series.folder, **options)
    )


@pytest.mark.parametrize("output_format", ["dicom-seg", "dicom-seg-labelmap", "rtstruct"])
@pytest.mark.parametrize("empty", [False, True])
def test_of_one_volume_of_an_object_that_holds_two(synthetic, tmp_path, output_format, empty, terms):
    _, path = synthetic.write_multiframe(tmp_path / "series", times=2, shape=(12, 10, 8))
    result = saved(path, tmp_path / "out", output_format, volume=1, terms=terms if empty else None)
    assert is_result_of(result, source(path, volume=1))
    assert not is_result_of(result, source(path, volume=2))


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_damaged_result_is_none(synthetic, tmp_path, output_format):
    series = synthetic.write_series(tmp_path / "series", shape=(12, 10, 8))
    result = saved(series.folder, tmp_path / "out", output_format)
    for length in (0, 50, 300):
        result.write_bytes(result.read_bytes()[:length])
        assert not is_result_of(result, source(series.folder))
