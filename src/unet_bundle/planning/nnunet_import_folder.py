"""What a model folder of nnU-Net v2 holds: plans, data set and checkpoints, read without nnU-Net, or refused.

Plans have been written in two forms; the older one states the network in other words. Checkpoints are pickles: only
tensors, numbers, text and their containers are let in.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unet_bundle.errors import CheckpointError, ConfigError

FINAL, BEST = "checkpoint_final.pth", "checkpoint_best.pth"

KEPT_BY_TRAINERS = re.compile(
    r"nnUNetTrainer(_|\d+(epochs?|ep|en\d)|NoMirroring|onlyMirror01|noDummy2DDA|warmup|NoDA|DA5|ord0|Segord0|DASegOrd0|BN|"
    r"NoDeepSupervision|CosAnneal|Vanilla|Adan|Adam|CELoss|DiceLoss|DiceCELoss|noSmooth|DiceTopK10Loss|Topk10Loss|LS01|"
    r"Benchmark|noDataLoading|probabilisticOversampling|033|010)*"
)
"""Trainers of nnU-Net's own that change training alone, or (BN) the network in a way that is known."""
BATCH_NORM_TRAINER = "nnUNetTrainerBN"

_OLD_NETWORK = {
    "n_conv_per_stage_decoder": "n_conv_per_stage_decoder",
    "kernel_sizes": "conv_kernel_sizes",
    "strides": "pool_op_kernel_sizes",
}
"""How plans of nnU-Net before 2.4 name arguments of the network."""


@dataclass(frozen=True)
class NnunetFolder:
    """A model folder of nnU-Net.

    Attributes:
        plans: ``plans.json``.
        dataset: ``dataset.json``.
        configuration: the plans' configuration that was trained, with what it inherits, in the newer form.
        configuration_name: such as ``"3d_fullres"``.
        trainer: name of the trainer.
        checkpoint: name of the checkpoint files.
        folds: of the weights.
        weights: state dict of each fold.
        mirror_axes: that inference may mirror.
    """

    plans: dict[str, Any]
    dataset: dict[str, Any]
    configuration: dict[str, Any]
    configuration_name: str
    trainer: str
    checkpoint: str
    folds: list[str]
    weights: list[dict[str, torch.Tensor]] = field(repr=False)
    mirror_axes: list[int]


def read_nnunet_folder(
    folder: Path, folds: Sequence[str] = (), checkpoint: str | None = None, *, any_trainer: bool = False
) -> NnunetFolder:
    """Read a model folder (``DATASET/TRAINER__PLANS__CONFIGURATION``).

    Args:
        folder: with ``plans.json``, ``dataset.json`` and ``fold_X``.
        folds: which of them, such as ``["0", "all"]``; none: all that are numbers, or else ``fold_all``.
        checkpoint: name of the checkpoint files; None: the final ones, or the best where a fold has no final one.
        any_trainer: take the word of the one who asks that an unknown trainer changed training alone.

    Raises:
        ConfigError: something is missing, or asks for what is not known here.
        CheckpointError: a checkpoint is damaged or holds more than weights, numbers and text.
    """
    plans, dataset = _json(folder, "plans.json"), _json(folder, "dataset.json")
    chosen = [str(fold) for fold in folds] or _folds(folder)
    name = checkpoint or _checkpoint_name(folder, chosen)
    states = [_checkpoint(folder / f"fold_{fold}" / name) for fold in chosen]
    trainer, configuration_name = states[0]["trainer_name"], states[0]["init_args"]["configuration"]
    for fold, state in zip(chosen, states, strict=True):
        if (state["trainer_name"], state["init_args"]["configuration"]) != (trainer, configuration_name):
            raise ConfigError(f"fold_{fold} was trained by another trainer or configuration than fold_{chosen[0]}")
    if not (any_trainer or KEPT_BY_TRAINERS.fullmatch(trainer)):
        raise ConfigError(
            f"the model was trained by {trainer!r}, which is none of nnU-Net's own trainers and may have changed the"
            " network: give --any-trainer if it changed training alone"
        )
    configuration = _configuration(plans, configuration_name)
    if configuration.get("previous_stage"):
        raise ConfigError(
            f"{configuration_name} is the second stage of a cascade, which needs the result of"
            f" {configuration['previous_stage']}: give the folder of 3d_fullres, 3d_lowres or 2d"
        )
    return NnunetFolder(
        plans=plans,
        dataset=dataset,
        configuration=configuration,
        configuration_name=configuration_name,
        trainer=trainer,
        checkpoint=name,
        folds=chosen,
        weights=[state["network_weights"] for state in states],
        mirror_axes=[int(axis) for axis in states[0].get("inference_allowed_mirroring_axes") or ()],
    )


def needed(values: Mapping[str, Any], key: str, where: str) -> Any:
    """A value that has to be there.

    Raises:
        ConfigError: it is not.
    """
    if key not in values:
        raise ConfigError(f"{where} has no {key!r}: give a model folder as nnU-Net v2 wrote it")
    return values[key]


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(
            f"{folder / name} is missing: give the folder of a trained model, which holds plans.json, dataset.json and"
            " fold_0"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{folder / name} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{folder / name} holds no names and values: give a model folder as nnU-Net v2 wrote it")
    return content


def _folds(folder: Path) -> list[str]:
    """Folds that hold a checkpoint: those that are numbers, or else the one of all cases."""
    found = {
        path.name.removeprefix("fold_")
        for path in folder.glob("fold_*")
        if any((path / name).is_file() for name in (FINAL, BEST))
    }
    numbers = sorted((fold for fold in found if fold.isdigit()), key=int)
    if not numbers and "all" not in found:
        raise ConfigError(f"{folder} has no fold_X/{FINAL} or {BEST}: give the folder of a trained model")
    return numbers or ["all"]


def _checkpoint_name(folder: Path, folds: Sequence[str]) -> str:
    for name in (FINAL, BEST):
        if all((folder / f"fold_{fold}" / name).is_file() for fold in folds):
            return name
    raise ConfigError(f"folds {', '.join(folds)} have neither all a {FINAL} nor all a {BEST}: choose with --folds")


def _checkpoint(path: Path) -> dict[str, Any]:
    name = f"{path.parent.name}/{path.name}"
    try:
        with torch.serialization.safe_globals(_plain_values()):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{name} is missing: choose --folds and --checkpoint that are there") from None
    except Exception as error:  # noqa: BLE001 - damaged bytes make the unpickler fail in any way
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"holds {unsafe[1]}, more than weights, numbers and text" if unsafe else "cannot be read"
        raise CheckpointError(f"{name} {reason}: give a checkpoint as nnU-Net v2 wrote it") from None
    for key in ("network_weights", "trainer_name", "init_args"):
        needed(state if isinstance(state, dict) else {}, key, name)
    needed(state["init_args"], "configuration", name)
    return dict(state)


def _plain_values() -> list[Any]:
    """What nnU-Net's checkpoints hold beside tensors: numpy's numbers and arrays, pickled by any numpy."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    functions = [
        (function, f"{module}.multiarray.{name}")
        for function, name in ((scalar, "scalar"), (array, "_reconstruct"))
        for module in ("numpy.core", "numpy._core")
    ]
    kinds = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
    return [*functions, np.ndarray, np.dtype, *{type(np.dtype(kind)) for kind in kinds}, codecs.encode]


def _configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits, its network in the newer form."""
    configurations = needed(plans, "configurations", "plans.json")
    merged: dict[str, Any] = {}
    wanted, seen = name, [name]
    while True:
        own = needed(configurations, wanted, "configurations of plans.json")
        merged = {**own, **merged}
        wanted = own.get("inherits_from")
        if wanted is None:
            break
        if wanted in seen:
            raise ConfigError(f"configurations {', '.join(seen)} of plans.json inherit from each other in a circle")
        seen.append(wanted)
    if "architecture" not in merged and "UNet_class_name" in merged:
        merged["architecture"] = _architecture(merged)
    return merged


def _architecture(old: Mapping[str, Any]) -> dict[str, Any]:
    """The network of plans before nnU-Net 2.4 as the newer ones state it."""
    dims = len(needed(old, "patch_size", "plans.json"))
    depths = needed(old, "n_conv_per_stage_encoder", "plans.json")
    base, most = (needed(old, key, "plans.json") for key in ("UNet_base_num_features", "unet_max_num_features"))
    residual = old["UNet_class_name"] == "ResidualEncoderUNet"
    return {
        "network_class_name": old["UNet_class_name"],
        "arch_kwargs": {
            "n_stages": len(depths),
            "features_per_stage": [min(base * 2**stage, most) for stage in range(len(depths))],
            "n_blocks_per_stage" if residual else "n_conv_per_stage": depths,
            **{key: needed(old, older, "plans.json") for key, older in _OLD_NETWORK.items()},
            "conv_op": f"torch.nn.Conv{dims}d",
            "conv_bias": True,
            "norm_op": f"torch.nn.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
        },
    }
