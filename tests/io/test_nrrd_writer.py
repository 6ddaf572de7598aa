"""NRRD and 3D Slicer's segmentations, read back by SimpleITK."""

import nibabel as nib
import numpy as np
import pytest

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.geometry import lps_to_ras
from unet_bundle.io import LoadImaged, SaveImaged

sitk = pytest.importorskip("SimpleITK")


def save(labels, folder, output_format, terms=None):
    SaveImaged(keys="pred", output_dir=folder, output_format=output_format, segments=terms)({"pred": labels})
    (path,) = folder.iterdir()
    return path


def read(path):
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return image, sitk.GetArrayFromImage(image).transpose(2, 1, 0), lps_to_ras(affine)


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "LPS", "PSR", "oblique"])
@pytest.mark.parametrize("output_format", ["nrrd", "seg.nrrd"])
def test_the_grid_of_a_nifti_file_is_kept(write_nifti, labels, tmp_path, orientation, output_format):
    path = write_nifti("scan.nii.gz", labels.astype(np.int16), orientation)
    written = save(LoadImaged(keys="pred")({"pred": path})["pred"], tmp_path / "out", output_format)
    assert written.name == f"scan_seg.{output_format}"
    _, array, affine = read(written)
    np.testing.assert_array_equal(array, labels)
    np.testing.assert_allclose(affine, nib.load(path).affine, atol=1e-6)
    assert array.dtype == np.uint8


@pytest.mark.parametrize("kind", ["axial", "sagittal", "oblique", "negated cosines", "tilt"])
def test_the_grid_of_a_dicom_series_is_kept(segmented, terms, tmp_path, kind):
    series, labels = segmented(kind)
    path = save(labels, tmp_path / "out", "seg.nrrd", terms)
    fields = dict(line.split(": ", 1) for line in path.read_bytes().split(b"\n\n")[0].decode().split("\n")[1:10])
    assert fields["sizes"] == "13 11 8"
    vectors = [[float(part) for part in each.strip("()").split(",")] for each in fields["space directions"].split()]
    origin = np.array([float(part) for part in fields["space origin"].strip("()").split(",")])
    ends = [origin, origin + 7 * np.array(vectors[2])]
    if np.linalg.norm(ends[0] - series.positions[0]) > 1:  # the lowest along the normal is first
        ends.reverse()
    np.testing.assert_allclose(ends, series.positions[[0, -1]], atol=1e-5)
    for vector, direction, length in zip(vectors, series.axes, series.spacing, strict=False):
        np.testing.assert_allclose(vector, direction * length, atol=1e-6)


def test_slicer_finds_names_colours_codes_and_extents(write_nifti, labels, tmp_path, terms):
    labels[labels == 2] = 3
    image = LoadImaged(keys="pred")({"pred": write_nifti(data=labels)})["pred"]
    found, *_ = read(save(image, tmp_path / "out", "seg.nrrd", terms))
    fields = {key: found.GetMetaData(key) for key in found.GetMetaDataKeys()}
    assert [fields[f"Segment{number}_Name"] for number in range(3)] == ["lobe", "absent", "vessel"]
    assert [fields[f"Segment{number}_LabelValue"] for number in range(3)] == ["1", "2", "3"]
    assert {fields[f"Segment{number}_Layer"] for number in range(3)} == {"0"}
    assert len({fields[f"Segment{number}_ID"] for number in range(3)}) == 3
    assert fields["Segment0_Extent"] == "2 8 3 9 1 6"
    assert fields["Segment1_Extent"] == "0 -1 0 -1 0 -1"
    assert fields["Segment2_Extent"] == "10 12 2 5 2 5"
    np.testing.assert_allclose([float(part) for part in fields["Segment1_Color"].split()], [0, 1, 0])
    assert fields["Segment0_Tags"] == (
        "TerminologyEntry:Segmentation category and type - DICOM master list"
        "~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~SCT^7771000^Left"
        "~Anatomic codes - DICOM master list~SCT^113345001^Abdomen~^^|"
    )
    assert fields["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert fields["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"


def test_a_plain_nrrd_says_nothing_of_segments(write_nifti, tmp_path):
    image = LoadImaged(keys="pred")({"pred": write_nifti()})["pred"]
    found, *_ = read(save(image, tmp_path / "out", "nrrd"))
    assert not [key for key in found.GetMetaDataKeys() if key.startswith("Segment")]


def test_the_same_label_map_gives_the_same_bytes(write_nifti, tmp_path, terms):
    labels = LoadImaged(keys="pred")({"pred": write_nifti()})["pred"]
    first, second = (save(labels, tmp_path / name, "seg.nrrd", terms).read_bytes() for name in "ab")
    assert first == second


def test_what_is_not_described_is_refused(write_nifti, tmp_path):
    image = LoadImaged(keys="pred")({"pred": write_nifti()})["pred"]
    with pytest.raises(ConfigError, match="the label map has value 2, which no segment has"):
        save(image, tmp_path / "out", "seg.nrrd", {"lobe": {"value": 1}})
    assert not list((tmp_path / "out").iterdir()), "nothing half-written"


@pytest.mark.parametrize("output_format", ["nrrd", "nifti"])
def test_unequal_slice_distances_have_no_affine(segmented, tmp_path, output_format):
    _, labels = segmented("gaps")
    with pytest.raises(InputError, match="unequal slice distances, which NIfTI and NRRD cannot say"):
        save(labels, tmp_path / "out", output_format)


@pytest.mark.parametrize("kind", ["axial", "oblique", "tilt"])
def test_nifti_of_a_dicom_series_lies_on_its_slices(segmented, tmp_path, kind):
    series, labels = segmented(kind)
    image = nib.load(save(labels, tmp_path / "out", "nifti"))
    assert image.shape == (13, 11, 8)
    for index in ((0, 0, 0), (12, 0, 7), (3, 10, 5)):
        np.testing.assert_allclose((image.affine @ [*index, 1])[:3], series.ras(*index), atol=1e-4)


def test_names_come_back_as_they_were(write_nifti, labels, tmp_path):
    image = LoadImaged(keys="pred")({"pred": write_nifti(data=labels)})["pred"]
    found, *_ = read(save(image, tmp_path / "out", "seg.nrrd", {"a \\ b": {"value": 1}, "Gefäß": {"value": 2}}))
    assert [found.GetMetaData(f"Segment{number}_Name") for number in range(2)] == ["a \\ b", "Gefäß"]
