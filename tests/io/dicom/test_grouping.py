"""What one folder mixes is told apart, listed to choose from, or left out for a stated reason."""

import shutil
import time

import numpy as np
import pytest

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io.dicom import DicomSeriesReader
from unet_bundle.io.dicom.frames import Frame
from unet_bundle.io.dicom.grouping import without_copies
from unet_bundle.io.dicom.headers import Header, read_headers
from unet_bundle.io.dicom.sources import Source, find_sources

CT = "1.2.840.10008.5.1.4.1.1.2"


def read(path, **options):
    reader = DicomSeriesReader(**options)
    return reader.get_data(reader.read(path))


def setting(**elements):
    def edit(_index, dataset):
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)

    return edit


def test_two_series_are_listed_and_one_can_be_chosen(write, tmp_path):
    write("study/a", series=1, seed=1)
    second = write("study/b/deep", series=2, seed=2, shape=(9, 10, 5))
    with pytest.raises(
        InputError, match=r"holds 2 volumes.*1\) CT series 1 .*12 x 10 x 8; 2\) CT series 2 .*9 x 10 x 5"
    ):
        read(tmp_path / "study")
    for choice in (
        {"volume": 2},
        {"series_uid": ".2.2.2"},
        {"series_uid": "....498.2.2.2"},
        {"series_uid": "1.2.826.0.1.3680043.8.498.2.2.2"},
    ):
        np.testing.assert_array_equal(read(tmp_path / "study", **choice)[0], second.voxels.transpose(2, 1, 0))
    with pytest.raises(InputError, match="holds no volume that was asked for"):
        read(tmp_path / "study", series_uid="9.9")
    with pytest.raises(InputError, match="volume is 3, but"):
        read(tmp_path / "study", volume=3)


def test_an_ending_that_two_series_share_is_refused_and_a_whole_uid_counts_first(write, tmp_path):
    short = write("study/a", series=1, edit=setting(SeriesInstanceUID="1.2.3"))
    long = write("study/b", series=2, edit=setting(SeriesInstanceUID="9.1.2.3"), seed=2)
    for ending in (".2.3", "3"):
        with pytest.raises(InputError, match=r"ending of 2 series: 1\) CT series 1 .*give the whole SeriesInstanceUID"):
            read(tmp_path / "study", series_uid=ending)
    for uid, series in (("1.2.3", short), ("9.1.2.3", long)):
        np.testing.assert_array_equal(read(tmp_path / "study", series_uid=uid)[0], series.voxels.transpose(2, 1, 0))


def test_a_series_can_be_chosen_by_its_description(write, tmp_path):
    write("study/a", series=1, edit=setting(SeriesDescription="Scout"))
    write("study/b", series=2, edit=setting(SeriesDescription="Abdomen"), shape=(9, 10, 5))
    assert read(tmp_path / "study", series_description="abdomen")[0].shape == (9, 10, 5)


def test_another_modality_is_refused_and_a_fitting_one_found(write, tmp_path):
    write("study/ct", series=1)
    write("study/mr", series=2, modality="MR", shape=(9, 10, 5))
    assert read(tmp_path / "study", modality="MR")[0].shape == (9, 10, 5)
    with pytest.raises(InputError, match=r"CT series 1 .* is CT, the model needs MR"):
        read(tmp_path / "study/ct", modality="MR")


@pytest.mark.parametrize(
    ("keyword", "values"),
    [("EchoTime", (2.3, 4.6)), ("TemporalPositionIdentifier", (1, 2)), ("AcquisitionNumber", (1, 2))],
)
def test_volumes_under_one_uid_are_told_apart(write, tmp_path, keyword, values):
    parts = []
    for number, value in enumerate(values):

        def edit(index, dataset, number=number, value=value):
            setattr(dataset, keyword, value)
            dataset.SeriesInstanceUID = "1.2.3"
            dataset.FrameOfReferenceUID = "1.2.4"
            dataset.SOPInstanceUID = f"1.2.5.{number}.{index + 1}"

        parts.append(write(f"all/{number}", seed=number, modality="MR", edit=edit))
    with pytest.raises(InputError, match=f"holds 2 volumes.*{keyword} {values[0]}; .*{keyword} {values[1]}"):
        read(tmp_path / "all")
    for number, part in enumerate(parts, 1):
        np.testing.assert_array_equal(read(tmp_path / "all", volume=number)[0], part.voxels.transpose(2, 1, 0))


def test_acquisitions_that_make_up_one_stack_stay_together(write):
    series = write(edit=lambda index, dataset: setattr(dataset, "AcquisitionNumber", index // 3))
    assert read(series.folder)[0].shape == (12, 10, 8)


def test_mixed_sizes_and_orientations_under_one_uid_are_volumes_of_their_own(write, tmp_path):
    same = setting(SeriesInstanceUID="1.2.3")
    write("all/a", edit=same)
    write("all/b", edit=same, shape=(6, 6, 3), seed=1)
    write("all/c", edit=same, orientation="sagittal", seed=2)
    with pytest.raises(InputError, match="holds 3 volumes"):
        read(tmp_path / "all")
    assert read(tmp_path / "all", volume=2)[0].shape == (6, 6, 3)


def test_planes_round_an_axis_are_no_stack(synthetic, tmp_path):
    """Each would be a volume of its own; telling thousands of them apart would take minutes."""
    _, path = synthetic.write_multiframe(tmp_path, times=20, shape=(4, 4, 8))
    dataset = synthetic.pydicom.dcmread(path)
    for number, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        angle = np.pi * number / 160
        orientation = synthetic.Dataset()
        orientation.ImageOrientationPatient = [f"{value:.10f}" for value in (np.cos(angle), np.sin(angle), 0, 0, 0, -1)]
        groups.PlaneOrientationSequence = [orientation]
    synthetic.save(dataset, path)
    with pytest.raises(InputError, match=r"CT series 0 .*has more than 100 orientations or voxel sizes"):
        read(path)


def test_copies_of_files_are_dropped_with_a_warning(write, caplog):
    series = write()
    shutil.copytree(series.folder, series.folder / "backup")
    array, _ = read(series.folder)
    np.testing.assert_array_equal(array, series.voxels.transpose(2, 1, 0))
    assert "8 files are copies of others" in caplog.text


def test_a_slice_that_is_there_twice_with_other_voxels_is_refused(write, synthetic):
    series = write()
    again = synthetic.pydicom.dcmread(series.files[3])
    again.SOPInstanceUID = "1.2.3.4"
    synthetic.set_pixels(again, series.voxels[0])
    again.save_as(series.folder / "again.dcm")
    with pytest.raises(InputError, match="9 slices at 8 positions and nothing in their headers tells"):
        read(series.folder)


def test_copies_without_an_instance_uid_are_dropped_too(write, synthetic, caplog):
    series = write()
    for path in series.files:
        dataset = synthetic.pydicom.dcmread(path)
        del dataset.SOPInstanceUID, dataset.file_meta.MediaStorageSOPInstanceUID
        dataset.save_as(path)
    shutil.copytree(series.folder, series.folder / "backup")
    np.testing.assert_array_equal(read(series.folder)[0], series.voxels.transpose(2, 1, 0))
    assert "8 files are copies of others" in caplog.text


def test_slices_that_differ_under_one_instance_uid_are_refused(write):
    """A result could not say which of them it refers to."""
    series = write(edit=lambda index, dataset: setattr(dataset, "SOPInstanceUID", f"1.2.3.{index // 2}"))
    with pytest.raises(InputError, match="8 files that differ under 4 SOPInstanceUIDs"):
        read(series.folder)


def test_very_many_files_are_grouped_in_time(synthetic, tmp_path):
    """A copy among 20,000: the time grows with their number, not with its square."""
    count = 20_000
    source = Source(tmp_path / "file")
    source.path.write_bytes(b"the same")
    axes = np.eye(3)[:2]

    def frame(number):
        dataset = synthetic.Dataset()
        dataset.SOPInstanceUID = f"1.2.{max(number, 1)}"
        header = Header(source, number + 1, count, dataset, "", 0)
        position = np.array([0.0, 0.0, number])
        return Frame(header, 0, (0, 0), (4, 4), position, axes, (1.0, 1.0), 1.0, 1.0, 0.0, {})

    frames = [frame(number) for number in range(count)]
    start = time.process_time()
    assert len(without_copies(frames)) == count - 1
    assert time.process_time() - start < 5


def test_localizers_captures_and_other_objects_are_left_out(write, tmp_path):
    scan = write("study/scan")
    write("study/scout", series=7, edit=setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    write("study/lone", series=6, edit=setting(ImageType="LOCALIZER"))
    write("study/shot", series=8, edit=setting(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"))
    write("study/seg", series=9, edit=setting(Modality="SEG"))
    (tmp_path / "study/notes.txt").write_text("seen")
    np.testing.assert_array_equal(read(tmp_path / "study")[0], scan.voxels.transpose(2, 1, 0))
    for folder, reason in (
        ("scout", "a localizer"),
        ("lone", "a localizer"),
        ("shot", "a secondary capture"),
        ("seg", "of modality SEG"),
    ):
        with pytest.raises(InputError, match=f"the DICOM input is {reason}"):
            read(tmp_path / "study" / folder)


@pytest.mark.parametrize("changes", [{"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, {"Modality": "SR"}])
def test_a_report_in_the_series_of_a_scan_is_left_out_but_no_slice_is(write, synthetic, changes):
    series = write(edit=setting(SeriesInstanceUID="1.2.3"))
    report = synthetic.pydicom.dcmread(series.files[2])
    report.SOPInstanceUID = "1.2.3.4"
    for keyword, value in changes.items():
        setattr(report, keyword, value)
    path = series.folder / "report"
    report.save_as(path)
    with pytest.raises(InputError, match="also holds objects that are no scan"):
        read(series.folder)
    del report.ImagePositionPatient
    report.save_as(path)
    np.testing.assert_array_equal(read(series.folder)[0], series.voxels.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("sop_class", "words"),
    [
        ("1.3.12.2.1107.5.9.1", "a maker's own object without an image"),  # Siemens: protocols, calibrations
        ("1.3.46.670589.11.0.0.12.2", "a maker's own object without an image"),  # Philips: data of a series
        ("1.2.840.10008.5.1.4.1.1.66", "raw data or a spectrum"),
    ],
)
def test_objects_without_an_image_that_scanners_send_along_are_left_out(write, synthetic, tmp_path, sop_class, words):
    scan = write("study/scan", modality="MR")
    other = synthetic.pydicom.dcmread(scan.files[0])
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = sop_class
    other.SeriesInstanceUID = "1.2.99"
    for keyword in ("ImagePositionPatient", "Rows", "Columns", "PixelData", "PhotometricInterpretation"):
        delattr(other, keyword)
    (tmp_path / "study/other").mkdir()
    other.save_as(tmp_path / "study/other/PhoenixZIPReport")
    np.testing.assert_array_equal(read(tmp_path / "study")[0], scan.voxels.transpose(2, 1, 0))
    with pytest.raises(InputError, match=f"the DICOM input is {words}"):
        read(tmp_path / "study" / "other")


def test_a_maker_s_own_class_with_an_image_is_no_reason_to_leave_it_out(write):
    """A slice whose class is damaged would go missing without a trace."""
    series = write(edit=lambda index, dataset: setattr(dataset, "SOPClassUID", "1.3.12.2.1107.5.9.1" if index else CT))
    np.testing.assert_array_equal(read(series.folder)[0], series.voxels.transpose(2, 1, 0))


def test_a_map_of_floats_is_left_out_by_name(synthetic, tmp_path):
    _, path = synthetic.write_multiframe(tmp_path)
    dataset = synthetic.pydicom.dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.30"
    dataset.FloatPixelData = np.zeros((8, 10, 12), "<f4").tobytes()
    dataset.BitsAllocated = 32
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, keyword)
    synthetic.save(dataset, path)
    with pytest.raises(InputError, match="the DICOM input is a map computed from scans"):
        read(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    synthetic.save(dataset, path)
    with pytest.raises(InputError, match="has no PixelRepresentation, as images of floating-point numbers"):
        read(path)


@pytest.mark.parametrize("order_seed", [0, 1])
def test_enhanced_objects_are_sorted_by_their_functional_groups(synthetic, tmp_path, order_seed):
    series, path = synthetic.write_multiframe(tmp_path, order_seed=order_seed, orientation="coronal")
    array, meta = read(path)
    flat, flat_meta = read(series.folder)
    np.testing.assert_array_equal(array, flat - 1000)
    np.testing.assert_allclose(meta["affine"], flat_meta["affine"], atol=1e-9)


def test_several_volumes_in_one_enhanced_object_can_be_chosen(synthetic, tmp_path):
    series, path = synthetic.write_multiframe(tmp_path, times=3)
    with pytest.raises(InputError, match=r"holds 3 volumes.*TemporalPositionIndex 3"):
        read(path)
    expected = series.voxels.transpose(2, 1, 0) + 10 - 1000
    np.testing.assert_array_equal(read(path, volume=2)[0], expected)


@pytest.mark.parametrize(
    "options", [{"on_tilt": "guess"}, {"on_gaps": True}, {"modality": "US"}, {"volume": 0}, {"volume": True}]
)
def test_unknown_options_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        DicomSeriesReader(**options)


@pytest.mark.parametrize("uid", ["../../elsewhere", "NAME^GIVEN 19700101", "1..2", "1" * 65, "/1.2.3"])
def test_a_series_uid_that_is_none_names_no_file_and_no_message(write, tmp_path, uid):
    write("scan", edit=setting(SeriesInstanceUID=uid))
    with pytest.raises(InputError, match="SeriesInstanceUID that is no UID") as refused:
        read(tmp_path / "scan")
    assert uid not in str(refused.value)


def test_studies_under_one_series_uid_are_not_one_volume(write, tmp_path):
    def two_studies(index, dataset):
        dataset.StudyInstanceUID = "1.2.3" if index < 3 else "1.2.4"

    write("scan", edit=two_studies)
    with pytest.raises(InputError, match="mixes 2 studies"):
        read(tmp_path / "scan")


def test_slices_of_two_patients_are_no_series(write, caplog):
    def swapped(index, dataset):
        if index == 3:
            dataset.PatientID = "PLANTED-OTHER"

    series = write(edit=swapped)
    with pytest.raises(InputError, match=r"^CT series 0 \(.*\) mixes 2 patients: export each again") as refusal:
        DicomSeriesReader().read(series.folder)
    assert "PLANTED" not in str(refusal.value) + caplog.text
    assert not any("PLANTED-" in str(header) for header in read_headers(find_sources(series.folder)))


@pytest.mark.parametrize("stated", [None, "", "PLANTED-ID-77 "])
def test_a_missing_or_padded_patient_id_is_no_other_patient(write, stated):
    def changed(index, dataset):
        if index == 3:
            dataset.PatientID = stated

    DicomSeriesReader().read(write(edit=changed).folder)
