from collections.abc import Sequence
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer, SlidingWindowInferer

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.inferers import SlabInferer


@pytest.fixture
def network() -> torch.nn.Module:
    """Three classes, each voxel's scores from its surroundings."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(4, 3, 3, padding=1)]
    return torch.nn.Sequential(*layers).requires_grad_(False)


@pytest.mark.parametrize("shape", [(1, 1, 50, 41, 33), (2, 1, 20, 70, 33), (1, 1, 20, 20, 20), (1, 1, 24, 24, 60)])
@pytest.mark.parametrize(
    "settings",
    [
        {"overlap": 0.5, "mode": "gaussian"},
        {"overlap": 0.25},
        {"overlap": 0.0, "sw_batch_size": 4},
        {"overlap": (0.0, 0.5, 0.7), "mode": "gaussian", "padding_mode": "reflect", "sw_batch_size": 3},
        {"overlap": 0.5, "mode": "gaussian", "sw_batch_size": 50, "cval": 2.0},
    ],
)
def test_scores_are_those_of_monai(network: torch.nn.Module, shape: tuple[int, ...], settings: dict[str, Any]) -> None:
    images = torch.randn(shape)
    theirs = SlidingWindowInferer(roi_size=(24, 24, 24), **settings)(images, network)
    ours = SlabInferer(roi_size=(24, 24, 24), **settings)(images, network)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_of_a_volume_are_those_of_monai(axis: int) -> None:
    network = torch.nn.Conv2d(1, 3, 3, padding=1).requires_grad_(False)
    images = torch.randn(1, 1, 30, 40, 50)
    settings = {"roi_size": (16, 24), "spatial_dim": axis, "overlap": 0.5, "mode": "gaussian", "sw_batch_size": 4}
    theirs, ours = SliceInferer(**settings)(images, network), SlabInferer(**settings)(images, network)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)


def test_whole_axes_and_planes() -> None:
    network = torch.nn.Conv2d(1, 3, 3, padding=1).requires_grad_(False)
    images = torch.randn(2, 1, 30, 40)
    for roi in ((16, -1), (-1, -1), (64, 64)):
        theirs = SlidingWindowInferer(roi, overlap=0.5)(images, network)
        torch.testing.assert_close(SlabInferer(roi, overlap=0.5)(images, network), theirs, atol=2e-6, rtol=0)


def test_metadata_stay(network: torch.nn.Module) -> None:
    affine = torch.diag(torch.tensor([1.5, 1.0, 2.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.randn(1, 30, 30, 30), affine=affine)
    scores = SlabInferer((24, 24, 24))(image[None], network)
    assert isinstance(scores, MetaTensor)
    torch.testing.assert_close(scores.affine.squeeze(), affine)


def test_several_outputs_are_given_as_monai_gives_them(network: torch.nn.Module) -> None:
    image = torch.randn(1, 1, 30, 30, 30)
    first, second = SlabInferer((24, 24, 24))(image, lambda window: (network(window), window))
    torch.testing.assert_close(first, SlidingWindowInferer((24, 24, 24))(image, network))
    torch.testing.assert_close(second, image)


def halved(windows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool3d(windows, 2)


def doubled(windows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(windows, scale_factor=2)


def one_voxel(windows: torch.Tensor) -> torch.Tensor:
    return windows.mean((2, 3, 4), keepdim=True)


@pytest.mark.parametrize("other", [halved, doubled, one_voxel])
def test_scores_of_another_size_are_given_as_monai_gives_them(other: Any) -> None:
    images, settings = torch.randn(1, 1, 40, 24, 24), {"roi_size": (16, 16, 16), "overlap": 0.5, "mode": "gaussian"}
    theirs = SlidingWindowInferer(**settings)(images.clone(), other)
    torch.testing.assert_close(SlabInferer(**settings)(images, other), theirs)


def test_buffers_of_monai_are_taken(network: torch.nn.Module) -> None:
    images, settings = torch.randn(1, 1, 40, 24, 24), {"roi_size": (16, 16, 16), "overlap": 0.5}
    theirs = SlidingWindowInferer(**settings)(images, network, buffer_steps=2, buffer_dim=0)
    ours = SlabInferer(**settings)(images, network, buffer_steps=2, buffer_dim=0)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"cpu_thresh": 999}, "cpu"), ({"cpu_thresh": 1000}, None), ({"cpu_thresh": 999, "device": "meta"}, "meta")],
)
def test_scores_of_large_images_go_to_the_cpu_where_monai_puts_them(
    settings: dict[str, Any], expected: str | None, network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def device_of(given: Any, fallback: torch.device) -> torch.device:
        asked.append(given)
        return fallback

    monkeypatch.setattr("unet_bundle.inferers.slab_inferer.device_of", device_of)
    SlabInferer(roi_size=(10, 10, 10), **settings)(torch.randn(1, 1, 10, 10, 10), network)
    assert asked[0] == expected


def test_the_type_of_the_image_is_that_of_the_scores(network: torch.nn.Module) -> None:
    image = torch.randn(1, 1, 30, 30, 30, dtype=torch.float64)
    scores = SlabInferer((24, 24, 24))(image, lambda window: network(window.float()))
    assert scores.dtype == torch.float64


@pytest.mark.parametrize(("roi", "overlap"), [((24, 24, 24), 1.0), ((24, 24, 24), (0.5, -0.1, 0.0))])
def test_impossible_overlaps_are_refused(roi: Sequence[int], overlap: Any) -> None:
    with pytest.raises(ConfigError, match="overlap must be at least 0 and below 1"):
        SlabInferer(roi, overlap=overlap)


def test_an_image_of_other_axes_is_refused(network: torch.nn.Module) -> None:
    with pytest.raises(InputError, match="the image has 2 spatial axes, the windows have 3"):
        SlabInferer((24, 24, 24))(torch.randn(1, 1, 30, 30), network)
