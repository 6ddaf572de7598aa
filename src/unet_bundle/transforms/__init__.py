"""Dictionary transforms, one file a concept."""

from unet_bundle.transforms.body import is_above
from unet_bundle.transforms.border_weight import BorderWeightd
from unet_bundle.transforms.channels import RandDropChannelsd
from unet_bundle.transforms.components import CleanLabelsd
from unet_bundle.transforms.crop import CropToNonzerod
from unet_bundle.transforms.elastic import RandElasticDeform, RandElasticDeformd
from unet_bundle.transforms.instances import InstancesFromLabelsd, SeparateObjectsd
from unet_bundle.transforms.intensity import RandIntensityd
from unet_bundle.transforms.labels import CheckLabelsd, LabelValues, MergeLabelsd
from unet_bundle.transforms.normalize import NormalizeChannelsd
from unet_bundle.transforms.regions import (
    MergeRegionsd,
    PaintRegionsd,
    Regions,
    paint_regions,
    painted_values,
    region_masks,
)
from unet_bundle.transforms.slices import RandSliced
from unet_bundle.transforms.spacing import ResampleToSpacingd
from unet_bundle.transforms.spatial import RandSpatiald

__all__ = [
    "BorderWeightd",
    "CheckLabelsd",
    "CleanLabelsd",
    "CropToNonzerod",
    "InstancesFromLabelsd",
    "LabelValues",
    "MergeLabelsd",
    "MergeRegionsd",
    "NormalizeChannelsd",
    "PaintRegionsd",
    "RandDropChannelsd",
    "RandElasticDeform",
    "RandElasticDeformd",
    "RandIntensityd",
    "RandSliced",
    "RandSpatiald",
    "Regions",
    "ResampleToSpacingd",
    "SeparateObjectsd",
    "is_above",
    "paint_regions",
    "painted_values",
    "region_masks",
]
