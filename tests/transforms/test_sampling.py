"""Reading patches out of scans: any type, any layout in memory, and refusals where images do not belong together."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from unet_bundle.errors import InputError
from unet_bundle.transforms.sampling import PatchDraw, coordinates, sample_patch, sample_patches
from unet_bundle.transforms.spatial import rotation

SIZE = (14, 12, 10)
TURNED = PatchDraw(np.array([18.3, 16.2, 14.1]), rotation([10.0, 5.0, 20.0]))
CROPPED = PatchDraw(np.array([6.5, 5.5]), np.diag([-1.0, -1.0]), mirrored=(0, 1))
UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]


def smooth(*shape: int) -> torch.Tensor:
    noise = np.random.RandomState(0).rand(*shape)
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, *[1.0] * (len(shape) - 1)))).float()


def test_a_cubic_patch_is_that_of_the_whole_scan() -> None:
    """Not of the scan cut off at the patch, whose spline would bend at the cut."""
    scan = smooth(1, 40, 36, 30)
    where = np.moveaxis(coordinates(TURNED, SIZE).numpy(), -1, 0)
    expected = ndimage.map_coordinates(scan[0].numpy().astype(np.float64), where, order=3)
    assert np.abs(sample_patch(scan, TURNED, SIZE, "spline")[0].numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("kind", [torch.uint8, torch.bool, torch.uint16])
def test_what_a_cubic_spline_overshoots_does_not_wrap_round(kind: torch.dtype) -> None:
    largest = 1 if kind == torch.bool else torch.iinfo(kind).max
    square = torch.zeros(1, 24, 24)
    square[:, 6:18, 6:18] = largest
    drawn = PatchDraw(np.array([11.6, 11.4]), np.eye(2))
    as_float = sample_patch(square, drawn, (20, 20), "spline").clamp(0, largest)
    assert (sample_patch(square.to(kind), drawn, (20, 20), "spline").float() - as_float).abs().max() <= 0.51


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "spline"])
def test_half_precision_is_read_too(kind: torch.dtype, mode: str) -> None:
    scan = smooth(2, 40, 36, 30).to(kind)
    patch = sample_patch(scan, TURNED, SIZE, mode)
    assert patch.dtype == kind
    assert (patch.float() - sample_patch(scan.float(), TURNED, SIZE, mode)).abs().max() < 0.01


@pytest.mark.parametrize("kind", UNSIGNED)
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "one-hot", "spline"])
def test_wide_unsigned_types_are_mirrored(kind: torch.dtype, mode: str) -> None:
    scan = torch.arange(15 * 13).reshape(1, 15, 13)
    assert torch.equal(sample_patch(scan.to(kind)[:, 1:], CROPPED, (14, 12), mode).long(), scan[:, 1:, :12].flip(1, 2))


LAYOUTS = {
    "spread": (torch.arange(20 * 22, dtype=torch.int32) % 5).reshape(1, 20, 22, 1).expand(3, 20, 22, 30),
    "turned round": torch.randint(0, 9, (30, 22, 20, 2), dtype=torch.int16).permute(3, 2, 1, 0),
    "every third": torch.randint(0, 9, (1, 60, 44, 30), dtype=torch.uint8)[:, ::3, 1::2],
    "one of a batch": torch.randint(0, 9, (4, 2, 20, 22, 30))[2],
}


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "one-hot"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_how_a_scan_lies_in_memory_does_not_matter(layout: str, mode: str) -> None:
    scan = LAYOUTS[layout]
    drawn = PatchDraw(np.array([9.3, 9.8, 14.1]), rotation([20.0, -10.0, 35.0]))
    before = scan.clone()
    patch = sample_patch(scan, drawn, SIZE, mode)
    assert torch.equal(patch, sample_patch(scan.contiguous(), drawn, SIZE, mode))
    assert torch.equal(scan, before)


def test_arrays_read_backwards_are_taken() -> None:
    scan = smooth(1, 40, 36, 30).numpy()[:, ::-1]
    there = sample_patch(scan, TURNED, SIZE, "bilinear")  # type: ignore[arg-type]
    assert torch.equal(there, sample_patch(torch.from_numpy(scan.copy()), TURNED, SIZE, "bilinear"))


def test_images_on_different_grids_are_refused() -> None:
    """A label map of another shape would be stretched over the image."""
    with pytest.raises(InputError, match="20 x 20 and 10 x 20"):
        sample_patches([torch.rand(1, 20, 20), torch.ones(1, 10, 20)], CROPPED, (14, 12), ["bilinear", "nearest"])


def test_a_patch_of_a_large_scan_copies_no_scan(largest_tensor: Any) -> None:
    """Of a whole-body scan only the patch's neighbourhood is touched, whatever its type."""
    scan = torch.zeros(1, 1, 1, 1, dtype=torch.int16).expand(1, 512, 512, 600)
    drawn = PatchDraw(np.array([250.3, 250.6, 300.1]), rotation([20.0, -10.0, 35.0]))
    with largest_tensor:
        sample_patches([scan, scan], drawn, (32, 32, 32), ["bilinear", "nearest"])
    assert largest_tensor.nbytes < 4 * 80**3
