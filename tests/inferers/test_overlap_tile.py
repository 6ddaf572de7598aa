"""Tiles of a network without padding give what one pass over the mirrored image gives."""

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.inferers import OverlapTileInferer
from unet_bundle.networks import UNet, unet3d2016, unet2015

SMALL = [
    {"downsampling": "max_pool"},
    {"downsampling": "stride"},
    {"downsampling": "max_pool", "encoder": "residual"},
    {"downsampling": "stride", "kernel_sizes": [[5, 3], [2, 3], [3, 4]], "strides": [1, [2, 3], [1, 2]]},
    {"convolutions_per_stage": [1, 2, 3], "decoder_convolutions_per_stage": [3, 1]},
    {"upsampling": "interpolated", "downsampling": "max_pool"},
    {"upsampling": "interpolated", "strides": [1, 3, [2, 1]], "norm": "batch"},
]


def one_pass(image: torch.Tensor, network: torch.nn.Module, margin: int, remainder: int, step: int) -> torch.Tensor:
    """Scores of an image [batch, channels, *spatial], of a network that takes sizes of `remainder` modulo `step`."""
    pairs = []
    for side in image.shape[2:]:
        whole = side + 2 * margin
        pairs.append((margin, margin + (remainder - whole) % step))
    seen = np.pad(image.numpy(), [(0, 0), (0, 0), *pairs], mode="reflect")
    scores = network(torch.from_numpy(seen))
    return scores[(..., *(slice(0, side) for side in image.shape[2:]))]


@pytest.mark.parametrize(("batch", "channels", "shape"), [(1, 1, (50, 61)), (2, 3, (7, 130)), (1, 1, (1, 35))])
def test_tiles_of_the_2015_network_are_one_pass(batch: int, channels: int, shape: tuple[int, ...]) -> None:
    """Sizes of the paper, 572 to 388: 92 pixels at each end, and 572 = 12 modulo 16."""
    torch.manual_seed(0)
    network = unet2015(in_channels=channels, out_channels=2, width=4).eval().requires_grad_(False)
    image = torch.randn(batch, channels, *shape)
    scores = OverlapTileInferer((204, 220), sw_batch_size=3)(image, network)
    expected = one_pass(image, network, 92, 12, 16)
    assert expected.std() > 0.01
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


def test_tiles_of_the_2016_network_are_one_pass() -> None:
    """Sizes of the paper, 132 to 44: 44 voxels at each end, and 132 = 4 modulo 8."""
    torch.manual_seed(0)
    network = unet3d2016(in_channels=1, out_channels=3, width=1).eval().requires_grad_(False)
    image = torch.randn(1, 1, 14, 9, 5)
    scores = OverlapTileInferer((100, 100, 116))(image, network)
    torch.testing.assert_close(scores, one_pass(image, network, 44, 4, 8), atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", SMALL, ids=str)
def test_tiles_do_not_show(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = UNet(2, 1, 2, [4, 4, 4], padding="valid", **{"norm": "none", **settings}).eval().requires_grad_(False)
    image = torch.randn(1, 1, 61, 47)
    whole = OverlapTileInferer(0)(image, network)
    sizes = [size for size in range(40, 110) if _fits(network, size)]
    assert len(sizes) > 3
    for size in sizes[:3]:
        scores = OverlapTileInferer((size, size))(image, network)
        torch.testing.assert_close(scores, whole, atol=1e-5, rtol=0)


def _fits(network: UNet, size: int) -> bool:
    try:
        OverlapTileInferer((size, size))(torch.zeros(1, 1, 1, 1), network)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_of_a_volume(axis: int) -> None:
    network = UNet(2, 1, 2, [4, 4], padding="valid", norm="none").eval().requires_grad_(False)
    volume = torch.randn(1, 1, 20, 21, 22)
    scores = OverlapTileInferer(31, spatial_dim=axis, sw_batch_size=5)(volume, network)
    alone = [OverlapTileInferer(31)(plane, network) for plane in volume.unbind(axis + 2)]
    torch.testing.assert_close(scores, torch.stack(alone, axis + 2), atol=1e-5, rtol=0)


def test_gradients_pass() -> None:
    network = UNet(2, 1, 2, [4, 4], padding="valid", norm="none")
    OverlapTileInferer(31)(torch.randn(2, 1, 30, 20), network).square().mean().backward()
    assert all(weights.grad is not None for weights in network.parameters())


def test_small_images_take_small_tiles() -> None:
    network = unet2015(in_channels=1, out_channels=2, width=2).eval().requires_grad_(False)
    seen = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
    OverlapTileInferer((572, 572))(torch.randn(1, 1, 20, 21), network)
    assert seen == [(204, 220)]


def test_metadata_and_type_are_those_of_the_image() -> None:
    network = UNet(2, 1, 2, [4, 4], padding="valid", norm="none").eval().double().requires_grad_(False)
    image = MetaTensor(torch.randn(1, 20, 20, dtype=torch.float64), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0])))
    scores = OverlapTileInferer(0)(image[None], network)
    assert isinstance(scores, MetaTensor)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores.affine.squeeze(), image.affine)


@pytest.mark.parametrize(
    ("size", "nearest"), [(570, "556 or 572"), (573, "572 or 588"), (188, "give 204"), (30, "give 204")]
)
def test_sizes_that_do_not_fit_are_refused_with_the_nearest_that_do(size: int, nearest: str) -> None:
    network = unet2015(in_channels=1, out_channels=2, width=2)
    with pytest.raises(ConfigError, match=f"roi_size {size} along axis 1 does not fit .*{nearest}$"):
        OverlapTileInferer((572, size))(torch.zeros(1, 1, 40, 40), network)


def test_networks_and_images_it_is_not_for_are_refused() -> None:
    with pytest.raises(ConfigError, match="use SlabInferer or ScanInferer"):
        OverlapTileInferer((32, 32))(torch.zeros(1, 1, 40, 40), UNet(2, 1, 2, [4, 4]))
    network = UNet(2, 1, 2, [4, 4], padding="valid")
    with pytest.raises(InputError, match="the network takes 2 spatial axes, the image has 3 for it, roi_size 2"):
        OverlapTileInferer((32, 32))(torch.zeros(1, 1, 40, 40, 40), network)
