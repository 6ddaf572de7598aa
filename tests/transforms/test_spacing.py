import pickle

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.geometry import spacing_of
from unet_bundle.transforms import ResampleToSpacingd


def smooth_image(shape=(16, 18, 12), spacing=(1.0, 1.5, 2.0), rotation=(0.0, 0.0, 0.0), name="scan.nii"):
    """A linear ramp in world coordinates: any interpolation that knows its geometry leaves it a ramp."""
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(*rotation) @ np.diag(spacing), [-20.0, 5.0, 30.0])
    grid = np.stack(np.meshgrid(*[np.arange(side) for side in shape], indexing="ij"), -1)
    world = grid @ affine[:3, :3].T + affine[:3, 3]
    ramp = torch.tensor(world @ [0.3, -0.2, 0.5], dtype=torch.float32)[None]
    return MetaTensor(ramp, meta={"affine": torch.tensor(affine), "filename_or_obj": f"patient/{name}"})


def label_of(image):
    return MetaTensor((image.as_tensor() > image.as_tensor().mean()).float(), meta=dict(image.meta))


spacings = st.tuples(*[st.floats(0.7, 3.0)] * 3)
angles = st.tuples(*[st.floats(-0.6, 0.6)] * 3)


@settings(max_examples=25, deadline=None)
@given(spacings, spacings, angles, st.tuples(*[st.integers(2, 17)] * 3))
def test_image_and_label_get_one_grid_and_come_back_to_their_own(spacing, target, rotation, shape):
    image = smooth_image(shape, spacing, rotation)
    affine = image.affine.clone()
    transform = Compose([ResampleToSpacingd(["image", "label"], target, ["bilinear", "nearest"])])
    data = transform({"image": image, "label": label_of(image), "image_path": "a string", "image_meta": 3})
    assert data["image"].shape == data["label"].shape
    assert torch.equal(data["image"].affine, data["label"].affine)
    np.testing.assert_allclose(spacing_of(data["image"].affine), target, rtol=1e-3)
    assert set(data["label"].unique().tolist()) <= {0.0, 1.0}
    assert (data["image_path"], data["image_meta"]) == ("a string", 3)

    scores = MetaTensor(torch.stack([1 - data["label"][0], data["label"][0]]).as_subclass(torch.Tensor))
    inverted = Invertd("scores", transform=transform, orig_keys="image", nearest_interp=False)(
        data | {"scores": scores}
    )
    assert inverted["scores"].shape == (2, *shape)
    assert torch.equal(inverted["scores"].affine, affine)


@settings(max_examples=15, deadline=None)
@given(spacings, angles)
def test_a_ramp_in_space_stays_a_ramp(target, rotation):
    """The resampled voxels are where the new affine says that they are."""
    image = smooth_image(rotation=rotation)
    resampled = ResampleToSpacingd("image", target)({"image": image})["image"]
    affine = resampled.affine.numpy()
    grid = np.stack(np.meshgrid(*[np.arange(side) for side in resampled.shape[1:]], indexing="ij"), -1)
    expected = (grid @ affine[:3, :3].T + affine[:3, 3]) @ [0.3, -0.2, 0.5]
    source = np.linalg.inv(image.affine.numpy()) @ affine
    indices = grid @ source[:3, :3].T + source[:3, 3]
    inside = ((indices >= 0) & (indices <= np.array(image.shape[1:]) - 1)).all(-1)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(resampled[0].numpy()[inside], expected[inside], atol=1e-2)


@pytest.mark.parametrize("factor", [1.0, 1 + 5e-4, 1 - 5e-4])
def test_a_spacing_that_agrees_leaves_every_bit(factor):
    image = smooth_image(spacing=(1.0 * factor, 1.5, 2.0), rotation=(0.1, 0.2, 0.3))
    label = label_of(image)
    transform = Compose([ResampleToSpacingd(["image", "label"], [1, 1.5, 2], ["bilinear", "nearest"])])
    data = transform({"image": image, "label": label})
    for key, before in (("image", image), ("label", label)):
        assert data[key].data_ptr() == before.data_ptr(), "not even copied"
        assert torch.equal(data[key].affine, before.affine)
    data["scores"] = MetaTensor(torch.rand(3, *image.shape[1:]))
    before = data["scores"].clone()
    inverted = Invertd("scores", transform=transform, orig_keys="image", nearest_interp=False)(data)["scores"]
    assert torch.equal(inverted.as_tensor(), before.as_tensor())
    assert torch.equal(inverted.affine, image.affine)


def test_an_axis_that_agrees_is_not_interpolated():
    image = smooth_image(spacing=(1.0005, 1.5, 2.0))
    resampled = ResampleToSpacingd("image", [1, 1.5, 4])({"image": image})["image"]
    np.testing.assert_allclose(spacing_of(resampled.affine), [1.0005, 1.5, 4])
    assert resampled.shape[1:3] == image.shape[1:3]
    torch.testing.assert_close(resampled[..., 0].as_tensor(), image[..., 0].as_tensor())


def test_the_tolerance_is_the_callers():
    image = smooth_image(spacing=(1.1, 1.5, 2.0))
    assert ResampleToSpacingd("image", [1, 1.5, 2], tolerance=0.2)({"image": image})["image"].shape == image.shape
    assert ResampleToSpacingd("image", [1, 1.5, 2])({"image": image})["image"].shape != image.shape


def test_beyond_the_border_the_nearest_voxel_counts():
    image = MetaTensor(torch.ones(1, 5, 5, 5), affine=torch.eye(4, dtype=torch.float64))
    for mode in ("bilinear", "nearest"):
        resampled = ResampleToSpacingd("image", [0.7, 1.3, 2.9], mode)({"image": image})["image"]
        torch.testing.assert_close(resampled.as_tensor(), torch.ones(resampled.shape))


def test_voxels_of_a_label_are_the_nearest():
    """Doubling the resolution repeats what is there: a value between two labels never appears."""
    label = MetaTensor(torch.tensor([0.0, 0, 2, 2, 5, 5]).reshape(1, 6, 1, 1), affine=torch.eye(4, dtype=torch.float64))
    resampled = ResampleToSpacingd("label", [0.5, 1, 1], "nearest")({"label": label})["label"]
    assert resampled.shape == (1, 11, 1, 1)
    assert resampled.flatten()[::2].tolist() == label.flatten().tolist()
    assert set(resampled.unique().tolist()) == {0.0, 2.0, 5.0}


def test_planes_are_resampled_too():
    affine = torch.diag(torch.tensor([0.5, 0.5, 1.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.rand(1, 21, 31), affine=affine)
    transform = Compose([ResampleToSpacingd("image", [1, 1])])
    data = transform({"image": image})
    assert data["image"].shape == (1, 11, 16)
    data["scores"] = MetaTensor(torch.rand(2, 11, 16))
    assert Invertd("scores", transform, orig_keys="image", nearest_interp=False)(data)["scores"].shape == (2, 21, 31)


def test_a_label_on_another_grid_is_refused_with_both_names():
    image, label = smooth_image(), label_of(smooth_image(rotation=(0.0, 0.0, 0.1)))
    label.meta["filename_or_obj"] = "patient/label.nii"
    resample = ResampleToSpacingd(["image", "label"], [1, 1, 1], ["bilinear", "nearest"])
    with pytest.raises(InputError, match=r"^label\.nii is not on the grid of scan\.nii \(corners up to "):
        resample({"image": image, "label": label})
    with pytest.raises(InputError, match=r"\(shape 16 x 18 x 11 against 16 x 18 x 12\)"):
        resample({"image": image, "label": label_of(smooth_image())[..., :-1]})


def test_a_label_within_the_tolerance_lands_on_the_grid_of_the_image():
    image = smooth_image()
    label = label_of(image)
    label.affine = label.affine + torch.nn.functional.pad(torch.full((3, 1), 0.01), (3, 0, 0, 1))
    data = ResampleToSpacingd(["image", "label"], [1, 1, 1], ["bilinear", "nearest"])({"image": image, "label": label})
    assert data["image"].shape == data["label"].shape
    torch.testing.assert_close(data["image"].affine, data["label"].affine)


def test_another_number_of_axes_is_refused():
    with pytest.raises(InputError, match=r"^scan\.nii has 3 spatial axes, the model needs 2"):
        ResampleToSpacingd("image", [1, 1])({"image": smooth_image()})


@pytest.mark.parametrize("spacing", [[1, 1, 0], [1, -1, 1], [1, 1, float("nan")]])
def test_a_spacing_that_is_none_is_refused(spacing):
    with pytest.raises(ConfigError, match="each voxel edge must be a positive number of mm"):
        ResampleToSpacingd("image", spacing)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="must be 'bilinear' or 'nearest'"):
        ResampleToSpacingd("image", [1, 1, 1], mode="cubic")


def test_it_inverts_together_with_orientation_after_pickling():
    transform = Compose(
        [
            Orientationd(["image", "label"], axcodes="RAS", labels=None),
            ResampleToSpacingd(["image", "label"], [1, 1, 1]),
        ]
    )
    transform = pickle.loads(pickle.dumps(transform))  # noqa: S301
    image = smooth_image()
    image.affine = image.affine[:, [2, 0, 1, 3]] @ torch.diag(torch.tensor([-1.0, 1, -1, 1], dtype=torch.float64))
    before = image.affine.clone()
    data = transform({"image": image, "label": label_of(image)})
    data["scores"] = MetaTensor(torch.rand(2, *data["image"].shape[1:]))
    inverted = Invertd("scores", transform=transform, orig_keys="image", nearest_interp=False)(data)["scores"]
    assert inverted.shape == (2, 16, 18, 12)
    torch.testing.assert_close(inverted.affine, before, atol=1e-10, rtol=0)


def test_an_axis_of_no_stated_spacing_keeps_its_voxels_there_and_back():
    """Slices of volumes stay where they are: each is resampled within its own plane."""
    image = smooth_image(spacing=(1.0, 1.5, 4.3))
    label = label_of(image)
    transform = Compose([ResampleToSpacingd(["image", "label"], [2.0, 1.5, None], ["bilinear", "nearest"])])
    data = transform({"image": image, "label": label})
    assert data["image"].shape == data["label"].shape == (1, 8, 18, 12)
    np.testing.assert_allclose(spacing_of(data["image"].affine), [2.0, 1.5, 4.3])
    for number in range(image.shape[-1]):
        plane = ResampleToSpacingd("image", [2.0, 1.5, None])({"image": image[..., number : number + 1]})["image"]
        torch.testing.assert_close(data["image"][..., number].as_tensor(), plane[..., 0].as_tensor())
    data["scores"] = MetaTensor(torch.rand(2, 8, 18, 12))
    inverted = Invertd("scores", transform=transform, orig_keys="image", nearest_interp=False)(data)["scores"]
    assert inverted.shape == (2, 16, 18, 12)
    assert torch.equal(inverted.affine, image.affine)


@pytest.mark.parametrize("spacing", [[None, None, None], [1.0, 1.5, None]])
def test_nothing_to_resample_but_axes_that_are_kept_leaves_every_bit(spacing):
    image = smooth_image(spacing=(1.0, 1.5, 17.3), rotation=(0.1, 0.2, 0.3))
    resampled = ResampleToSpacingd("image", spacing)({"image": image})["image"]
    assert resampled.data_ptr() == image.data_ptr()
    assert torch.equal(resampled.affine, image.affine)
