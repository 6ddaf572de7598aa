"""The phantom data set: repeatable, well formed, and as hard as it says."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from unet_bundle.errors import InputError
from unet_bundle.geometry import obliquity_degrees, orientation_of, spacing_of
from unet_bundle.io import find_cases, find_images
from unet_bundle.phantom import LABELS, make_phantom, phantom_card, phantom_case
from unet_bundle.planning.card import load_card


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("phantom"), cases=2, unseen=1, seed=7)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_gives_the_same_bytes_and_another_does_not(folder: Path, tmp_path: Path) -> None:
    again = _files(make_phantom(tmp_path / "again", cases=2, unseen=1, seed=7))
    other = _files(make_phantom(tmp_path / "other", cases=2, unseen=1, seed=8))
    assert again == _files(folder)
    assert all(other[name] != content for name, content in again.items())


def test_a_case_does_not_depend_on_how_many_there_are(folder: Path, tmp_path: Path) -> None:
    fewer = _files(make_phantom(tmp_path, cases=1, unseen=1, seed=7))
    assert fewer["imagesTs/phantom_002.nii.gz"] == _files(folder)["imagesTr/phantom_002.nii.gz"]


def test_is_a_decathlon_data_set_with_its_unseen_case_apart(folder: Path) -> None:
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert description["numTraining"] == len(description["training"]) == 2
    assert [Path(case["image"]).name for case in find_cases(folder)] == ["phantom_001.nii.gz", "phantom_002.nii.gz"]
    assert [Path(case["image"]).name for case in find_images(folder)] == ["phantom_003.nii.gz"]
    assert (folder / "labelsTs" / "phantom_003.nii.gz").is_file()


def test_the_card_describes_the_data_set(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "card.yaml"
    path.write_text(phantom_card(), encoding="utf-8")
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    card = load_card(path, description)
    assert card.labels == LABELS
    assert card.modality == ["MRI"]
    assert set(card.terms) == set(LABELS) - {"background"}
    assert description["labels"] == {str(value): name for name, value in LABELS.items()}


@pytest.mark.parametrize("part", ["Tr", "Ts"])
def test_image_and_label_share_an_oblique_anisotropic_grid(folder: Path, part: str) -> None:
    for path in sorted((folder / f"images{part}").iterdir()):
        image, label = nib.load(path), nib.load(folder / f"labels{part}" / path.name)
        assert image.shape == label.shape
        for nifti in (image, label):
            np.testing.assert_array_equal(nifti.affine, image.affine)
            np.testing.assert_allclose(nifti.get_qform(coded=True)[0], nifti.get_sform(coded=True)[0], atol=1e-3)
            assert nifti.header.get_xyzt_units()[0] == "mm"
        spacing = spacing_of(image.affine)
        assert spacing[2] > 2 * spacing[0]
        assert obliquity_degrees(image.affine) > 1
        assert label.get_data_dtype() == np.uint8


def test_grids_differ_from_case_to_case() -> None:
    cases = [phantom_case(0, number) for number in range(1, 7)]
    assert len({image.shape for image, _, _ in cases}) > 3
    assert len({spacing_of(affine) for _, _, affine in cases}) == 6
    assert len({orientation_of(affine) for _, _, affine in cases}) > 1


@pytest.mark.parametrize("number", range(1, 14))
def test_anatomy(number: int) -> None:
    image, label, affine = phantom_case(0, number)
    voxel_ml = np.prod(spacing_of(affine)) / 1000
    lobe, bean, vessel = (label == LABELS[name] for name in ("lobe", "bean", "vessel"))
    assert 8 < lobe.sum() * voxel_ml < 30
    assert 2 < bean.sum() * voxel_ml < 9
    assert 0.3 < vessel.sum() * voxel_ml < 3

    shared_border = ndimage.binary_dilation(lobe) & bean
    assert shared_border.sum() > 40, "the organs touch"
    for organ in (lobe, bean):
        parts, count = ndimage.label(organ)
        assert np.bincount(parts.ravel())[1:].max() > 0.95 * organ.sum(), f"an organ is one piece, not {count}"
    assert not ndimage.binary_erosion(vessel, np.ones((5, 5, 1))).any(), "the vessel is thin"
    assert vessel[:, :, 0].any(), "the vessel runs through the whole scan"
    assert vessel[:, :, -1].any(), "the vessel runs through the whole scan"

    assert image.min() >= 0, "a magnitude image"
    assert np.median(image[vessel]) > np.median(image[bean]) > np.median(image[lobe])
    assert np.std(image[lobe]) > 0.08 * np.mean(image[lobe]), "no organ is flat"


@pytest.mark.parametrize(("name", "value"), [("cases", 0), ("unseen", -1), ("seed", -3)])
def test_numbers_out_of_range_are_named(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{name} >= [01], not {value}"):
        make_phantom(tmp_path, **{name: value})
    assert not any(tmp_path.iterdir())
