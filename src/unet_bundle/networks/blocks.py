"""What the two paths of a U-Net are made of: convolutions, residual blocks, and the step up to a finer stage."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_bundle.networks.arguments import Stage
from unet_bundle.networks.weights import he_initialize

Padding = Literal["same", "valid"]
Norm = Literal["instance", "batch", "none"]
Activation = Literal["leaky_relu", "relu"]
Upsampling = Literal["transposed", "interpolated"]

NEGATIVE_SLOPES: Final[dict[str, float]] = {"leaky_relu": 0.01, "relu": 0.0}
"""Slope of each activation below zero."""

is_tracing: Final[Callable[[], bool]] = torch.jit.is_tracing
"""Whether `torch.jit.trace` is recording; here because torch's own has no annotations."""

_CONVOLUTION: Final[dict[int, Callable[..., nn.Module]]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED_CONVOLUTION: Final[dict[int, Callable[..., nn.Module]]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_MAX_POOL: Final[dict[int, Callable[..., nn.Module]]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE_POOL: Final[dict[int, Callable[..., nn.Module]]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_INSTANCE_NORM: Final[dict[int, Callable[..., nn.Module]]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_BATCH_NORM: Final[dict[int, Callable[..., nn.Module]]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@dataclass(frozen=True)
class ConvolutionStyle:
    """What all convolutions of one network have in common."""

    spatial_dims: int
    padding: Padding
    norm: Norm
    activation: Activation
    bias: bool


def pointwise_convolution(spatial_dims: int, in_channels: int, out_channels: int, *, bias: bool = True) -> nn.Module:
    """A linear map of the channels of each voxel: `[B, in_channels, ...]` to `[B, out_channels, ...]`."""
    convolution = _CONVOLUTION[spatial_dims](in_channels, out_channels, kernel_size=1, bias=bias)
    he_initialize(convolution, fan_in=in_channels, negative_slope=None)
    return convolution


class ConvNormActivation(nn.Sequential):
    """Convolution, norm, activation: the arrow "conv 3x3, ReLU" of the figure.

    Maps `[B, in_channels, ...]` to `[B, out_channels, ...]`; each axis of n voxels becomes ceil(n / stride) with
    `same` padding, and floor((n - kernel) / stride) + 1 with `valid`.
    """

    def __init__(
        self,
        style: ConvolutionStyle,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int] | None = None,
        *,
        bias: bool | None = None,
        activated: bool = True,
    ) -> None:
        dims = style.spatial_dims
        convolution = _CONVOLUTION[dims](
            in_channels,
            out_channels,
            tuple(kernel_size),
            stride=1 if stride is None else tuple(stride),
            padding=0 if style.padding == "valid" else tuple((size - 1) // 2 for size in kernel_size),
            bias=style.bias if bias is None else bias,
        )
        negative_slope = NEGATIVE_SLOPES[style.activation]
        he_initialize(
            convolution,
            fan_in=in_channels * math.prod(kernel_size),
            negative_slope=negative_slope if activated else None,
        )
        layers: OrderedDict[str, nn.Module] = OrderedDict(convolution=convolution)
        if style.norm == "instance":
            layers["norm"] = _INSTANCE_NORM[dims](out_channels, affine=True)
        elif style.norm == "batch":
            layers["norm"] = _BATCH_NORM[dims](out_channels)
        if activated:
            layers["activation"] = _activation(style)
        super().__init__(layers)
        self.is_end = False

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, in_channels, ...]` to `[B, out_channels, ...]`; at an end of the network as `precise_end` does."""
        if not torch.jit.is_scripting() and self.is_end and not self.training:
            return precise_end(super().forward, x, next(self.parameters()))
        for layer in self:
            x = layer(x)
        return x


def precise_end(layer: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor) -> Tensor:
    """Compute in float32 in the midst of autocast to bfloat16, if the weights are float32.

    The first convolution sees tissues that differ by a few percent of the range, the last ones give the scores that are
    compared: nearly all the labels that bfloat16 changes, it changes there, in a seventh of the work.
    """
    device = x.device.type
    reduced = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
    if not reduced or weight.dtype != torch.float32:
        return layer(x)
    with torch.autocast(device, enabled=False):
        return layer(x.float())


class BlockAverage(nn.Module):
    """Average over blocks of `stride` voxels; incomplete blocks at the far border repeat their last voxel.

    So n voxels become ceil(n / stride), as in the strided convolution beside it. (Pooling with `ceil_mode` refuses a
    single voxel in 3D, and runtimes differ over its incomplete blocks.)
    """

    def __init__(self, spatial_dims: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = list(stride)
        self.pool = _AVERAGE_POOL[spatial_dims](tuple(stride))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, ...]` to `[B, C, ...]`."""
        padding: list[int] = []
        for axis in range(len(self.stride) - 1, -1, -1):
            stride = self.stride[axis]
            padding += [0, (stride - x.size(2 + axis) % stride) % stride]
        if is_tracing() or max(padding) > 0:
            x = F.pad(x, padding, mode="replicate")
        return self.pool(x)  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two convolutions that learn what to add to their input.

    The shortcut is averaged over the stride and then projected by a 1x1 convolution where the channels change
    (ResNet-D of He et al., "Bag of tricks", https://arxiv.org/abs/1812.01187), as in nnU-Net's residual encoder.
    Starts as its shortcut alone (zero scale of the last norm, https://arxiv.org/abs/1706.02677).
    """

    def __init__(
        self,
        style: ConvolutionStyle,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            ConvNormActivation(style, in_channels, out_channels, kernel_size, stride),
            ConvNormActivation(style, out_channels, out_channels, kernel_size, activated=False),
        )
        last_norm = list(self.convolutions.modules())[-1]
        nn.init.zeros_(last_norm.get_parameter("weight"))

        self.shortcut = nn.Sequential()
        if max(stride) > 1:
            self.shortcut.append(BlockAverage(style.spatial_dims, stride))
        if in_channels != out_channels:
            projection = [1] * style.spatial_dims
            self.shortcut.append(
                ConvNormActivation(style, in_channels, out_channels, projection, bias=False, activated=False)
            )
        self.unpadded = style.padding == "valid"
        self.activation = _activation(style)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, in_channels, ...]` to `[B, out_channels, ...]`."""
        residual = self.convolutions(x)
        shortcut = self.shortcut(x)
        if self.unpadded:
            shortcut = crop_border(shortcut, residual)
        residual += shortcut
        return self.activation(residual)  # type: ignore[no-any-return]


def contracting_stage(
    style: ConvolutionStyle, in_channels: int, stage: Stage, *, pooled: bool, residual: bool, first: bool
) -> nn.Sequential:
    """One stage of the contracting path: downsample, then convolve.

    Args:
        style: what all convolutions of the network have in common.
        in_channels: channels of the map of the stage before.
        stage: channels, kernel and stride.
        pooled: downsample by max-pooling, not by the stride of the first convolution.
        residual: residual blocks, not plain convolutions.
        first: of the network; a residual encoder begins with one plain convolution.
    """
    layers = nn.Sequential()
    if first and residual:
        layers.append(ConvNormActivation(style, in_channels, stage.channels[0], stage.kernel_size))
        in_channels = stage.channels[0]
    stride = stage.stride
    if pooled and max(stride) > 1:
        # With padding, incomplete blocks at the far border count too: so any size can be downsampled.
        layers.append(_MAX_POOL[style.spatial_dims](tuple(stride), ceil_mode=style.padding == "same"))
        stride = [1] * style.spatial_dims
    block = ResidualBlock if residual else ConvNormActivation
    for out_channels in stage.channels:
        layers.append(block(style, in_channels, out_channels, stage.kernel_size, stride))
        in_channels = out_channels
        stride = [1] * style.spatial_dims
    return layers


class Interpolation(nn.Module):
    """Enlarge each axis by its factor, linearly between the centres of the voxels."""

    def __init__(self, spatial_dims: int, factors: Sequence[int]) -> None:
        super().__init__()
        self.factors = list(factors)
        self.mode = {2: "bilinear", 3: "trilinear"}[spatial_dims]

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, ...]` to `[B, C, ...]`, every axis `factor` times as long."""
        # Sizes are given, not factors: products of whole numbers stay exact where the sizes are symbols (torch.export).
        size = [x.shape[2 + axis] * factor for axis, factor in enumerate(self.factors)]
        return F.interpolate(x, size, mode=self.mode, align_corners=False)


class ExpandingStage(nn.Module):
    """One stage of the expanding path: enlarge the coarser map, join the skip connection, convolve.

    Args:
        style: what all convolutions of the network have in common.
        in_channels: channels of the coarser map.
        upsampling_channels: channels of the enlarged map ("up-conv" of the figure).
        skip_channels: channels of the skip connection.
        out_channels: channels of each of the convolutions.
        kernel_size: of the convolutions, per axis.
        factors: how much to enlarge, per axis.
        upsampling: by a transposed convolution (kernel = stride = factors), or a 1x1 convolution and interpolation.
        upsampling_bias: whether that convolution has a bias.
    """

    def __init__(
        self,
        style: ConvolutionStyle,
        in_channels: int,
        upsampling_channels: int,
        skip_channels: int,
        out_channels: Sequence[int],
        kernel_size: Sequence[int],
        factors: Sequence[int],
        upsampling: Upsampling,
        *,
        upsampling_bias: bool,
    ) -> None:
        super().__init__()
        dims = style.spatial_dims
        self.upsampling: nn.Module
        if upsampling == "transposed":
            self.upsampling = _TRANSPOSED_CONVOLUTION[dims](
                in_channels, upsampling_channels, tuple(factors), stride=tuple(factors), bias=upsampling_bias
            )
            # Kernel and stride are the same, so each voxel of the output sees one voxel of the input.
            he_initialize(self.upsampling, fan_in=in_channels, negative_slope=None)
        else:
            # The two commute, and in this order the map that is interpolated has fewer channels.
            self.upsampling = nn.Sequential(
                pointwise_convolution(dims, in_channels, upsampling_channels, bias=upsampling_bias),
                Interpolation(dims, factors),
            )
        self.unpadded = style.padding == "valid"
        entering = [skip_channels + upsampling_channels, *out_channels[:-1]]
        self.convolutions = nn.Sequential(
            *(
                ConvNormActivation(style, before, after, kernel_size)
                for before, after in zip(entering, out_channels, strict=True)
            )
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map `x` of the coarser stage and the `skip` of this one to `[B, out_channels[-1], ...]`."""
        upsampled = self.upsampling(x)
        if self.unpadded:
            skip = crop_border(skip, upsampled)
        else:
            upsampled = crop_far_end(upsampled, skip)
        return self.convolutions(torch.cat((upsampled, skip), dim=1))  # type: ignore[no-any-return]


def crop_border(x: Tensor, like: Tensor) -> Tensor:
    """Cut `x` to the spatial size of `like`, evenly on both ends: unpadded convolutions shrink both ends alike."""
    for axis in range(2, x.dim()):
        x = x.narrow(axis, (x.size(axis) - like.size(axis)) // 2, like.size(axis))
    return x


def crop_far_end(x: Tensor, like: Tensor) -> Tensor:
    """Cut `x` to the spatial size of `like` at the far end, where downsampling an odd size added a voxel."""
    for axis in range(2, x.dim()):
        # A trace keeps the step for other sizes; elsewhere it is left out where there is nothing to cut.
        if is_tracing() or x.size(axis) != like.size(axis):
            x = x.narrow(axis, 0, like.size(axis))
    return x


def _activation(style: ConvolutionStyle) -> nn.Module:
    if style.activation == "relu":
        return nn.ReLU(inplace=True)
    return nn.LeakyReLU(NEGATIVE_SLOPES[style.activation], inplace=True)
