"""train.json, and what is laid over it for several processes."""

from __future__ import annotations

from unet_bundle.planning.plan import Plan
from unet_bundle.planning.template.engines import train_section, validate_section
from unet_bundle.planning.template.shared import (
    DEVICE,
    JOINED,
    ON_CUDA,
    STARTED,
    Config,
    grid,
    has_own_channels,
    ignoring,
    network,
    splits_file,
    stated_files,
    stated_targets,
    stated_values,
    uneven_shares,
)

READY: list[Config] = [
    {"_target_": "unet_bundle.training.check_mlflow", "uri": "@mlflow_uri"},
    {"_target_": "unet_bundle.training.check_seed", "seed": "@seed"},
    {"_target_": "monai.utils.set_determinism", "seed": "@seed"},
    # Below the wrapper of several processes, and before that is made.
    {
        "_target_": "unet_bundle.training.prepare_network",
        "network": "@network_def",
        "channels_last": "$@compiles if @channels_last == 'auto' else @channels_last",
    },
]


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
        "save_minutes": 10.0,
        "keep_every": None,
        "pretrained": None,
        "pretrained_cases": "same",
        "max_epochs": plan.max_epochs,
        "max_minutes": None,
        "iterations_per_epoch": plan.iterations_per_epoch,
        "val_interval": plan.val_interval,
        "batch_size": plan.batch_size,
        "early_stop_epochs": None,
        "optimizer_name": "AdamW",
        "learning_rate": plan.learning_rate,
        "schedule": "cosine",
        "warmup_iterations": 50,
        "weight_decay": 0.01,
        "max_gradient_norm": 12.0,
        "max_bad_steps": 10,
        "ema_decay": 0.0,
        "precision": "auto",
        "compile": "auto",
        "channels_last": "auto",
        "foreground_fraction": plan.foreground_fraction,
        **({"channel_dropout": plan.channel_dropout} if has_own_channels(plan) else {}),
        "elastic_prob": plan.elastic_prob,
        "elastic_sd": plan.elastic_sd,
        "elastic_spacing": plan.elastic_spacing,
        "val_overlap": 0.25,
        "sw_batch_size": plan.batch_size,
        "num_workers": plan.num_workers,
        "cache_bytes": None,
        "augment_on_device": ON_CUDA,
        "mlflow_uri": None,
        "num_classes": len(plan.labels),
        **stated_values(plan),
        **stated_targets(plan),
        **({} if plan.border_weight is None else {"border_weight": plan.border_weight}),
        **grid(plan),
        "network_def": network(plan),
        "network": "$@network_def.to(@device)",
        "compiles": {
            "_target_": "unet_bundle.training.compiles",
            "choice": "@compile",
            "device": "@device",
            "iterations": "$@max_epochs * @iterations_per_epoch",
            "minutes": "@max_minutes",
        },
        "optimizer": {
            "_target_": "unet_bundle.training.make_optimizer",
            "params": "$@network.parameters()",
            "name": "@optimizer_name",
            "lr": "@learning_rate",
            "weight_decay": "@weight_decay",
        },
        "loss": _loss(plan),
        "goes_on": {
            "_target_": "unet_bundle.training.goes_on",
            "folder": "@output_dir",
            "resume": "@resume",
            "max_epochs": "@max_epochs",
        },
        "events": {"_target_": "unet_bundle.training.EventWriter", "folder": "@output_dir", "resume": "@goes_on"},
        "average": {
            "_target_": "unet_bundle.training.WeightAverage",
            "network": "@network",
            "evaluator": "@validate::evaluator",
            "decay": "@ema_decay",
        },
        "origin": {"_target_": "unet_bundle.training.Origin"},
        "record": {
            "_target_": "unet_bundle.training.RunRecord",
            "fold": "@fold",
            "seed": "@seed",
            "batch_size": "@batch_size",
            "optimizer": "@optimizer",
            "training": "@train::dataset::data",
            "validation": "@validate::dataset::data",
        },
        "train": train_section(plan),
        "validate": validate_section(plan),
        "initialize": [*STARTED, *READY],
        "run": ["$@train::trainer.run()"],
    }


def _loss(plan: Plan) -> Config:
    """Dice and cross-entropy of every head; the cross-entropy weighted where the card asks for it."""
    if plan.border_weight is not None:
        weighted = {"_target_": "unet_bundle.training.WeightedDiceCELoss", "include_background": False, "batch": True}
        return {"_target_": "unet_bundle.training.WeightedDeepSupervisionLoss", "loss": weighted}
    return {"_target_": "DeepSupervisionLoss", "loss": _loss_of_one(plan)}


def _loss_of_one(plan: Plan) -> Config:
    """The same of one head: of classes, of classes where somebody labelled, or of regions."""
    if plan.regions is not None:
        loss = "unet_bundle.training.RegionDiceBCELoss"
        return {"_target_": loss, "regions": "@regions", **ignoring(plan), "batch": True}
    if plan.ignore_index is not None:
        loss = "unet_bundle.training.IgnoreDiceCELoss"
        return {"_target_": loss, **ignoring(plan), "include_background": False, "batch": True}
    return {
        "_target_": "DiceCELoss",
        "include_background": False,
        "to_onehot_y": True,
        "softmax": True,
        "batch": True,
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
        "initialize": [*JOINED, *READY],
        "finalize": ["$torch.distributed.destroy_process_group()"],
    }
