"""In bfloat16 both ends of a network stay precise, whatever the network; in float32 nothing changes."""

from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("openvino", reason="OpenVINO is an extra: pip install 'unet-bundle[openvino]'")

from unet_bundle.inferers.openvino_model import openvino_core, openvino_model, precise_input, with_precise_ends
from unet_bundle.networks import UNet


def random_network(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    network = UNet(**{"spatial_dims": 3, "in_channels": 2, "out_channels": 5, "channels": [8, 16, 32], **settings})
    for each in network.parameters():
        nn.init.normal_(each, std=0.2)
    return network.eval().requires_grad_(False)


def soft_tissue(*shape: int) -> torch.Tensor:
    """Values that differ little from each other beside the range they come from."""
    return 1.7 + 0.05 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def run(model: Any, windows: torch.Tensor, precision: str) -> torch.Tensor:
    compiled = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return torch.from_numpy(compiled([windows.contiguous().numpy()])[0].copy())


NETWORKS = {
    "plain": {},
    "residual": {"encoder": "residual"},
    "planes": {"spatial_dims": 2},
    "interpolating": {"upsampling": "interpolated"},
    "valid": {"padding": "valid"},
    "other kernels": {"kernel_sizes": [[1, 3, 3], 3, 3], "strides": [1, [1, 2, 2], 2]},
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_precise_ends_are_the_same_network(name: str) -> None:
    network = random_network(**NETWORKS[name])
    windows = soft_tissue(1, 2, *[64] * (2 if name == "planes" else 3))
    model, split = with_precise_ends(openvino_model(network, windows))
    expected = network(windows)
    scores = run(model, precise_input(windows) if split else windows, "f32")
    assert split
    assert (scores - expected).abs().max() < 2e-3 * expected.abs().max()


@pytest.mark.parametrize("name", ["plain", "residual", "planes"])
def test_in_bfloat16_they_take_error_away_as_pytorchs_do(name: str) -> None:
    network = random_network(**NETWORKS[name])
    windows = torch.randn(1, 2, *[64] * (2 if name == "planes" else 3), generator=torch.Generator().manual_seed(2))
    for seen in (windows, soft_tissue(*windows.shape)):
        expected = network(seen)
        plain = run(openvino_model(network, seen), seen, "bf16") - expected
        model, _ = with_precise_ends(openvino_model(network, seen))
        precise = run(model, precise_input(seen), "bf16") - expected
        assert plain.std() > 1e-3 * expected.std(), "this machine computes bfloat16 in float32"
        assert precise.std() < 0.92 * plain.std()
    expected = network(windows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        eager = network(windows) - expected
    model, _ = with_precise_ends(openvino_model(network, windows))
    assert (run(model, precise_input(windows), "bf16") - expected).std() < 1.2 * eager.std()


def test_what_has_no_convolution_at_its_ends_stays_as_it_is() -> None:
    network = nn.Sequential(nn.AvgPool3d(2), nn.Conv3d(1, 3, 3, stride=2, padding=1), nn.Sigmoid()).eval()
    windows = torch.randn(1, 1, 16, 16, 16)
    model, split = with_precise_ends(openvino_model(network, windows))
    assert not split
    with torch.no_grad():
        assert torch.allclose(run(model, windows, "f32"), network(windows), atol=1e-5)


def test_inputs_are_split_without_loss() -> None:
    windows = soft_tissue(2, 3, 4, 5)
    high, low, again = precise_input(windows).split(3, dim=1)
    assert torch.equal(high + low, windows)
    assert torch.equal(high, again)
    assert torch.equal(high.bfloat16().float(), high)
    assert (low.bfloat16().float() - low).abs().max() <= 2**-8 * low.abs().max()
