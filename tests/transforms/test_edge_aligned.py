"""Grids with the same outer edges: SciPy's values, an exact affine, and the way back."""

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd
from scipy import ndimage

from unet_bundle.errors import ConfigError
from unet_bundle.geometry import corners, thick_axis
from unet_bundle.transforms import ResampleToSpacingd
from unet_bundle.transforms.edge_aligned import edge_aligned_affine, resample_edge_aligned

sides = st.tuples(*[st.integers(1, 14)] * 3)


def scan(shape=(13, 16, 11), spacing=(1.0, 1.5, 2.0), seed=0):
    voxels = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(2, *shape)), [0, 1, 1, 1]) * 100
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag(spacing), [-20.0, 5.0, 30.0])
    return MetaTensor(torch.tensor(voxels, dtype=torch.float32), affine=torch.from_numpy(affine))


@settings(max_examples=40)
@given(sides, sides, st.sampled_from([("bilinear", 1), ("cubic", 3)]))
def test_values_are_those_of_scipy(before, after, mode):
    """scikit-image's resize, which nnU-Net calls, is this and the clipping."""
    name, order = mode
    image = np.random.default_rng(0).normal(size=before)
    zoom = [new / old for new, old in zip(after, before, strict=True)]
    expected = ndimage.zoom(image, zoom, order=order, mode="nearest", grid_mode=True).clip(image.min(), image.max())
    resampled = resample_edge_aligned(torch.from_numpy(image)[None], after, name)[0].numpy()
    if before == after:
        np.testing.assert_array_equal(resampled, image)
    np.testing.assert_allclose(resampled, expected, atol=1e-4)


@given(sides, sides)
def test_outer_edges_stay_where_they_are(before, after):
    """An edge lies half a voxel beyond a centre."""
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.3, 0.1, 0.2) @ np.diag([1.1, 0.7, 3.0]), [9, 8, 7])
    new = edge_aligned_affine(affine, before, after)
    half = nib.affines.from_matvec(np.eye(3), [-0.5] * 3)
    expected, found = (
        corners([side + 1 for side in shape], matrix @ half) for shape, matrix in ((before, affine), (after, new))
    )
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_grid_has_the_spacing_and_the_image_comes_back():
    image = scan()
    resample = Compose([ResampleToSpacingd("image", [1.3, 1.0, 1.6], "cubic", align="edges")])
    data = resample({"image": image})
    assert data["image"].shape[1:] == (10, 24, 14)
    back = Invertd("image", resample)(data)["image"]
    assert back.shape == image.shape
    np.testing.assert_allclose(back.affine, image.affine, atol=1e-12)
    assert float((back - image).abs().mean()) < 0.15 * float(image.std())


def test_places_of_voxels_agree_with_the_affine():
    """A ramp in space stays that ramp, but at the border, beyond which the last voxel counts."""
    image = scan((20, 18, 16))
    places = np.stack(np.meshgrid(*map(np.arange, image.shape[1:]), indexing="ij"), -1)
    image[:] = torch.from_numpy(nib.affines.apply_affine(image.affine.numpy(), places) @ [1.0, 2.0, 3.0]).float()
    new = ResampleToSpacingd("image", [1.7, 1.1, 2.3], "cubic", align="edges")({"image": image})["image"]
    places = np.stack(np.meshgrid(*map(np.arange, new.shape[1:]), indexing="ij"), -1)
    expected = nib.affines.apply_affine(new.affine.numpy(), places) @ [1.0, 2.0, 3.0]
    inner = (slice(4, -4),) * 3
    np.testing.assert_allclose(new[0].numpy()[inner], expected[inner], atol=0.05)


def test_thick_slices_are_resampled_each_by_itself():
    image = scan((12, 14, 6), (1.0, 1.0, 5.0))
    new = ResampleToSpacingd("image", [0.8, 1.2, 2.5], "cubic", align="edges")({"image": image})["image"]
    assert new.shape[1:] == (15, 12, 12)
    plane = ndimage.zoom(image[1, ..., 4].numpy(), [15 / 12, 12 / 14], order=3, mode="nearest", grid_mode=True)
    plane = plane.clip(float(image[1, ..., 4].min()), float(image[1, ..., 4].max()))
    for number in (8, 9):  # both lie nearest to slice 4
        np.testing.assert_allclose(new[1, ..., number].numpy(), plane, atol=1e-3)


@pytest.mark.parametrize(
    ("spacing", "other", "axis"),
    [
        ([5.0, 1.0, 1.0], [1.0, 1.0, 1.0], 0),
        ([1.0, 1.0, 1.0], [1.0, 4.0, 1.0], 1),
        ([3.0, 1.0, 1.0], [2.0, 1.0, 1.0], None),  # three times is not more than three times
        ([3.0000001, 1.0, 1.0], [2.0, 1.0, 1.0], None),
        ([0.24, 1.25, 1.2500001], [1.0, 1.0, 1.0], None),  # two thick axes
        ([0.24, 1.25, 1.25], [1.0, 1.0, 5.0], None),
    ],
)
def test_thick_slices_are_found_as_nnunet_finds_them(spacing, other, axis):
    assert thick_axis(spacing, other) == axis


def test_as_many_voxels_leave_every_bit():
    image = scan(spacing=(1.0, 1.5, 2.0))
    new = ResampleToSpacingd("image", [1.01, 1.5, 1.99], "cubic", align="edges")({"image": image})["image"]
    assert torch.equal(new, image)
    np.testing.assert_allclose(new.affine, image.affine, atol=1e-12)


def test_label_maps_keep_their_values():
    label = scan((9, 9, 9), (1, 1, 1)).round()
    new = ResampleToSpacingd("label", [0.6, 1.7, 1.0], "nearest", align="edges")({"label": label})["label"]
    assert set(new.unique().tolist()) <= set(label.unique().tolist())


def test_cubic_needs_aligned_edges():
    with pytest.raises(ConfigError, match="must be 'bilinear' or 'nearest' with align 'centers'"):
        ResampleToSpacingd("image", [1, 1, 1], "cubic")
