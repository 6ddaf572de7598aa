"""Which object, and which frame of it, a result says it was made from: for every kind of object a series comes in."""

import pydicom
import pytest
import torch

from unet_bundle.errors import InputError
from unet_bundle.io import LoadImaged, SaveImaged

pytest.importorskip("highdicom")
pytest.importorskip("contourpy")

FORMATS = ["dicom-seg", "dicom-seg-labelmap", "rtstruct"]
SHAPE = (13, 11)


def save(source, folder, output_format, **options):
    """The series as a label map of one box through all its slices, saved."""
    image = LoadImaged(keys="image", dicom=options)({"image": source})["image"]
    labels = torch.zeros_like(image)
    labels[0, 3:8, 2:7] = 1
    SaveImaged(keys="pred", output_dir=folder, output_format=output_format)({"pred": labels})
    return next(folder.iterdir())


def references(path):
    """Per frame or contour: its height in mm, and the object and frame that it refers to, None without a frame."""
    dataset = pydicom.dcmread(path)
    if dataset.Modality == "SEG":
        for groups in dataset.PerFrameFunctionalGroupsSequence:
            (item,) = groups.DerivationImageSequence[0].SourceImageSequence
            height = float(groups.PlanePositionSequence[0].ImagePositionPatient[2])
            yield height, item.ReferencedSOPInstanceUID, item.get("ReferencedFrameNumber")
    else:
        for contour in dataset.ROIContourSequence[0].ContourSequence:
            (item,) = contour.ContourImageSequence
            yield float(contour.ContourData[2]), item.ReferencedSOPInstanceUID, item.get("ReferencedFrameNumber")


def enhanced(synthetic, folder, heights, slices=1, times=1):
    """One enhanced object at each height; all are one series."""
    (folder / "in").mkdir(parents=True)
    paths = []
    for number, height in enumerate(heights):
        _, file = synthetic.write_multiframe(
            folder / str(number), times, number, shape=(*SHAPE, slices), origin=(-50.0, 30.0, height)
        )
        paths.append(file.rename(folder / "in" / f"{number}.dcm"))
    return paths


def places(paths, time=1):
    """The same of the source: height, object and frame."""
    for path in paths:
        dataset = pydicom.dcmread(path)
        for number, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence, 1):
            if groups.FrameContentSequence[0].TemporalPositionIndex == time:
                height = float(groups.PlanePositionSequence[0].ImagePositionPatient[2])
                yield height, dataset.SOPInstanceUID, number


@pytest.mark.parametrize("output_format", FORMATS)
def test_of_several_objects_with_several_slices_each(synthetic, tmp_path, output_format):
    paths = enhanced(synthetic, tmp_path, [0.0, 8.0], slices=4)
    path = save(tmp_path / "in", tmp_path / "out", output_format)
    assert sorted(references(path)) == sorted(places(paths))


@pytest.mark.parametrize("output_format", FORMATS)
def test_of_an_object_of_several_times_for_each_slice(synthetic, tmp_path, output_format):
    paths = enhanced(synthetic, tmp_path, [0.0, 2.0, 4.0, 6.0], times=3)
    path = save(tmp_path / "in", tmp_path / "out", output_format, volume=2)
    assert sorted(references(path)) == sorted(places(paths, time=2))
    assert {frame for _, _, frame in references(path)} <= {1, 2, 3}


@pytest.mark.parametrize("output_format", FORMATS)
def test_objects_of_one_frame_are_meant_whole(synthetic, tmp_path, output_format):
    """PS3.3 10.3: a frame is named where the reference is not to all of them."""
    paths = enhanced(synthetic, tmp_path, [0.0, 2.0, 4.0])
    path = save(tmp_path / "in", tmp_path / "out", output_format)
    assert sorted(references(path)) == [(height, uid, None) for height, uid, _ in sorted(places(paths))]


def same_uid_twice(index, dataset):
    if index == 4:
        dataset.SOPInstanceUID = dataset.SOPInstanceUID.rpartition(".")[0] + ".4"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


@pytest.mark.parametrize("output_format", [*FORMATS, "auto"])
def test_slices_that_share_a_uid_get_no_result(synthetic, tmp_path, output_format):
    series = synthetic.write_series(tmp_path / "in", shape=(*SHAPE, 6), edit=same_uid_twice)
    with pytest.raises(InputError, match="1 SOPInstanceUID: export it again from its source"):
        save(series.folder, tmp_path / "out", output_format)


def damaged(synthetic, folder, keyword, value, old, new):
    """A series whose headers have `value`, and then other bytes in its place."""
    series = synthetic.write_series(folder, shape=(*SHAPE, 3), edit=lambda _, dataset: setattr(dataset, keyword, value))
    for path in series.files:
        contents = path.read_bytes()
        assert old in contents
        path.write_bytes(contents.replace(old, new))
    return series.folder


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_header_that_cannot_be_repeated_is_shown_nowhere(synthetic, tmp_path, output_format, caplog):
    start = b"\x10\x00\xc0\x21US"
    folder = damaged(synthetic, tmp_path / "in", "PregnancyStatus", 4, start + b"\2\0\4\0", start + b"\1\0\4")
    with pytest.raises(InputError, match="patient or study data that break the standard"):
        save(folder, tmp_path / "out", output_format)
    assert "\4" not in caplog.text


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_weight_that_is_no_number_is_left_out(synthetic, tmp_path, output_format, caplog, recwarn):
    start = b"\x10\x00\x30\x10DS\6\0"
    folder = damaged(synthetic, tmp_path / "in", "PatientWeight", "70.123", start + b"70.123", start + b"77 kg ")
    dataset = pydicom.dcmread(save(folder, tmp_path / "out", output_format))
    assert "PatientWeight" not in dataset
    assert dataset.PatientID == synthetic.PLANTED[1]
    assert "77 kg" not in caplog.text + "".join(str(each.message) for each in recwarn)


@pytest.mark.parametrize(("number", "result"), [(3, 301), (0, 1), ("", 1001), (99_999_999, 1001), (-5, 1001)])
@pytest.mark.parametrize("output_format", ["dicom-seg", "rtstruct"])
def test_a_result_has_a_series_number_of_its_own(synthetic, tmp_path, number, result, output_format):
    series = synthetic.write_series(
        tmp_path / "series", shape=(*SHAPE, 4), edit=lambda _, each: setattr(each, "SeriesNumber", number)
    )
    assert pydicom.dcmread(save(series.folder, tmp_path / "out", output_format)).SeriesNumber == result
