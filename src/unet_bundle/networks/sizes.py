"""How large the maps of a U-Net are, and which images are too small for it."""

from collections.abc import Sequence
from typing import NamedTuple

from unet_bundle.networks.arguments import Stage


class InputTooSmallError(ValueError):
    """An image with too few voxels for the depth of the network."""


class Step(NamedTuple):
    """What one layer does to the size along one axis: a window of `kernel` voxels moves by `stride`, then `factor`."""

    kernel: int
    stride: int = 1
    factor: int = 1


def steps_along(
    axis: int,
    stages: Sequence[Stage],
    decoder_channels: Sequence[Sequence[int]],
    *,
    residual: bool,
    pooled: bool,
    padded: bool,
) -> list[Step]:
    """List what the layers of a U-Net do, in order, to the size along one axis.

    Args:
        axis: of the image.
        stages: finest first.
        decoder_channels: of each convolution of the expanding path, per stage without the coarsest.
        residual: whether the contracting path is one convolution followed by blocks of two.
        pooled: whether a stage downsamples by pooling instead of by the stride of its first convolution.
        padded: whether convolutions keep the size; the expanding path then mirrors the contracting one and is left out.
    """
    steps = []
    for stage in stages:
        stride = stage.stride[axis]
        # With padding, window positions are counted from the first voxel of each: as for a window of one voxel.
        kernel = 1 if padded else stage.kernel_size[axis]
        if pooled:
            steps.append(Step(1 if padded else stride, stride))
            stride = 1
        convolutions = 2 * len(stage.channels) if residual else len(stage.channels)
        if residual and stage is stages[0]:
            convolutions += 1
        steps += [Step(kernel, stride)] + [Step(kernel)] * (convolutions - 1)
    if padded:
        return steps
    for stage, coarser, channels in reversed(list(zip(stages, stages[1:], decoder_channels, strict=False))):
        steps += [Step(1, factor=coarser.stride[axis])] + [Step(stage.kernel_size[axis])] * len(channels)
    return steps


def map_sizes(steps: Sequence[Step], size: int) -> list[int]:
    """Size after each of the steps; less than one where nothing is left."""
    sizes = []
    for step in steps:
        size = ((size - step.kernel) // step.stride + 1) * step.factor
        sizes.append(size)
    return sizes


def smallest_image(steps_per_axis: Sequence[Sequence[Step]]) -> list[int]:
    """Per axis the fewest voxels that leave one voxel in every map."""
    return [max(_fewest_voxels(steps, leave=1)) for steps in steps_per_axis]


def single_voxel_limits(steps_per_axis: Sequence[Sequence[Step]]) -> list[list[int]]:
    """Shapes below which, on all axes at once, a map has a single voxel; one shape unless axes differ in kernels.

    The statistics of a norm need two voxels or more.
    """
    per_map = zip(*(_fewest_voxels(steps, leave=2) for steps in steps_per_axis), strict=True)
    limits = {tuple(limit) for limit in per_map}
    return sorted(
        list(limit)
        for limit in limits
        if not any(limit != other and all(a <= b for a, b in zip(limit, other, strict=True)) for other in limits)
    )


def check_anything_left(size: list[int], smallest: list[int]) -> None:
    """Refuse an image smaller than `smallest` on any axis (also compiled by TorchScript).

    Raises:
        InputTooSmallError: a map of the network would be empty.
    """
    for voxels, fewest in zip(size, smallest):  # noqa: B905 - TorchScript knows no strict
        if voxels < fewest:
            raise InputTooSmallError(
                f"An image of {size} voxels leaves nothing to segment after this network's convolutions; "
                f"give at least {smallest} voxels."
            )


def check_norm_possible(size: list[int], limits: list[list[int]], norm: str) -> None:
    """Refuse an image that is below any of the `limits` on all axes (also compiled by TorchScript).

    Raises:
        InputTooSmallError: a map of the network would be a single voxel, which a norm cannot normalise.
    """
    for limit in limits:
        single = True
        for voxels, fewest in zip(size, limit):  # noqa: B905 - TorchScript knows no strict
            single = single and voxels < fewest
        if single:
            raise InputTooSmallError(
                f"An image of {size} voxels shrinks to a single voxel, too few for {norm} norm; "
                f"give at least as many voxels as {limit} along one axis."
            )


def _fewest_voxels(steps: Sequence[Step], leave: int) -> list[int]:
    """For each step the smallest image of which at least `leave` voxels are left after it."""
    fewest = [0] * len(steps)
    size = 0
    while 0 in fewest:
        size += 1
        for index, left in enumerate(map_sizes(steps, size)):
            if left >= leave and fewest[index] == 0:
                fewest[index] = size
    return fewest
