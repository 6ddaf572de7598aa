from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from unet_bundle.errors import InputError
from unet_bundle.labeling.storing import by_values, values_by_name

LABELS = {"background": 0, "anterior": 1, "posterior": 2}


def listed(*names: str, first: int = 1) -> list[dict]:
    """Segments as 3D Slicer lists them."""
    return [{"name": name, "idx": number} for number, name in enumerate(names, first)]


@pytest.mark.parametrize(
    ("segments", "present", "changes"),
    [
        (listed("anterior", "posterior"), {1, 2}, {}),
        (listed("posterior"), {1}, {1: 2}),  # the other was deleted
        (listed("Posterior", "anterior"), {1, 2}, {1: 2, 2: 1}),
        (listed("anterior", "posterior", first=2), {1, 2}, {}),  # the first of the list was left out
        ([{"name": "posterior", "idx": 2}], {2}, {}),
        (listed("anterior", "posterior", "cyst"), {1, 2, 3}, {}),
        (listed("cyst", "anterior", "posterior"), {1, 2, 3}, {1: 4, 2: 1, 3: 2}),
        (listed("anterior"), {1, 7}, {}),
        (listed("background", "anterior"), {1, 2}, {1: 0, 2: 1}),
    ],
)
def test_a_segment_is_known_by_its_name(segments: list, present: set[int], changes: dict[int, int]):
    assert values_by_name(segments, present, LABELS) == changes


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_what_is_stored_has_the_bundles_values_on_the_same_grid(ending: str, tmp_path: Path):
    voxels = np.zeros((5, 6, 7), np.uint8)
    voxels[1:3], voxels[3] = 1, 2
    affine = np.diag([-1.0, 2.0, 3.0, 1.0])
    path = tmp_path / f"label{ending}"
    nib.save(nib.Nifti1Image(voxels, affine), path)
    with by_values(str(path), listed("posterior", "anterior"), LABELS) as stored:
        assert stored.endswith(".nii.gz")
        image = nib.load(stored)
        np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray([0, 2, 1])[voxels])
        np.testing.assert_allclose(image.affine, affine)
    assert not Path(stored).exists()
    for said in (None, {}, "label", listed("anterior", "posterior")):
        with by_values(str(path), said, LABELS) as stored:
            assert stored == str(path)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), voxels)


def test_what_cannot_be_read_is_stored_as_it_is_and_what_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "label.nii.gz").write_bytes(b"nothing")
    with by_values(str(tmp_path / "label.nii.gz"), listed("posterior"), LABELS) as stored:
        assert stored == str(tmp_path / "label.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4)), tmp_path / "label.nii.gz")
    mha = tmp_path / "label.mha"
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "label.nii.gz")), str(mha))
    with pytest.raises(InputError, match="send it as NIfTI"), by_values(str(mha), listed("posterior"), LABELS):
        pass
