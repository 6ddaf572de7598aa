import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.inferers import ScanInferer, SlabInferer
from unet_bundle.inferers.slabs import fitting_strips, slab_bytes, strips
from unet_bundle.inferers.tiling import make_tiling


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


@pytest.mark.parametrize("size", [16, 17, 24, 25, 31, 100, 239])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_even_windows_cover_all_and_share_at_least_the_overlap(size: int, overlap: float) -> None:
    (starts,) = make_tiling((size,), (16,), (overlap,), spacing="even").starts
    steps = [after - before for before, after in itertools.pairwise(starts)]
    assert (starts[0], starts[-1] + 16) == (0, size)
    assert max(steps, default=0) <= round(16 * (1 - overlap))
    assert max(steps, default=0) - min(steps, default=0) <= 1
    assert len(starts) == len(make_tiling((size,), (16,), (overlap,)).starts[0])


def test_slices_are_seen_once_each() -> None:
    assert make_tiling((20,), (1,), (0.5,), spacing="even").starts == (tuple(range(20)),)


@pytest.mark.parametrize("window", [(16, 24), (17, 8, 40)])
def test_nnunets_weights_are_the_blur_of_the_middle_voxel_down_to_the_least_float16(window: tuple[int, ...]) -> None:
    middle = np.zeros(window)
    middle[tuple(side // 2 for side in window)] = 1
    blurred = ndimage.gaussian_filter(middle, [side / 8 for side in window], mode="constant", cval=0)
    half = torch.from_numpy(blurred / blurred.max() * 10).half()
    half[half == 0] = half[half > 0].min()
    weights = make_tiling(window, window, [0.5] * len(window), "nnunet").weights
    torch.testing.assert_close(weights.half(), half, rtol=1e-3, atol=1e-7)
