"""What several configs have in common."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from unet_bundle.io import wanted_channels
from unet_bundle.planning.model import Model
from unet_bundle.transforms.border_weight import WEIGHT_POSTFIX

Config = dict[str, Any]

REGION_PRIOR = 0.01
"""What a sigmoid gives at first: from one half, short trainings do not get the background of small regions down."""
UNET = "unet_bundle.networks.UNet"
START = "unet_bundle.runtime.start_run"
STARTED: list[Config] = [
    {"_target_": START, "config_files": "@config_files"},
    # Wrong for this device? Said here, before scans are read for minutes.
    {"_target_": "unet_bundle.training.resolve_precision", "precision": "@precision", "device": "@device"},
]
JOINED: list[Config] = [*STARTED, {"_target_": "unet_bundle.training.start_processes"}]


def is_colour(plan: Model) -> bool:
    """Whether a scan is one picture in colour, whose three channels are never files of their own."""
    return wanted_channels(plan.modality) == "RGB"


def has_own_channels(plan: Model) -> bool:
    """Whether a scan has several channels that are scans of their own, of which one may be missing."""
    return plan.in_channels > 1 and not is_colour(plan)


def network(plan: Model) -> Config:
    """The network as a component."""
    return {"_target_": UNET, **plan.network, **({} if plan.regions is None else {"head_prior": REGION_PRIOR})}


DICOM_MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR", "PT": "PT", "PET": "PT"}
"""What task cards call a modality, and what DICOM calls it."""


def dicom_reading(plan: Model) -> Config:
    """How DICOM series are read, as a top-level value; nothing for planes, which come as pictures."""
    if plan.unit != "mm":
        return {}
    stated = {DICOM_MODALITIES.get(name.upper()) for name in plan.modality}
    modality = stated.pop() if len(stated) == 1 else None
    options = {"series_uid": None, "volume": None, "on_tilt": "refuse", "on_gaps": "refuse"}
    return {"dicom": {"modality": modality, **options}}


def cropping(plan: Model) -> Config:
    """The value above which voxels are worth a look, as a top-level value.

    Of CT alone: its normalisation does not depend on what is cropped away, and its units mean the same in every scan.
    """
    return {"crop_above": None} if all(each["scheme"] == "ct" for each in plan.normalization) else {}


def loading(
    plan: Model,
    keys: list[str],
    dicom: Mapping[str, Any] = MappingProxyType({}),
    crop: Mapping[str, Any] = MappingProxyType({}),
) -> list[Config]:
    """Read, turn to the plan's axes, resample, normalise: what training and inference do alike.

    Args:
        plan: the plan.
        keys: ``["image"]``, or with ``"label"``.
        dicom: `dicom_reading`, where the config has it.
        crop: `cropping`, where the config has it.
    """
    channels = [wanted_channels(plan.modality), 1][: len(keys)]
    modes = ["bilinear", "nearest"][: len(keys)]
    placed = list(keys)
    if "label" in keys and plan.border_weight is not None:
        placed, modes = [*keys, LABEL_WEIGHT], [*modes, "bilinear"]
    return [
        {
            "_target_": "unet_bundle.io.LoadImaged",
            "keys": keys,
            "channels": channels,
            **{name: f"@{name}" for name in dicom},
        },
        *(apart(plan) if "label" in keys else []),
        *[merging(k) for k in keys[1:] if plan.label_values is not None],
        *[
            {
                "_target_": "unet_bundle.transforms.CheckLabelsd",
                "keys": k,
                "num_classes": "@num_classes",
                **ignoring(plan),
            }
            for k in keys[1:]
        ],
        {"_target_": "Orientationd", "keys": placed, "axcodes": "@orientation", "labels": None},
        *crop_steps(placed, crop),
        {
            "_target_": "unet_bundle.transforms.ResampleToSpacingd",
            "keys": placed,
            "spacing": "@spacing",
            "mode": modes,
        },
        {"_target_": "unet_bundle.transforms.NormalizeChannelsd", "keys": "image", "schemes": "@normalization"},
    ]


def crop_steps(keys: list[str], crop: Mapping[str, Any]) -> list[Config]:
    """Crop to what is above the value, where the config has `cropping` and a person gives the value."""
    return [
        {
            "_target_": "CropForegroundd",
            "_disabled_": f"$@{name} is None",
            "keys": keys,
            "source_key": keys[0],
            "select_fn": {"_target_": "unet_bundle.transforms.is_above", "_mode_": "callable", "value": f"@{name}"},
            "start_coord_key": None,
            "end_coord_key": None,
        }
        for name in crop
    ]


def apart(plan: Model) -> list[Config]:
    """Numbered objects: a seam between those that touch, and weights for the borders; before numbers become classes."""
    if not plan.instances:
        return []
    steps: list[Config] = [{"_target_": "unet_bundle.transforms.SeparateObjectsd", "keys": "label"}]
    if plan.border_weight is not None:
        weights = {name: f"@border_weight::{name}" for name in plan.border_weight}
        steps.append({"_target_": "unet_bundle.transforms.BorderWeightd", "keys": "label", **weights})
    return steps


def merging(key: str) -> Config:
    """Values of label files to classes, where the task card states them."""
    return {"_target_": "unet_bundle.transforms.MergeLabelsd", "keys": key, "values": "@label_values"}


def stated_values(plan: Model) -> Config:
    """Which values of label files are which class, if that is stated: a list for each class, background first."""
    return {} if plan.label_values is None else {"label_values": plan.label_values}


def stated_targets(plan: Model) -> Config:
    """Which value is to be ignored, and which regions are learnt instead of classes, if that is stated."""
    return {
        **({} if plan.ignore_index is None else {"ignore_index": plan.ignore_index}),
        **stated_regions(plan),
    }


def stated_regions(plan: Model) -> Config:
    """The regions that are learnt instead of classes, if they are stated."""
    return {} if plan.regions is None else {"regions": plan.regions}


def ignoring(plan: Model) -> Config:
    """The argument that says which value is to be ignored."""
    return {} if plan.ignore_index is None else {"ignore_index": "@ignore_index"}


def by_region(plan: Model) -> Config:
    """The argument that says which regions take the place of classes."""
    return {} if plan.regions is None else {"regions": "@regions"}


def windows(plan: Model, overlap: str, sw_batch_size: str = "@sw_batch_size") -> Config:
    """Windows of the patch's size over the scan or each of its slices, weighted towards their middles.

    Args:
        plan: the plan.
        overlap: reference to the windows' overlap.
        sw_batch_size: reference to how many are run at once.
    """
    return {
        **({} if plan.slice_axis is None else {"spatial_dim": plan.slice_axis}),
        "roi_size": "@patch_size",
        "sw_batch_size": sw_batch_size,
        "overlap": overlap,
        "mode": "gaussian",
        "padding_mode": "constant",
    }


def grid(plan: Model) -> Config:
    """What training and inference must agree on for the network to see the same."""
    return {
        "orientation": plan.orientation,
        "spacing": plan.spacing,
        "normalization": plan.normalization,
        "patch_size": plan.patch_size,
    }


LABEL_WEIGHT = f"label{WEIGHT_POSTFIX}"
"""Key of the weights that go with a label map."""
SPLITS = "configs/splits.json"
"""Where a bundle keeps the splits it was planned with."""
OTHER_PROCESS = "$torch.distributed.is_initialized() and torch.distributed.get_rank() > 0"
"""True in all processes but the one that writes files."""
DEVICE = "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')"
ON_CUDA = "$torch.device(@device).type == 'cuda'"
"""The device may be a name: so hosts and command lines give it."""


def stated_files(plan: Model) -> Config:
    """Where images and labels lie, for a data set whose layout is stated because it is not known."""
    return {} if plan.image_files is None else {"image_files": plan.image_files, "label_files": plan.label_files}


def splits_file(plan: Model) -> str | None:
    """The bundle's own copy of the splits the task card names, or None."""
    return None if plan.splits_file is None else f"$@bundle_root + '/{SPLITS}'"


def cases(plan: Model, part: str, arguments: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """The labelled cases of a part of a fold, as a component: hosts replace it by a list of their own.

    Args:
        plan: the plan.
        part: ``"train"``, ``"validation"`` or a reference.
        arguments: more of them for `unet_bundle.io.find_cases`.
    """
    return {
        "_target_": "unet_bundle.io.select_cases",
        "cases": {
            "_target_": "unet_bundle.io.find_cases",
            "dataset_dir": "@dataset_dir",
            **{key: f"@{key}" for key in stated_files(plan)},
            **arguments,
        },
        "part": part,
        "fold": "@fold",
        "folds": "@folds",
        "subject_key": "@subject_key",
        "splits_file": "@splits_file",
        "seed": "@split_seed",
    }


def uneven_shares(dataset: str) -> Config:
    """Each process gets its own cases to score, none twice to make the shares even; `dataset` is a reference."""
    return {"_target_": "unet_bundle.training.case_shares", "dataset": dataset}


def mean_dice(plan: Model, prefix: str) -> Config:
    """The metric by which weights are compared, under the name ``<prefix>_mean_dice``."""
    target = {"_target_": "unet_bundle.evaluation.MeanDice", "num_classes": "@num_classes"}
    return {f"{prefix}_mean_dice": {**target, **ignoring(plan), **by_region(plan)}}
