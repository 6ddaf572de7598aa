"""A model folder of nnU-Net becomes a bundle with its answers; what is not known is refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from unet_bundle.cli import main
from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.networks import UNet
from unet_bundle.planning.nnunet_import import import_model, imported_files, write_imported
from unet_bundle.planning.nnunet_import_folder import read_nnunet_folder
from unet_bundle.predictor import Predictor

architectures = pytest.importorskip("dynamic_network_architectures.architectures.unet", reason="needs the test extra")

KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
SPACING, PATCH = [4.0, 1.5, 1.25], [12, 24, 20]


def arch_kwargs(dims: int = 3, residual: bool = False) -> dict[str, Any]:
    """As plans state a network; the finest stages see single slices."""
    depth = {"n_blocks_per_stage": [1, 2, 1]} if residual else {"n_conv_per_stage": [2, 1, 2]}
    return {
        "n_stages": 3, "features_per_stage": [4, 6, 6], "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [kernel[3 - dims :] for kernel in KERNELS], "strides": [each[3 - dims :] for each in STRIDES],
        **depth,
        "n_conv_per_stage_decoder": [1, 2], "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip


def their_network(kwargs: dict[str, Any], seed: int = 0, in_channels: int = 1, classes: int = 3) -> Any:
    """nnU-Net's network with weights of which none is zero."""
    dims = int(kwargs["conv_op"][-2])
    convolution, norm = (
        (torch.nn.Conv3d, torch.nn.InstanceNorm3d) if dims == 3 else (torch.nn.Conv2d, torch.nn.InstanceNorm2d)
    )
    made = {**kwargs, "conv_op": convolution, "norm_op": norm, "nonlin": torch.nn.LeakyReLU}
    torch.manual_seed(seed)
    name = "ResidualEncoderUNet" if "n_blocks_per_stage" in kwargs else "PlainConvUNet"
    network = getattr(architectures, name)(in_channels, num_classes=classes, deep_supervision=True, **made)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a model folder; arguments change what stands in the files."""

    def make(
        kwargs: dict[str, Any] | None = None, folds: int = 1, *, configuration: dict[str, Any] | None = None,
        plans: dict[str, Any] | None = None, dataset: dict[str, Any] | None = None, state: dict[str, Any] | None = None,
        classes: int = 3,
    ) -> Path:  # fmt: skip
        kwargs = kwargs or arch_kwargs()
        dims = int(kwargs["conv_op"][-2])
        name = "ResidualEncoderUNet" if "n_blocks_per_stage" in kwargs else "PlainConvUNet"
        key, folder = "3d_fullres" if dims == 3 else "2d", tmp_path / "model"
        own = {
            "preprocessor_name": "DefaultPreprocessor", "patch_size": PATCH[3 - dims :], "spacing": SPACING[3 - dims :],
            "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False],
            "architecture": {
                "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}", "arch_kwargs": kwargs,
            },
        }  # fmt: skip
        content = {
            "dataset_name": "Dataset007_Made_up", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2], "foreground_intensity_properties_per_channel": {},
            "configurations": {"base": {**own, **(configuration or {})}, key: {"inherits_from": "base"}},
            **(plans or {}),
        }  # fmt: skip
        description = {
            "channel_names": {"0": "T1"}, "labels": {"background": 0, "organ": 1, "tumour": 2, "ignore": 3},
            **(dataset or {}),
        }  # fmt: skip
        folder.mkdir(exist_ok=True)
        (folder / "plans.json").write_text(json.dumps(content))
        (folder / "dataset.json").write_text(json.dumps(description))
        for fold in range(folds):
            network = their_network(kwargs, fold, classes=classes)
            checkpoint = {
                "network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer_250epochs_NoMirroring",
                "init_args": {"configuration": key, "device": torch.device("cpu")}, "_best_ema": np.float64(0.5),
                "logging": {"losses": [np.float32(0.5)], "dice": np.zeros(2)},
                "inference_allowed_mirroring_axes": (0, 2) if dims == 3 else (0,), **(state or {}),
            }  # fmt: skip
            (folder / f"fold_{fold}").mkdir(exist_ok=True)
            torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
        return folder

    return make


def imported_of(folder: Path, **options: Any) -> Any:
    return import_model(read_nnunet_folder(folder, **options))


@pytest.mark.parametrize(
    ("dims", "residual", "transpose"),
    [(3, False, [0, 1, 2]), (3, True, [2, 0, 1]), (2, False, [0, 1, 2]), (2, True, [1, 2, 0])],
)
def test_logits_are_those_of_nnunets_network(make_folder, dims, residual, transpose):
    kwargs = arch_kwargs(dims, residual)
    imported = imported_of(make_folder(kwargs, plans={"transpose_forward": transpose}))
    ours = UNet(**imported.model.network)
    ours.load_state_dict(imported.weights[0])
    patch = torch.randn(1, 1, *PATCH[3 - dims :])
    expected = their_network(kwargs)(patch)
    # Ours has the file's axes: nnU-Net's are in the order of `transpose_forward`, of the file's from the last.
    own = [2 - axis for axis in transpose][3 - dims :]
    there = [0, 1, *(2 + axis for axis in sorted(range(dims), key=lambda axis: own[axis]))]
    logits = ours.train()(patch.permute(there))
    assert imported.model.patch_size == [PATCH[3 - dims :][axis - 2] for axis in there[2:]]
    assert len(logits) == len(expected) == 2
    for our_head, their_head in zip(logits, expected, strict=True):
        torch.testing.assert_close(our_head, their_head.permute(there), atol=1e-5, rtol=1e-4)


def scan_file(folder: Path) -> tuple[Path, np.ndarray]:
    """A scan with a border of zeros, thick slices along the file's last axis, off the world's axes."""
    voxels = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(26, 33, 9)), 1.0) * 500 + 300
    voxels[:3], voxels[:, -4:] = 0, 0
    affine = nib.affines.from_matvec(
        nib.eulerangles.euler2mat(0.1, 0.2, 0.0) @ np.diag([-1.0, 1.2, 5.0]), [30.0, -20.0, 7.0]
    )
    path = folder / "scan.nii.gz"
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), path)
    return path, voxels.astype(np.float32)


def expected_labels(voxels: np.ndarray, networks: list[Any]) -> np.ndarray:
    """What nnU-Net answers, step by step, for a scan that one window holds: its rules with SciPy, its own network."""
    scan = voxels.transpose()[:, :-4, 3:]
    scan = (scan - scan.mean()) / scan.std()
    shape = [round(5.0 / 4.0 * 9), round(1.2 / 1.5 * 29), round(1.0 / 1.25 * 23)]

    def resized(volume: np.ndarray, to: list[int], order: int) -> np.ndarray:
        """Each slice by itself, then the nearest slice: they are over three times as thick as pixels are wide."""
        zoom = [after / before for after, before in zip(to[1:], volume.shape[1:], strict=True)]
        planes = np.stack([ndimage.zoom(p, zoom, order=order, mode="nearest", grid_mode=True) for p in volume])
        planes = planes.clip(volume.min((1, 2), keepdims=True), volume.max((1, 2), keepdims=True))
        nearest = np.floor((np.arange(to[0]) + 0.5) * len(volume) / to[0]).astype(int)
        return planes[nearest]

    image = torch.from_numpy(resized(scan.astype(np.float64), shape, 3)).float()
    padding = [
        pad
        for edge, side in zip(PATCH[::-1], shape[::-1], strict=True)
        for pad in ((edge - side) // 2, edge - side - (edge - side) // 2)
    ]
    with torch.no_grad():
        padded = torch.nn.functional.pad(image, padding)[None, None]
        logits = torch.stack([network(padded)[0][0] for network in networks]).mean(0)
    inside = tuple(slice(first, first + side) for first, side in zip(padding[-2::-2], shape, strict=True))
    scores = np.stack([resized(channel[inside].double().numpy(), list(scan.shape), 1) for channel in logits])
    labels = np.zeros(voxels.transpose().shape, dtype=int)
    labels[:, :-4, 3:] = scores.argmax(0)
    return labels.transpose()


@pytest.mark.parametrize("folds", [1, 2])
def test_the_bundle_answers_as_nnunet_does(make_folder, tmp_path, folds):
    kwargs = arch_kwargs()
    write_imported(imported_of(make_folder(kwargs, folds)), tmp_path / "bundle")
    path, voxels = scan_file(tmp_path)
    labels = Predictor(tmp_path / "bundle")(path)[0].numpy()
    expected = expected_labels(voxels, [their_network(kwargs, fold) for fold in range(folds)])
    assert len(np.unique(expected)) == 3
    # Random weights leave near ties, which rounding may turn.
    assert (labels != expected).mean() < 2e-3
    assert (labels[:3] == 0).all(), "what is cropped away is background"


def test_the_command_line_imports_and_the_bundle_runs(make_folder, tmp_path, shared_data, capsys):
    folder = make_folder()
    assert main(["import-nnunet", str(folder), "--output", str(tmp_path / "bundle")]) == 0
    scan_file(tmp_path)
    scans = tmp_path / "scans"
    scans.mkdir()
    (tmp_path / "scan.nii.gz").rename(scans / "scan.nii.gz")
    assert main(["predict", str(tmp_path / "bundle"), str(scans), str(tmp_path / "out")]) == 0
    written = nib.load(tmp_path / "out" / "scan_seg.nii.gz")
    np.testing.assert_allclose(written.affine, nib.load(scans / "scan.nii.gz").affine, atol=1e-5)
    metadata = json.loads((tmp_path / "bundle/configs/metadata.json").read_text())
    jsonschema.validate(metadata, json.loads((shared_data("bundle_schema") / "meta_schema_20240725.json").read_text()))
    readme = (tmp_path / "bundle/docs/README.md").read_text()
    assert "nnUNetTrainer_250epochs_NoMirroring" in readme
    assert str(tmp_path) not in readme
    assert "--orientation" in capsys.readouterr().out


def test_mirroring_follows_the_axes_of_files(make_folder):
    imported = imported_of(make_folder(plans={"transpose_forward": [2, 0, 1]}))
    assert imported.model.mirror_axes == [0, 1]  # nnU-Net's 0 and 2: the file's first and second
    assert imported.model.spacing == [4.0, 1.25, 1.5]


def test_slices_keep_their_place(make_folder):
    model = imported_of(make_folder(arch_kwargs(2))).model
    assert (model.slice_axis, model.spacing, model.patch_size) == (2, [1.25, 1.5, None], [20, 24])
    assert model.mirror_axes == [1]


def test_regions_become_a_label_map(make_folder, tmp_path):
    labels = {"background": 0, "tumour": [1, 2, 3], "core": [2, 3], "active": 3}
    dataset = {"labels": labels, "regions_class_order": [1, 2, 3]}
    imported = imported_of(make_folder(dataset=dataset))
    assert imported.model.labels == {
        "background": 0, "tumour without core, active": 1, "core without active": 2, "active": 3,
    }  # fmt: skip
    write_imported(imported, tmp_path / "bundle")
    path, _ = scan_file(tmp_path)
    predicted = Predictor(tmp_path / "bundle")(path)
    probabilities = Predictor(tmp_path / "bundle", overrides={"inferer::output": "probabilities"})
    probabilities._cleaning = []  # the regions themselves
    regions = probabilities(path).numpy()
    expected = np.zeros(predicted.shape[1:])
    for region, value in zip(regions, (1, 2, 3), strict=True):
        expected[region > 0.5] = value
    sure = (np.abs(regions - 0.5) > 1e-3).all(axis=0)  # probabilities are float16
    assert set(np.unique(expected[sure])) == {0, 1, 2, 3}
    np.testing.assert_array_equal(predicted[0].numpy()[sure], expected[sure])
    channels = json.loads(imported_files(imported)["configs/metadata.json"])["network_data_format"]["outputs"]["pred"]
    assert channels["channel_def"] == {"0": "tumour", "1": "core", "2": "active"}


def test_normalisations_have_their_schemes(make_folder):
    values = {"percentile_00_5": -900.0, "percentile_99_5": 800.0, "mean": 40.0, "std": 250.0}
    names = ["CTNormalization", "ZScoreNormalization", "RescaleTo01Normalization", "NoNormalization"]
    folder = make_folder(
        configuration={"normalization_schemes": names, "use_mask_for_norm": [False, True, False, False]},
        plans={"foreground_intensity_properties_per_channel": {"0": values}},
    )
    source = read_nnunet_folder(folder)
    channels = {"channel_names": {str(number): f"sequence {number}" for number in range(4)}}
    state = their_network(arch_kwargs(), in_channels=4).state_dict()
    source = dataclasses.replace(source, dataset={**source.dataset, **channels}, weights=[state])
    assert import_model(source).model.normalization == [
        {"scheme": "ct", "lower": -900.0, "upper": 800.0, "mean": 40.0, "std": 250.0},
        {"scheme": "zscore_nonzero"}, {"scheme": "range"}, {"scheme": "none"},
    ]  # fmt: skip


def test_older_plans_give_the_same_network(make_folder):
    kwargs = arch_kwargs()
    newer = imported_of(make_folder(kwargs)).model.network
    older = {
        "UNet_class_name": "PlainConvUNet", "UNet_base_num_features": 4, "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": [2, 1, 2], "n_conv_per_stage_decoder": [1, 2], "conv_kernel_sizes": KERNELS,
        "pool_op_kernel_sizes": STRIDES, "num_pool_per_axis": [1, 2, 2],
    }  # fmt: skip
    folder = make_folder(kwargs)
    plans = json.loads((folder / "plans.json").read_text())
    del plans["configurations"]["base"]["architecture"]
    plans["configurations"]["base"].update(older)
    (folder / "plans.json").write_text(json.dumps(plans))
    assert imported_of(folder).model.network == newer


def test_the_best_checkpoint_serves_where_there_is_no_final_one(make_folder):
    folder = make_folder()
    (folder / "fold_0/checkpoint_final.pth").rename(folder / "fold_0/checkpoint_best.pth")
    assert imported_of(folder).origin["checkpoint"] == "checkpoint_best.pth"


REFUSED = {
    "trainer": ({"state": {"trainer_name": "MyTrainer"}}, "MyTrainer.*--any-trainer"),
    "cascade": ({"configuration": {"previous_stage": "3d_lowres"}}, "second stage of a cascade"),
    "normalisation": ({"configuration": {"normalization_schemes": ["Histogram"]}}, "'Histogram' is not known"),
    "preprocessor": ({"configuration": {"preprocessor_name": "Mine"}}, "preprocessor_name is 'Mine'"),
    "resampling": ({"configuration": {"resampling_fn_data": "resample_torch"}}, "resampling_fn_data .*resample_torch"),
    "order": ({"configuration": {"resampling_fn_data_kwargs": {"order": 1}}}, "only .* with order 3"),
    "reader": ({"plans": {"image_reader_writer": "Tiff3DIO"}}, "reader 'Tiff3DIO' is not known"),
    "labels": ({"dataset": {"labels": {"background": 0, "organ": 2}}}, "none left out"),
    "network": (
        {"configuration": {"architecture": {"network_class_name": "x.Primus", "arch_kwargs": {}}}},
        "'Primus' is not known",
    ),
    "kernel": ({"kwargs": {**arch_kwargs(), "stem_channels": 7}}, "'stem_channels'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused(make_folder, name):
    changes, message = REFUSED[name]
    changes = dict(changes)
    stated = changes.pop("kwargs", None)
    folder = make_folder(**changes)
    if stated is not None:
        plans = json.loads((folder / "plans.json").read_text())
        plans["configurations"]["base"]["architecture"]["arch_kwargs"] = stated
        (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ConfigError, match=message):
        imported_of(folder)


def test_a_trainer_that_is_vouched_for_is_imported(make_folder):
    folder = make_folder(state={"trainer_name": "MyTrainer"})
    assert imported_of(folder, any_trainer=True).origin["trainer"] == "MyTrainer"


def test_weights_of_another_network_are_refused(make_folder):
    other = their_network({**arch_kwargs(), "features_per_stage": [4, 6, 8]}).state_dict()
    with pytest.raises(CheckpointError, match=r"fold_0/checkpoint_final.pth .* plans.json states .*misshaped"):
        imported_of(make_folder(state={"network_weights": other}))


@pytest.mark.parametrize("missing", ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"])
def test_a_folder_that_lacks_a_file_is_refused(make_folder, missing, capsys):
    folder = make_folder()
    (folder / missing).unlink()
    assert main(["import-nnunet", str(folder), "--output", str(folder.parent / "bundle")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert Path(missing).name in last
    assert not (folder.parent / "bundle").exists()


class Surprise:
    """What no checkpoint needs."""


def test_a_checkpoint_with_more_than_weights_is_refused(make_folder):
    with pytest.raises(CheckpointError, match=r"fold_0/checkpoint_final.pth holds \S*Surprise"):
        imported_of(make_folder(state={"extra": Surprise()}))
