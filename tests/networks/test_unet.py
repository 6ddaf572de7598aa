"""Options of the U-Net, and the hosts it runs in."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.utils import convert_to_onnx, convert_to_torchscript
from torch import Tensor, nn

from unet_bundle.networks import InputTooSmallError, UNet


@pytest.fixture(autouse=True)
def _same_weights_every_time() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, not 1"),
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1, not 0"),
        ({"out_channels": 2.0}, r"out_channels .* not 2\.0"),
        ({"channels": [8]}, r"channels must name at least two stages, not \[8\]"),
        ({"channels": [8, "16", 32]}, r"channels\[1\] must be a whole number .* not '16'"),
        ({"channels": [8, [8, 16, 16], 32]}, r"channels\[1\] must be .* 2 convolutions, not \[8, 16, 16\]"),
        ({"kernel_sizes": [3, 3]}, r"kernel_sizes must be .* 3 stages, not \[3, 3\]"),
        ({"kernel_sizes": [3, [3, 3, 1], 3]}, r"kernel_sizes\[1\] must be .* 2 axes, not \[3, 3, 1\]"),
        ({"kernel_sizes": 4}, "kernel_sizes must be odd for padding 'same', not 4"),
        ({"kernel_sizes": [3, 3, 1], "padding": "valid"}, r"kernel_sizes must not be below strides .* \[3, 3, 1\]"),
        ({"strides": [2, 2, 2]}, r"strides\[0\] must be 1, .* not 2"),
        ({"strides": [1, 0, 2]}, r"strides\[1\] must be a whole number of at least 1, not 0"),
        ({"convolutions_per_stage": [2, 2]}, r"convolutions_per_stage must be .* 3 stages, not \[2, 2\]"),
        ({"decoder_convolutions_per_stage": [2, 2, 2]}, r"decoder_convolutions_per_stage .* 2 stages, not \[2, 2, 2\]"),
        ({"upsampling_channels": "half"}, "upsampling_channels must be one of skip, keep, not 'half'"),
        ({"upsampling_channels": [4]}, r"upsampling_channels .* 2 stages, not \[4\]"),
        ({"encoder": "dense"}, "encoder must be one of plain, residual, not 'dense'"),
        ({"downsampling": "average"}, "downsampling must be one of stride, max_pool, not 'average'"),
        ({"upsampling": "nearest"}, "upsampling must be one of transposed, interpolated, not 'nearest'"),
        ({"padding": "reflect"}, "padding must be one of same, valid, not 'reflect'"),
        ({"norm": "layer"}, "norm must be one of instance, batch, none, not 'layer'"),
        ({"activation": "tanh"}, "activation must be one of leaky_relu, relu, not 'tanh'"),
        ({"dropout": 1.0}, r"dropout must be a probability .* not 1\.0"),
        ({"head_prior": 0.0}, r"head_prior must be a probability .* not 0\.0"),
    ],
)
def test_bad_arguments_are_refused_with_their_value(argument: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": [8, 16, 32]}
    with pytest.raises(ValueError, match=message):
        UNet(**(settings | argument))


@pytest.mark.parametrize("stages", [2, 3, 5, 7])
@pytest.mark.parametrize("encoder", ["plain", "residual"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_every_depth_takes_any_image(stages: int, encoder: Any, spatial_dims: int) -> None:
    network = UNet(spatial_dims, 1, 2, [2] * stages, encoder=encoder, convolutions_per_stage=1).eval()
    assert network.total_stride == [2 ** (stages - 1)] * spatial_dims
    for size in ([network.total_stride[0] + 1, 1, 3], [67, 5, 8]):
        image = torch.rand(1, 1, *size[:spatial_dims])
        assert network(image).shape == (1, 2, *image.shape[2:])


def test_deep_supervision_is_for_training_and_begins_with_the_full_resolution() -> None:
    network = UNet(3, 1, 3, [4, 4, 4, 4], strides=[1, [1, 2, 2], 2, 2], deep_supervision=True)
    image = torch.rand(2, 1, 8, 17, 16)
    shapes = [tuple(logits.shape) for logits in network.train()(image)]
    assert shapes == [(2, 3, 8, 17, 16), (2, 3, 8, 9, 8), (2, 3, 4, 5, 4)]
    logits = network.eval()(image)
    assert isinstance(logits, Tensor)
    torch.testing.assert_close(logits, network.train()(image)[0])


def test_an_untrained_network_gives_the_prior_of_its_heads_about_everywhere() -> None:
    torch.manual_seed(0)
    network = UNet(2, 1, 2, channels=[16, 32, 64], deep_supervision=True, head_prior=0.01).train()
    for logits in network(torch.randn(1, 1, 32, 32)):
        assert 0.003 < logits.sigmoid().median() < 0.03


def test_channels_of_each_convolution() -> None:
    network = UNet(
        2, 1, 3, [[4, 6], [8, 10], [12, 14]], upsampling_channels=[5, 7], decoder_convolutions_per_stage=[1, 3]
    )
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [
        (1, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14),
        (14, 7), (17, 10), (10, 10), (10, 10), (10, 5), (11, 6), (6, 3),
    ]  # fmt: skip


@pytest.mark.parametrize(("bias", "upsampling_bias"), [(True, False), (False, True)])
@pytest.mark.parametrize("upsampling", ["transposed", "interpolated"])
def test_biases(bias: bool, upsampling_bias: bool, upsampling: Any) -> None:
    network = UNet(2, 1, 3, [4, 8], bias=bias, upsampling_bias=upsampling_bias, upsampling=upsampling)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            expected = True if "heads" in name else upsampling_bias if "upsampling" in name else bias
            assert (module.bias is not None) == expected, name


def test_dropout_is_at_the_end_of_the_contracting_path_in_training_only() -> None:
    network = UNet(2, 1, 2, [4, 8], dropout=0.5, norm="none", activation="relu")
    image = torch.rand(1, 1, 16, 16)
    seen = []
    network.encoder[-1].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    network.decoder[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    network.train()(image)
    coarsest, entering = seen
    kept = entering != 0
    assert 0.3 < kept.sum() / (coarsest != 0).sum() < 0.7
    torch.testing.assert_close(entering[kept], 2 * coarsest[kept])
    assert torch.equal(network.eval()(image), network(image))


def test_interpolated_upsampling_keeps_a_ramp() -> None:
    # Centres of voxels stay where they are in space, so a ramp stays a ramp but for the borders.
    interpolation = UNet(3, 1, 2, [1, 1], upsampling="interpolated").decoder[0].upsampling[1]
    ramp = torch.arange(8.0).expand(1, 1, 4, 4, 8)
    expected = (torch.arange(16.0) - 0.5) / 2
    torch.testing.assert_close(interpolation(ramp)[0, 0, 3, 3, 1:-1], expected[1:-1])


@pytest.mark.parametrize("training", [True, False])
def test_a_single_voxel_at_the_bottleneck_is_a_named_error(training: bool) -> None:
    network = UNet(3, 1, 2, [2, 2, 2], strides=[1, 2, [1, 2, 2]]).train(training)
    assert network.total_stride == [2, 4, 4]
    with pytest.raises(InputTooSmallError, match=r"\[2, 4, 4\] voxels .* instance norm.*\[3, 5, 5\] along one axis"):
        network(torch.rand(2, 1, 2, 4, 4))
    for size in ((3, 4, 4), (2, 5, 4), (1, 1, 5)):
        assert network(torch.rand(1, 1, *size)).shape[2:] == size


def test_batch_norm_needs_a_second_voxel_or_image_in_training_only() -> None:
    network = UNet(2, 1, 2, [2, 2], norm="batch")
    with pytest.raises(InputTooSmallError, match="batch norm"):
        network.train()(torch.rand(1, 1, 2, 2))
    assert network(torch.rand(2, 1, 2, 2)).shape == (2, 2, 2, 2)
    assert network.eval()(torch.rand(1, 1, 2, 2)).shape == (1, 2, 2, 2)


def test_images_of_monai_pass_through() -> None:
    network = UNet(3, 1, 2, [2, 4], encoder="residual").eval()
    image = torch.rand(1, 1, 9, 8, 7)
    logits = network(MetaTensor(image, affine=torch.eye(4)[None]))
    assert torch.equal(torch.as_tensor(logits), network(image))


def test_monai_exports_torchscript(tmp_path: Path) -> None:
    network = UNet(3, 1, 2, [2, 4], deep_supervision=True)
    image = torch.rand(1, 1, 8, 8, 8)
    file = tmp_path / "model.ts"
    scripted = convert_to_torchscript(network, filename_or_obj=str(file), inputs=[image], verify=True)
    for script in (scripted, torch.jit.load(file)):
        for size in ((8, 8, 8), (9, 7, 5)):
            other = torch.rand(1, 1, *size)
            logits = script(other)
            assert isinstance(logits, Tensor)
            assert torch.equal(logits, network(other))


@pytest.mark.parametrize("size", [(8, 8, 8), (9, 7, 5)], ids=["whole strides", "odd"])
@pytest.mark.parametrize("downsampling", ["stride", "max_pool"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_monai_exports_onnx(size: tuple[int, ...], downsampling: Any) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    network = UNet(
        3, 1, 2, [2, 4], encoder="residual", downsampling=downsampling, deep_supervision=True, convolutions_per_stage=1
    )
    image = torch.rand(1, 1, *size)
    convert_to_onnx(network, inputs=[image], use_trace=False, verify=True, use_ort=True, atol=1e-4)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_inductor_takes_any_size() -> None:
    network = UNet(3, 1, 2, [2, 4], convolutions_per_stage=1).eval()
    torch.compiler.reset()
    compiled = torch.compile(network)
    for size in ((8, 12, 16), (9, 8, 7), (16, 3, 8)):
        image = torch.rand(1, 1, *size)
        with torch.no_grad():
            torch.testing.assert_close(compiled(image), network(image), atol=1e-5, rtol=0)


def test_compile_falls_back_after_many_sizes() -> None:
    network = UNet(2, 1, 2, [2, 4], convolutions_per_stage=1).eval()
    torch.compiler.reset()
    compiled = torch.compile(network, backend="eager")
    for size in range(5, 17):
        image = torch.rand(1, 1, size, 8)
        assert torch.equal(compiled(image), network(image))
