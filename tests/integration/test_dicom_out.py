"""Results of DICOM series read by others: dcmqi, dicom3tools, SimpleITK; and by the command line, format by format."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch

from unet_bundle.cli import main
from unet_bundle.errors import InputError
from unet_bundle.geometry import lps_to_ras
from unet_bundle.io import LoadImaged, SaveImaged
from unet_bundle.io.output_format import SUFFIXES

sitk = pytest.importorskip("SimpleITK")
pytest.importorskip("highdicom")
pytestmark = pytest.mark.integration

ORIENTATIONS = ["axial", "sagittal", "coronal", "oblique", "negated cosines", "feet first", "prone"]
TERMS = {
    "lobe": {
        "value": 1,
        "color": [200, 30, 10],
        "category": {"value": "123037004", "scheme": "SCT", "meaning": "Anatomical Structure"},
        "type": {"value": "10200004", "scheme": "SCT", "meaning": "Liver"},
        "type_modifier": {"value": "7771000", "scheme": "SCT", "meaning": "Left"},
    },
    "absent": {"value": 2},
    "vessel": {"value": 3},
}
LABELMAPS = (
    "Error - Information Object Not found",
    "Error - SegmentNumber not monotonically increasing",
)
"""What dciodvfy says of any label map: it is older than these, and does not know of the background as segment 0."""

REAL = [
    ("totalsegmentator_examples/dicom/series", {}),
    ("dicom_objects/dcmqi/ct-3slice", {}),
    ("dicom_objects/dcmqi/23x38x3/image", {}),
    ("dicom_objects/rt-utils/mock_data", {}),
    ("dicom_series/mr_siemens_mosaic_axasc35", {"volume": 2}),
    ("dicom_series/mr_siemens_enhanced_xa10", {"volume": 2}),
    ("dicom_series/mr_philips_epi_4d", {"volume": 2}),
]


def command(name, remedy):
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"needs {name} ({remedy})")
    return found


@pytest.fixture
def segimage2itkimage():
    return command("segimage2itkimage", "pip install dcmqi")


@pytest.fixture
def dciodvfy():
    return command("dciodvfy", "apt-get install dicom3tools")


def labelled(path, **options):
    """The image of a series made a label map without symmetry, of values 1 and 3."""
    image = LoadImaged(keys="image", dicom=options)({"image": path})["image"]
    labels, (columns, rows, slices) = torch.zeros_like(image), image.shape[1:]
    labels[0, columns // 5 : columns // 2, rows // 3 : rows // 2 + 2, : max(1, slices - 2)] = 1
    labels[0, columns // 2 : columns // 2 + 3, rows // 5 : rows // 3, slices // 3 :] = 3
    return labels


def save(labels, folder, output_format):
    save = SaveImaged(
        keys="pred",
        output_dir=folder,
        output_format=output_format,
        segments=TERMS,
        algorithm={"name": "Lobes in CT", "version": "1.2.3"},
    )
    save({"pred": labels})
    (path,) = folder.iterdir()
    return path


def places(array, affine, value):
    found = np.argwhere(array == value) @ affine[:3, :3].T + affine[:3, 3]
    return found[np.lexsort(np.round(found, 2).T)]


def by_dcmqi(program, path, folder):
    folder.mkdir()
    arguments = [program, "--inputDICOM", path, "--outputDirectory", folder, "-t", "nrrd", "--mergeSegments"]
    subprocess.run(arguments, check=True, capture_output=True, timeout=100)
    (file,) = folder.glob("*.nrrd")
    image = sitk.ReadImage(str(file))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    (description,) = folder.glob("*.json")
    names = {
        each["labelID"]: each["SegmentLabel"]
        for group in json.loads(description.read_text())["segmentAttributes"]
        for each in group
    }
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), lps_to_ras(affine), names


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_dcmqi_finds_every_voxel_where_it_was(synthetic, segimage2itkimage, tmp_path, orientation):
    series = synthetic.write_series(tmp_path / "in", shape=(21, 19, 9), orientation=orientation)
    labels = labelled(series.folder)
    path = save(labels, tmp_path / "out", "dicom-seg")
    array, affine, names = by_dcmqi(segimage2itkimage, path, tmp_path / "dcmqi")
    assert names in ({1: "lobe", 2: "absent", 3: "vessel"}, {1: "lobe", 3: "vessel"})
    for value in (1, 3):
        expected = places(labels[0].numpy(), labels.affine.numpy(), value)
        np.testing.assert_allclose(places(array, affine, value), expected, atol=2e-3)


@pytest.mark.parametrize("kind", ["dicom-seg", "dicom-seg-fractional", "dicom-seg-labelmap", "rtstruct"])
@pytest.mark.parametrize("orientation", ["axial", "oblique", "tilt", "gaps", "empty", "enhanced"])
def test_dciodvfy_finds_no_error(synthetic, dciodvfy, tmp_path, orientation, kind):
    options = {
        "tilt": {"lean": (0.0, 0.2)},
        "gaps": {"depths": (0, 2, 4, 8, 10, 12)},
        "oblique": {"orientation": "oblique"},
    }.get(orientation, {})
    if orientation == "enhanced":
        source = synthetic.write_multiframe(tmp_path / "in", shape=(21, 19, 6))[1]
    else:
        source = synthetic.write_series(tmp_path / "in", shape=(21, 19, 6), **options).folder
    labels = labelled(source, on_tilt="resample", on_gaps="resample")
    path = save(labels * (orientation != "empty"), tmp_path / "out", kind)
    assert [
        line for line in errors(dciodvfy, path) if not (kind == "dicom-seg-labelmap" and line.startswith(LABELMAPS))
    ] == []


def errors(program, path):
    result = subprocess.run([program, path], capture_output=True, text=True, timeout=100, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    assert lines, "it has read the file"
    return [line for line in lines if line.startswith("Error")]


@pytest.mark.parametrize(("name", "options"), REAL, ids=[name for name, _ in REAL])
def test_real_series_get_results_or_a_reason(shared_data, dciodvfy, segimage2itkimage, tmp_path, name, options):
    path = shared_data(name.split("/")[0]).parent / name
    labels = labelled(path, **options)
    try:
        written = save(labels, tmp_path / "out", "dicom-seg")
    except InputError as refusal:
        assert "use output_format 'nifti'" in str(refusal)  # noqa: PT017 - a reason is as good as a result
        return
    assert errors(dciodvfy, written) == []
    array, affine, _ = by_dcmqi(segimage2itkimage, written, tmp_path / "dcmqi")
    for value in (1, 3):
        expected = places(labels[0].numpy(), labels.affine.numpy(), value)
        np.testing.assert_allclose(places(array, affine, value), expected, atol=0.02)


@pytest.mark.parametrize("output_format", SUFFIXES)
def test_the_command_line_writes_each_format(synthetic, bundle, tmp_path, capsys, output_format):
    folder = tmp_path / synthetic.PLANTED[0]
    series = synthetic.write_series(folder, shape=(48, 44, 20), spacing=(1.0, 1.0, 1.5), modality="MR")
    uid = pydicom.dcmread(series.files[0]).SeriesInstanceUID
    assert main(["predict", str(bundle), str(folder), str(tmp_path / "out"), "--format", output_format]) == 0
    said = capsys.readouterr()
    assert f"--output_format {output_format}" in said.out
    (written,) = (path for path in (tmp_path / "out").iterdir() if path.name != "volumes.csv")
    assert written.name.startswith(f"{uid}_seg.")
    if output_format == "nifti":
        image = nib.load(written)
        assert image.shape == (48, 44, 20)
        np.testing.assert_allclose((image.affine @ [3, 2, 1, 1])[:3], series.ras(3, 2, 1), atol=1e-4)
    assert main(["predict", str(bundle), str(folder), str(tmp_path / "out"), "--format", output_format]) == 0
    assert "already there and skipped" in capsys.readouterr().out
