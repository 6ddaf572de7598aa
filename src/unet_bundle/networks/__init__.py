"""The U-Net, in two and three dimensions, and the networks of its two papers."""

from unet_bundle.networks.presets import unet3d2016, unet2015
from unet_bundle.networks.sizes import InputTooSmallError
from unet_bundle.networks.unet import UNet
from unet_bundle.networks.weights import IncompatibleWeightsError

__all__ = ["IncompatibleWeightsError", "InputTooSmallError", "UNet", "unet3d2016", "unet2015"]
