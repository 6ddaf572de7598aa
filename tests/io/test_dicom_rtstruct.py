"""Contours that give back the voxels they were drawn round, by another's filling of polygons."""

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from unet_bundle.errors import ConfigError
from unet_bundle.io import LoadImaged, SaveImaged
from unet_bundle.io.dicom_rtstruct import contours_of


def save(labels, folder, terms):
    save = SaveImaged(
        keys="pred",
        output_dir=folder,
        output_format="rtstruct",
        segments=terms,
        algorithm={"name": "Lobes in CT", "version": "1.2.3"},
    )
    save({"pred": labels})
    (path,) = folder.iterdir()
    return pydicom.dcmread(path)


def inside(polygon, shape):
    """Which voxels' centres lie in a polygon, [rows, columns]: by counting crossings, with numpy alone."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(float)
    found = np.zeros(shape, bool)
    for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (y1 > rows) != (y2 > rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            found ^= crosses & (columns < (x2 - x1) * (rows - y1) / (y2 - y1) + x1)
    return found


def filled(dataset, number, series):
    """The voxels of a structure, [slices, rows, columns], in the order of the series' positions."""
    shape = (len(series.positions), *series.voxels.shape[1:])
    volume = np.zeros(shape, bool)
    (contour,) = [each for each in dataset.ROIContourSequence if each.ReferencedROINumber == number]
    for item in contour.get("ContourSequence", []):
        points = np.array(item.ContourData, float).reshape(-1, 3)
        distance = np.abs((series.positions - points[0]) @ np.cross(*series.axes))
        plane = int(distance.argmin())
        assert distance[plane] < 1e-3, "in the plane of a slice"
        relative = (points - series.positions[plane]) @ series.axes.T / series.spacing[:2]
        volume[plane] |= inside(relative, shape[1:])
    return volume


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


@pytest.mark.parametrize("kind", ["axial", "sagittal", "oblique", "negated cosines"])
def test_contours_fill_to_the_label_map(segmented, terms, tmp_path, kind):
    series, labels = segmented(kind)
    dataset = save(labels, tmp_path / "out", terms)
    array = labels[0].numpy().transpose(2, 1, 0)
    place = labels.affine.numpy() @ [0, 0, 0, 1]
    if np.linalg.norm(place[:3] - series.ras(0, 0, 0)) > 1:
        array = array[::-1]
    for number in (1, 3):
        assert dice(filled(dataset, number, series), array == number) == 1


@pytest.mark.parametrize("seed", range(5))
def test_shapes_with_holes_islands_and_touching_corners(seed):
    generator = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(generator.random((60, 70)), 2 if seed else 0.5) > 0.5
    result = np.zeros(mask.shape, bool)
    for polygon in contours_of(mask):
        result ^= inside(polygon, mask.shape)
    np.testing.assert_array_equal(result, mask)
    assert seed == 0 or any(len(polygon) > 20 for polygon in contours_of(mask))


def test_pillow_fills_them_nearly_the_same():
    """It draws the line, too: so on a grid four times as fine."""
    rows, columns = np.mgrid[:100, :120]
    mask = (np.hypot(rows - 50, columns - 60) < 40) & (np.hypot(rows - 45, columns - 70) > 12)
    (polygon,) = contours_of(mask)
    picture = Image.new("1", (480, 400))
    ImageDraw.Draw(picture).polygon([tuple(4 * point + 2) for point in polygon], fill=1)
    assert dice(np.asarray(picture)[2::4, 2::4], mask) > 0.99


def test_an_empty_plane_has_no_contour():
    assert list(contours_of(np.zeros((4, 5), bool))) == []


def test_a_mask_up_to_the_edge_is_closed():
    mask = np.ones((4, 5), bool)
    (polygon,) = contours_of(mask)
    np.testing.assert_array_equal(inside(polygon, mask.shape), mask)


def test_it_says_what_it_shows_and_belongs_to(segmented, terms, tmp_path):
    series, labels = segmented()
    dataset, source = save(labels, tmp_path / "out", terms), pydicom.dcmread(series.files[0])
    assert [each.ROIName for each in dataset.StructureSetROISequence] == ["lobe", "absent", "vessel"]
    assert [list(each.ROIDisplayColor) for each in dataset.ROIContourSequence][:2] == [[200, 30, 10], [0, 255, 0]]
    assert "ContourSequence" not in dataset.ROIContourSequence[1]
    (reference,) = dataset.ReferencedFrameOfReferenceSequence
    assert reference.FrameOfReferenceUID == source.FrameOfReferenceUID
    (study,) = reference.RTReferencedStudySequence
    assert study.ReferencedSOPInstanceUID == source.StudyInstanceUID == dataset.StudyInstanceUID
    assert len(study.RTReferencedSeriesSequence[0].ContourImageSequence) == 8
    assert dataset.PatientID == source.PatientID
    uids = {
        pydicom.dcmread(file).ImagePositionPatient[2]: pydicom.dcmread(file).SOPInstanceUID for file in series.files
    }
    for item in dataset.ROIContourSequence[0].ContourSequence:
        assert item.ContourImageSequence[0].ReferencedSOPInstanceUID == uids[item.ContourData[2]]


def test_it_says_what_made_it_and_what_the_structures_are(segmented, terms, tmp_path):
    _, labels = segmented()
    lesion = {"value": "49755003", "scheme": "SCT", "meaning": "Morphologically Altered Structure"}
    dataset = save(labels, tmp_path / "out", {**terms, "absent": {"value": 2, "category": lesion}})
    (algorithm,) = dataset.StructureSetROISequence[0].ROIDerivationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("Lobes in CT", "1.2.3")
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    codes = [each.RTROIIdentificationCodeSequence[0].CodeMeaning for each in dataset.RTROIObservationsSequence]
    assert codes == ["Liver", "absent", "vessel"]
    kinds = [each.RTROIInterpretedType for each in dataset.RTROIObservationsSequence]
    assert kinds == ["ORGAN", "", "ORGAN"], "a lesion is no organ"
    assert dataset.ContentQualification == "RESEARCH"


def test_times_of_the_study_are_not_put_into_another_zone(segmented, terms, tmp_path):
    def edit(_, dataset):
        dataset.StudyDate, dataset.StudyTime, dataset.PatientIdentityRemoved = "20240102", "101500", "YES"

    _, labels = segmented(edit=edit)
    dataset = save(labels, tmp_path / "out", terms)
    assert (dataset.StudyDate, dataset.StudyTime) == ("20240102", "101500")
    assert "TimezoneOffsetFromUTC" not in dataset
    assert dataset.PatientIdentityRemoved == "YES"


def test_a_contour_of_any_length_is_kept_as_numbers(synthetic, tmp_path):
    """An element of decimal strings in an explicit transfer syntax ends at 64 KB."""
    series = synthetic.write_series(tmp_path / "in", shape=(150, 150, 1))
    labels = LoadImaged(keys="pred")({"pred": series.folder})["pred"] * 0
    labels[0, 1:-1, 1:-1] = 1
    labels[0, 3:-3:3, 3:-3:3] = 0  # 2,304 holes
    dataset = save(labels.to(torch.uint8), tmp_path / "out", None)
    (contour,) = dataset.ROIContourSequence[0].ContourSequence
    assert contour.NumberOfContourPoints > 10_000
    assert contour["ContourData"].VR == "DS"
    assert len(contour.ContourData) == 3 * contour.NumberOfContourPoints
    array = labels[0].numpy().transpose(2, 1, 0)
    np.testing.assert_array_equal(filled(dataset, 1, series), array == 1)


@pytest.mark.parametrize("kind", ["tilt", "gaps"])
def test_contours_of_a_resampled_series_lie_in_its_own_slices(segmented, terms, tmp_path, kind):
    series, labels = segmented(kind)
    assert filled(save(labels, tmp_path / "out", terms), 1, series).any()


def test_a_scan_that_is_no_dicom_is_refused(write_nifti, tmp_path):
    image = LoadImaged(keys="pred")({"pred": write_nifti("scan.nii")})["pred"]
    with pytest.raises(ConfigError, match=r"output_format 'rtstruct' is for DICOM series only, scan.nii is none"):
        save(image, tmp_path / "out", None)
