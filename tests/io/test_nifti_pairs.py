"""NIfTI in two files is read; Analyze, which has the same endings, is refused."""

import nibabel as nib
import numpy as np
import pytest
from scipy.io import savemat

DAMAGED = "is damaged or cut short, its voxels cannot be read"


@pytest.mark.parametrize("pair_class", [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("named", ["scan.hdr", "scan.img"])
def test_nifti_in_two_files_is_read(volumes, tmp_path, affine_of, pair_class, named):
    nib.save(pair_class(volumes.VOXELS, affine_of("oblique")), tmp_path / "scan.hdr")
    image = volumes.load(tmp_path / named)
    np.testing.assert_array_equal(image[0].numpy(), volumes.VOXELS)
    np.testing.assert_allclose(image.affine, affine_of("oblique"), atol=1e-4)
    (tmp_path / "scan.img").write_bytes((tmp_path / "scan.img").read_bytes()[:-1])
    assert volumes.refusal(tmp_path / named).startswith(f"{named} {DAMAGED}")


def test_analyze_is_refused_by_name(volumes, tmp_path, affine_of):
    """Left and right are a matter of habit there; also with the .mat that SPM puts beside it."""
    nib.save(nib.AnalyzeImage(volumes.VOXELS, np.diag([1.0, 1.5, 2.0, 1.0])), tmp_path / "scan.hdr")
    savemat(tmp_path / "scan.mat", {"mat": affine_of("RAS")})
    for name in ["scan.hdr", "scan.img"]:
        expected = "is an Analyze file, which does not state its orientation: convert it to NIfTI from its source"
        assert volumes.refusal(tmp_path / name) == f"{name} {expected}"
    (tmp_path / "scan.hdr").unlink()
    assert volumes.refusal(tmp_path / "scan.img").startswith("scan.img belongs to scan.hdr, which is not beside it")
