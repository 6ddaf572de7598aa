"""What holds for every format: names, results on the grid of the input, damage from a fixed seed."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from unet_bundle.io import case_name, find_cases, find_images

ENDINGS = ["nii", "nii.gz", "hdr", "nrrd", "mha", "mgh", "mgz"]


def test_cases_are_named_and_found_in_every_format(volumes, tmp_path, affine_of):
    endings = ["nrrd", "nhdr", "mha", "mhd", "mgh", "mgz", "hdr", "img", "seg.nrrd", "nii.gz"]
    assert {case_name(f"folder/liver_004.{ending}") for ending in endings} == {"liver_004"}
    for folder, label in [("images", "case_1.mha"), ("labels", "case_1.seg.nrrd")]:
        (tmp_path / folder).mkdir()
        volumes.sitk.WriteImage(
            volumes.as_itk(np.abs(volumes.VOXELS), affine_of("RAS")), str(tmp_path / folder / label)
        )
    cases = find_cases(tmp_path)
    assert [(Path(case["image"]).name, Path(case["label"]).name) for case in cases] == [
        ("case_1.mha", "case_1.seg.nrrd")
    ]
    nib.save(nib.Nifti1Pair(volumes.VOXELS, affine_of("RAS")), tmp_path / "images" / "case_2.hdr")
    assert [Path(case["image"]).name for case in find_images(tmp_path / "images")] == ["case_1.mha", "case_2.hdr"]


@pytest.mark.parametrize("ending", ["nrrd", "nhdr", "seg.nrrd", "mha", "mhd", "mgz", "hdr"])
@pytest.mark.parametrize("orientation", ["PSR", "oblique"])
def test_results_are_nifti_on_the_grid_of_the_input(volumes, tmp_path, affine_of, ending, orientation):
    """Loaded and saved as a bundle's config does it: the same voxels at the same places, to 1e-4 mm."""
    labels, path = (volumes.VOXELS > 800).astype(np.uint8), tmp_path / f"liver_004.{ending}"
    affine = affine_of(orientation)
    if ending == "hdr":
        nib.save(nib.Nifti1Pair(labels, affine), path)
    elif ending == "mgz":
        nib.save(nib.MGHImage(labels, affine), path)
    else:
        volumes.sitk.WriteImage(volumes.as_itk(labels, affine), str(path))
    chain = [
        {"_target_": "unet_bundle.io.LoadImaged", "keys": "image", "channels": 1},
        {"_target_": "unet_bundle.io.SaveImaged", "keys": "image", "output_dir": str(tmp_path / "out")},
    ]
    volumes.parse(chain)({"image": str(path)})
    assert [result.name for result in (tmp_path / "out").iterdir()] == ["liver_004_seg.nii.gz"]
    result = nib.load(tmp_path / "out" / "liver_004_seg.nii.gz")
    np.testing.assert_array_equal(np.asarray(result.dataobj), labels)
    np.testing.assert_allclose(result.affine, affine, atol=1e-4)
    voxels, itk_affine = volumes.by_itk(tmp_path / "out" / "liver_004_seg.nii.gz")
    np.testing.assert_array_equal(voxels[0], labels)
    np.testing.assert_allclose(itk_affine, affine, atol=1e-4)


def damaged_copies(volumes, folder, affine, ending, count):
    """Bytes of the file of a small scan, each time with some changed or the end cut off."""
    path = folder / f"scan.{ending}"
    image = volumes.as_itk(volumes.VOXELS, affine)
    if ending in ("nrrd", "mha"):
        volumes.sitk.WriteImage(image, str(path), ending == "mha")
    else:
        image_class = {"hdr": nib.Nifti1Pair, "mgh": nib.MGHImage, "mgz": nib.MGHImage}.get(ending, nib.Nifti1Image)
        nib.save(image_class(volumes.VOXELS, affine), path)
    rng, contents = np.random.default_rng(20261123), path.read_bytes()
    for turn in range(count):
        damaged = bytearray(contents)
        for _ in range(1 + turn % 3):
            damaged[rng.integers(min(len(damaged), 480))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged if turn % 4 else contents[: rng.integers(len(contents))])
        yield path


def independent_affine(volumes, path, otherwise):
    """The affine by another reader; `otherwise`, the undamaged file's, where that reader is stricter."""
    try:
        return volumes.by_itk(path)[1] if path.suffix in (".nrrd", ".mha") else nib.load(path).affine
    except (RuntimeError, ValueError, nib.spatialimages.HeaderDataError):
        return otherwise


def outcome(volumes, path):
    try:
        return volumes.load(path)
    except RuntimeError as error:
        return volumes.checked_sentence(error, path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("ending", "count"),
    [(ending, 30) for ending in ENDINGS]
    + [pytest.param(ending, 200, marks=pytest.mark.integration) for ending in ENDINGS],
)
def test_damage_is_refused_in_one_line_or_harmless(volumes, tmp_path, affine_of, ending, count):
    refused = 0
    for path in damaged_copies(volumes, tmp_path, affine_of("oblique"), ending, count):
        image = outcome(volumes, path)
        if isinstance(image, str):
            refused += 1
            continue
        np.testing.assert_allclose(image.affine, independent_affine(volumes, path, affine_of("oblique")), atol=1e-4)
        assert image.shape[1:] == volumes.SHAPE
    assert count / 5 < refused
