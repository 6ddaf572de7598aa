"""Compare our plans with nnU-Net's for the same scans.

Two steps, since nnU-Net lives in an environment of its own:

    .venv/bin/python scripts/compare_plans.py record --data DATA --nnunet NNUNET_PYTHON tests/planning/nnunet_plans.json
    .venv/bin/python scripts/compare_plans.py table tests/planning/nnunet_plans.json

The first measures shapes and spacings of the data sets in DATA, has nnU-Net's planners plan for them (they read a
fingerprint, no scan) and writes both down. The second prints the whole table; docs/planning.md shows a part.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unet_bundle.planning.configuration import Configuration
    from unet_bundle.planning.targets import MemoryTarget

PLANNERS = {
    "default": ("default_experiment_planner", "ExperimentPlanner"),
    "ResEncM": ("residual_unets.residual_encoder_unet_planners", "nnUNetPlannerResEncM"),
    "ResEncL": ("residual_unets.residual_encoder_unet_planners", "nnUNetPlannerResEncL"),
    "ResEncXL": ("residual_unets.residual_encoder_unet_planners", "nnUNetPlannerResEncXL"),
}
OURS: dict[str, tuple[MemoryTarget, str]] = {
    "default": ("8GB", "plain"),
    "ResEncM": ("8GB", "residual"),
    "ResEncL": ("24GB", "residual"),
    "ResEncXL": ("80GB", "residual"),
}

FLAT = 999.0
"""Spacing that nnU-Net gives to the axis that flat images do not have."""

LIKE = {
    "liver-like CT": {"shape": [512, 512, 482], "spacing": [0.7676, 0.7676, 1.0], "cases": 131, "classes": 3},
    "prostate-like MR": {"shape": [320, 320, 20], "spacing": [0.625, 0.625, 3.6], "cases": 32, "classes": 3},
    "pancreas-like CT": {"shape": [512, 512, 96], "spacing": [0.8027, 0.8027, 2.5], "cases": 281, "classes": 3},
    "cardiac-cine-like MR": {"shape": [216, 256, 10], "spacing": [1.5625, 1.5625, 10.0], "cases": 200, "classes": 4},
    "diffusion-like MR": {"shape": [40, 42, 7], "spacing": [0.84, 0.84, 17.5], "cases": 20, "classes": 2},
}
"""Further scans, all alike, with the median shapes and spacings of public data sets."""


def main() -> None:
    """Record or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    record_parser = commands.add_parser("record")
    record_parser.add_argument("--data", type=Path, required=True, help="folder of the development data sets")
    record_parser.add_argument("--nnunet", type=Path, required=True, help="Python of an environment with nnunetv2")
    table_parser = commands.add_parser("table")
    for subparser in (record_parser, table_parser):
        subparser.add_argument("record", type=Path, metavar="JSON")
    commands.add_parser("nnunet", help="(the step that runs in nnU-Net's environment)")
    arguments = parser.parse_args()
    if arguments.command == "nnunet":
        json.dump(plans_of_nnunet(json.load(sys.stdin)), sys.stdout)
    elif arguments.command == "record":
        record(arguments.data, arguments.nnunet, arguments.record)
    else:
        print(table(json.loads(arguments.record.read_text(encoding="utf-8"))))


# --- the data sets ----------------------------------------------------------------------------------------------------


def data_sets(data: Path) -> dict[str, Any]:
    """Shapes and spacings (RAS) of each data set, with its channels and classes."""
    hippocampus = sorted((data / "task04_hippocampus" / "imagesTr").glob("*.nii.gz"))
    spinal_cord = [data / "spinalcord_mr" / name for name in ("t1/t1w.nii.gz", "t2/t2.nii.gz")]
    ct = [data / "totalsegmentator_examples" / "ct" / name for name in ("example_ct.nii.gz", "example_ct_sm.nii.gz")]
    nuclei = sorted((data / "dsb2018_nuclei" / "images").glob("*.png"))
    sets = {
        "hippocampus": {"cases": _volumes(hippocampus), "channels": 1, "classes": 3},
        "spinal cord": {"cases": _volumes(spinal_cord), "channels": 1, "classes": 2},
        "TotalSegmentator CT": {"cases": _volumes(ct), "channels": 1, "classes": 118},
        "nuclei": {"cases": _pictures(nuclei), "channels": 3, "classes": 2},
    }
    for name, like in LIKE.items():
        cases = {"shapes": [like["shape"]], "spacings": [like["spacing"]], "repeat": like["cases"]}
        sets[name] = {"cases": cases, "channels": 1, "classes": like["classes"]}
    return sets


def _volumes(paths: Sequence[Path]) -> dict[str, Any]:
    import nibabel as nib

    images = [nib.as_closest_canonical(nib.load(path)) for path in paths]
    grids = sorted(
        ([*map(int, image.shape[:3])], [round(float(edge), 6) for edge in image.header.get_zooms()[:3]])
        for image in images
    )
    return {"shapes": [shape for shape, _ in grids], "spacings": [spacing for _, spacing in grids]}


def _pictures(paths: Sequence[Path]) -> dict[str, Any]:
    from PIL import Image

    shapes = []
    for path in paths:
        with Image.open(path) as picture:
            shapes.append([picture.width, picture.height])
    return {"shapes": sorted(shapes), "spacings": [[1.0, 1.0]] * len(shapes)}


def spelled_out(cases: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    """The shapes and spacings of all cases, where alike ones are written once."""
    return {key: cases[key] * cases.get("repeat", 1) for key in ("shapes", "spacings")}


# --- nnU-Net ----------------------------------------------------------------------------------------------------------


def record(data: Path, nnunet: Path, path: Path) -> None:
    """Write down the data sets and nnU-Net's plans for them."""
    sets = data_sets(data)
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ, "nnUNet_raw": f"{folder}/raw", "nnUNet_preprocessed": f"{folder}/preprocessed",
            "nnUNet_results": f"{folder}/results", "nnUNet_n_proc_DA": "1",
        }  # fmt: skip
        command = [str(nnunet), str(Path(__file__).resolve()), "nnunet"]
        done = subprocess.run(  # noqa: S603  (the interpreter a person named)
            command, input=json.dumps(sets), stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
    plans = json.loads(done.stdout.splitlines()[-1])
    lines = [f"{json.dumps(name)}: {json.dumps({**sets[name], 'nnunet': plans[name]})}" for name in sets]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def plans_of_nnunet(sets: Mapping[str, Any]) -> dict[str, Any]:
    """In nnU-Net's environment: its plans by data set, planner and configuration, with axes in our order."""
    import contextlib
    import importlib

    import torch

    if not torch.cuda.is_available():  # torchvision's CUDA build does not import without CUDA
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch.set_num_threads(1)
    plans: dict[str, Any] = {}
    with contextlib.redirect_stdout(sys.stderr):
        for number, (name, described) in enumerate(sets.items(), 1):
            identifier = f"Dataset{number:03d}_Set"
            _write_for_nnunet(identifier, described)
            plans[name] = {}
            for planner, (module_name, class_name) in PLANNERS.items():
                module = importlib.import_module(f"nnunetv2.experiment_planning.experiment_planners.{module_name}")
                planned = getattr(module, class_name)(identifier).plan_experiment()
                forward = planned["transpose_forward"]
                plans[name][planner] = {
                    key: _in_our_axes(configuration, forward)
                    for key, configuration in planned["configurations"].items()
                    if "patch_size" in configuration
                }
    return plans


def _write_for_nnunet(identifier: str, described: Mapping[str, Any]) -> None:
    cases = spelled_out(described["cases"])
    flat = len(cases["shapes"][0]) == 2
    shapes = [[1, *shape[::-1]] if flat else shape[::-1] for shape in cases["shapes"]]
    spacings = [[FLAT, *spacing[::-1]] if flat else spacing[::-1] for spacing in cases["spacings"]]
    statistics = dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0)
    channels = {str(channel): "MRI" for channel in range(described["channels"])}
    folder, preprocessed = (Path(os.environ[key]) / identifier for key in ("nnUNet_raw", "nnUNet_preprocessed"))
    (folder / "imagesTr").mkdir(parents=True)
    preprocessed.mkdir(parents=True)
    for number in range(len(shapes)):
        for channel in range(described["channels"]):
            (folder / "imagesTr" / f"case_{number:04d}_{channel:04d}.nii.gz").touch()
    description = {
        "channel_names": channels,
        "labels": {f"label {value}" if value else "background": value for value in range(described["classes"])},
        "numTraining": len(shapes),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    fingerprint = {
        "spacings": spacings,
        "shapes_after_crop": shapes,
        "foreground_intensity_properties_per_channel": dict.fromkeys(channels, statistics),
        "median_relative_size_after_cropping": 1.0,
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint), encoding="utf-8")


def _in_our_axes(configuration: Mapping[str, Any], forward: Sequence[int]) -> dict[str, Any]:
    """Its axes are z, y, x, transposed; a 2D configuration has the last two of the transposed ones."""
    axes = list(forward)[-len(configuration["patch_size"]) :]

    def ours(values: Sequence[float]) -> list[float]:
        return [value for _, value in sorted(zip(axes, values, strict=True), reverse=True)]

    arguments = configuration["architecture"]["arch_kwargs"]
    blocks = arguments.get("n_blocks_per_stage", arguments.get("n_conv_per_stage"))
    return {
        "spacing": [round(float(edge), 6) for edge in ours(configuration["spacing"])],
        "patch_size": [int(edge) for edge in ours(configuration["patch_size"])],
        "strides": [[int(stride) for stride in ours(stage)] for stage in arguments["strides"]],
        "kernel_sizes": [[int(size) for size in ours(stage)] for stage in arguments["kernel_sizes"]],
        "channels": [int(count) for count in arguments["features_per_stage"]],
        "blocks": [int(count) for count in blocks],
        "batch_size": int(configuration["batch_size"]),
    }


# --- ours -------------------------------------------------------------------------------------------------------------


def our_plan(described: Mapping[str, Any], planner: str, configuration: Configuration | None) -> Any:
    """Our plan for what one of nnU-Net's planners planned for; raises as `make_plan`."""
    from unet_bundle.planning.card import load_card
    from unet_bundle.planning.plan import make_plan

    cases = spelled_out(described["cases"])
    count = len(cases["shapes"])
    labels = {f"label {value}" if value else "background": value for value in range(described["classes"])}
    memory, encoder = OURS[planner]
    card = {
        "name": "set", "modality": {str(channel): "MRI" for channel in range(described["channels"])},
        "labels": {str(value): name for name, value in labels.items()},
    }  # fmt: skip
    loaded = load_card(None, card)
    loaded.overrides["network"] = {"encoder": encoder}
    loaded = dataclasses.replace(loaded, folds=2)
    statistics = {"percentile_00_5": 0, "percentile_99_5": 1, "mean": 0, "std": 1, "median": 0, "min": 0, "max": 1}
    fingerprint = {
        "format": 1, "spatial_dims": len(cases["shapes"][0]), "num_cases": count, "num_subjects": count,
        "num_channels": described["channels"], "cases": cases, "orientations": {"RAS": count},
        "intensities": [statistics] * described["channels"],
        "labels": {name: {"cases": count, "voxels": 1, "ml": 1.0} for name in labels},
    }  # fmt: skip
    return make_plan(fingerprint, loaded, memory, configuration)


def table(recorded: Mapping[str, Any]) -> str:
    """Rows of both plans, side by side."""
    from unet_bundle.errors import ConfigError

    head = ["scans", "nnU-Net's planner", "configuration", "", "spacing (mm)", "patch", "total stride; stages", "batch"]
    lines = [head, ["---"] * len(head)]
    for name, described in recorded.items():
        for planner, configurations in described["nnunet"].items():
            for key, theirs in configurations.items():
                flat = len(described["cases"]["shapes"][0]) == 2
                views: dict[str, Configuration | None] = {
                    "2d": None if flat else "2d", "3d_fullres": "full", "3d_lowres": "low",
                }  # fmt: skip
                wanted = views[key]
                lines.append([name, planner, key, "nnU-Net", *_cells(theirs)])
                try:
                    plan = our_plan(described, planner, wanted)
                    ours = {
                        "spacing": [e for axis, e in enumerate(plan.spacing) if axis != plan.slice_axis],
                        "patch_size": plan.patch_size, "strides": plan.network["strides"],
                        "kernel_sizes": plan.network["kernel_sizes"], "batch_size": plan.batch_size,
                    }  # fmt: skip
                    same = all(ours[k] == theirs[k] for k in ("patch_size", "strides", "kernel_sizes"))
                    cells = _cells(ours)
                    lines.append(["", f"`{OURS[planner][0]}` {OURS[planner][1]}", "same" if same else "**differs**",
                                  "ours", *cells])  # fmt: skip
                except ConfigError as error:
                    lines.append(["", f"`{OURS[planner][0]}`", "**differs**", "ours", str(error), "", "", ""])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(plan: Mapping[str, Any]) -> list[str]:
    total = [math.prod(axis) for axis in zip(*plan["strides"], strict=True)]
    thin = [stage for stage, kernel in enumerate(plan["kernel_sizes"]) if 1 in kernel]
    stages = f"{len(plan['strides'])}" + (f", flat kernels in {len(thin)}" if thin else "")
    return [
        " x ".join(f"{edge:.3g}" for edge in plan["spacing"]),
        " x ".join(map(str, plan["patch_size"])),
        f"{' x '.join(map(str, total))}; {stages}",
        str(plan["batch_size"]),
    ]


if __name__ == "__main__":
    main()
