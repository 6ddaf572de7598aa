"""Which series of a study a model can segment."""

import zipfile

import numpy as np
import pytest

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import DicomSeriesReader, LoadImaged, find_images
from unet_bundle.io.dicom.study import DICOM_SERIES, read_study


def test_modality_and_geometry_decide(write, tmp_path):
    write("a", modality="MR", series=1)
    write("b", modality="CT", series=2)
    write("c", modality="CT", series=3, skip=(2,))
    study = read_study(tmp_path, {"modality": "CT"})
    assert [series.refusal is None for series in study.series] == [False, True, False]
    assert [len(case["image"]) for case in study.cases()] == [8]
    assert "is MR, the model needs CT" in study.reasons()[0]
    assert "lacks 1 slice" in study.reasons()[1]


def test_a_scan_has_one_channel(write):
    study = read_study(write().folder, {}, channels=2)
    with pytest.raises(InputError, match="has 1 channel, the model needs 2"):
        study.cases()


def test_a_series_without_uid_has_a_name_of_its_own(write):
    def without(_index, dataset):
        del dataset.SeriesInstanceUID

    (case,) = read_study(write(edit=without).folder, {}).cases()
    assert case["series"] == DICOM_SERIES


@pytest.mark.parametrize("packed", [False, True])
def test_the_case_is_read_as_the_folder_is(write, tmp_path, packed):
    first, second = write("a", series=1, seed=1), write("b", series=2, seed=2)
    source = tmp_path
    if packed:
        source = tmp_path / "study.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for series in (first, second):
                for path in series.files:
                    archive.write(path, f"./{series.folder.name}/deep/{path.stem}")
    cases = find_images(source)
    load = LoadImaged(keys="image", channels=1)
    for case, series in zip(cases, (first, second), strict=True):
        image = load(case)["image"]
        np.testing.assert_array_equal(image[0], load({"image": str(series.folder)})["image"][0])
        assert image.meta["filename_or_obj"] == case["series"]


def test_an_archive_that_changed_is_refused(write, tmp_path):
    series = write("a")
    source = tmp_path / "study.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for path in series.files:
            archive.write(path, path.name)
    (case,) = find_images(source)
    with zipfile.ZipFile(source, "w") as archive:
        archive.write(series.files[0], series.files[0].name)
    with pytest.raises(InputError, match="the zip archive lacks a file"):
        LoadImaged(keys="image")(case)


def test_a_study_where_nothing_fits_says_why(write, tmp_path):
    write("a", modality="MR", series=1)
    write("b", modality="PT", series=2)
    with pytest.raises(InputError, match=r"holds no series to segment: MR series 1 .* is MR.*and 1 more") as refusal:
        find_images(tmp_path, dicom={"modality": "CT"})
    assert "PLANTED" not in str(refusal.value)


def test_an_ending_is_unique_in_the_study_or_refused(write, tmp_path):
    def uid(value):
        return lambda _index, dataset: setattr(dataset, "SeriesInstanceUID", value)

    write("a", series=1, edit=uid("1.2.3"))
    write("b", series=2, edit=uid("9.1.2.3"), seed=2)
    (case,) = read_study(tmp_path, {"series_uid": "1.2.3"}).cases()
    assert case["series"] == "1.2.3"
    with pytest.raises(InputError, match="series_uid is the ending of 2 series"):
        read_study(tmp_path, {"series_uid": "2.3"}).cases()


@pytest.mark.parametrize("option", ["series_uid", "series_description"])
def test_an_ending_of_a_uid_that_was_taken_for_a_number_is_refused(option):
    with pytest.raises(ConfigError, match=r"23430\.1: it must be text"):
        DicomSeriesReader(**{option: 23430.1})
