"""The comparison sees what differs, and how much."""

import math
from typing import Any

import pytest
import torch

from unet_bundle.export import compare, made_image
from unet_bundle.inferers import ScanInferer
from unet_bundle.networks import UNet


@pytest.fixture
def network() -> UNet:
    torch.manual_seed(0)
    return UNet(3, 1, 3, channels=[4, 8]).eval().requires_grad_(False)


def compared(network: UNet, change: Any) -> Any:
    def exported(_: Any, windows: torch.Tensor, *, dtype: torch.dtype) -> torch.Tensor:
        assert dtype == torch.float32
        return change(network(windows))

    return compare(ScanInferer((8, 8, 8)), made_image(1, (8, 8, 8), None), network, exported)  # type: ignore[arg-type]


def test_the_same_network_passes(network: UNet) -> None:
    parity = compared(network, lambda scores: scores)
    assert (parity.difference, parity.equal, parity.voxels) == (0, 1, 12**3)
    assert parity.largest > 0
    assert parity.passed


def test_a_constant_added_to_all_logits_changes_no_label(network: UNet) -> None:
    parity = compared(network, lambda scores: scores + 0.25)
    assert parity.difference == pytest.approx(0.25, abs=1e-5)
    assert parity.equal == 1


def test_swapped_classes_fail(network: UNet) -> None:
    parity = compared(network, lambda scores: scores.flip(1))
    assert parity.difference > 0
    assert not parity.passed


def test_scores_that_are_no_numbers_are_no_small_difference(network: UNet) -> None:
    calls = iter([math.nan, *[0.0] * 100])
    parity = compared(network, lambda scores: scores + next(calls))
    assert math.isnan(parity.difference)


@pytest.mark.parametrize(
    ("window", "slice_axis", "shape"),
    [((8, 6, 4), None, (2, 12, 9, 6)), ((8, 6), None, (2, 12, 9)), ((8, 6), 1, (2, 12, 4, 9))],
)
def test_made_images_have_the_axes_that_the_network_needs(window: Any, slice_axis: Any, shape: Any) -> None:
    image = made_image(2, window, slice_axis)
    assert image.shape == (1, *shape)
    assert torch.equal(image, made_image(2, window, slice_axis))
