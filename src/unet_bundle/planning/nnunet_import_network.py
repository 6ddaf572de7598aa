"""nnU-Net's networks (``dynamic_network_architectures``) as a `unet_bundle.networks.UNet`, and the names of weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.networks import UNet
from unet_bundle.planning.nnunet_import_folder import needed

ENCODERS = {"PlainConvUNet": "plain", "ResidualEncoderUNet": "residual"}
NORMS = {"InstanceNorm": "instance", "BatchNorm": "batch"}
ACTIVATIONS = {"LeakyReLU": "leaky_relu", "ReLU": "relu"}
EPSILON = 1e-5
SLOPE = 0.01

_KNOWN = {
    "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage",
    "n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin",
    "nonlin_kwargs", "deep_supervision",
}  # fmt: skip

_NAMES = (
    (r"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.(conv|norm)\.", r"encoder.\1.\2.\3."),
    (r"encoder\.stem\.convs\.0\.(conv|norm)\.", r"encoder.0.0.\1."),
    (r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.conv([12])\.(conv|norm)\.", r"encoder.\1.\2.convolutions.\3.\4."),
    (r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.(\d)\.(conv|norm)\.", r"encoder.\1.\2.shortcut.\3.\4."),
    (r"decoder\.stages\.(\d+)\.convs\.(\d+)\.(conv|norm)\.", r"decoder.\1.convolutions.\2.\3."),
    (r"decoder\.transpconvs\.(\d+)\.", r"decoder.\1.upsampling."),
    (r"decoder\.seg_layers\.(\d+)\.", r"heads.\1."),
)
"""Names of nnU-Net's weights and ours; numbers that are counted otherwise are mended by `our_name`."""


def unet_arguments(
    architecture: Mapping[str, Any], order: Sequence[int], in_channels: int, out_channels: int
) -> dict[str, Any]:
    """Arguments of our network for one of nnU-Net's plans.

    Args:
        architecture: ``architecture`` of a configuration.
        order: for each axis of our network, which one it is of nnU-Net's.
        in_channels: of the image.
        out_channels: classes, or regions.

    Raises:
        ConfigError: a network, or a setting of it, that ours does not have.
    """
    name = str(needed(architecture, "network_class_name", "the plans' architecture")).rpartition(".")[2]
    stated = dict(needed(architecture, "arch_kwargs", "the plans' architecture"))
    if name not in ENCODERS:
        raise ConfigError(f"the network {name!r} is not known: {' and '.join(ENCODERS)} can be imported")
    others = {key: value for key, value in stated.items() if key not in _KNOWN and value not in (None, False)}
    if others:
        raise ConfigError(f"the network has the setting {next(iter(others))!r}, which is not known: it is not imported")
    if stated.get("dropout_op") is not None:
        raise ConfigError("the network has dropout in its convolutions, which is not known: it is not imported")
    residual = ENCODERS[name] == "residual"
    stages = int(needed(stated, "n_stages", "the plans' architecture"))
    depths = needed(stated, "n_blocks_per_stage" if residual else "n_conv_per_stage", "the plans' architecture")
    channels = needed(stated, "features_per_stage", "the plans' architecture")
    return {
        "spatial_dims": len(order),
        "in_channels": in_channels,
        "out_channels": out_channels,
        "channels": _each(channels, stages),
        "kernel_sizes": _axes(needed(stated, "kernel_sizes", "the plans' architecture"), stages, order),
        "strides": _axes(needed(stated, "strides", "the plans' architecture"), stages, order),
        "convolutions_per_stage": _each(depths, stages),
        # Theirs begin with the coarsest stage.
        "decoder_convolutions_per_stage": _each(stated.get("n_conv_per_stage_decoder", 2), stages - 1)[::-1],
        "encoder": ENCODERS[name],
        "norm": _norm(stated),
        "activation": _activation(stated),
        "bias": bool(stated.get("conv_bias", False)),
        "upsampling_bias": bool(stated.get("conv_bias", False)),
        "dropout": 0.0,
        "deep_supervision": True,
    }


def our_weights(
    weights: Mapping[str, torch.Tensor], arguments: Mapping[str, Any], order: Sequence[int], name: str
) -> dict[str, torch.Tensor]:
    """Weights of nnU-Net's network as ours has them, float32.

    Args:
        weights: its state dict.
        arguments: of our network.
        order: for each axis of our network, which one it is of nnU-Net's.
        name: what to call the checkpoint in an error.

    Raises:
        CheckpointError: weights of another network than the plans state.
    """
    ours: dict[str, torch.Tensor] = {}
    for there, value in weights.items():
        key = there.removeprefix("module.").removeprefix("_orig_mod.")
        # Modules are registered several times over there.
        if ".all_modules." in key or key.startswith("decoder.encoder."):
            continue
        tensor = torch.as_tensor(value)
        if tensor.ndim > 2:
            tensor = tensor.permute(0, 1, *(axis + 2 for axis in order))
        ours[our_name(key, len(arguments["channels"]))] = _stored(tensor)
    try:
        UNet(**arguments).load_state_dict(ours)
    except RuntimeError as error:
        reason = str(error).removeprefix("These weights do not fit the network: ").partition(";")[0]
        raise CheckpointError(
            f"{name} has not the weights of the network that plans.json states ({reason}): it was trained with another"
            " network, which is not imported"
        ) from None
    return ours


def our_name(key: str, stages: int) -> str:
    """What we call a weight of nnU-Net's; a name that is not known stays as it is."""
    for pattern, replacement in _NAMES:
        found = re.match(pattern, key)
        if found:
            key = found.expand(replacement) + key[found.end() :]
            break
    else:
        return key
    if ".blocks." in found.string:
        # A residual encoder's first stage begins with the stem; convolutions of a block count from 1 there.
        stage, block = int(found[1]), int(found[2]) + (found[1] == "0")
        key = re.sub(r"^encoder\.\d+\.\d+\.", f"encoder.{stage}.{block}.", key)
        key = re.sub(r"convolutions\.(\d)", lambda number: f"convolutions.{int(number[1]) - 1}", key)
    if key.startswith("heads."):
        key = key.replace(found[1], str(stages - 2 - int(found[1])), 1)
    return key.replace(".conv.", ".convolution.")


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    kind = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.to(kind).clone(memory_format=torch.contiguous_format)


def _each(value: Any, stages: int) -> list[int]:
    """One number for each stage."""
    return [int(value)] * stages if isinstance(value, int) else [int(number) for number in value]


def _axes(value: Any, stages: int, order: Sequence[int]) -> list[list[int]]:
    """Numbers for each stage and axis of ours."""
    per_stage = [value] * stages if isinstance(value, int) else list(value)
    spelled = [[entry] * len(order) if isinstance(entry, int) else list(entry) for entry in per_stage]
    if any(len(entry) != len(order) for entry in spelled):
        raise ConfigError(f"the plans' network and patch differ in their number of axes: {value!r}")
    return [[int(entry[axis]) for axis in order] for entry in spelled]


def _norm(stated: Mapping[str, Any]) -> str:
    kind = re.sub(r"\dd$", "", str(stated.get("norm_op")).rpartition(".")[2])
    options = {"eps": EPSILON, "affine": False, **(stated.get("norm_op_kwargs") or {})}
    if kind not in NORMS or options != {"eps": EPSILON, "affine": True}:
        raise ConfigError(f"the norm {stated.get('norm_op')} with {options} is not known: it is not imported")
    return NORMS[kind]


def _activation(stated: Mapping[str, Any]) -> str:
    kind = str(stated.get("nonlin")).rpartition(".")[2]
    slope = (stated.get("nonlin_kwargs") or {}).get("negative_slope", SLOPE)
    if kind not in ACTIVATIONS or (kind == "LeakyReLU" and slope != SLOPE):
        raise ConfigError(f"the activation {stated.get('nonlin')} with slope {slope} is not known: it is not imported")
    return ACTIVATIONS[kind]
