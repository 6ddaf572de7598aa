"""What `benchmark_inference.py` measures on: scans, and one set of weights as a bundle and as a folder of nnU-Net.

Each stage runs in a process of its own, in the environment whose libraries it needs, and leaves its result as a file:

    python inference_case.py STAGE CASE.json
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers import mend_torchvision

EXTENT = (358.4, 376.32, 490.5)
"""Millimetres of the scan: the example is stretched to it, so that 1.5 mm give 239x251x327 voxels."""
GROUPS = {
    "spleen": 1, "kidney_right": 2, "kidney_left": 3, "gallbladder": 4, "liver": 5, "stomach": 6, "pancreas": 7,
    "lung": "10-14", "small_bowel": 18, "duodenum": 19, "colon": 20, "bladder": 21, "vertebrae": "25-50", "aorta": 52,
    "vena_cava": 63, "portal_vein": 64, "iliac_vessels": "65-68", "femur": "75-76", "hip": "77-78", "spinal_cord": 79,
    "gluteus": "80-85", "back_muscles": "86-87", "iliopsoas": "88-89", "ribs": "92-115",
}  # fmt: skip
"""Classes made of values of TotalSegmentator's task "total", version 2."""
FEW_GROUPS = {"organs": "1-24", "bones": "25-50"}
IMPORTED = "imported"
"""The bundle that is imported from nnU-Net's folder."""
LEARNING_RATE = 1e-3
KEPT_EVERY = 50
"""Steps of the fit after which its state is kept, so that it goes on where it was ended."""
FIRST_STEPS = 20
"""Of the fit, in which the learning rate rises: without, it was stuck at twice the loss."""
LAST_STEPS = 200
"""Of the fit, which see patches as large as inference's windows; those before take a third of the time."""


@dataclass(frozen=True)
class Case:
    """Sizes of everything.

    Attributes:
        work: folder of all files.
        example: folder of the CT and its label map.
        shape: voxels of the scan.
        pitch: voxel edge of the network's grid, mm.
        groups: values of the label files by class, background left out.
        channels: of the network's stages.
        patch: edge of a window.
        fit_steps: of the fit.
        threads: of every process.
        pictures: how many of the small pictures there are.
        side: pixels of their edge.
        picture_channels: of the stages of the 2D network.
    """

    work: str
    example: str
    shape: tuple[int, int, int]
    pitch: float
    groups: dict[str, Any]
    channels: list[int]
    patch: int
    fit_steps: int
    threads: int
    pictures: int
    side: int
    picture_channels: list[int]

    def path(self, *parts: str) -> Path:
        """Of a file in the work folder."""
        return Path(self.work).joinpath(*parts)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel edges of the scan, mm."""
        return tuple(extent / side for extent, side in zip(EXTENT, self.shape, strict=True))

    def write(self) -> Path:
        """Write it as JSON, for other processes."""
        path = self.path("case.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")
        return path


def read_case(path: str) -> Case:
    """The case another process wrote."""
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    return Case(**{**values, "shape": tuple(values["shape"])})


def make_scan(case: Case, slices: int | None = None) -> None:
    """Write the CT, and for the fit its label map; for another number of slices the CT alone, mirrored on and on."""
    import nibabel
    import numpy as np
    from scipy.ndimage import affine_transform

    affine = np.diag([*case.spacing, 1.0])
    if slices is not None:
        source = np.asarray(nibabel.load(case.path("scan.nii.gz")).dataobj)
        turns = np.concatenate([np.arange(source.shape[2]), np.arange(source.shape[2])[::-1]])
        taken = source[:, :, np.resize(turns, slices)]
        nibabel.save(nibabel.Nifti1Image(taken, affine), case.path("scale", f"scan_{slices}.nii.gz"))
        return
    for name, file, order in (("label", "example_ct_seg_fast", 0), ("scan", "example_ct", 1)):
        loaded = nibabel.load(Path(case.example, f"{file}.nii.gz"))
        source = np.asarray(loaded.dataobj).astype(np.float32)
        steps = np.array(source.shape) / np.array(case.shape)
        resampled = affine_transform(
            source, np.diag(steps), offset=steps / 2 - 0.5, output_shape=case.shape, order=order, mode="nearest"
        )
        nibabel.save(nibabel.Nifti1Image(np.round(resampled).astype(np.int16), affine), case.path(f"{name}.nii.gz"))


def make_bundle(case: Case, name: str = "bundle", groups: dict[str, Any] | None = None) -> None:
    """Plan a bundle for the example, with the network, spacing and window of the case, and give it random weights."""
    groups = groups or case.groups
    values = {"background": "rest", **groups}
    _plan(
        case,
        name,
        {
            "name": "benchmark", "modality": ["CT"], "labels": _numbered(values), "label_values": values, "folds": 2,
            "image_files": "{case}.nii.gz", "label_files": "{case}_seg*.nii.gz",
            "overrides": {
                "configuration": "full", "spacing": [case.pitch] * 3, "patch_size": [case.patch] * 3, "overlap": 0.5,
                "network": _network(case.channels),
            },
        },
        Path(case.example),
    )  # fmt: skip


def make_many_class_bundle(case: Case) -> None:
    """The bundle with a class for each of the values 1 to 104, with random weights."""
    make_bundle(case, "bundle_105", {f"structure_{value}": value for value in range(1, 105)})


def make_pictures(case: Case) -> None:
    """Write small pictures, slices of the example along all axes, and a bundle of a 2D network with random weights."""
    import nibabel
    import numpy as np
    from PIL import Image

    scan, label = (
        np.asarray(nibabel.load(Path(case.example, f"{file}.nii.gz")).dataobj).astype(np.float32)
        for file in ("example_ct", "example_ct_seg_fast")
    )
    data = case.path("picture_data")
    for folder in (case.path("pictures"), case.path("picture_labels"), data):
        folder.mkdir(exist_ok=True)
    grey = ((scan + 160) * (254 / 400)).clip(1, 255)  # from 1 on: nnU-Net cuts borders of zeros away
    places = [(axis, index) for axis in range(3) for index in range(scan.shape[axis])]
    places = [
        (axis, index) for axis, index in places if np.ptp(grey.take(index, axis)) > 1
    ]  # one grey alone is no scan
    for number in np.linspace(0, len(places) - 1, case.pictures).astype(int):
        axis, index = places[number]
        name = f"slice_{axis}_{index:03}.png"
        for source, folder, filtering in (
            (grey, "pictures", Image.Resampling.BILINEAR),
            ((label > 0).astype(np.float32), "picture_labels", Image.Resampling.NEAREST),
        ):
            plane = source.take(index, axis).astype(np.uint8)
            Image.fromarray(plane).resize((case.side, case.side), filtering).save(case.path(folder, name))
    for path in sorted(case.path("pictures").iterdir())[:: max(case.pictures // 20, 1)]:
        (data / path.name).write_bytes(path.read_bytes())
        (data / f"{path.stem}_mask.png").write_bytes(case.path("picture_labels", path.name).read_bytes())
    _plan(
        case,
        "picture_bundle",
        {
            "name": "benchmark_2d", "modality": ["grey"], "labels": {"background": 0, "body": 1}, "folds": 2,
            "image_files": "{case}.png", "label_files": "{case}_mask.png",
            "overrides": {
                "patch_size": [case.side] * 2, "overlap": 0.5, "network": _network(case.picture_channels),
                "normalization": [{"scheme": "zscore"}],
            },
        },
        data,
    )  # fmt: skip


def _network(channels: list[int]) -> dict[str, Any]:
    return {
        "channels": channels, "kernel_sizes": 3, "strides": 2, "convolutions_per_stage": 2, "encoder": "plain",
        "deep_supervision": False,
    }  # fmt: skip


def _numbered(values: dict[str, Any]) -> dict[str, int]:
    return {name: number for number, name in enumerate(values)}


def _plan(case: Case, name: str, card: dict[str, Any], data: Path) -> None:
    """Write a bundle with ``unet-bundle plan`` from a task card and labelled scans, and random weights."""
    import torch
    import yaml

    from unet_bundle.networks import UNet

    card_file = case.path(f"{name}.yaml")
    card_file.write_text(yaml.safe_dump(card, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "-m", "unet_bundle.cli", "plan", data, "--card", card_file]
    subprocess.run([*command, "--output", case.path(name)], check=True, stdout=sys.stderr)  # noqa: S603  (our own)
    torch.manual_seed(0)
    definition = {key: value for key, value in config(case, name)["network_def"].items() if key != "_target_"}
    case.path(name, "models").mkdir(exist_ok=True)
    torch.save(UNet(**definition).state_dict(), case.path(name, "models", "model.pt"))


def config(case: Case, bundle: str) -> dict[str, Any]:
    """The bundle's ``inference.json``."""
    content: dict[str, Any] = json.loads(case.path(bundle, "configs", "inference.json").read_text(encoding="utf-8"))
    return content


def network(case: Case, bundle: str) -> Any:
    """The bundle's network with its weights, for inference."""
    import torch

    from unet_bundle.networks import UNet

    definition = {key: value for key, value in config(case, bundle)["network_def"].items() if key != "_target_"}
    made = UNet(**definition).eval()
    made.load_state_dict(torch.load(case.path(bundle, "models", "model.pt"), weights_only=True))
    return made


def fit(case: Case) -> None:
    """Fit the bundle's weights to the scan and its labels: patches at random and round voxels of every class alike."""
    import numpy as np
    import torch

    from unet_bundle.io import LoadImaged
    from unet_bundle.transforms import MergeLabelsd, NormalizeChannelsd, ResampleToSpacingd

    settings, keys = config(case, "bundle"), ["image", "label"]
    scan = {"image": str(case.path("scan.nii.gz")), "label": str(case.path("label.nii.gz"))}
    for transform in (
        LoadImaged(keys, channels=[1, 1]),
        MergeLabelsd("label", [["rest"], *([values] for values in case.groups.values())]),
        ResampleToSpacingd(keys, settings["spacing"], mode=["bilinear", "nearest"]),
        NormalizeChannelsd("image", settings["normalization"]),
    ):
        scan = transform(scan)  # type: ignore[operator]
    image, label = (torch.as_tensor(np.asarray(scan[key])) for key in keys)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = network(case, "bundle").train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    places = [torch.nonzero(label[0] == value) for value in range(len(case.groups) + 1)]
    places = [found for found in places if len(found)]
    kept, begun = case.path("fit.pt"), 0
    if kept.exists():
        state = torch.load(kept, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        begun = state["step"]
    compiled, losses = torch.compile(model, dynamic=False), []
    for step in range(begun, case.fit_steps):
        generator = torch.Generator().manual_seed(step)
        full = step >= case.fit_steps - LAST_STEPS
        edge = case.patch if full else max(case.patch * 2 // 3, 2 ** len(case.channels))
        found = places[int(torch.randint(len(places), (1,), generator=generator))]
        centre = found[int(torch.randint(len(found), (1,), generator=generator))]
        starts = [max(0, min(int(c) - edge // 2, s - edge)) for c, s in zip(centre, image.shape[1:], strict=True)]
        window = (slice(None), *(slice(start, start + edge) for start in starts))
        with torch.autocast(device.type, torch.bfloat16):
            logits = compiled(image[window][None].float().to(device))
        value = _loss(logits.float(), label[window][None, 0].long().to(device))
        warm = min((step + 1) / FIRST_STEPS, 1.0)
        optimizer.param_groups[0]["lr"] = warm * LEARNING_RATE * (1 + math.cos(math.pi * step / case.fit_steps)) / 2
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 12)
        optimizer.step()
        losses.append(float(value))
        if (step + 1) % KEPT_EVERY == 0 or step + 1 == case.fit_steps:
            sys.stderr.write(f"step {step + 1} of {case.fit_steps}, mean loss {sum(losses) / len(losses):.3f}\n")
            losses = []
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state, kept)
    torch.save(model.cpu().state_dict(), case.path("bundle", "models", "model.pt"))


def _loss(logits: Any, label: Any) -> Any:
    """Cross-entropy, and one minus the Dice of the classes that the patch has: of 25 it has few."""
    import torch
    from torch.nn import functional

    truth = functional.one_hot(label, logits.shape[1]).movedim(-1, 1).flatten(2).float()
    found = logits.softmax(1).flatten(2)
    present = truth.sum(2) > 0
    dice = 2 * (truth * found).sum(2) / (truth.sum(2) + found.sum(2))
    return functional.cross_entropy(logits, label) + 1 - torch.masked_select(dice, present).mean()


def export(case: Case) -> None:
    """Leave weights, and logits of a patch, for the environment of nnU-Net."""
    import torch

    for bundle, shape in (("bundle", [case.patch] * 3), ("picture_bundle", [case.side] * 2)):
        model = network(case, bundle)
        patch = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            logits = model(patch)
        torch.save({"weights": model.state_dict(), "patch": patch, "logits": logits}, case.path(f"{bundle}.pt"))


def make_nnunet(case: Case) -> None:
    """Write the models as folders of nnU-Net v2, and see that their logits are ours."""
    for bundle in ("bundle", "picture_bundle"):
        _nnunet_folder(case, bundle)


def _nnunet_folder(case: Case, bundle: str) -> None:
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    settings, folder = config(case, bundle), case.path(f"nnunet_{bundle}")
    planes = settings["network_def"]["spatial_dims"] == 2
    architecture = _architecture(settings["network_def"])
    made = get_network_from_plans(
        architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"], 1,
        settings["network_def"]["out_channels"], deep_supervision=False,
    ).eval()  # fmt: skip
    left = torch.load(case.path(f"{bundle}.pt"), weights_only=True)
    stages = len(settings["network_def"]["channels"])
    state = {}
    for key, own in made.state_dict().items():
        # Axes are the other way round there, as SimpleITK gives them.
        ours = left["weights"].get(_our_name(key, stages))
        state[key] = own if ours is None else _reversed_axes(ours)
    made.load_state_dict(state)
    with torch.no_grad():
        logits = _reversed_axes(made(_reversed_axes(left["patch"])))
    difference = float((logits - left["logits"]).abs().max())
    sys.stderr.write(f"{bundle}: logits of nnU-Net's network differ from ours by {difference:.1e} at most\n")
    if difference > 1e-4 * max(1.0, float(left["logits"].abs().max())):
        sys.exit("nnU-Net's network does not have our weights: mend _our_name")
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "network_weights": state, "trainer_name": "nnUNetTrainer", "inference_allowed_mirroring_axes": None,
            "init_args": {"configuration": "2d" if planes else "3d_fullres"},
        },
        folder / "fold_0" / "checkpoint_final.pth",
    )  # fmt: skip
    ending = ".png" if planes else ".nii.gz"
    dataset = {
        "channel_names": {"0": "grey" if planes else "CT"}, "labels": settings["labels"], "numTraining": 1,
        "file_ending": ending,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    (folder / "plans.json").write_text(json.dumps(_plans(settings, architecture)), encoding="utf-8")


def make_imported(case: Case) -> None:
    """Import nnU-Net's folder as a bundle: the same weights, and scans prepared as there."""
    command = [sys.executable, "-W", "ignore", "-m", "unet_bundle.cli", "import-nnunet", case.path("nnunet_bundle")]
    subprocess.run([*command, "--output", case.path(IMPORTED)], check=True, stdout=sys.stderr)  # noqa: S603  (our own)


def _reversed_axes(tensor: Any) -> Any:
    """With spatial axes in the opposite order; vectors as they are."""
    return tensor.permute(0, 1, *range(tensor.ndim - 1, 1, -1)).contiguous() if tensor.ndim > 1 else tensor


def _our_name(key: str, stages: int) -> str:
    """What we call a weight of nnU-Net's ``PlainConvUNet``, whose modules are registered several times over."""
    key = re.sub(r"all_modules\.(\d)", lambda found: ("conv", "norm")[int(found[1])], key)
    key = key.removeprefix("decoder.") if key.startswith("decoder.encoder.") else key
    key = re.sub(r"^encoder\.stages\.(\d+)\.\d+\.convs\.(\d+)\.", r"encoder.\1.\2.", key)
    key = re.sub(r"^decoder\.stages\.(\d+)\.convs\.(\d+)\.", r"decoder.\1.convolutions.\2.", key)
    key = re.sub(r"^decoder\.transpconvs\.(\d+)\.", r"decoder.\1.upsampling.", key)
    key = key.replace(f"decoder.seg_layers.{stages - 2}.", "heads.0.")
    return key.replace(".conv.", ".convolution.")


def _architecture(definition: dict[str, Any]) -> dict[str, Any]:
    """The network as plans of nnU-Net have it."""
    dims, stages = definition["spatial_dims"], len(definition["channels"])
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages, "features_per_stage": definition["channels"],
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d", "kernel_sizes": [[3] * dims] * stages,
            "strides": [[1] * dims] + [[2] * dims] * (stages - 1), "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1), "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }  # fmt: skip


def _plans(settings: dict[str, Any], architecture: dict[str, Any]) -> dict[str, Any]:
    """``plans.json``: nnU-Net's own defaults, with the spacing, window and normalisation of the bundle."""
    planes = settings["network_def"]["spatial_dims"] == 2
    scheme = settings["normalization"][0]
    spacing = [1.0, 1.0] if planes else settings["spacing"][::-1]
    resampling = "resample_data_or_seg_to_shape"
    options = {"order_z": 0, "force_separate_z": None}
    intensities = {
        "mean": scheme.get("mean"), "std": scheme.get("std"), "percentile_00_5": scheme.get("lower"),
        "percentile_99_5": scheme.get("upper"),
    }  # fmt: skip
    return {
        "dataset_name": "Dataset001_Benchmark", "plans_name": "nnUNetPlans", "label_manager": "LabelManager",
        "original_median_spacing_after_transp": spacing, "experiment_planner_used": "ExperimentPlanner",
        "original_median_shape_after_transp": settings["patch_size"][::-1],
        "image_reader_writer": "NaturalImage2DIO" if planes else "SimpleITKIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "configurations": {
            "2d" if planes else "3d_fullres": {
                "data_identifier": "benchmark", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
                "patch_size": settings["patch_size"][::-1], "spacing": spacing, "batch_dice": False,
                "median_image_size_in_voxels": settings["patch_size"][::-1],
                "normalization_schemes": ["ZScoreNormalization" if planes else "CTNormalization"],
                "use_mask_for_norm": [False], "resampling_fn_data": resampling, "resampling_fn_seg": resampling,
                "resampling_fn_probabilities": resampling,
                "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **options},
                "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **options},
                "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **options},
                "architecture": architecture,
            }
        },
    }  # fmt: skip


STAGES = {
    "scan": make_scan,
    "bundle": make_bundle,
    "pictures": make_pictures,
    "fit": fit,
    "export": export,
    "nnunet": make_nnunet,
    "import": make_imported,
    "bundle_105": make_many_class_bundle,
}


if __name__ == "__main__":
    stage, _, number = sys.argv[1].partition(":")
    case = read_case(sys.argv[2])
    if stage == "nnunet":
        os.environ.update(nnUNet_raw=case.work, nnUNet_preprocessed=case.work, nnUNet_results=case.work)

        mended = mend_torchvision()
    if number:
        make_scan(case, int(number))
    else:
        STAGES[stage](case)
