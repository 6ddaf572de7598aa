"""What a DICOM SEG says: voxels at their places, names, codes, colours, and what it was made from."""

import numpy as np
import pydicom
import pytest
import torch

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.geometry import lps_to_ras
from unet_bundle.io import LoadImaged, SaveImaged
from unet_bundle.io.dicom.record import SourceSeries
from unet_bundle.io.dicom_seg import DicomSegWriter

hd = pytest.importorskip("highdicom")

ORIENTATIONS = ["axial", "sagittal", "coronal", "oblique", "negated cosines", "feet first"]
KINDS = ["dicom-seg", "dicom-seg-labelmap", "dicom-seg-fractional"]
ALGORITHM = {"name": "Lobes in CT", "version": "1.2.3", "family": {"value": "123110", "scheme": "DCM", "meaning": "AI"}}


def save(labels, folder, terms, output_format="dicom-seg"):
    save = SaveImaged(keys="pred", output_dir=folder, output_format=output_format, segments=terms, algorithm=ALGORITHM)
    save({"pred": labels})
    (path,) = folder.iterdir()
    return path


def truth(labels):
    """Points in patient space, mm, LPS, by value: of a label map on the grid that was read."""
    array, affine = labels[0].numpy(), lps_to_ras(labels.affine.numpy())
    return {value: points(np.argwhere(array == value), affine) for value in (1, 3)}


def points(indices, affine):
    found = indices @ affine[:3, :3].T + affine[:3, 3]
    return found[np.lexsort(np.round(found, 3).T)]


def by_pydicom(path):
    """Points by segment, from the frames' own positions and the standard's formula alone."""
    dataset = pydicom.dcmread(path)
    (shared,) = dataset.SharedFunctionalGroupsSequence
    axes = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    rows, columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found = {}
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        for value in np.unique(frame[frame > 0]):
            number = int(value)
            if dataset.SegmentationType != "LABELMAP":
                number = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            row, column = np.nonzero(frame == value)
            place = position + column[:, None] * columns * axes[0] + row[:, None] * rows * axes[1]
            found.setdefault(number, []).append(place)
    joined = {number: np.concatenate(parts) for number, parts in found.items()}
    return {number: part[np.lexsort(np.round(part, 3).T)] for number, part in joined.items()}


@pytest.mark.parametrize("output_format", KINDS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_voxel_is_where_it_was(segmented, terms, tmp_path, orientation, output_format):
    _, labels = segmented(orientation)
    path = save(labels, tmp_path / "out", terms, output_format)
    expected, found = truth(labels), by_pydicom(path)
    assert found.keys() == expected.keys()
    for number, places in expected.items():
        np.testing.assert_allclose(found[number], places, atol=1e-3)


@pytest.mark.parametrize("orientation", ["axial", "oblique", "negated cosines"])
def test_highdicom_reads_the_same_volume(segmented, terms, tmp_path, orientation):
    _, labels = segmented(orientation)
    volume = hd.seg.segread(save(labels, tmp_path / "out", terms)).get_volume(combine_segments=True)
    for value, places in truth(labels).items():
        found = points(np.argwhere(volume.array == value), volume.affine)
        np.testing.assert_allclose(found, places, atol=1e-3)


@pytest.mark.parametrize("kind", ["tilt", "gaps"])
def test_a_resampled_series_gets_its_result_on_its_own_slices(segmented, terms, tmp_path, kind):
    series, labels = segmented(kind)
    dataset = pydicom.dcmread(save(labels, tmp_path / "out", terms))
    assert (dataset.Columns, dataset.Rows) == (13, 11)
    placed = np.array(
        [groups.PlanePositionSequence[0].ImagePositionPatient for groups in dataset.PerFrameFunctionalGroupsSequence],
        float,
    )
    nearest = np.linalg.norm(placed[:, None] - series.positions[None], axis=2).argmin(axis=1)
    np.testing.assert_allclose(placed, series.positions[nearest], atol=1e-6)
    named = [
        groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for groups in dataset.PerFrameFunctionalGroupsSequence
    ]
    uids = {
        pydicom.dcmread(file).ImagePositionPatient[2]: pydicom.dcmread(file).SOPInstanceUID for file in series.files
    }
    assert named == [uids[place] for place in placed[:, 2]]


def test_it_says_what_it_shows_and_what_made_it(segmented, terms, tmp_path):
    _, labels = segmented()
    dataset = pydicom.dcmread(save(labels, tmp_path / "out", terms))
    lobe, absent, vessel = dataset.SegmentSequence
    assert [(each.SegmentNumber, each.SegmentLabel) for each in (lobe, absent, vessel)] == [
        (1, "lobe"),
        (2, "absent"),
        (3, "vessel"),
    ]
    (category,), (kind,) = lobe.SegmentedPropertyCategoryCodeSequence, lobe.SegmentedPropertyTypeCodeSequence
    assert (category.CodeValue, category.CodingSchemeDesignator) == ("123037004", "SCT")
    assert (kind.CodeValue, kind.CodeMeaning) == ("10200004", "Liver")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert lobe.AnatomicRegionSequence[0].CodeMeaning == "Abdomen"
    assert vessel.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99UNETBUNDLE"
    (algorithm,) = lobe.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("Lobes in CT", "1.2.3")
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    color = hd.color.CIELabColor(*(scaled(lobe.RecommendedDisplayCIELabValue))).to_rgb()
    np.testing.assert_allclose(color, [200, 30, 10], atol=2)
    assert dataset.ContentQualification == "RESEARCH"


@pytest.mark.parametrize("output_format", [*KINDS, "rtstruct"])
@pytest.mark.parametrize("code", ["Liver", {"value": "10200004", "scheme": "SCT"}, {"value": "1", "scheme": "S" * 17}])
def test_what_is_no_coded_term_is_refused(segmented, tmp_path, output_format, code):
    _, labels = segmented()
    terms = {"lobe": {"value": 1, "type": {"meaning": 70 * "x", **code} if isinstance(code, dict) else {"x": code}}}
    with pytest.raises(ConfigError, match="is no coded term: give value, scheme and meaning"):
        save((labels > 0).to(labels.dtype), tmp_path / "out", terms, output_format)


def scaled(stored):
    light, *rest = (value / 65535 for value in stored)
    return [100 * light, *(255 * value - 128 for value in rest)]


def test_it_belongs_to_the_patient_the_study_and_the_frame_of_reference_of_its_series(
    synthetic, segmented, terms, tmp_path
):
    series, labels = segmented()
    path = save(labels, tmp_path / "out", terms)
    dataset, source = pydicom.dcmread(path), pydicom.dcmread(series.files[0])
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert dataset[keyword].value == source[keyword].value, keyword
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    (referenced,) = dataset.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    listed = {each.ReferencedSOPInstanceUID for each in referenced.ReferencedInstanceSequence}
    assert listed == {pydicom.dcmread(file).SOPInstanceUID for file in series.files}
    assert path.name == f"{source.SeriesInstanceUID}_seg.dcm"
    assert not any(planted in path.name for planted in synthetic.PLANTED)


def test_a_class_that_does_not_occur_shifts_no_name(segmented, terms, tmp_path):
    _, labels = segmented()
    seg = hd.seg.segread(save(labels, tmp_path / "out", terms))
    assert seg.get_segment_description(3).segment_label == "vessel"
    used = {
        int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for groups in seg.PerFrameFunctionalGroupsSequence
    }
    assert used == {1, 3}


@pytest.mark.parametrize("output_format", KINDS)
def test_an_empty_result_is_one_empty_frame(segmented, terms, tmp_path, output_format):
    _, labels = segmented()
    dataset = pydicom.dcmread(save(labels * 0, tmp_path / "out", terms, output_format))
    assert dataset.NumberOfFrames == len(dataset.PerFrameFunctionalGroupsSequence) == 1
    assert not dataset.pixel_array.any()


def test_frames_of_any_number_of_voxels_are_packed_right(segmented, tmp_path):
    """13 x 11 voxels are no multiple of 8: frames begin within a byte; and a single segment has its number shared."""
    _, labels = segmented()
    path = save((labels == 1).to(labels.dtype), tmp_path / "out", {"all": {"value": 1}})
    dataset = pydicom.dcmread(path)
    assert len(dataset.PixelData) == -(-13 * 11 * dataset.NumberOfFrames // 16) * 2
    assert int(dataset.pixel_array.sum()) == int((labels == 1).sum())


def test_frames_of_a_multiframe_object_are_referred_to_by_number(synthetic, terms, tmp_path):
    _, file = synthetic.write_multiframe(tmp_path / "in", shape=(13, 11, 8))
    image = LoadImaged(keys="image")({"image": file})["image"]
    labels = torch.zeros_like(image)
    labels[0, 3:6, 4:8, 2:5] = 1
    dataset, source = pydicom.dcmread(save(labels, tmp_path / "out", terms)), pydicom.dcmread(file)
    assert len(dataset.PerFrameFunctionalGroupsSequence) == 3
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        (reference,) = groups.DerivationImageSequence[0].SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        frame = source.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
        np.testing.assert_allclose(
            frame.PlanePositionSequence[0].ImagePositionPatient, groups.PlanePositionSequence[0].ImagePositionPatient
        )
    (instance,) = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_values_nobody_described_are_refused(segmented, tmp_path):
    _, labels = segmented()
    with pytest.raises(ConfigError, match="value 3, which no segment has"):
        save(labels, tmp_path / "out", {"lobe": {"value": 1}})
    assert not list((tmp_path / "out").iterdir()), "nothing half-written"


def test_values_with_a_gap_are_refused_where_numbers_must_have_none(segmented, tmp_path):
    _, labels = segmented()
    with pytest.raises(ConfigError, match=r"numbers them 1, 2, 3 without a gap"):
        save(labels, tmp_path / "out", {"lobe": {"value": 1}, "vessel": {"value": 3}})


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "StudyInstanceUID"])
def test_a_series_that_nothing_can_refer_to_is_refused(synthetic, segmented, terms, tmp_path, keyword):
    _, labels = segmented(edit=lambda _, dataset: delattr(dataset, keyword))
    with pytest.raises(InputError, match=f"has no {keyword}, so no DICOM result can refer to it") as refusal:
        save(labels, tmp_path / "out", terms)
    assert not any(planted in str(refusal.value) for planted in synthetic.PLANTED)
    assert not list((tmp_path / "out").iterdir()), "nothing half-written"


@pytest.mark.parametrize("missing", ["FrameOfReferenceUID", "StudyInstanceUID"])
def test_auto_falls_back_to_nifti_for_it(segmented, terms, tmp_path, caplog, missing):
    series, labels = segmented(edit=lambda _, dataset: delattr(dataset, missing))
    path = save(labels, tmp_path / "out", terms, "auto")
    assert path.name == f"{pydicom.dcmread(series.files[0]).SeriesInstanceUID}_seg.nii.gz"
    assert f"has no {missing}" in caplog.text


@pytest.mark.parametrize("charset", ["ISO_IR 100", "", "ISO_IR 192"])
@pytest.mark.parametrize("output_format", ["dicom-seg", "rtstruct"])
def test_names_in_any_character_set_are_kept(segmented, terms, tmp_path, charset, output_format):
    name = "Groß^Zoë" if charset else "Gross^Zoe"

    def edit(_, dataset):
        dataset.SpecificCharacterSet, dataset.PatientName = charset, name

    _, labels = segmented(edit=edit)
    path = save(labels, tmp_path / "out", terms, output_format)
    assert str(pydicom.dcmread(path).PatientName) == name


def test_a_name_spelt_unusually_is_shown_nowhere(segmented, terms, tmp_path, caplog, recwarn):
    def edit(_, dataset):
        dataset.PatientName = "PLANTEDALONE"

    _, labels = segmented(edit=edit)
    recwarn.clear()
    save(labels, tmp_path / "out", terms)
    shown = caplog.text + "".join(str(each.message) for each in recwarn)
    assert "PLANTED" not in shown


def test_a_series_that_is_gone_is_named_in_one_sentence(segmented, terms, tmp_path):
    series, labels = segmented()
    for file in series.files:
        file.unlink()
    with pytest.raises(InputError, match="cannot be read again: keep it until its result is written"):
        save(labels, tmp_path / "out", terms)


def test_a_write_that_fails_leaves_nothing(segmented, terms, tmp_path, monkeypatch):
    _, labels = segmented()

    def full_disk(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unet_bundle.io.dicom_seg_frames._write_bits", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(labels, tmp_path / "out", terms)
    assert not list((tmp_path / "out").iterdir())


def test_what_is_beyond_dicoms_length_is_refused(segmented, terms, tmp_path, monkeypatch):
    _, labels = segmented()
    monkeypatch.setattr("unet_bundle.io.dicom_seg_frames.MAX_PIXEL_BYTES", 100)
    with pytest.raises(InputError, match="above the 4 GB that DICOM can hold: use output_format 'dicom-seg-labelmap'"):
        save(labels, tmp_path / "out", terms)


def test_tiles_of_a_mosaic_have_their_own_places(shared_data, tmp_path, terms):
    folder = shared_data("dicom_series") / "mr_siemens_mosaic_axasc35"
    image = LoadImaged(keys="image", dicom={"volume": 1})({"image": folder})["image"]
    labels = torch.zeros_like(image)
    labels[0, 20:30, 25:40, 3:7] = 1
    found, expected = (
        by_pydicom(save(labels, tmp_path / "out", terms)),
        points(np.argwhere(labels[0].numpy() == 1), lps_to_ras(labels.affine.numpy())),
    )
    np.testing.assert_allclose(found[1], expected, atol=1e-3)
    source = SourceSeries.from_json(labels.meta["dicom_source"])
    assert len({each.sop_instance_uid for each in source.slices}) == 1


def test_other_kinds_are_refused():
    with pytest.raises(ConfigError, match="a DICOM SEG is BINARY, LABELMAP, FRACTIONAL, not 'SURFACE'"):
        DicomSegWriter(kind="SURFACE")
