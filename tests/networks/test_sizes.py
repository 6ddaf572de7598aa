"""The sizes that a network forecasts are the sizes that it makes."""

import copy
import itertools
from typing import Any

import pytest
import torch

from unet_bundle.networks import InputTooSmallError, UNet

VALID = [
    {"downsampling": "max_pool"},
    {"downsampling": "stride"},
    {"downsampling": "max_pool", "encoder": "residual"},
    {"downsampling": "stride", "encoder": "residual", "convolutions_per_stage": 1},
    {"downsampling": "stride", "kernel_sizes": [[5, 3], [2, 3], [3, 4]], "strides": [1, [2, 3], [1, 2]]},
    {"downsampling": "max_pool", "kernel_sizes": [[1, 1], [1, 2], [2, 1]], "convolutions_per_stage": 1},
    {"convolutions_per_stage": [1, 2, 3], "decoder_convolutions_per_stage": [3, 1], "upsampling": "interpolated"},
]


@pytest.mark.parametrize("settings", VALID, ids=str)
def test_output_shape_without_padding(settings: dict[str, Any]) -> None:
    network = UNet(2, 1, 2, [2, 2, 2], padding="valid", norm="none", **settings).eval()
    smallest = network.smallest_image
    for extra in range(10):
        size = [smallest[0] + extra, smallest[1] + 2 * extra]
        assert network(torch.rand(1, 1, *size)).shape[2:] == network.output_shape(size)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("settings", VALID, ids=str)
def test_no_smaller_image_leaves_anything(settings: dict[str, Any], axis: int) -> None:
    network = UNet(2, 1, 2, [2, 2, 2], padding="valid", norm="none", **settings).eval()
    size = list(network.smallest_image)
    size[axis] -= 1
    with pytest.raises(InputTooSmallError, match="leaves nothing to segment"):
        network.output_shape(size)
    with pytest.raises(InputTooSmallError, match="leaves nothing to segment"):
        network(torch.rand(1, 1, *size))
    # And without our check torch comes to the same.
    network.smallest_image = size
    with pytest.raises(RuntimeError, match=r"size|small|negative"):
        network(torch.rand(1, 1, *size))


@pytest.mark.parametrize("settings", VALID, ids=str)
def test_single_voxels_are_found_in_every_map(settings: dict[str, Any]) -> None:
    network = UNet(2, 1, 2, [2, 2, 2], padding="valid", norm="instance", **settings).eval()
    unchecked = copy.deepcopy(network)
    unchecked._single_voxel_limits = []
    refused = []
    for extra in itertools.product(range(10), repeat=2):
        image = torch.rand(1, 1, *(n + more for n, more in zip(network.smallest_image, extra, strict=True)))
        error = _error_of(unchecked, image)
        assert (error is None) == (_error_of(network, image) is None), extra
        if error is not None:
            refused.append(extra)
            assert isinstance(_error_of(network, image), InputTooSmallError)
            assert "Expected more than 1 spatial element" in str(error)
    # Only small kernels leave anything of an image that once was a single voxel.
    assert ((0, 0) in refused) == (settings.get("kernel_sizes") == [[1, 1], [1, 2], [2, 1]])


def _error_of(network: UNet, image: torch.Tensor) -> ValueError | None:
    try:
        network(image)
    except ValueError as error:
        return error
    return None


def test_with_padding_the_logits_are_as_large_as_the_image() -> None:
    network = UNet(3, 1, 2, [2, 2, 2])
    assert network.smallest_image == [1, 1, 1]
    assert network.output_shape((5, 6, 7)) == (5, 6, 7)
    with pytest.raises(ValueError, match=r"image_shape must have 3 sizes, not \[5, 6\]"):
        network.output_shape((5, 6))
