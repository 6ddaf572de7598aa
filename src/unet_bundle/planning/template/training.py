"""train.json, and what is laid over it for several processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unet_bundle.planning.plan import Plan
from unet_bundle.planning.template.shared import (
    DEVICE,
    JOINED,
    OTHER_PROCESS,
    STARTED,
    Config,
    cases,
    grid,
    loading,
    network,
    sliding_window,
    splits_file,
    stated_files,
    stated_values,
    uneven_shares,
)

HALF_TURN = 180.0
"""Degrees of half a turn: the largest rotation in an anisotropic plane, as nnU-Net turns there."""
TILT = 30.0
"""Degrees of the largest rotation about each axis of a roughly isotropic patch (nnU-Net's range)."""
MAX_SAMPLES_PER_CLASS = 10_000
"""Voxels of a class that are remembered as possible middles of patches, spread evenly over it."""


def _patch_transforms(plan: Plan) -> list[Config | str]:
    """What the loader does anew for every patch: draw it, and change intensities or leave both to the device."""
    both: Mapping[str, Any] = {"keys": ["image", "label"]}
    label_type = "$torch.uint8" if len(plan.labels) <= 256 else "$torch.float32"
    return [
        {"_target_": "EnsureTyped", **both, "dtype": ["$torch.float32", label_type], "track_meta": False},
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


def _spatial(plan: Plan) -> Config:
    """Draw a patch with foreground oversampling, turned, zoomed and mirrored (nnU-Net's recipe)."""
    return {
        "_target_": "unet_bundle.transforms.RandSpatiald",
        "keys": ["image", "label"],
        "spatial_size": "@patch_size",
        "mode": ["bilinear", "nearest"],
        "indices_key": "label_indices",
        "foreground_fraction": "@foreground_fraction" if plan.slice_axis is None else 1.0,
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


def _intensity(plan: Plan) -> Config:
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
        ],
        "deferred": "@augment_on_device",
    }


def _slicing(plan: Plan) -> list[Config]:
    """For a network of slices: one slice of the volume, which draws foreground or not for the patch too."""
    if plan.slice_axis is None:
        return []
    return [
        {
            "_target_": "unet_bundle.transforms.RandSliced",
            "keys": ["image", "label"],
            "axis": plan.slice_axis,
            "indices_key": "label_indices",
            "foreground_fraction": "@foreground_fraction",
        }
    ]


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


def train_config(plan: Plan) -> Config:
    """``train.json``: train on the folds but one, validate on that one."""
    return {
        "config_files": ["train.json"],
        "bundle_root": ".",
        "dataset_dir": None,
        "fold": 0,
        "folds": plan.folds,
        "subject_key": plan.subject_key,
        "splits_file": splits_file(plan),
        **stated_files(plan),
        "split_seed": plan.seed,
        "output_dir": "$@bundle_root + '/runs/fold_' + str(@fold)",
        "checkpoint": "$@bundle_root + '/models/model.pt'",
        "device": DEVICE,
        "seed": plan.seed,
        "resume": False,
        "max_epochs": plan.max_epochs,
        "max_minutes": None,
        "iterations_per_epoch": plan.iterations_per_epoch,
        "val_interval": plan.val_interval,
        "batch_size": plan.batch_size,
        "learning_rate": plan.learning_rate,
        "weight_decay": 0.01,
        "precision": "auto",
        "foreground_fraction": plan.foreground_fraction,
        "elastic_prob": plan.elastic_prob,
        "elastic_sd": plan.elastic_sd,
        "elastic_spacing": plan.elastic_spacing,
        "val_overlap": 0.25,
        "sw_batch_size": plan.batch_size,
        "num_workers": plan.num_workers,
        "cache_bytes": None,
        "augment_on_device": "$@device.type == 'cuda'",
        "num_classes": len(plan.labels),
        **stated_values(plan),
        **grid(plan),
        "network_def": network(plan),
        "network": "$@network_def.to(@device)",
        "optimizer": {
            "_target_": "torch.optim.AdamW",
            "params": "$@network.parameters()",
            "lr": "@learning_rate",
            "weight_decay": "@weight_decay",
        },
        "loss": {
            "_target_": "DeepSupervisionLoss",
            "loss": {
                "_target_": "DiceCELoss",
                "include_background": False,
                "to_onehot_y": True,
                "softmax": True,
                "batch": True,
            },
        },
        "events": {"_target_": "unet_bundle.training.EventWriter", "folder": "@output_dir", "resume": "@resume"},
        "train": {
            "deterministic_transforms": loading(plan, ["image", "label"]),
            "spatial": _spatial(plan),
            "intensity": _intensity(plan),
            "random_transforms": _patch_transforms(plan),
            "preprocessing": {
                "_target_": "Compose",
                "transforms": "$@train::deterministic_transforms + @train::random_transforms",
            },
            "dataset": {
                "_target_": "unet_bundle.training.CaseDataset",
                "data": cases(plan, "train"),
                "transform": "@train::preprocessing",
                "cache_bytes": "@cache_bytes",
            },
            "sampler": {
                "_target_": "unet_bundle.training.CaseSampler",
                "dataset": "@train::dataset",
                "samples_per_epoch": "$@iterations_per_epoch * @batch_size",
                "seed": "@seed",
            },
            "dataloader": {
                "_target_": "DataLoader",
                "dataset": "@train::dataset",
                "sampler": "@train::sampler",
                "batch_size": "@batch_size",
                "num_workers": "@num_workers",
                "persistent_workers": "$@num_workers > 0",
                "pin_memory": "$@device.type == 'cuda'",
                "collate_fn": {"_target_": "unet_bundle.training.collate", "_mode_": "callable"},
            },
            "prepare_batch": {
                "_target_": "unet_bundle.training.PrepareBatch",
                "spatial": "@train::spatial",
                "intensity": "@train::intensity",
            },
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}],
            },
            "key_metric": {
                "train_mean_dice": {"_target_": "unet_bundle.evaluation.MeanDice", "num_classes": "@num_classes"}
            },
            "handlers": [
                {
                    "_target_": "unet_bundle.training.LearningRate",
                    "optimizer": "@optimizer",
                    "peak": "@learning_rate",
                },
                {
                    "_target_": "ValidationHandler",
                    "validator": "@validate::evaluator",
                    "epoch_level": True,
                    "interval": "@val_interval",
                },
                {
                    "_target_": "unet_bundle.training.TimeBudget",
                    "minutes": "@max_minutes",
                    "evaluator": "@validate::scorer",
                    "val_interval": "@val_interval",
                },
                {
                    "_target_": "unet_bundle.training.TrainingLog",
                    "evaluator": "@validate::evaluator",
                    "folder": "@output_dir",
                },
                {
                    "_target_": "unet_bundle.training.RunCheckpoints",
                    "network": "@network",
                    "optimizer": "@optimizer",
                    "evaluator": "@validate::evaluator",
                    "folder": "@output_dir",
                    "interval": "@val_interval",
                    "resume": "@resume",
                },
                {
                    "_target_": "unet_bundle.training.PublishModel",
                    "network": "@network",
                    "evaluator": "@validate::evaluator",
                    "scorer": "@validate::scorer",
                    "folder": "@output_dir",
                    "path": "@checkpoint",
                    "fold": "@fold",
                    "inputs": {
                        "orientation": "@orientation",
                        "spacing": "@spacing",
                        "normalization": "@normalization",
                    },
                    "inference_config": "$@bundle_root + '/configs/inference.json'",
                    "trained_on": "@train::dataset::data",
                    "validated_on": "@validate::dataset::data",
                },
                {"_target_": "unet_bundle.training.Progress", "description": "Training"},
                {
                    "_target_": "TensorBoardStatsHandler",
                    "_disabled_": OTHER_PROCESS,
                    "summary_writer": "@events",
                    "tag_name": "train_loss",
                    "output_transform": "$lambda output: output[0]['loss']",
                },
            ],
            "trainer": {
                "_target_": "SupervisedTrainer",
                "device": "@device",
                "max_epochs": "@max_epochs",
                "train_data_loader": "@train::dataloader",
                "network": "@network",
                "optimizer": "@optimizer",
                "loss_function": "@loss",
                "prepare_batch": "@train::prepare_batch",
                "inferer": "@train::inferer",
                "iteration_update": {
                    "_target_": "unet_bundle.training.TrainStep",
                    "precision": "@precision",
                    "seed": "@seed",
                },
                "postprocessing": "@train::postprocessing",
                "key_train_metric": "@train::key_metric",
                "train_handlers": "@train::handlers",
            },
        },
        "validate": {
            "preprocessing": {"_target_": "Compose", "transforms": "@train::deterministic_transforms"},
            "dataset": {
                "_target_": "unet_bundle.training.CaseDataset",
                "data": cases(plan, "validation"),
                "transform": "@validate::preprocessing",
                "cache_bytes": "@cache_bytes",
            },
            "dataloader": {
                "_target_": "DataLoader",
                "dataset": "@validate::dataset",
                "batch_size": 1,
                "shuffle": False,
                "num_workers": 0,
            },
            "inferer": sliding_window(plan, "@val_overlap"),
            "step": {"_target_": "unet_bundle.training.EvaluationStep", "precision": "@precision"},
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}],
            },
            "key_metric": {
                "val_mean_dice": {"_target_": "unet_bundle.evaluation.MeanDice", "num_classes": "@num_classes"}
            },
            "handlers": [
                {
                    "_target_": "TensorBoardStatsHandler",
                    "_disabled_": OTHER_PROCESS,
                    "summary_writer": "@events",
                    "iteration_log": False,
                },
                {
                    "_target_": "unet_bundle.training.ValidationSlices",
                    "_disabled_": OTHER_PROCESS,
                    "writer": "@events",
                    "num_classes": "@num_classes",
                },
            ],
            "evaluator": {
                "_target_": "SupervisedEvaluator",
                "device": "@device",
                "val_data_loader": "@validate::dataloader",
                "network": "@network",
                "inferer": "@validate::inferer",
                "iteration_update": "@validate::step",
                "postprocessing": "@validate::postprocessing",
                "key_val_metric": "@validate::key_metric",
                "val_handlers": "@validate::handlers",
            },
            "scorer": {
                "_target_": "SupervisedEvaluator",
                "device": "@device",
                "val_data_loader": "@validate::dataloader",
                "network": "@network",
                "inferer": "@validate::inferer",
                "iteration_update": "@validate::step",
                "postprocessing": "@validate::postprocessing",
                "key_val_metric": {
                    "val_mean_dice": {"_target_": "unet_bundle.evaluation.MeanDice", "num_classes": "@num_classes"}
                },
            },
        },
        "initialize": [
            *STARTED,
            {"_target_": "monai.utils.set_determinism", "seed": "@seed"},
        ],
        "run": ["$@train::trainer.run()"],
    }


def multi_gpu_train_config() -> Config:
    """``multi_gpu_train.json``: laid over train.json, for torchrun."""
    return {
        "+config_files": ["multi_gpu_train.json"],
        "device": {"_target_": "unet_bundle.training.local_device"},
        "network": {
            "_target_": "torch.nn.parallel.DistributedDataParallel",
            "module": "$@network_def.to(@device)",
            "device_ids": "$[@device] if @device.type == 'cuda' else None",
        },
        "validate::sampler": uneven_shares("@validate::dataset"),
        "validate::dataloader::sampler": "@validate::sampler",
        "initialize": [*JOINED, {"_target_": "monai.utils.set_determinism", "seed": "@seed"}],
        "finalize": ["$torch.distributed.destroy_process_group()"],
    }
