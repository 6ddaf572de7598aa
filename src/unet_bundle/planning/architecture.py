"""The patch and the network that fit a memory budget."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unet_bundle.errors import ConfigError
from unet_bundle.planning import topology
from unet_bundle.planning.memory import count_feature_maps, training_memory_bytes
from unet_bundle.planning.overrides import Choices
from unet_bundle.planning.targets import Target, in_gib

FIRST_CHANNELS = 32
MAX_CHANNELS = {2: 512, 3: 320}
CONVOLUTIONS_PER_STAGE = 2
BLOCKS_PER_STAGE = (1, 3, 4, 6)
"""Residual blocks of the first stages; the last number holds for all further ones (nnU-Net's ResEnc presets)."""

MIN_BATCH = 2
SLICES_PER_BATCH = 12
"""Slices of volumes a step looks at on a CPU: neighbours are alike, so that two of them say little."""

MAX_BATCH_SHARE = 0.05
"""A batch holds at most this share of the data set's voxels, so that a step is not a look at everything."""


@dataclass(frozen=True)
class Architecture:
    """A network and the patch it is trained on, for scans of a shape at a spacing.

    Attributes:
        network: Arguments of `unet_bundle.networks.UNet`.
        patch_size: Voxels per axis, multiples of the network's total strides.
        why_patch: Reason for the patch; empty if the card states it.
    """

    network: dict[str, Any]
    patch_size: list[int]
    why_patch: str = ""

    def coverage(self, shape: Sequence[int]) -> float:
        """The share of a scan of `shape` voxels that one patch covers, at most 1."""
        return min(math.prod(self.patch_size) / math.prod(shape), 1.0)


def plan_architecture(
    choices: Choices, target: Target, channels: tuple[int, int], spacing: Sequence[float], shape: Sequence[int]
) -> Architecture:
    """Plan the largest patch, equal in mm and within the scans, whose network trains within the memory.

    Args:
        choices: The card's overrides.
        target: The memory target; it says which encoder a network gets whose card states none.
        channels: Channels of the image and of the output.
        spacing: Target spacing in mm.
        shape: Median shape of the scans at that spacing, in voxels.

    Raises:
        ConfigError: If the card's network or patch is impossible, or no patch fits the memory.
    """
    if "patch_size" in choices.overrides:
        planned = _architecture(choices, target, channels, spacing, choices.overrides["patch_size"])
        if planned.patch_size != choices.overrides["patch_size"]:
            raise ConfigError(
                f"patch_size {choices.overrides['patch_size']} under overrides in the task card is not divisible by "
                f"the network's total strides: set {planned.patch_size}, or other strides"
            )
        batch_size = choices.overrides.get("batch_size", MIN_BATCH)
        needed = _training_memory(planned, target, batch_size)  # refuses a network that cannot be built
        if target.fills_memory and needed > target.budget:  # on a CPU the budget is for speed: a reason says so
            raise ConfigError(
                f"a batch of {batch_size} patches of {by(planned.patch_size)} voxels, as set in the task card, needs "
                f"{in_gib(needed)} but {in_gib(target.budget)} are planned for: set a smaller patch_size or batch_size "
                "under overrides, or plan for more memory"
            )
        return planned
    batch_size = choices.overrides.get("batch_size", MIN_BATCH)
    start = topology.initial_patch(spacing, shape)
    first = _architecture(choices, target, channels, spacing, start)
    planned = _shrink_to_fit(first, choices, target, spacing, shape, batch_size)
    reason = f"the median shape {by(shape)}"
    if start != list(shape):
        reason = f"equally long on all axes, within the median shape {by(shape)}"
    reason += ", rounded up to multiples of the total strides"
    if first != planned:
        reason += f", cut from {by(first.patch_size)} until a batch of {batch_size} fits {in_gib(target.budget)}"
    return replace(planned, why_patch=f"{reason} ({target.why_budget})")


def plan_batch_size(
    architecture: Architecture, target: Target, shape: Sequence[int], num_cases: int
) -> tuple[int, str]:
    """Patches per step and the reason: what the leftover memory holds, within a share of the data set.

    Args:
        architecture: Network and patch; of two axes for slices of scans of three.
        target: The memory target.
        shape: Median shape of the scans in voxels.
        num_cases: Cases in the data set.
    """
    slices = len(architecture.patch_size) < len(shape)
    if not target.fills_memory and not slices:
        return MIN_BATCH, (
            "the least that steadies the gradient: on a CPU the time of a step grows with the batch, and more steps "
            "per minute teach the network sooner"
        )
    network, patch_size = architecture.network, architecture.patch_size
    one = training_memory_bytes(network, patch_size, 1, target.precision)
    per_patch = training_memory_bytes(network, patch_size, 2, target.precision) - one
    by_memory = 1 + (target.budget - one) // per_patch
    voxels = math.prod(shape) * num_cases
    by_share = round(voxels * MAX_BATCH_SHARE / math.prod(patch_size))
    if not target.fills_memory:
        return max(min(by_memory, by_share, SLICES_PER_BATCH), MIN_BATCH), (
            f"nnU-Net's {SLICES_PER_BATCH} slices, of which many are alike, or what fits {in_gib(target.budget)} and "
            f"{MAX_BATCH_SHARE:.0%} of the data set; more would only make the steps slower on a CPU"
        )
    return max(min(by_memory, by_share), MIN_BATCH), (
        f"{by_memory} patches fit {in_gib(target.budget)} and {MAX_BATCH_SHARE:.0%} of the data set's {voxels} voxels "
        f"are {by_share} patches: the smaller of the two, at least {MIN_BATCH}"
    )


def by(sizes: Sequence[float]) -> str:
    """Sizes as people write them: 40 x 56 x 40."""
    return " x ".join(f"{size:g}" for size in sizes)


def _architecture(
    choices: Choices, target: Target, channels: tuple[int, int], spacing: Sequence[float], wanted: Sequence[int]
) -> Architecture:
    """The network for a wanted patch, and the patch rounded up to what the network's strides divide."""
    stated = choices.network
    stages = topology.plan_topology(spacing, wanted)
    if len(stages.strides) == 1 and "channels" not in stated:
        raise ConfigError(
            f"patches of {by(wanted)} voxels are too small for a U-Net, which halves them at least once: set a "
            f"patch_size of at least {2 * topology.MIN_FEATURE_EDGE} along two axes under overrides in the task card"
        )
    dims = len(wanted)
    network: dict[str, Any] = {
        "spatial_dims": dims,
        "in_channels": channels[0],
        "out_channels": channels[1],
        "channels": [min(FIRST_CHANNELS * 2**stage, MAX_CHANNELS[dims]) for stage in range(len(stages.strides))],
        "kernel_sizes": stages.kernel_sizes,
        "strides": stages.strides,
        **_encoder(stated.get("encoder", target.encoder), len(_listed(stated, "channels") or stages.strides)),
        "norm": "instance",
        "activation": "leaky_relu",
        "dropout": 0.0,
        "deep_supervision": True,
        **stated,
    }
    per_stage = ("channels", "kernel_sizes", "strides")
    counts = {key: len(network[key]) for key in per_stage if isinstance(network[key], list)}
    if len(set(counts.values())) > 1:
        raise ConfigError(
            f"the network's stages disagree ({', '.join(f'{key}: {count}' for key, count in counts.items())}): "
            f"set all of {', '.join(per_stage)} under overrides, network in the task card"
        )
    network["strides"] = _spelled_out(network["strides"], len(network["channels"]), dims)
    return Architecture(network, topology.round_up(wanted, topology.total_stride(network["strides"])))


def _encoder(encoder: str, stages: int) -> dict[str, Any]:
    """The network's arguments on the convolutions of its stages; an encoder that is unknown is left to `UNet`."""
    if encoder != "residual":
        return {"convolutions_per_stage": CONVOLUTIONS_PER_STAGE}
    blocks = [BLOCKS_PER_STAGE[min(stage, len(BLOCKS_PER_STAGE) - 1)] for stage in range(stages)]
    return {"encoder": encoder, "convolutions_per_stage": blocks, "decoder_convolutions_per_stage": 1}


def _listed(stated: Mapping[str, Any], name: str) -> list[Any] | None:
    return stated[name] if isinstance(stated.get(name), list) else None


def _spelled_out(strides: Any, stages: int, dims: int) -> list[list[int]]:
    """Strides per stage and axis from the short forms that `UNet` takes too."""
    if isinstance(strides, int):
        strides = [1] + [strides] * (stages - 1)
    return [[stride] * dims if isinstance(stride, int) else stride for stride in strides]


def _shrink_to_fit(
    planned: Architecture,
    choices: Choices,
    target: Target,
    spacing: Sequence[float],
    shape: Sequence[int],
    batch_size: int,
) -> Architecture:
    """Cut the patch until a batch fits the budget, always on the axis that covers most of the scans."""
    while _training_memory(planned, target, batch_size) > target.budget:
        axes = topology.axes_by_coverage(planned.patch_size, shape)
        candidates = (_cut(planned, axis, choices, target, spacing) for axis in axes)
        voxels = math.prod(planned.patch_size)
        smaller = next((cut for cut in candidates if cut is not None and math.prod(cut.patch_size) < voxels), None)
        if smaller is None:
            raise ConfigError(
                f"a batch of {batch_size} patches of {by(planned.patch_size)} voxels needs more than "
                f"{in_gib(target.budget)} and no smaller patch is possible: plan for more memory, or set a smaller "
                "batch_size or fewer network channels under overrides in the task card"
            )
        planned = smaller
    return planned


def _cut(
    planned: Architecture, axis: int, choices: Choices, target: Target, spacing: Sequence[float]
) -> Architecture | None:
    """The architecture with the patch one step shorter along an axis; None if too little would be left.

    The step is the total stride that the axis has after the cut, not before: 256 with a total stride of 64 goes on to
    224, which needs 32 only.
    """
    channels = planned.network["in_channels"], planned.network["out_channels"]
    step = topology.total_stride(planned.network["strides"])[axis]
    for _ in range(2):
        wanted = list(planned.patch_size)
        wanted[axis] -= step
        if wanted[axis] < topology.MIN_FEATURE_EDGE:
            return None
        cut = _architecture(choices, target, channels, spacing, wanted)
        step = topology.total_stride(cut.network["strides"])[axis]
    return cut


def _training_memory(planned: Architecture, target: Target, batch_size: int) -> int:
    try:
        return training_memory_bytes(planned.network, planned.patch_size, batch_size, target.precision)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"network under overrides in the task card: {str(error).rstrip('.')}") from error


def network_reasons(
    architecture: Architecture, target: Target, spacing: Sequence[float], unit: str = "mm"
) -> dict[str, str]:
    """Name of each argument of a planned network to the reason for its value; `spacing` is in `unit`."""
    network, patch_size = architecture.network, architecture.patch_size
    maps = count_feature_maps(network, patch_size)
    smallest = [edge // step for edge, step in zip(patch_size, topology.total_stride(network["strides"]), strict=True)]
    residual = {
        "encoder": target.why_encoder,
        "convolutions_per_stage": "residual blocks a stage, after nnU-Net's ResEnc presets",
        "decoder_convolutions_per_stage": "nnU-Net's: the weights go to the encoder",
    }
    plain = {"convolutions_per_stage": "the U-Net's two convolutions a stage"}
    return {
        "strides": f"each stage halves the axes (of {by(spacing)} {unit}) that are within "
        f"{topology.MAX_SPACING_RATIO:g} times the finest spacing and stay at least {topology.MIN_FEATURE_EDGE} voxels "
        f"long; the smallest map is {by(smallest)}",
        "kernel_sizes": f"3 on every axis whose spacing is within {topology.MAX_SPACING_RATIO:g} times the finest of "
        "the stage, 1 until then",
        "channels": f"{FIRST_CHANNELS} doubling from stage to stage up to {MAX_CHANNELS[len(patch_size)]}; "
        f"{maps.weights} weights in all",
        **(residual if network.get("encoder") == "residual" else plain),
        "norm": "per image and channel: independent of the batch, which is small",
        "activation": "leaky, so that no unit stops learning",
        "dropout": "none: augmentation regularises enough",
        "deep_supervision": "coarse outputs are trained too, which brings gradients to the deep stages sooner",
    }
