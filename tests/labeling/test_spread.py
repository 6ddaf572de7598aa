from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from unet_bundle.errors import InputError
from unet_bundle.labeling.spread import Candidate, choose, describe, within_reach


def candidates(**places: float) -> list[Candidate]:
    return [Candidate(name, np.asarray([place])) for name, place in places.items()]


def test_a_typical_scan_comes_first_and_then_the_one_farthest_from_all_that_are_done():
    every = {"low": -4.0, "middle": 0.5, "high": 5.0}
    assert choose(candidates(**every), []).name == "middle"
    del every["middle"]
    assert choose(candidates(**every), [np.asarray([0.5])]).name == "low"
    assert choose(candidates(**every), [np.asarray([0.5]), np.asarray([-4.0])]).name == "high"


def test_choices_spread_over_kinds_of_scans():
    generator = np.random.default_rng(0)
    kinds = {f"{kind}{index}": generator.normal(10 * kind, 0.1, 3) for kind in range(4) for index in range(6)}
    done: list[str] = []
    for _ in range(4):
        left = [Candidate(name, features) for name, features in kinds.items() if name not in done]
        done.append(choose(left, [kinds[name] for name in done]).name)
    assert {name[0] for name in done} == {"0", "1", "2", "3"}


def test_of_scans_alike_the_network_decides():
    alike = [Candidate(name, np.zeros(2), score) for name, score in (("a", 0.1), ("b", 0.9), ("c", None))]
    assert choose(alike, [np.ones(2)]).name == "b"


def test_without_candidates_there_is_nothing_to_choose():
    with pytest.raises(ValueError, match="no candidate"):
        choose([], [])


def test_a_scan_is_described_alike_however_its_axes_run_and_its_intensities_are_scaled(tmp_path: Path):
    voxels = np.random.default_rng(0).gamma(2, size=(20, 24, 16)).astype(np.float32)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "plain.nii.gz")
    turned = nib.Nifti1Image(voxels[::-1].transpose(2, 0, 1) * 7 + 100, affine @ _turn(len(voxels)))
    nib.save(turned, tmp_path / "turned.nii.gz")
    nib.save(nib.Nifti1Image(voxels[:, :12], affine), tmp_path / "half.nii.gz")
    plain, other, half = (describe(tmp_path / f"{name}.nii.gz") for name in ("plain", "turned", "half"))
    np.testing.assert_allclose(plain, other, atol=1e-4)
    assert np.linalg.norm(plain - half) > 0.1


def _turn(length: int) -> np.ndarray:
    """From index (k, i', j) to (i, j, k) with i' = length - 1 - i."""
    return np.asarray([[0, -1, 0, length - 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=float)


def test_a_picture_can_be_described(tmp_path: Path):
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30), np.uint8)).save(tmp_path / "picture.png")
    assert np.isfinite(describe(tmp_path / "picture.png")).all()


def test_what_cannot_be_read_is_refused(tmp_path: Path):
    (tmp_path / "damaged.nii.gz").write_bytes(b"nothing")
    with pytest.raises((InputError, RuntimeError), match=r"damaged\.nii\.gz"):
        describe(tmp_path / "damaged.nii.gz")


def test_what_a_pacs_has_that_cannot_be_read_keeps_nobody_from_the_rest():
    refusals: set[str] = set()
    fetched: list[str] = []
    here: set[str] = set()

    def features(name: str):
        if name.startswith("localizer"):
            refusals.add(name)
        else:
            here.add(name)
        fetched.append(name)
        return None if name in refusals else np.zeros(2)

    images = [f"localizer {number}" for number in range(10)] + [f"scan {number}" for number in range(5)]
    found = within_reach(images, here.__contains__, features, refusals.__contains__, new=3)
    assert list(found) == ["scan 0"], "it goes on until there is something to offer"
    fetched.clear()
    found = within_reach(images, here.__contains__, features, refusals.__contains__, new=3)
    assert sorted(found) == ["scan 0", "scan 1", "scan 2", "scan 3"]
    assert not refusals & {*fetched}, "what was refused is not fetched again"
    assert list(within_reach(images, here.__contains__, features, refusals.__contains__, new=0)) == sorted(here)
