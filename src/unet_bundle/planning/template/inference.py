"""inference.json, and what is laid over it to score a fold, by one process or several."""

from __future__ import annotations

from unet_bundle.io.layouts.survey import REFUSE
from unet_bundle.planning.model import Model
from unet_bundle.planning.template.shared import (
    DEVICE,
    JOINED,
    STARTED,
    Config,
    by_region,
    cases,
    cropping,
    dicom_reading,
    grid,
    has_own_channels,
    ignoring,
    loading,
    mean_dice,
    merging,
    network,
    splits_file,
    stated_files,
    stated_regions,
    stated_targets,
    stated_values,
    uneven_shares,
    windows,
)
from unet_bundle.transforms.instances import INSTANCES

PLANES_AT_ONCE = 4
"""Windows of a 2D network that are run together: planes and small pictures are little work each."""


def inference_config(plan: Model) -> Config:
    """``inference.json``: scans of a folder to label maps on their own grids; complete by itself, as hosts need."""
    dicom = dicom_reading(plan)
    return {
        "config_files": ["inference.json"],
        "bundle_root": ".",
        "dataset_dir": None,
        "output_dir": "$@bundle_root + '/eval'",
        "checkpoint": "$@bundle_root + '/models/model.pt'",
        "device": DEVICE,
        "ensemble": [],
        "precision": "float32",
        "runtime": "torch",
        "channels_last": False,
        **cropping(plan),
        "overlap": plan.overlap,
        "sw_batch_size": PLANES_AT_ONCE if plan.spatial_dims == 2 else 1,
        "mirroring": False,
        # Across left and right the network would have to take sides.
        "mirror_axes": [axis for axis in plan.mirror_axes if axis != 0 or not plan.swapped_labels],
        "memory": None,
        "keep_largest": [],
        "smallest_object_ml": 0.0,
        "fill_holes": [],
        **({"core": 0.0} if plan.instances else {}),
        "num_workers": 0,
        **_missing_channels(plan, REFUSE),
        "labels": plan.labels,
        **stated_regions(plan),
        **({} if plan.regions is None else {"region_channels": False}),
        **grid(plan),
        **dicom,
        **results(plan),
        # What a MONAI Label client offers to set; the server writes what is chosen over these values.
        "displayable_configs": {"overlap": "@overlap", "sw_batch_size": "@sw_batch_size"},
        "network_def": network(plan),
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": loading(plan, ["image"], dicom, cropping(plan))},
        "dataset": {
            "_target_": "Dataset",
            "data": {
                "_target_": "unet_bundle.io.find_images",
                "dataset_dir": "@dataset_dir",
                **({"channels": plan.in_channels} if has_own_channels(plan) else {}),
                **_missing_channels(plan, "@missing_channels"),
                **{name: f"@{name}" for name in dicom},
            },
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": "@num_workers",
        },
        "inferer": {
            "_target_": "unet_bundle.inferers.ScanInferer",
            **windows(plan, "@displayable_configs::overlap", "@displayable_configs::sw_batch_size"),
            **_output(plan),
            "precision": "@precision",
            "runtime": "@runtime",
            "channels_last": "@channels_last",
            "ensemble": "@ensemble",
            "ensemble_folder": "@bundle_root",
            "mirror_axes": "$@mirror_axes if @mirroring else []",
            "memory": "@memory",
            "progress": True,
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "unet_bundle.transforms.CleanLabelsd",
                    "keys": "pred",
                    "keep_largest": "@keep_largest",
                    "smallest_object_ml": "@smallest_object_ml",
                    "fill_holes": "@fill_holes",
                },
                *_numbering(plan),
                *_numbers(plan),
                {
                    "_target_": "unet_bundle.io.SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "dtype": "uint8" if len(plan.labels) <= 256 else "uint16",
                    **{name: f"@{name}" for name in results(plan)},
                    **({} if plan.regions is None else {"region_channels": "@region_channels"}),
                },
            ],
        },
        "handlers": [
            {
                "_target_": "unet_bundle.training.CheckpointLoader",
                "_disabled_": "$bool(@ensemble)",
                "load_path": "@checkpoint",
                "load_dict": {"model": "@network"},
            },
            {
                "_target_": "unet_bundle.evaluation.SaveVolumes",
                "labels": "@labels",
                "output_dir": "@output_dir",
                **by_region(plan),
            },
            {"_target_": "unet_bundle.training.StageTimes"},
            {"_target_": "unet_bundle.training.Progress", "description": "Segmenting"},
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "iteration_update": {"_target_": "unet_bundle.training.EvaluationStep"},
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "initialize": STARTED,
        "run": ["$@evaluator.run()"],
    }


def _cleaning(plan: Model) -> list[Config]:
    """What finds out whether cleaning helps; of sparse labels and of regions it cannot: it measures whole classes."""
    if plan.ignore_index is not None or plan.regions is not None:
        return []
    return [
        {
            # Behind the scores: of a case that these refuse it has measured nothing.
            "_target_": "unet_bundle.evaluation.ChooseCleaning",
            "_disabled_": "$not @choose_cleaning",
            "labels": "@labels",
            "output_dir": "@output_dir",
            "weights": "@scored_weights",
            "cases": "@dataset::data",
        }
    ]


def _numbering(plan: Model) -> list[Config]:
    """Number the objects, for data sets whose label files do."""
    if not plan.instances:
        return []
    return [{"_target_": "unet_bundle.transforms.InstancesFromLabelsd", "keys": "pred", "core": "@core"}]


def _numbers(plan: Model) -> list[Config]:
    """Write the numbered objects, 16 bits: PNG of pictures, NIfTI of all scans.

    Before the classes: a scan whose classes are there is taken for done.
    """
    if not plan.instances:
        return []
    return [
        {
            "_target_": "unet_bundle.io.SaveImaged",
            "keys": INSTANCES,
            "output_dir": "@output_dir",
            "output_postfix": INSTANCES,
            "dtype": "uint16",
            **({"output_format": "nifti"} if plan.unit == "mm" else {}),
        }
    ]


def _missing_channels(plan: Model, choice: str) -> Config:
    """What becomes of scans that lack a channel, where a scan has several."""
    return {"missing_channels": choice} if has_own_channels(plan) else {}


def _output(plan: Model) -> Config:
    """Of regions: a label map they are painted in, or a channel for each."""
    if plan.regions is None:
        return {}
    output = "$'regions' if @region_channels else 'labels'"
    return {"output": output, **by_region(plan), "activation": "sigmoid"}


def results(plan: Model) -> Config:
    """The format of results, and what formats beyond NIfTI say of them; nothing for pictures, whose results are PNG."""
    if plan.unit != "mm":
        return {}
    return {"output_format": "auto", "segments": plan.segments, "algorithm": plan.algorithm}


def evaluate_config(plan: Model) -> Config:
    """``evaluate.json``: laid over inference.json; scores a fold against the untouched label files.

    It addresses nothing inside what it is laid over, since federated hosts and the model zoo lay it over train.json:
    there they find train.json's own validation, beside entries that nothing uses.
    """
    return {
        "+config_files": ["evaluate.json"],
        "part": "validation",
        "fold": 0,
        "folds": plan.folds,
        "subject_key": plan.subject_key,
        "splits_file": splits_file(plan),
        **stated_files(plan),
        "split_seed": plan.seed,
        "labels": plan.labels,
        "num_classes": len(plan.labels),
        **stated_values(plan),
        **stated_targets(plan),
        "surface_tolerance": plan.surface_tolerance,
        "worst_cases": 3,
        **({"choose_cleaning": False} if _cleaning(plan) else {}),
        "colors": plan.colors,
        "scored_weights": {
            "_target_": "unet_bundle.training.weights_to_score",
            "path": "@checkpoint",
            "fold": "@fold",
            "part": "@part",
            "cases": "@dataset::data",
            "ensemble": "@ensemble",
            "ensemble_folder": "@bundle_root",
        },
        "loading": {
            "_target_": "Compose",
            "transforms": [
                "@preprocessing",
                {"_target_": "unet_bundle.io.LoadImaged", "keys": "label", "channels": 1},
                *([{"_target_": "CopyItemsd", "keys": "label", "names": "label_objects"}] if plan.instances else []),
                *([] if plan.label_values is None else [merging("label")]),
            ],
        },
        "+dataset": {
            "data": cases(plan, "@part", _missing_channels(plan, "@missing_channels")),
            "transform": "@loading",
        },
        "key_metric": mean_dice(plan, "val"),
        "+evaluator": {"_requires_": "@scored_weights", "key_val_metric": "@key_metric"},
        "+handlers": [
            {
                "_target_": "unet_bundle.evaluation.SaveScores",
                "labels": "@labels",
                "output_dir": "@output_dir",
                **ignoring(plan),
                **by_region(plan),
                "surface_tolerance": "@surface_tolerance",
                "worst_cases": "@worst_cases",
                "colors": "@colors",
                **({"objects": True} if plan.instances else {}),
            },
            *_cleaning(plan),
        ],
        "initialize": STARTED,
        "run": [{"_target_": "unet_bundle.evaluation.run_evaluator"}],
    }


def multi_gpu_evaluate_config() -> Config:
    """``multi_gpu_evaluate.json``: laid over inference.json and evaluate.json, for torchrun."""
    return {
        "+config_files": ["multi_gpu_evaluate.json"],
        "device": {"_target_": "unet_bundle.training.local_device"},
        "sampler": uneven_shares("@dataset"),
        "dataloader::sampler": "@sampler",
        "initialize": JOINED,
        "finalize": ["$torch.distributed.destroy_process_group()"],
    }


def inference_trt_config() -> Config:
    """``inference_trt.json``: laid over inference.json to run the engines that ``unet-bundle export`` made."""
    return {"+config_files": ["inference_trt.json"], "runtime": "models/model_trt.ts"}
