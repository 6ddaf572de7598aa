"""The DICOM reader beside SimpleITK (GDCM) on ordinary series, dcm2niix on mosaics and multi-frame; and on damage."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from unet_bundle.geometry import lps_to_ras
from unet_bundle.io.dicom import DicomSeriesReader

pytest.importorskip("pydicom", minversion="3.0")
sitk = pytest.importorskip("SimpleITK")
pytestmark = pytest.mark.integration

SYNTHETIC = Path(__file__).resolve().parents[1] / "io" / "dicom" / "synthetic.py"
ORIENTATIONS = ("axial", "sagittal", "coronal", "oblique", "feet first", "prone", "negated cosines")


def read(path, **options):
    reader = DicomSeriesReader(**options)
    return reader.get_data(reader.read(path))


def assert_same_in_space(array, affine, other, other_affine, atol=1e-4):
    """Two volumes hold the same voxels at the same places, whichever way their axes run."""
    axes = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(other_affine), nib.orientations.io_orientation(affine)
    )
    turned = nib.orientations.apply_orientation(other, axes)
    turned_affine = other_affine @ nib.orientations.inv_ornt_aff(axes, other.shape)
    assert turned.shape == array.shape
    ends = np.array([[0, 0, 0, 1], [side - 1 for side in array.shape] + [1]], dtype=np.float64)
    np.testing.assert_allclose(ends @ affine.T, ends @ turned_affine.T, atol=atol)
    np.testing.assert_array_equal(array, turned)


def by_simpleitk(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), lps_to_ras(affine)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_simpleitk_reads_ordinary_series_the_same(synthetic, tmp_path, orientation, modality):
    def scale(index, dataset):
        if modality == "PT":
            dataset.RescaleSlope = str(0.25 * (index + 1))

    folder = synthetic.write_series(tmp_path / "series", orientation=orientation, modality=modality, edit=scale).folder
    (array, meta), (other, affine) = read(folder), by_simpleitk(folder)
    assert_same_in_space(array, meta["affine"], other, affine)


@pytest.mark.parametrize(
    "name",
    [
        "totalsegmentator_examples/dicom/series",
        *("dicom_objects/dcmqi/ct-3slice", "dicom_objects/dcmqi/23x38x3/image"),
    ],
)
def test_simpleitk_reads_real_series_the_same(shared_data, tmp_path, name):
    """A copy with UIDs where a series has none, since GDCM finds no series without."""
    import pydicom

    source = shared_data(name.split("/")[0]).parent / name
    for number, path in enumerate(sorted(source.iterdir())):
        if path.suffix != ".txt":
            dataset = pydicom.dcmread(path)
            dataset.SeriesInstanceUID = dataset.get("SeriesInstanceUID") or "1.2.3"
            dataset.StudyInstanceUID = "1.2.4"
            dataset.SOPInstanceUID = dataset.get("SOPInstanceUID") or f"1.2.5.{number}"
            dataset.SOPClassUID = dataset.get("SOPClassUID") or "1.2.840.10008.5.1.4.1.1.2"
            dataset.save_as(tmp_path / f"{number}.dcm")
    (array, meta), (other, affine) = read(source), by_simpleitk(tmp_path)
    assert_same_in_space(array, meta["affine"], other.astype(array.dtype), affine)


@pytest.fixture
def dcm2niix():
    command = shutil.which("dcm2niix")
    if command is None:
        pytest.skip("needs dcm2niix (apt-get install dcm2niix)")

    def convert(source, folder):
        folder.mkdir()
        subprocess.run(
            [command, "-z", "n", "-b", "n", "-p", "n", "-f", "out", "-o", folder, source], check=True, timeout=100
        )
        (path,) = folder.glob("*.nii")
        return nib.load(path)

    return convert


@pytest.mark.parametrize(
    ("name", "volumes"),
    [
        *(("mr_siemens_mosaic_axasc35", 2), ("mr_siemens_mosaic_axasc36mb2a", 2), ("mr_siemens_mosaic_axint36mb", 2)),
        *(("mr_siemens_enhanced_xa10", 2), ("mr_philips_epi_4d", 3)),
    ],
)
def test_dcm2niix_reads_mosaics_and_multiframe_the_same(shared_data, tmp_path, dcm2niix, name, volumes):
    source = shared_data("dicom_series") / name
    image = dcm2niix(source, tmp_path / "nifti")
    stored = np.asanyarray(image.dataobj)
    assert stored.shape[3] == volumes
    for number in range(volumes):
        array, meta = read(source, volume=number + 1)
        other = stored[..., number]
        if array.dtype.kind == "f":  # dcm2niix keeps the slope as a float32 in the header
            np.testing.assert_allclose(array.max(), other.max(), rtol=1e-6)
            slope = np.float64(image.dataobj.slope)
            array, other = np.rint(array / slope), np.rint(other / slope)
        assert_same_in_space(array, meta["affine"], other, image.affine, atol=2e-4)


def test_a_thousand_damaged_files_are_refused_or_read_with_the_same_geometry(shared_data):
    """In a process of its own, so that a crash of a decoder shows; seed 7."""
    real = (
        shared_data("dicom_objects") / "dcmqi" / "ct-3slice",
        shared_data("totalsegmentator_examples") / "dicom/series",
    )
    command = [sys.executable, Path(__file__).with_name("fuzz_dicom.py"), SYNTHETIC, "1000", "7", *real]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=True)
    figures = json.loads(result.stdout)
    assert figures["wrong"] == []
    assert sum(figures["outcomes"].values()) == 1000
    assert figures["slowest_s"] < 10
    assert figures["memory_bytes"] < 2 * 2**30
    assert "PLANTED" not in result.stdout + result.stderr
