"""DICOM in and out of the annotation server, by its program."""

import json
import shutil
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from unet_bundle.errors import InputError
from unet_bundle.labeling.dicom_worker import main, placed_on

pydicom = pytest.importorskip("pydicom", minversion="3.0")
highdicom = pytest.importorskip("highdicom")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cache(tmp_path: Path, synthetic: ModuleType) -> Path:
    """A series as MONAI Label's datastore keeps it: CACHE/UID."""
    series = synthetic.write_series(tmp_path / "series", modality="MR", signed=False, bits=12)
    uid = str(pydicom.dcmread(series.files[0]).SeriesInstanceUID)
    (tmp_path / "cache").mkdir()
    shutil.move(series.folder, tmp_path / "cache" / uid)
    return tmp_path / "cache"


def series_of(cache: Path) -> Path:
    return next(path for path in cache.iterdir() if path.name[0].isdigit())


def convert(what: str, *paths: Path) -> int:
    return main([what, str(ROOT / "bundle"), *map(str, paths)])


def test_a_series_becomes_what_our_reader_reads(cache: Path, tmp_path: Path):
    from unet_bundle.io import LoadImaged

    assert convert("image", series_of(cache), tmp_path / "image.nii.gz") == 0
    image = nib.load(tmp_path / "image.nii.gz")
    read = LoadImaged(keys="image")({"image": str(series_of(cache))})["image"]
    np.testing.assert_array_equal(np.asarray(image.dataobj), read[0].numpy())
    np.testing.assert_allclose(image.affine, read.affine, atol=1e-5)


def test_a_series_with_a_missing_slice_is_refused_in_one_line(cache: Path, tmp_path: Path, capsys):
    every = sorted(series_of(cache).iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])
    every[3].unlink()
    assert convert("image", series_of(cache), tmp_path / "image.nii.gz") == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("Error: ")
    assert not (tmp_path / "image.nii.gz").exists()


def test_a_label_map_becomes_a_seg_with_right_names_though_a_class_is_absent_and_comes_back(
    cache: Path, tmp_path: Path
):
    convert("image", series_of(cache), tmp_path / "image.nii.gz")
    image = nib.load(tmp_path / "image.nii.gz")
    labels = np.zeros(image.shape, np.uint8)
    labels[2:5, 3:6, 2:4] = 2  # the anterior part, 1, is not there
    flipped = nib.as_closest_canonical(nib.Nifti1Image(labels, image.affine))  # as a client may save it
    nib.save(flipped, tmp_path / "label.nii.gz")
    seg = cache / "labels" / "final" / "seg" / "1.dcm"
    seg.parent.mkdir(parents=True)
    assert convert("seg", series_of(cache), tmp_path / "label.nii.gz", seg) == 0

    stored = pydicom.dcmread(seg)
    terms = json.loads((ROOT / "bundle" / "configs" / "metadata.json").read_text())["label_terms"]
    named = {int(item.SegmentNumber): item for item in stored.SegmentSequence}
    (number,) = {
        int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for frame in stored.PerFrameFunctionalGroupsSequence
    }
    assert named[number].SegmentLabel == "posterior"
    code = named[number].SegmentedPropertyTypeCodeSequence[0]
    assert code.CodeValue == terms["posterior"]["type"]["value"]

    assert convert("labels", seg.parent, tmp_path / "back.nii.gz") == 0
    back = nib.load(tmp_path / "back.nii.gz")
    np.testing.assert_array_equal(np.asarray(back.dataobj), labels)
    np.testing.assert_allclose(back.affine, image.affine, atol=1e-5)


def test_segments_of_another_program_are_known_by_their_names(cache: Path, tmp_path: Path):
    convert("image", series_of(cache), tmp_path / "image.nii.gz")
    image = nib.load(tmp_path / "image.nii.gz")
    labels = np.zeros(image.shape, np.uint8)
    labels[2:5, 3:6, 2:4], labels[6:8, 3:6, 2:4] = 1, 2
    nib.save(nib.Nifti1Image(labels, image.affine), tmp_path / "label.nii.gz")
    seg = cache / "labels" / "final" / "seg" / "1.dcm"
    seg.parent.mkdir(parents=True)
    convert("seg", series_of(cache), tmp_path / "label.nii.gz", seg)
    stored = pydicom.dcmread(seg)
    for item, name in zip(stored.SegmentSequence, ("Posterior ", "spleen"), strict=True):
        item.SegmentLabel = name
    stored.save_as(seg)
    assert convert("labels", seg.parent, tmp_path / "back.nii.gz") == 0
    back = np.asarray(nib.load(tmp_path / "back.nii.gz").dataobj)
    np.testing.assert_array_equal(back == 2, labels == 1, err_msg="its first segment is the bundle's second class")
    np.testing.assert_array_equal(back > 2, labels == 2, err_msg="what the bundle has no class for is none of its own")


def test_a_class_of_the_annotators_own_is_stored_too(cache: Path, tmp_path: Path):
    convert("image", series_of(cache), tmp_path / "image.nii.gz")
    image = nib.load(tmp_path / "image.nii.gz")
    labels = np.zeros(image.shape, np.uint8)
    labels[1, 1, 1], labels[2, 2, 2] = 1, 9
    nib.save(nib.Nifti1Image(labels, image.affine), tmp_path / "label.nii.gz")
    assert convert("seg", series_of(cache), tmp_path / "label.nii.gz", tmp_path / "seg.dcm") == 0
    assert "label 9" in {item.SegmentLabel for item in pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence}


def test_a_label_map_on_another_grid_is_refused(cache: Path, tmp_path: Path, capsys):
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.uint8), np.eye(4)), tmp_path / "label.nii.gz")
    assert convert("seg", series_of(cache), tmp_path / "label.nii.gz", tmp_path / "seg.dcm") == 1
    assert "not on the grid" in capsys.readouterr().err
    assert not (tmp_path / "seg.dcm").exists()


def test_axes_may_run_otherwise_but_voxels_must_coincide():
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint16)
    grid = np.diag([1.0, 2.0, 3.0, 1.0])
    turned = labels[::-1].transpose(1, 2, 0)
    turn = np.asarray([[0, 0, -1, 3], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    np.testing.assert_array_equal(placed_on(turned, grid @ turn, grid, labels.shape), labels)
    shifted = grid.copy()
    shifted[0, 3] = 0.4
    for affine, map_, words in ((shifted, labels, "not on the grid"), (grid, labels[:3], "save it whole")):
        with pytest.raises(InputError, match=words):
            placed_on(map_, affine, grid, labels.shape)
    part = placed_on(labels[:3], grid, grid, labels.shape, partly=True)
    np.testing.assert_array_equal(part[:3], labels[:3])
    assert not part[3:].any()
