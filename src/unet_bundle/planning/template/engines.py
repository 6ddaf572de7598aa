"""The two engines of train.json: the trainer and its validation, with what each is made of."""

from __future__ import annotations

from unet_bundle.planning.plan import Plan
from unet_bundle.planning.template.augmentation import intensity, patch_transforms, spatial
from unet_bundle.planning.template.shared import (
    LABEL_WEIGHT,
    ON_CUDA,
    OTHER_PROCESS,
    Config,
    by_region,
    cases,
    loading,
    mean_dice,
    windows,
)


def train_section(plan: Plan) -> Config:
    """``train``: patches of the training cases, a step, and what is done at its events."""
    return {
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
        "handlers": _train_handlers(),
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
    }


def _train_handlers() -> list[Config]:
    """In the order in which they are called."""
    return [
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
    ]


def validate_section(plan: Plan) -> Config:
    """``validate``: whole scans of the validation cases, and what is done with their scores."""
    return {
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
