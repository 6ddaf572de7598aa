"""With copied weights the logits are those of nnU-Net's own networks (`dynamic_network_architectures`)."""

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from unet_bundle.networks import UNet

STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
ANISOTROPIC_STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]]
ANISOTROPIC_KERNELS = [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]]
CHANNELS = [32, 64, 128, 256]
NNUNET = {
    "input_channels": 1,
    "n_stages": 4,
    "features_per_stage": CHANNELS,
    "conv_op": nn.Conv3d,
    "num_classes": 3,
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
    "deep_supervision": True,
}


@pytest.fixture(scope="module")
def nnunet() -> ModuleType:
    pytest.importorskip("dynamic_network_architectures", reason="needs the test extra")
    return importlib.import_module("dynamic_network_architectures.architectures.unet")


def _copy(source: nn.Module, target: nn.Module) -> None:
    """Copy weights in the order in which the two modules list them."""
    for theirs, ours in zip(source.parameters(), target.parameters(), strict=True):
        assert theirs.shape == ours.shape
        ours.data.copy_(theirs)


def _copy_weights(theirs: Any, ours: UNet) -> None:
    with torch.no_grad():
        for parameter in theirs.parameters():
            # Also the norms that start at one and zero, or as a zero shortcut.
            parameter.add_(0.1 * torch.randn_like(parameter))
    _copy(theirs.encoder, ours.encoder)
    for stage, upsampling, expanding in zip(
        theirs.decoder.stages, theirs.decoder.transpconvs, ours.decoder, strict=True
    ):
        _copy(upsampling, expanding.upsampling)
        _copy(stage, expanding.convolutions)
    for head, our_head in zip(reversed(theirs.decoder.seg_layers), ours.heads, strict=True):
        _copy(head, our_head)


def _assert_same_logits(theirs: nn.Module, ours: UNet) -> None:
    torch.manual_seed(0)
    _copy_weights(theirs, ours)
    image = torch.randn(2, 1, 16, 24, 32)
    expected = theirs(image)
    logits = ours.train()(image)
    assert len(logits) == len(expected) == 3
    for head, (our_logits, their_logits) in enumerate(zip(logits, expected, strict=True)):
        torch.testing.assert_close(our_logits, their_logits, atol=1e-5, rtol=0, msg=lambda m, h=head: f"head {h}: {m}")
    torch.testing.assert_close(ours.eval()(image), expected[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kernels", "strides"),
    [([[3, 3, 3]] * 4, STRIDES), (ANISOTROPIC_KERNELS, ANISOTROPIC_STRIDES)],
    ids=["cube", "aniso"],
)
def test_plain_network_of_the_hippocampus(
    nnunet: ModuleType, kernels: list[list[int]], strides: list[list[int]]
) -> None:
    theirs = nnunet.PlainConvUNet(
        **NNUNET, kernel_sizes=kernels, strides=strides, n_conv_per_stage=2, n_conv_per_stage_decoder=2
    )
    ours = UNet(3, 1, 3, CHANNELS, kernels, strides, convolutions_per_stage=2, deep_supervision=True)
    _assert_same_logits(theirs, ours)


@pytest.mark.parametrize(
    ("kernels", "strides"),
    [([[3, 3, 3]] * 4, STRIDES), (ANISOTROPIC_KERNELS, ANISOTROPIC_STRIDES)],
    ids=["cube", "aniso"],
)
def test_residual_encoder(nnunet: ModuleType, kernels: list[list[int]], strides: list[list[int]]) -> None:
    blocks = [1, 2, 3, 2]
    theirs = nnunet.ResidualEncoderUNet(
        **NNUNET, kernel_sizes=kernels, strides=strides, n_blocks_per_stage=blocks, n_conv_per_stage_decoder=1
    )
    ours = UNet(3, 1, 3, CHANNELS, kernels, strides, blocks, encoder="residual", deep_supervision=True)
    _assert_same_logits(theirs, ours)
