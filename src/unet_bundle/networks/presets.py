"""The networks of the two U-Net papers, layer by layer."""

from unet_bundle.networks.unet import UNet


def unet2015(in_channels: int, out_channels: int, width: int = 64, dropout: float = 0.5) -> UNet:
    """The 2D U-Net of Ronneberger et al. 2015 (figure 1), https://arxiv.org/abs/1505.04597.

    Unpadded 3x3 convolutions with ReLU, 2x2 max-pooling, 2x2 up-convolutions that halve the channels, no norm: 572x572
    pixels in, 388x388 out, 31,030,658 parameters for one channel and two classes.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        width: channels of the first stage; each further stage has twice as many. 64 in the paper.
        dropout: probability at the end of the contracting path, in training. The paper gives none, its published
            network 0.5.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> unet2015(in_channels=1, out_channels=2).output_shape((572, 572))
        (388, 388)
    """
    return UNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=[width, 2 * width, 4 * width, 8 * width, 16 * width],
        downsampling="max_pool",
        upsampling_channels="skip",
        padding="valid",
        norm="none",
        activation="relu",
        dropout=dropout,
    )


def unet3d2016(in_channels: int, out_channels: int, width: int = 32, dropout: float = 0.0) -> UNet:
    """The 3D U-Net of Çiçek et al. 2016 (figure 2), https://arxiv.org/abs/1606.06650.

    Unpadded 3x3x3 convolutions that double the channels inside a stage, batch norm and ReLU, 2x2x2 max-pooling, 2x2x2
    up-convolutions that keep the channels: 132x132x116 voxels in, 44x44x28 out, 19,069,955 parameters for three
    channels and three classes, batch norm not counted.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        width: channels of the first convolution, doubled by the next and by each further stage. 32 in the paper.
        dropout: probability at the end of the contracting path, in training. None in the paper.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> unet3d2016(in_channels=3, out_channels=3).output_shape((132, 132, 116))
        (44, 44, 28)
    """
    return UNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=[[width << stage, width << (stage + 1)] for stage in range(4)],
        decoder_convolutions_per_stage=2,
        downsampling="max_pool",
        upsampling_channels="keep",
        padding="valid",
        norm="batch",
        activation="relu",
        upsampling_bias=False,
        dropout=dropout,
    )
