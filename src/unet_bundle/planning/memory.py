"""Forecast of the memory that training and inference need, counted from the network's feature maps.

The network is run once on torch's meta device, where tensors have a shape but no data, and every feature map that the
backward pass will need is counted once: the input of each convolution and norm and the output of each activation (which
works in place on the norm's output). For the plain U-Net that is two maps a convolution and the concatenated skip
connections. With b bytes per element (4 in float32, 2 in bfloat16 and float16), B patches a batch and P weights:

    training = B (b (kept maps + WORKSPACE_MAPS x largest map) + 4 LOSS_TENSORS x logits)
               + 4 COPIES_OF_WEIGHTS P + FIXED_BYTES
    inference = B (b (skip connections + INFERENCE_MAPS x largest map) + 4 x logits) + 4 P

where the logits are those of all outputs that are supervised. The constants are fitted to peaks of 0.2 to 2 GiB
measured on a CPU with torch 2.13: 2D and 3D, plain and residual, 3 to 60 classes, both precisions. The forecast is 2
to 16 % above what the tensors take; the C library's allocator, which keeps freed memory in pieces, adds up to 30 % to
that, differently from run to run. ``tests/planning/test_memory.py`` measures again.
"""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from unet_bundle.errors import ConfigError
from unet_bundle.networks import UNet

BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2}

LOSS_TENSORS = 4
"""Float32 tensors of the size of the logits at the peak: logits, probabilities, one-hot labels, gradient."""

WORKSPACE_MAPS = 1.75
"""Short-lived tensors of the size of the largest map in the backward pass: gradients and copies in another order."""

INFERENCE_MAPS = 3
"""Tensors of the size of the largest map at inference: a convolution's input, its output and a reordered copy."""

COPIES_OF_WEIGHTS = 4
"""Weights, their gradients and AdamW's two moments, all float32."""

FIXED_BYTES = 32 * 1024**2
"""What the libraries' kernels and allocator take once training starts, whatever the network."""

_NEEDS_INPUT = (
    nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.BatchNorm2d,
    nn.BatchNorm3d, nn.MaxPool2d, nn.MaxPool3d,
)  # fmt: skip
_NEEDS_OUTPUT = (nn.LeakyReLU, nn.ReLU)


@dataclass(frozen=True)
class FeatureMaps:
    """Numbers of elements of a network's feature maps for one patch.

    Attributes:
        kept: Elements that are kept for the backward pass, the image among them.
        skips: Elements of the contracting path's outputs, one a stage.
        largest: Elements of the largest map: the concatenation in the finest stage, in most networks.
        logits: Elements of all supervised outputs.
        output: Elements of the full-resolution output alone.
        weights: Parameters of the network.
    """

    kept: int
    skips: int
    largest: int
    logits: int
    output: int
    weights: int


def count_feature_maps(network_arguments: Mapping[str, Any], patch_size: Sequence[int]) -> FeatureMaps:
    """Count the feature maps of a `UNet` for one patch, without any data.

    Args:
        network_arguments: Arguments of `unet_bundle.networks.UNet`.
        patch_size: Voxels per axis.

    Raises:
        ValueError: If the arguments contradict each other or the patch is too small for them (`UNet` says how).
    """
    arguments, patch = json.dumps(network_arguments), tuple(patch_size)
    total_stride, padded = _shape_rules(arguments)
    divisible = len(patch) == len(total_stride) and all(
        edge % stride == 0 for edge, stride in zip(patch, total_stride, strict=True)
    )
    if not (padded and divisible) or patch == total_stride:
        return _count(arguments, patch)
    # Every map is as many times larger as the patch is: one count serves all patches of a network.
    small = tuple(2 * stride for stride in total_stride)
    counted, voxels, small_voxels = _count(arguments, small), math.prod(patch), math.prod(small)
    sizes = {entry.name: getattr(counted, entry.name) * voxels // small_voxels for entry in fields(counted)}
    return FeatureMaps(**{**sizes, "weights": counted.weights})


@functools.lru_cache(maxsize=256)
def _shape_rules(network_arguments: str) -> tuple[tuple[int, ...], bool]:
    """Total stride per axis, and whether maps keep the size between strides."""
    network = network_on_meta(json.loads(network_arguments))
    return tuple(network.total_stride), network.padded


@functools.lru_cache(maxsize=256)
def _count(network_arguments: str, patch_size: tuple[int, ...]) -> FeatureMaps:
    kept: dict[int, Tensor] = {}  # by identity, and held so that no identity is freed and used again
    skips: list[int] = []

    def keep(tensor: Tensor) -> None:
        kept[id(tensor)] = tensor

    network = network_on_meta(json.loads(network_arguments)).train()
    image = torch.empty(1, network.in_channels, *patch_size, device="meta")
    for module in network.modules():
        if isinstance(module, _NEEDS_INPUT):
            module.register_forward_pre_hook(lambda _, inputs: keep(inputs[0]))
        elif isinstance(module, _NEEDS_OUTPUT):
            module.register_forward_hook(lambda _module, _inputs, output: keep(output))
    for stage in network.encoder:
        stage.register_forward_hook(lambda _module, _inputs, output: skips.append(output.numel()))
    outputs = network(image)
    sizes = [tensor.numel() for tensor in (outputs if isinstance(outputs, list) else [outputs])]
    return FeatureMaps(
        kept=sum(tensor.numel() for tensor in kept.values()),
        skips=sum(skips),
        largest=max(tensor.numel() for tensor in kept.values()),
        logits=sum(sizes),
        output=sizes[0],
        weights=sum(parameter.numel() for parameter in network.parameters()),
    )


def network_on_meta(network_arguments: Mapping[str, Any]) -> UNet:
    """A `UNet` whose weights have shapes but no data.

    Raises:
        ValueError: If the arguments contradict each other.
    """
    with torch.device("meta"):
        return UNet(**network_arguments)


def training_memory_bytes(
    network_arguments: Mapping[str, Any], patch_size: Sequence[int], batch_size: int, precision: str = "float32"
) -> int:
    """Peak memory of a training step: kept feature maps, workspace, loss, weights, gradients and optimiser state.

    What the process needs besides (Python and libraries, CUDA context, cached scans) is not counted.

    Args:
        network_arguments: Arguments of `unet_bundle.networks.UNet`.
        patch_size: Voxels per axis.
        batch_size: Patches per step.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"`` (autocast; the loss stays in float32).

    Returns:
        Bytes.

    Raises:
        ConfigError: If the precision is unknown.
        ValueError: As `count_feature_maps`.
    """
    element = _element_bytes(precision)
    maps = count_feature_maps(network_arguments, patch_size)
    patch = element * (maps.kept + WORKSPACE_MAPS * maps.largest) + 4 * LOSS_TENSORS * maps.logits
    return int(batch_size * patch) + 4 * COPIES_OF_WEIGHTS * maps.weights + FIXED_BYTES


def inference_memory_bytes(
    network_arguments: Mapping[str, Any], patch_size: Sequence[int], batch_size: int = 1, precision: str = "float32"
) -> int:
    """Peak memory of the network on `batch_size` windows without gradients; arguments as `training_memory_bytes`.

    The scan and its stitched logits come on top.
    """
    element = _element_bytes(precision)
    maps = count_feature_maps(network_arguments, patch_size)
    window = element * (maps.skips + INFERENCE_MAPS * maps.largest) + 4 * maps.output
    return int(batch_size * window) + 4 * maps.weights


def _element_bytes(precision: str) -> int:
    if precision not in BYTES_PER_ELEMENT:
        raise ConfigError(f"precision {precision!r} is unknown: it must be one of {', '.join(BYTES_PER_ELEMENT)}")
    return BYTES_PER_ELEMENT[precision]
