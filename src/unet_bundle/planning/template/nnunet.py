"""The configs of a model of nnU-Net: the template's, with scans prepared as nnU-Net prepares them."""

from __future__ import annotations

from collections.abc import Sequence

from unet_bundle.io import wanted_channels
from unet_bundle.planning.model import Model
from unet_bundle.planning.template.inference import evaluate_config, inference_config
from unet_bundle.planning.template.shared import Config, crop_steps, cropping, dicom_reading


def nnunet_configs(model: Model, ensemble: Sequence[str], regions: Sequence[int]) -> dict[str, Config]:
    """The configs of an imported bundle by file name: for inference and evaluation.

    Args:
        model: what was imported.
        ensemble: files of weights whose scores are averaged; empty for one.
        regions: value in the label map of each region the network was trained on; empty for classes.
    """
    inference = inference_config(model)
    inference["ensemble"] = list(ensemble)
    inference["preprocessing"]["transforms"] = _loading(model)
    inference["inferer"] |= {"mode": "nnunet", "window_spacing": "even", "separate_slices": "@spacing"}
    evaluation = evaluate_config(model) | {"part": "all"}
    if regions:
        inference["inferer"] |= {"output": "regions", "activation": "sigmoid"}
        merge = {"_target_": "unet_bundle.transforms.MergeRegionsd", "keys": "pred", "values": list(regions)}
        inference["postprocessing"]["transforms"].insert(0, merge)
        evaluation |= {"num_classes": max(model.labels.values()) + 1}
    return {"inference.json": inference, "evaluate.json": evaluation}


def _loading(model: Model) -> list[Config]:
    """Read, crop, normalise, resample: in nnU-Net's order, in which means are taken before resampling."""
    dicom, crop, keys = dicom_reading(model), cropping(model), ["image"]
    return [
        {
            "_target_": "unet_bundle.io.LoadImaged",
            "keys": keys,
            "channels": [wanted_channels(model.modality)],
            **{name: f"@{name}" for name in dicom},
        },
        {
            "_target_": "Orientationd",
            "_disabled_": "$@orientation is None",
            "keys": keys,
            "axcodes": "@orientation",
            "labels": None,
        },
        *crop_steps(keys, crop),
        {"_target_": "unet_bundle.transforms.CropToNonzerod", "keys": keys},
        {"_target_": "unet_bundle.transforms.NormalizeChannelsd", "keys": "image", "schemes": "@normalization"},
        {
            "_target_": "unet_bundle.transforms.ResampleToSpacingd",
            "keys": keys,
            "spacing": "@spacing",
            "mode": "cubic",
            "align": "edges",
        },
    ]
