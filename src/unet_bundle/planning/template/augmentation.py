"""What train.json does anew for every patch: where it lies in its scan, and how its intensities change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unet_bundle.planning.plan import Plan
from unet_bundle.planning.template.shared import LABEL_WEIGHT, Config, has_own_channels

HALF_TURN = 180.0
"""Degrees of half a turn: the largest rotation in an anisotropic plane, as nnU-Net turns there."""
TILT = 30.0
"""Degrees of the largest rotation about each axis of a roughly isotropic patch (nnU-Net's range)."""
MAX_SAMPLES_PER_CLASS = 10_000
"""Voxels of a class that are remembered as possible middles of patches, spread evenly over it."""


def patch_transforms(plan: Plan) -> list[Config | str]:
    """What the loader does anew for every patch: draw it, and change intensities or leave both to the device."""
    values = len(plan.labels) + (plan.ignore_index is not None)
    label_type = "$torch.uint8" if values <= 256 else "$torch.float32"
    types = ["$torch.float32", label_type, "$torch.float32"]
    keys = _keys(plan)
    return [
        {"_target_": "EnsureTyped", "keys": keys, "dtype": types[: len(keys)], "track_meta": False},
        {
            "_target_": "ClassesToIndicesd",
            "keys": "label",
            "indices_postfix": "_indices",
            "num_classes": "@num_classes",
            "max_samples_per_class": MAX_SAMPLES_PER_CLASS,
        },
        *_slicing(plan),
        "@train::spatial",
        "@train::intensity",
    ]


def spatial(plan: Plan) -> Config:
    """Draw a patch with foreground oversampling, turned, zoomed and mirrored (nnU-Net's recipe)."""
    return {
        "_target_": "unet_bundle.transforms.RandSpatiald",
        "keys": _keys(plan),
        "spatial_size": "@patch_size",
        "mode": ["bilinear", "nearest", "bilinear"][: len(_keys(plan))],
        "indices_key": "label_indices",
        "foreground_fraction": "@foreground_fraction" if plan.slice_axis is None else 1.0,
        **_labelled_only(plan),
        "elastic_prob": "@elastic_prob",
        "elastic_sd": "@elastic_sd",
        "elastic_spacing": "@elastic_spacing",
        "rotate_range": _rotation(plan),
        "rotate_prob": 0.3,
        "zoom_range": [0.7, 1.4],
        "zoom_prob": 0.3,
        "flip_axes": _mirror_axes(plan),
        **({"swapped_labels": plan.swapped_labels} if plan.swapped_labels and 0 in plan.mirror_axes else {}),
        "spacing": _spacing(plan),
        "deferred": "@augment_on_device",
    }


def intensity(plan: Plan) -> Config:
    """Noise, blur, brightness, low resolution and gamma, as nnU-Net draws them; by MONAI's transforms."""
    image: Mapping[str, Any] = {"keys": "image"}
    return {
        "_target_": "unet_bundle.transforms.RandIntensityd",
        "transforms": [
            {"_target_": "RandGaussianNoised", **image, "prob": 0.1, "std": 0.3},
            {
                "_target_": "RandGaussianSmoothd",
                **image,
                "prob": 0.1,
                **{f"sigma_{axis}": [0.5, 1.0] for axis in "xyz"[: plan.spatial_dims]},
            },
            {"_target_": "RandScaleIntensityd", **image, "prob": 0.15, "factors": 0.25},
            {
                "_target_": "RandSimulateLowResolutiond",
                **image,
                "prob": 0.15,
                "zoom_range": [0.5, 1.0],
                **({"upsample_mode": "bilinear"} if plan.spatial_dims == 2 else {}),  # MONAI's default is trilinear
            },
            {"_target_": "RandAdjustContrastd", **image, "prob": 0.3, "gamma": [0.7, 1.5], "retain_stats": True},
            *_dropout(plan),
        ],
        "deferred": "@augment_on_device",
    }


def _dropout(plan: Plan) -> list[Config]:
    """Last, so that a channel that is dropped is zero, as a missing one is in inference."""
    if not has_own_channels(plan):
        return []
    return [{"_target_": "unet_bundle.transforms.RandDropChannelsd", "keys": "image", "prob": "@channel_dropout"}]


def _keys(plan: Plan) -> list[str]:
    """What moves together."""
    return ["image", "label", *([] if plan.border_weight is None else [LABEL_WEIGHT])]


def _slicing(plan: Plan) -> list[Config]:
    """For a network of slices: one slice of the volume, which draws foreground or not for the patch too."""
    if plan.slice_axis is None:
        return []
    return [
        {
            "_target_": "unet_bundle.transforms.RandSliced",
            "keys": _keys(plan),
            "axis": plan.slice_axis,
            "indices_key": "label_indices",
            "foreground_fraction": "@foreground_fraction",
            **_labelled_only(plan),
        }
    ]


def _labelled_only(plan: Plan) -> Config:
    """Where labels are sparse, every patch shows some of them: the same for slices and for patches."""
    return {} if plan.ignore_index is None else {"labelled_only": True}


def _mirror_axes(plan: Plan) -> list[int]:
    """Axes of the patch that are mirrored; a slice has two of the scan's."""
    in_patch = [axis for axis in range(len(plan.spacing)) if axis != plan.slice_axis]
    return [in_patch.index(axis) for axis in plan.mirror_axes]


def _spacing(plan: Plan) -> str:
    """Spacing along the axes of the patch, as a reference."""
    axis = plan.slice_axis
    return "@spacing" if axis is None else f"$@spacing[:{axis}] + @spacing[{axis + 1}:]"


def _rotation(plan: Plan) -> list[float]:
    """Largest angle (degrees) about each axis: out of the plane of thick slices a rotation would tear structures."""
    spacing = [edge or 0.0 for edge in plan.spacing]
    thickest = max(range(len(spacing)), key=lambda axis: spacing[axis]) if plan.slice_axis is None else plan.slice_axis
    # Half a turn and one flip make a mirror image: where left and right must stay, neither may be all the way round,
    # unless the turn is about their own axis.
    about_left_right = len(spacing) == 3 and thickest == 0
    free = 0 in plan.mirror_axes and not plan.swapped_labels
    in_plane = HALF_TURN if free or about_left_right else TILT
    if plan.spatial_dims == 2:
        return [in_plane]
    if spacing[thickest] >= 3 * min(spacing):
        return [in_plane if axis == thickest else 0.0 for axis in range(3)]
    return [TILT] * 3
