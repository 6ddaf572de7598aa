"""Values of an image at given places: linear, the nearest voxel, the class with the largest linear share, cubic."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

MODES = ("bilinear", "nearest", "one-hot", "spline")
"""Linear; the nearest voxel; for label maps, the class with the largest linear weight; cubic spline by SciPy, slow."""
AS_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""Types that torch can hardly compute with, and what their bits are moved as instead."""
SPLINE_MARGIN = 12
"""Voxels round a patch on which its cubic spline depends, to 1e-6 of the values."""


def sample_linear(source: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """The values of `source`, float, at a grid; shape [channels, *grid.shape[:-1]]."""
    # On a CPU grid_sample runs one thread per image of the batch: the same image in equal shares keeps all busy.
    threads = torch.get_num_threads() if source.device.type == "cpu" else 1
    shares = math.gcd(grid.shape[0], threads)
    parts = functional.grid_sample(
        source.expand(shares, *source.shape),
        grid.reshape(shares, grid.shape[0] // shares, *grid.shape[1:]),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return parts.transpose(0, 1).reshape(source.shape[0], *grid.shape[:-1])


def sample_nearest(source: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """The same of the nearest voxels, read in their own type where they lie: grid_sample would need a float copy."""
    if source.dtype in AS_SIGNED:
        return sample_nearest(source.view(AS_SIGNED[source.dtype]), grid).view(source.dtype)
    memory = [_all_of(channel) for channel in source]
    kind = torch.int32 if len(memory[0]) < 2**31 else torch.int64
    beyond = torch.zeros(grid.shape[:-1], dtype=torch.bool, device=grid.device)
    place = torch.zeros(grid.shape[:-1], dtype=kind, device=grid.device)
    for axis, (side, stride) in enumerate(zip(source.shape[1:], source.stride()[1:], strict=True)):
        index = grid[..., -1 - axis].mul(side / 2).add_((side - 1) / 2).round_()
        beyond |= index.lt(0).logical_or_(index >= side)
        place.add_(index.clamp_(0, side - 1).to(kind), alpha=stride)
    values = [each.index_select(0, place.reshape(-1)).reshape(place.shape) for each in memory]
    return torch.stack([each.masked_fill_(beyond, 0) for each in values])


def _all_of(channel: torch.Tensor) -> torch.Tensor:
    """The memory in which a view lies, from its first voxel to its last: indexed by sums of strides, without a copy."""
    extent = 1 + sum((side - 1) * stride for side, stride in zip(channel.shape, channel.stride(), strict=True))
    return channel.as_strided((extent,), (1,))


def sample_one_hot(source: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """The same of the class that has the largest linear share there."""
    classes = torch.unique(source)
    classes = classes[classes != 0]
    shares = [sample_linear((source == value).float(), grid) for value in classes]
    # Beyond the scan is background: it has what the others leave.
    background = 1 - sum(shares, torch.zeros((source.shape[0], *grid.shape[:-1]), device=source.device))
    winner = torch.stack([background, *shares]).argmax(dim=0)
    return torch.cat([classes.new_zeros(1), classes])[winner]


def sample_spline(source: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The cubic spline through the voxels of `source`, at voxel coordinates; shape [channels, *where.shape[:-1]]."""
    places = np.moveaxis(where.numpy(), -1, 0)
    channels = source.float() if source.dtype in (torch.float16, torch.bfloat16) else source
    values = torch.from_numpy(
        np.stack(
            [
                ndimage.map_coordinates(channel, places, output=np.float32, order=3, mode="constant")
                for channel in channels.cpu().numpy()
            ]
        )
    )
    if not source.is_floating_point():
        # A cubic spline overshoots, and what is beyond a type's range would wrap round.
        least, largest = (
            (0, 1) if source.dtype == torch.bool else (torch.iinfo(source.dtype).min, torch.iinfo(source.dtype).max)
        )
        values = values.round().clamp(least, largest)
    return values.to(source.device, source.dtype)
