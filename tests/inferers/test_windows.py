from typing import Any

import pytest
import torch

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.inferers import ScanInferer, SlabInferer
from unet_bundle.inferers.slabs import fitting_strips, make_tiling, slab_bytes, strips


@pytest.mark.parametrize("roi", [16, (16, 16)])
def test_slices_have_windows_of_one_size_along_both_axes(roi: Any) -> None:
    network = torch.nn.Conv2d(1, 3, 3, padding=1).requires_grad_(False)
    volume = torch.randn(1, 1, 20, 24, 5)
    expected = SlabInferer((16, 16), overlap=0.5, spatial_dim=2)(volume, network)
    torch.testing.assert_close(SlabInferer(roi, overlap=0.5, spatial_dim=2)(volume, network), expected)
    assert ScanInferer(roi, spatial_dim=2)(volume, network).shape == volume.shape


@pytest.mark.parametrize("axis", [-1, 3])
def test_slices_across_an_axis_there_is_not_are_refused(axis: int) -> None:
    with pytest.raises(ConfigError, match=f"spatial_dim must be 0, 1 or 2, not {axis}"):
        ScanInferer((16, 16), spatial_dim=axis)


@pytest.mark.parametrize("axes", [[-1], [0, 0], [3]])
def test_mirror_axes_that_are_none_are_refused(axes: list[int]) -> None:
    with pytest.raises(ConfigError, match="mirror_axes must be different axes from 0 on"):
        ScanInferer((16, 16, 16), mirror_axes=axes)(torch.zeros(1, 1, 16, 16, 16), lambda window: window)


def test_mirror_axes_of_a_plane_are_two() -> None:
    with pytest.raises(InputError, match="mirror_axes names axis 2, the image has 2"):
        ScanInferer((16, 16), mirror_axes=[2])(torch.zeros(1, 1, 16, 16), lambda window: window)


def test_several_outputs_over_slices_are_refused() -> None:
    network = torch.nn.Conv2d(1, 3, 3, padding=1).requires_grad_(False)
    with pytest.raises(ConfigError, match="spatial_dim is for networks with one output"):
        SlabInferer((16, 16), spatial_dim=2)(torch.zeros(1, 1, 20, 20, 20), lambda w: (network(w), network(w)))


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_strips_fit_into_memory_with_the_batch_that_is_run(batch_size: int) -> None:
    tiling = make_tiling((400, 100, 100), (20, 20, 20), (0.5, 0.5, 0.5))
    limit = slab_bytes(tiling, 10, batch_size) / 2
    number = fitting_strips(tiling, 10, limit, batch_size)
    assert all(slab_bytes(strip.tiling, 10, batch_size) <= limit for strip in strips(tiling, number))
