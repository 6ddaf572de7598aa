"""Dictionary transforms, one file a concept."""

from unet_bundle.transforms.labels import CheckLabelsd
from unet_bundle.transforms.normalize import NormalizeChannelsd
from unet_bundle.transforms.spacing import ResampleToSpacingd
from unet_bundle.transforms.spatial import RandSpatiald

__all__ = ["CheckLabelsd", "NormalizeChannelsd", "RandSpatiald", "ResampleToSpacingd"]
