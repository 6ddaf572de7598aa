"""Forecast of the memory that training and inference need, counted from the network's feature maps.

During training every convolution unit keeps two tensors for the backward pass: the convolution's output, which the
normalisation needs, and the activation's output, which the next convolution needs (normalisation and activation share
one tensor, the activation works in place). The expanding path keeps the concatenated skip connection as well, and the
loss a few tensors of the size of the logits. With V_s voxels and C_s channels in stage s, n convolutions a stage,
b bytes per element (4 in float32, 2 in bfloat16 and float16) and batch size B:

    features = sum over the contracting path of 2 n C_s V_s + sum over the expanding path of (2 n + 2) C_s V_s
    activations = B (b (features + C_in V_0) + 4 LOSS_TENSORS C_out sum of V_s with an output)
    workspace = WORKSPACE_TENSORS B b (largest feature map)
    weights = 4 (weight + gradient + two moments of AdamW) parameters
    training = activations + workspace + weights

The constants are calibrated against measured peaks, see ``tests/planning/test_memory.py``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unet_bundle.errors import ConfigError

BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2}

LOSS_TENSORS = 8
"""Tensors of the size of the logits that Dice and cross-entropy hold: logits, probabilities, one-hot, gradients."""

WORKSPACE_TENSORS = 3
"""Short-lived tensors of the size of the largest feature map in the backward pass: two gradients and a reordered copy."""

COPIES_OF_WEIGHTS = 4
"""Weights, their gradients and AdamW's two moments, all float32."""


def stage_shapes(patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> list[list[int]]:
    """Size of the feature maps of each stage, for a patch and the stride at the entrance of each stage."""
    shapes: list[list[int]] = []
    size = list(patch_size)
    for stride in strides:
        size = [math.ceil(edge / step) for edge, step in zip(size, stride, strict=True)]
        shapes.append(size)
    return shapes


def parameter_count(network: Mapping[str, Any]) -> int:
    """Number of weights of a `UNet` with these arguments."""
    channels, kernels, strides = network["channels"], network["kernel_sizes"], network["strides"]
    repeats = network["convolutions_per_stage"]
    unit_extra = 1 + (0 if network.get("norm") is None else 2)
    count = 0
    previous = network["in_channels"]
    for width, kernel in zip(channels, kernels, strict=True):
        for step in range(repeats):
            count += ((previous if step == 0 else width) * math.prod(kernel) + unit_extra) * width
        previous = width
    for stage in range(len(channels) - 1):
        width, below = channels[stage], channels[stage + 1]
        count += (below * math.prod(strides[stage + 1]) + 1) * width
        for step in range(repeats):
            count += ((2 * width if step == 0 else width) * math.prod(kernels[stage]) + unit_extra) * width
        if stage == 0 or network.get("deep_supervision"):
            count += (width + 1) * network["out_channels"]
    return count


def training_memory_bytes(
    network: Mapping[str, Any], patch_size: Sequence[int], batch_size: int, precision: str = "float32"
) -> int:
    """Peak memory of a training step: kept feature maps, workspace, weights, gradients and optimiser state.

    What the process needs besides (Python and libraries, CUDA context, cached scans) is not counted.

    Args:
        network: Arguments of `unet_bundle.networks.UNet`.
        patch_size: Voxels per axis.
        batch_size: Patches per step.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"`` (autocast; the loss stays in float32).

    Returns:
        Bytes.

    Raises:
        ConfigError: If the precision is unknown.
    """
    element = _element_bytes(precision)
    voxels = [math.prod(shape) for shape in stage_shapes(patch_size, network["strides"])]
    maps = [width * size for width, size in zip(network["channels"], voxels, strict=True)]
    kept = 2 * network["convolutions_per_stage"]
    features = kept * sum(maps) + (kept + 2) * sum(maps[:-1]) + network["in_channels"] * voxels[0]
    outputs = sum(voxels[:-1]) if network.get("deep_supervision") else voxels[0]
    loss = 4 * LOSS_TENSORS * network["out_channels"] * outputs
    workspace = WORKSPACE_TENSORS * element * max(maps)
    weights = 4 * COPIES_OF_WEIGHTS * parameter_count(network)
    return int(batch_size * (element * features + loss + workspace) + weights)


def inference_memory_bytes(
    network: Mapping[str, Any], patch_size: Sequence[int], batch_size: int = 1, precision: str = "float32"
) -> int:
    """Peak memory of the network alone on `batch_size` windows, without gradients.

    The skip connections are kept until they are used, and the widest point holds a concatenation, its convolution's
    input and output.

    Args and errors as `training_memory_bytes`.
    """
    element = _element_bytes(precision)
    voxels = [math.prod(shape) for shape in stage_shapes(patch_size, network["strides"])]
    maps = [width * size for width, size in zip(network["channels"], voxels, strict=True)]
    features = sum(maps) + (2 + WORKSPACE_TENSORS) * max(maps)
    outputs = 4 * network["out_channels"] * voxels[0]
    return int(batch_size * (element * features + outputs) + 4 * parameter_count(network))


def _element_bytes(precision: str) -> int:
    if precision not in BYTES_PER_ELEMENT:
        raise ConfigError(f"precision {precision!r} is unknown: it must be one of {', '.join(BYTES_PER_ELEMENT)}")
    return BYTES_PER_ELEMENT[precision]
