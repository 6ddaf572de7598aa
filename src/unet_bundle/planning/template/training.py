"""train.json, and what is laid over it for several processes."""

from __future__ import annotations

from unet_bundle.planning.plan import Plan
from unet_bundle.planning.template.augmentation import intensity, patch_transforms, spatial
from unet_bundle.planning.template.shared import (
    DEVICE,
    JOINED,
    LABEL_WEIGHT,
    ON_CUDA,
    OTHER_PROCESS,
    STARTED,
    Config,
    by_region,
    cases,
    grid,
    has_own_channels,
    ignoring,
    loading,
    mean_dice,
    network,
    splits_file,
    stated_files,
    stated_targets,
    stated_values,
    uneven_shares,
    windows,
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
        "train": {
            "deterministic_transforms": loading(plan, ["image", "label"]),
            "spatial": spatial(plan),
            "intensity": intensity(plan),
            "random_transforms": patch_transforms(plan),
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
                "pin_memory": ON_CUDA,
                "collate_fn": {"_target_": "unet_bundle.training.collate", "_mode_": "callable"},
                "worker_init_fn": {"_target_": "unet_bundle.training.start_worker", "_mode_": "callable"},
            },
            "prepare_batch": {
                "_target_": "unet_bundle.training.PrepareBatch",
                "spatial": "@train::spatial",
                "intensity": "@train::intensity",
                **({} if plan.border_weight is None else {"weight_key": LABEL_WEIGHT}),
            },
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": {"_target_": "Compose", "transforms": [_decision(plan)]},
            "key_metric": mean_dice(plan, "train"),
            "step": {
                "_target_": "unet_bundle.training.TrainStep",
                "precision": "@precision",
                "max_gradient_norm": "@max_gradient_norm",
                "max_bad_steps": "@max_bad_steps",
                "seed": "@seed",
                "compiled": "@compiles",
            },
            "log": {
                "_target_": "unet_bundle.training.TrainingLog",
                "evaluator": "@validate::evaluator",
                "folder": "@output_dir",
            },
            "handlers": [
                {
                    "_target_": "unet_bundle.training.Pretrained",
                    "network": "@network",
                    "source": "@pretrained",
                    "bundle_root": "@bundle_root",
                    "resume": "@goes_on",
                    "inputs": _inputs(),
                    "validated_on": "@validate::dataset::data",
                    "origin": "@origin",
                    "cases": "@pretrained_cases",
                },
                {
                    "_target_": "unet_bundle.training.LearningRate",
                    "optimizer": "@optimizer",
                    "peak": "@learning_rate",
                    "warmup_iterations": "@warmup_iterations",
                    "schedule": "@schedule",
                },
                {"_target_": "unet_bundle.training.shared_handler", "handler": "@average"},
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
                {"_target_": "unet_bundle.training.shared_handler", "handler": "@train::log"},
                {
                    "_target_": "unet_bundle.training.EarlyStop",
                    "evaluator": "@validate::evaluator",
                    "epochs": "@early_stop_epochs",
                },
                {
                    "_target_": "unet_bundle.training.RunCheckpoints",
                    "network": "@network",
                    "optimizer": "@optimizer",
                    "evaluator": "@validate::evaluator",
                    "folder": "@output_dir",
                    "interval": "@val_interval",
                    "resume": "@goes_on",
                    "average": "@average",
                    "step": "@train::step",
                    "log": "@train::log",
                    "save_minutes": "@save_minutes",
                    "keep_every": "@keep_every",
                    "record": "@record",
                    "origin": "@origin",
                },
                {
                    "_target_": "unet_bundle.training.PublishModel",
                    "network": "@network",
                    "evaluator": "@validate::evaluator",
                    "scorer": "@validate::scorer",
                    "folder": "@output_dir",
                    "path": "@checkpoint",
                    "fold": "@fold",
                    "inputs": _inputs(),
                    "inference_config": "$@bundle_root + '/configs/inference.json'",
                    "trained_on": "@train::dataset::data",
                    "validated_on": "@validate::dataset::data",
                    "average": "@average",
                    "origin": "@origin",
                },
                {"_target_": "unet_bundle.training.Progress", "description": "Training"},
                {
                    "_target_": "TensorBoardStatsHandler",
                    "_disabled_": OTHER_PROCESS,
                    "summary_writer": "@events",
                    "tag_name": "train_loss",
                    "output_transform": "$lambda output: output[0]['loss']",
                },
                _mlflow(done=True),
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
                "iteration_update": "@train::step",
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
            "inferer": {"_target_": "unet_bundle.inferers.SlabInferer", **windows(plan, "@val_overlap")},
            "step": {"_target_": "unet_bundle.training.EvaluationStep", "precision": "@precision"},
            "postprocessing": {"_target_": "Compose", "transforms": [_decision(plan)]},
            "key_metric": mean_dice(plan, "val"),
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
                {
                    "_target_": "unet_bundle.training.ConfusionPicture",
                    "writer": "@events",
                    "num_classes": "@num_classes",
                },
                _mlflow(done=False),
            ],
            "evaluator": _evaluator({"key_val_metric": "@validate::key_metric", "val_handlers": "@validate::handlers"}),
            "scorer": _evaluator({"key_val_metric": mean_dice(plan, "val")}),
        },
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


def _decision(plan: Plan) -> Config:
    """From scores to a label map."""
    if plan.regions is not None:
        return {"_target_": "unet_bundle.transforms.PaintRegionsd", "keys": "pred", **by_region(plan)}
    return {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}


def _inputs() -> Config:
    """What decides what the network sees, for those who compare it with that of other configs."""
    return {name: f"@{name}" for name in ("orientation", "spacing", "normalization")}


def _evaluator(scoring: Config) -> Config:
    """An engine that validates; `scoring` is what it measures, and what it tells whom."""
    return {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@validate::dataloader",
        "network": "@network",
        "inferer": "@validate::inferer",
        "iteration_update": "@validate::step",
        "postprocessing": "@validate::postprocessing",
        **scoring,
    }


def _mlflow(done: bool) -> Config:
    """Where MLflow is asked for: metrics of an engine; `done` if its end is that of the run."""
    return {
        "_target_": "unet_bundle.training.mlflow_handler",
        "_disabled_": f"$@mlflow_uri is None or ({OTHER_PROCESS.removeprefix('$')})",
        "uri": "@mlflow_uri",
        "folder": "@output_dir",
        "done": done,
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
