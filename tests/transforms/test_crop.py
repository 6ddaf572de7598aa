"""Cropping to what is not zero: nothing lost, affine right, and the way back."""

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from unet_bundle.transforms import CropToNonzerod


def scan():
    voxels = torch.zeros(2, 9, 8, 7)
    voxels[0, 2:5, 3, 1:6] = -5.0
    voxels[1, 4:7, 2:4, 3] = 2.0
    return MetaTensor(voxels, affine=torch.diag(torch.tensor([-1.0, 2.0, 3.0, 1.0], dtype=torch.float64)))


def test_the_box_holds_what_is_not_zero_in_any_channel():
    image = scan()
    cropped = CropToNonzerod("image")({"image": image})["image"]
    assert cropped.shape == (2, 5, 2, 5)
    assert torch.equal(cropped.as_tensor(), image.as_tensor()[:, 2:7, 2:4, 1:6])
    np.testing.assert_allclose(cropped.affine[:3, 3], [-2.0, 4.0, 3.0])


def test_it_comes_back_with_zeros_round_it():
    image = scan()
    crop = Compose([CropToNonzerod("image")])
    back = Invertd("image", crop)(crop({"image": image}))["image"]
    assert torch.equal(back.as_tensor(), image.as_tensor())
    np.testing.assert_allclose(back.affine, image.affine)


def test_nothing_but_zeros_stays_whole():
    image = MetaTensor(torch.zeros(1, 4, 5, 6))
    assert CropToNonzerod("image")({"image": image})["image"].shape == image.shape


def test_planes_are_cropped_too():
    image = MetaTensor(torch.nn.functional.pad(torch.ones(1, 3, 4), (2, 1, 0, 5)), affine=torch.eye(3))
    assert CropToNonzerod("image")({"image": image})["image"].shape == (1, 3, 4)
