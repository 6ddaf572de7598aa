"""Does an imported model of nnU-Net answer as nnU-Net does? Voxel for voxel, on the scans' own grids.

nnU-Net's own predictor runs in an environment of its own (float32, no mirroring), the imported bundle in this one:

    python scripts/compare_nnunet_import.py --peers PEERS/bin/python --model MODEL_FOLDER --scans scan.nii.gz
    python scripts/compare_nnunet_import.py --peers PEERS/bin/python --data DATA --work WORK    # six small models

Without a model, small networks are fitted for a minute each: CT, thick sagittal slices (3D, and 2D slice by slice),
pictures, hippocampus (a residual network in two folds), and overlapping regions with a mask of what is not zero.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

PEER = Path(__file__).with_name("nnunet_import_peer.py")
GROUPS = {"lung": range(10, 15), "liver": (5,), "bones": range(25, 51)}


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, required=True, help="python of an environment that has nnunetv2")
    parser.add_argument("--model", type=Path, help="a model folder; without it, small ones are fitted")
    parser.add_argument("--scans", nargs="+", default=[], help="files; those of several channels joined by commas")
    parser.add_argument("--data", type=Path, help="folder of the development data sets")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "unet-bundle-nnunet-import")
    parser.add_argument("--seconds", type=int, default=45, help="of fitting, for each fold")
    parser.add_argument("--cases", nargs="+", default=[], help="these of the small models")
    args = parser.parse_args()
    if args.model is not None:
        compare(args.peers, args.model, [scan.split(",") for scan in args.scans], args.work / "own")
        return
    for case in small_cases(args.data, args.work, args.seconds):
        name = Path(case["folder"]).parent.name
        if args.cases and name not in args.cases:
            continue
        if not (Path(case["folder"]) / f"fold_{case['folds'] - 1}" / "checkpoint_final.pth").exists():
            description = Path(case["folder"]).with_suffix(".json")
            description.write_text(json.dumps(case), encoding="utf-8")
            run(args.peers, "fit", description)
        compare(args.peers, Path(case["folder"]), case["scans"], args.work / name)


def run(python: Path, *arguments: str | Path) -> None:
    """Run the other side."""
    subprocess.run([python, "-W", "ignore", PEER, *arguments], check=True, stdout=subprocess.DEVNULL)  # noqa: S603


def compare(python: Path, model: Path, scans: list[list[str]], work: Path) -> None:
    """Predict with both, and print a line a scan."""
    from unet_bundle.planning.nnunet_import import import_model, write_imported
    from unet_bundle.planning.nnunet_import_folder import read_nnunet_folder
    from unet_bundle.predictor import Predictor

    results = work / "nnunet"
    results.mkdir(parents=True, exist_ok=True)
    (work / "scans.json").write_text(json.dumps(scans), encoding="utf-8")
    run(python, "predict", model, results, work / "scans.json")
    write_imported(import_model(read_nnunet_folder(model)), work / "bundle")
    predictor = Predictor(work / "bundle")
    ending = json.loads((model / "dataset.json").read_text(encoding="utf-8"))["file_ending"]
    for number, files in enumerate(scans):
        begun = time.perf_counter()
        ours = predictor(files[0] if len(files) == 1 else files)[0].numpy().astype(int)
        seconds = time.perf_counter() - begun
        theirs = read(results / f"{number}{ending}")
        foreground = (ours > 0) | (theirs > 0)
        differ = int((ours != theirs).sum())
        agreement = 1 - differ / max(int(foreground.sum()), 1)
        dice = [
            2 * int(((ours == value) & (theirs == value)).sum()) / int((ours == value).sum() + (theirs == value).sum())
            for value in np.unique(theirs)[1:]
        ]
        sys.stdout.write(
            f"{work.name}: {agreement:.5%} of {int(foreground.sum())} foreground voxels agree ({differ} of {ours.size} "
            f"differ), Dice with each other {', '.join(f'{value:.6f}' for value in dice)}; ours {seconds:.1f} s\n"
        )
        sys.stdout.flush()


def read(path: Path) -> np.ndarray:
    """A label map with the axes of ours."""
    if path.suffix == ".png":
        return np.asarray(Image.open(path)).T.astype(int)
    return np.asarray(nibabel.load(path).dataobj).astype(int)


def small_cases(data: Path, work: Path, seconds: int) -> list[dict[str, Any]]:
    """Scans, labels and plans of six small models."""
    made = work / "data"
    made.mkdir(parents=True, exist_ok=True)
    loaded = [
        nibabel.load(data / f"totalsegmentator_examples/ct/{name}.nii.gz")
        for name in ("example_ct", "example_ct_seg_fast")
    ]
    ct, organs = (np.asarray(each.dataobj) for each in loaded)
    classes = sum(number * np.isin(organs, list(values)) for number, values in enumerate(GROUPS.values(), start=1))
    _save(made / "ct.nii.gz", ct.astype(np.int16), loaded[0].affine)
    _save(made / "ct_label.nii.gz", classes.astype(np.uint8), loaded[0].affine)
    # Thick sagittal slices, each of twice as many pixels: 1.5 x 1.5 mm and 9 mm apart.
    for name, array, order in (("thick", ct, 1), ("thick_label", classes, 0)):
        slices = array[::3].repeat(2, axis=1).repeat(2, axis=2)[:, 40:180, 20:200]
        _save(made / f"{name}.nii.gz", slices.astype(np.int16 if order else np.uint8), np.diag([-9.0, 1.5, 1.5, 1.0]))
    pictures = sorted((data / "dsb2018_nuclei/images").glob("*.png"))[:6]
    for number, path in enumerate(pictures):
        grey = np.asarray(Image.open(path).convert("L"))
        Image.fromarray(grey.clip(1)[:, : 200 + number]).save(made / f"picture_{number}.png")
        nuclei = np.asarray(Image.open(data / "dsb2018_nuclei/labels" / path.name)) > 0
        Image.fromarray(nuclei.astype(np.uint8)[:, : 200 + number]).save(made / f"picture_{number}_label.png")
    hippocampi = sorted((data / "task04_hippocampus/imagesTr").glob("h*.nii.gz"))[:4]
    outlines = [data / "task04_hippocampus/labelsTr" / path.name for path in hippocampi]
    for number, path in enumerate(hippocampi):
        scan = nibabel.load(path)
        voxels = np.asarray(scan.dataobj).astype(np.float32)
        edge = np.linalg.norm([(np.arange(side) - side / 2) / side for side in voxels.shape[:1]], axis=0) < 0.45
        voxels[~edge] = 0  # as after brain extraction
        voxels[:, :3] = 0
        _save(made / f"masked_{number}.nii.gz", voxels, scan.affine @ np.diag([1, 1, 1.7, 1]))
        _save(
            made / f"masked_{number}_label.nii.gz", np.asarray(nibabel.load(outlines[number]).dataobj).astype(np.uint8),
            scan.affine @ np.diag([1, 1, 1.7, 1]),
        )  # fmt: skip
    ct_labels = {"background": 0, "lung": 1, "liver": 2, "bones": 3}
    parts = {"background": 0, "anterior": 1, "posterior": 2}
    regions = {"background": 0, "hippocampus": [1, 2], "posterior": 2}
    thick = {
        "scans": [[str(made / "thick.nii.gz")]],
        "labels": [str(made / "thick_label.nii.gz")],
        "transpose": [2, 0, 1],
    }
    cases = [
        _case("ct", {0: "CT"}, ct_labels, [4.0, 3.5, 3.5], [32, 40, 40], "CTNormalization", seconds,
              scans=[[str(made / "ct.nii.gz")]], labels=[str(made / "ct_label.nii.gz")]),
        _case("thick", {0: "CT"}, ct_labels, [6.0, 2.1, 2.0], [14, 48, 56], "CTNormalization", seconds, **thick,
              kernels=[[1, 3, 3], [3, 3, 3], [3, 3, 3]], strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]]),
        _case("slices", {0: "CT"}, ct_labels, [2.1, 2.0], [64, 80], "CTNormalization", seconds, **thick),
        _case("pictures", {0: "grey"}, {"background": 0, "nucleus": 1}, [1.0, 1.0], [96, 112], "ZScoreNormalization",
              seconds, scans=[[str(made / f"picture_{n}.png")] for n in range(6)],
              labels=[str(made / f"picture_{n}_label.png") for n in range(6)], reader="NaturalImage2DIO"),
        _case("hippocampus", {0: "MRI"}, parts, [1.0, 1.2, 0.9], [40, 40, 32], "ZScoreNormalization", seconds,
              scans=[[str(path)] for path in hippocampi], labels=[str(path) for path in outlines], residual=True,
              folds=2),
        _case("regions", {0: "MRI"}, regions, [1.1, 1.2, 0.9], [40, 40, 32], "ZScoreNormalization", seconds,
              scans=[[str(made / f"masked_{n}.nii.gz")] for n in range(4)], masked=True,
              labels=[str(made / f"masked_{n}_label.nii.gz") for n in range(4)]),
    ]  # fmt: skip
    for case in cases:
        case["folder"] = str(work / case["folder"] / f"nnUNetTrainer__nnUNetPlans__{case['configuration']}")
        Path(case["folder"]).parent.mkdir(exist_ok=True)
    return cases


def _save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)


def _case(
    name: str, channels: dict[int, str], classes: dict[str, Any], spacing: list[float], patch: list[int], scheme: str,
    seconds: int, *, scans: list[list[str]], labels: list[str], folds: int = 1, reader: str = "SimpleITKIO",
    transpose: list[int] | None = None, kernels: Any = None, strides: Any = None, residual: bool = False,
    masked: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """A model: three stages, its preparation as nnU-Net plans it."""
    dims = len(patch)
    resampling, separate = "resample_data_or_seg_to_shape", {"order_z": 0, "force_separate_z": None}
    depths = {"n_blocks_per_stage": [1, 2, 2]} if residual else {"n_conv_per_stage": [2, 2, 2]}
    configuration = {
        "data_identifier": name, "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": patch,
        "median_image_size_in_voxels": patch, "spacing": spacing, "normalization_schemes": [scheme],
        "use_mask_for_norm": [masked], "batch_dice": False, "resampling_fn_data": resampling,
        "resampling_fn_seg": resampling, "resampling_fn_probabilities": resampling,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **separate},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **separate},
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **separate},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet."
            + ("ResidualEncoderUNet" if residual else "PlainConvUNet"),
            "arch_kwargs": {
                "n_stages": 3, "features_per_stage": [8, 16, 32], "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": kernels or [[3] * dims] * 3, "strides": strides or [[1] * dims, [2] * dims, [2] * dims],
                **depths, "n_conv_per_stage_decoder": [1, 2], "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }  # fmt: skip
    intensities = {
        "mean": 40.0, "std": 250.0, "percentile_00_5": -900.0, "percentile_99_5": 900.0, "min": -1024.0, "max": 3000.0,
        "median": 50.0,
    }  # fmt: skip
    key = "2d" if dims == 2 else "3d_fullres"
    order = transpose or [0, 1, 2]
    return {
        "folder": name, "configuration": key, "folds": folds, "seconds": seconds, "scans": scans, "labels": labels,
        "dataset": {
            "channel_names": {str(number): text for number, text in channels.items()}, "labels": classes,
            "numTraining": len(scans), "file_ending": ".png" if reader == "NaturalImage2DIO" else ".nii.gz",
            **({"regions_class_order": [1, 2]} if any(isinstance(value, list) for value in classes.values()) else {}),
        },
        "plans": {
            "dataset_name": f"Dataset001_{name}", "plans_name": "nnUNetPlans", "image_reader_writer": reader,
            "transpose_forward": order, "transpose_backward": [order.index(axis) for axis in range(3)],
            "original_median_spacing_after_transp": spacing, "original_median_shape_after_transp": patch,
            "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {"0": intensities}, "configurations": {key: configuration},
        },
    }  # fmt: skip


if __name__ == "__main__":
    main()
