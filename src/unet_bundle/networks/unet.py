"""The U-Net: a contracting path, an expanding path, and skip connections between their stages."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from unet_bundle.networks.arguments import Stage, one_of, per_stage, positive_int, spell_out_stages
from unet_bundle.networks.blocks import (
    Activation,
    ConvNormActivation,
    ConvolutionStyle,
    ExpandingStage,
    Norm,
    Padding,
    Upsampling,
    contracting_stage,
    is_tracing,
    pointwise_convolution,
    precise_end,
)
from unet_bundle.networks.sizes import (
    check_anything_left,
    check_norm_possible,
    map_sizes,
    single_voxel_limits,
    smallest_image,
    steps_along,
)
from unet_bundle.networks.weights import check_weights_fit

Encoder = Literal["plain", "residual"]
Downsampling = Literal["stride", "max_pool"]
UpsamplingChannels = Literal["skip", "keep"]

if TYPE_CHECKING:
    Logits = Tensor | list[Tensor]
else:
    Logits = Tensor  # read by TorchScript, where a network always returns one tensor


class UNet(nn.Module):
    """The U-Net, for images of two or three dimensions.

    The contracting path (left in the paper's figure) makes the image coarser stage by stage and gains channels; the
    expanding path (right) makes it finer again and joins at each stage what the contracting path saw there; a 1x1
    convolution turns the last map into logits. The defaults are nnU-Net's: padded convolutions, instance norm, leaky
    ReLU, downsampling by stride.

    Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597; Çiçek et al. 2016, https://arxiv.org/abs/1606.06650;
    Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z

    Settings "per stage" begin with the finest stage, the image's own resolution, in both paths.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes, background included.
        channels: output channels of the contracting path per stage, or per convolution (`[[32, 64], [64, 128], ...]`);
            the expanding path has in each stage those of the last convolution on its left.
        kernel_sizes: of the convolutions: one number, per stage, or per stage and axis.
        strides: how much coarser each stage is than the one before: one number for all stages but the first, per stage,
            or per stage and axis; 1 for the first.
        convolutions_per_stage: convolutions (residual blocks in a residual encoder) of the contracting path: one
            number, or per stage.
        decoder_convolutions_per_stage: convolutions of the expanding path: one number, or per stage without the
            coarsest; None: as many as on the left if the encoder is plain, one if it is residual.
        encoder: plain convolutions, or one convolution followed by residual blocks.
        downsampling: by the stride of a stage's first convolution, or by max-pooling before it.
        upsampling: by a transposed convolution, or by a 1x1 convolution and linear interpolation.
        upsampling_channels: of the upsampled map that meets a skip connection: as many as the skip connection has (2015
            paper: this halves them), "keep" those of the coarser stage (2016 paper), or numbers per stage without the
            coarsest.
        padding: "same": logits have the size of the image, whatever it is; "valid": convolutions without padding and
            cropped skip connections, logits for the middle of the image (see `output_shape`).
        norm: instance norm with scale and shift, batch norm, or none.
        activation: leaky ReLU with slope 0.01, or ReLU.
        bias: whether convolutions have biases.
        upsampling_bias: whether the convolutions that upsample have biases.
        dropout: probability of dropping a value at the end of the contracting path, in training.
        deep_supervision: in training, return logits of all stages of the expanding path.
        head_prior: for sigmoids: the probability that an untrained network gives about everywhere, by the bias of its
            last convolutions (Lin et al. 2017, https://arxiv.org/abs/1708.02002); None: as other convolutions begin.

    Attributes:
        total_stride: how much coarser the coarsest stage is than the image, per axis.
        smallest_image: fewest voxels per axis of an image that leaves any logits.

    Raises:
        ValueError: an argument is out of range or does not fit the others.

    Example:
        >>> network = UNet(spatial_dims=3, in_channels=1, out_channels=3, channels=[8, 16, 32]).eval()
        >>> network(torch.zeros(1, 1, 24, 17, 16)).shape
        torch.Size([1, 3, 24, 17, 16])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int | Sequence[int]] = (32, 64, 128, 256),
        kernel_sizes: int | Sequence[int | Sequence[int]] = 3,
        strides: int | Sequence[int | Sequence[int]] = 2,
        convolutions_per_stage: int | Sequence[int] = 2,
        decoder_convolutions_per_stage: int | Sequence[int] | None = None,
        encoder: Encoder = "plain",
        downsampling: Downsampling = "stride",
        upsampling: Upsampling = "transposed",
        upsampling_channels: UpsamplingChannels | Sequence[int] = "skip",
        padding: Padding = "same",
        norm: Norm = "instance",
        activation: Activation = "leaky_relu",
        bias: bool = True,
        upsampling_bias: bool = True,
        dropout: float = 0.0,
        deep_supervision: bool = False,
        head_prior: float | None = None,
    ) -> None:
        super().__init__()
        if spatial_dims not in {2, 3}:
            raise ValueError(f"spatial_dims must be 2 or 3, not {spatial_dims!r}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be a probability of at least 0 and below 1, not {dropout!r}.")
        if head_prior is not None and not 0 < head_prior < 1:
            raise ValueError(f"head_prior must be a probability above 0 and below 1, not {head_prior!r}.")
        one_of("encoder", encoder, get_args(Encoder))
        one_of("downsampling", downsampling, get_args(Downsampling))
        one_of("upsampling", upsampling, get_args(Upsampling))
        one_of("padding", padding, get_args(Padding))
        one_of("norm", norm, get_args(Norm))
        one_of("activation", activation, get_args(Activation))
        positive_int("in_channels", in_channels)
        positive_int("out_channels", out_channels)

        style = ConvolutionStyle(spatial_dims, padding, norm, activation, bias)
        padded, pooled, residual = padding == "same", downsampling == "max_pool", encoder == "residual"
        stages = spell_out_stages(
            spatial_dims, channels, kernel_sizes, strides, convolutions_per_stage, padded=padded, strided=not pooled
        )
        decoder_channels = _decoder_channels(decoder_convolutions_per_stage, stages, residual=residual)

        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.deep_supervision = deep_supervision
        self.norm = norm
        self.padded = padded
        self.total_stride = [math.prod(strides) for strides in zip(*(stage.stride for stage in stages), strict=True)]
        self._steps = [
            steps_along(axis, stages, decoder_channels, residual=residual, pooled=pooled, padded=padded)
            for axis in range(spatial_dims)
        ]
        self.smallest_image = smallest_image(self._steps)
        self._single_voxel_limits = single_voxel_limits(self._steps)

        skip_channels = [stage.channels[-1] for stage in stages]
        if isinstance(upsampling_channels, str):
            one_of("upsampling_channels", upsampling_channels, get_args(UpsamplingChannels))
            upsampled_channels = skip_channels[1:] if upsampling_channels == "keep" else skip_channels[:-1]
        else:
            upsampled_channels = per_stage("upsampling_channels", upsampling_channels, len(stages) - 1)

        self.encoder = nn.ModuleList(
            contracting_stage(style, entering, stage, pooled=pooled, residual=residual, first=stage is stages[0])
            for entering, stage in zip([in_channels, *skip_channels], stages, strict=False)
        )
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.ModuleList(
            ExpandingStage(
                style,
                skip_channels[index + 1],
                upsampled_channels[index],
                skip_channels[index],
                decoder_channels[index],
                stages[index].kernel_size,
                stages[index + 1].stride,
                upsampling,
                upsampling_bias=upsampling_bias,
            )
            for index in reversed(range(len(stages) - 1))
        )
        supervised = skip_channels[:-1] if deep_supervision else skip_channels[:1]
        self.heads = nn.ModuleList(
            pointwise_convolution(spatial_dims, entering, out_channels) for entering in supervised
        )
        if head_prior is not None:
            for name, parameter in self.heads.named_parameters():
                if name.endswith("bias"):
                    nn.init.constant_(parameter, math.log(head_prior / (1 - head_prior)))
        layers = [layer for layer in self.modules() if isinstance(layer, ConvNormActivation)]
        layers[0].is_end = layers[-1].is_end = True

    def forward(self, image: Tensor) -> Logits:
        """Map an image to logits.

        Args:
            image: `[B, in_channels, *spatial]`.

        Returns:
            `[B, out_channels, *spatial]`, or with padding "valid" the middle of it. In training with deep supervision a
            list of them, the finest stage first (but not in TorchScript).

        Raises:
            InputTooSmallError: a map would be empty, or a single voxel that a norm cannot normalise.
        """
        if not torch.jit.is_scripting():
            _compile_per_size(image)
        if not is_tracing():
            self.check_size([image.size(axis) for axis in range(2, image.dim())], image.size(0))

        skips: list[Tensor] = []
        x = image
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)

        x = self.dropout(skips.pop())
        supervised = self.training and self.deep_supervision
        maps: list[Tensor] = []
        for stage in self.decoder:
            x = stage(x, skips.pop())
            if supervised:
                maps.insert(0, x)

        if not torch.jit.is_scripting() and supervised:
            return [head(map_) for head, map_ in zip(self.heads, maps, strict=True)]
        if not torch.jit.is_scripting() and not self.training:
            return precise_end(self.heads[0], x, next(self.heads.parameters()))
        return self.heads[0](x)  # type: ignore[no-any-return]

    def check_size(self, size: list[int], batch_size: int) -> None:
        """Refuse images of a size that the network cannot take; what was made of it by tracing does not.

        Args:
            size: of the images, per spatial axis.
            batch_size: number of images.

        Raises:
            InputTooSmallError: a map would be empty, or a single voxel that a norm cannot normalise.
        """
        check_anything_left(size, self.smallest_image)
        if self.norm == "instance" or (self.norm == "batch" and self.training and batch_size == 1):
            check_norm_possible(size, self._single_voxel_limits, self.norm)

    @torch.jit.unused
    def output_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Spatial shape of the logits for an image of a spatial shape.

        Raises:
            ValueError: not one size for each axis.
            InputTooSmallError: nothing is left.
        """
        if len(image_shape) != self.spatial_dims:
            raise ValueError(f"image_shape must have {self.spatial_dims} sizes, not {list(image_shape)}.")
        check_anything_left(list(image_shape), self.smallest_image)
        if self.padded:
            return tuple(image_shape)
        return tuple(map_sizes(steps, size)[-1] for steps, size in zip(self._steps, image_shape, strict=True))

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any, **keyword_arguments: Any
    ) -> None:
        # Called by load_state_dict, of this network or of one around it, before it copies anything and even with
        # strict=False. `ignore` carries it over to the scripted network, which is why there is no super() here.
        check_weights_fit(self, state_dict, prefix)
        nn.Module._load_from_state_dict(self, state_dict, prefix, *arguments, **keyword_arguments)  # noqa: SLF001


def _compile_per_size(image: Tensor) -> None:
    # torch.compile makes a program for each size (patches have one anyway), torch.export one for all: Inductor fails on
    # strided 3D convolutions of symbolic size, see https://github.com/pytorch/pytorch/issues/188323 (torch 2.13).
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        torch._dynamo.mark_static(image)  # noqa: SLF001


def _decoder_channels(
    setting: int | Sequence[int] | None, stages: Sequence[Stage], *, residual: bool
) -> list[list[int]]:
    """Output channels of each convolution of the expanding path, per stage without the coarsest."""
    if setting is None:
        counts = [1 if residual else len(stage.channels) for stage in stages[:-1]]
    else:
        counts = per_stage("decoder_convolutions_per_stage", setting, len(stages) - 1)
    return [[stage.channels[-1]] * count for stage, count in zip(stages, counts, strict=False)]
