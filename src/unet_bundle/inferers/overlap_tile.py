"""The overlap-tile strategy of the U-Net paper, for networks whose convolutions are not padded.

Such a network gives scores for the middle of what it sees. Tiles are laid so that these middles cover the image without
a gap; what a tile sees beyond the image is the image mirrored. Ronneberger et al. 2015, figure 2,
https://arxiv.org/abs/1505.04597
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.inferers.network_call import NetworkCall
from unet_bundle.inferers.windows import device_of
from unet_bundle.networks import UNet
from unet_bundle.networks.blocks import Interpolation


class OverlapTileInferer(Inferer):
    """Scores of a whole image from a network with ``padding="valid"``, tile by tile.

    They are those of one pass over the mirrored image: tiles begin at multiples of the network's total stride, so that
    its pooling sees the same blocks of voxels in each. (Not with instance norm, whose statistics are those of a tile.)

    Args:
        roi_size: voxels per axis that the network sees of a tile, 572 in the paper, without the axis that `spatial_dim`
            names; 0 or less for a whole axis at once. Along axes where images are smaller, tiles are too.
        sw_batch_size: tiles that are run at once.
        spatial_dim: axis across which a 2D network sees slices of a volume; None if it sees all axes.
        sw_device: where tiles are run; None for the image's device.
        device: where scores are put together; None for the image's device.

    Raises:
        ConfigError: when called, for a `roi_size` that leaves voxels over in pooling, with the nearest ones that do
            not; or for a network that pads.
        InputError: when called, for an image of another number of axes than the network's.

    Example:
        >>> from unet_bundle.networks import unet2015
        >>> network = unet2015(in_channels=1, out_channels=2, width=4).eval()
        >>> OverlapTileInferer(roi_size=(220, 220))(torch.rand(1, 1, 50, 61), network).shape
        torch.Size([1, 2, 50, 61])
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        sw_batch_size: int = 1,
        spatial_dim: int | None = None,
        sw_device: torch.device | str | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.roi_size, self.sw_batch_size, self.spatial_dim = roi_size, sw_batch_size, spatial_dim
        self.sw_device, self.device = sw_device, device

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run the network.

        Args:
            inputs: shape [batch, channels, *spatial].
            network: a `UNet`, as it is or compiled or in ``DistributedDataParallel``.
            args: for the network, behind the tiles.
            kwargs: for the network.

        Returns:
            Scores, shape [batch, classes, *spatial].
        """
        axes = self._axes(inputs.shape[2:], network)
        images = inputs.as_subclass(torch.Tensor)
        device = device_of(self.device, inputs.device)
        call = NetworkCall(
            [lambda tiles: network(tiles, *args, **kwargs)],
            device_of(self.sw_device, inputs.device),
            slice_axis=self.spatial_dim,
            remember_constant=False,
        )
        scores: torch.Tensor | None = None
        tiles = itertools.product(range(len(images)), *(range(axis.count) for axis in axes))
        for batch in _batches(tiles, self.sw_batch_size):
            found = call(torch.stack([_seen(images[image], axes, tile) for image, *tile in batch]))
            if scores is None:
                kind = inputs.dtype if inputs.is_floating_point() else torch.float32
                shape = (len(images), found.shape[1], *images.shape[2:])
                scores = torch.empty(shape, dtype=kind, device=device)
            for (image, *tile), each in zip(batch, found, strict=True):
                kept = [axis.kept(number) for axis, number in zip(axes, tile, strict=True)]
                inside = (slice(None), *(axis.inside(place) for axis, place in zip(axes, kept, strict=True)))
                place = (slice(None), *kept)
                scores[image][place] = each[inside].to(device, kind)
        if scores is None:
            raise InputError("the batch holds no image: give one at least")
        return convert_to_dst_type(scores, inputs, device=device)[0] if isinstance(inputs, MetaTensor) else scores

    def _axes(self, sides: Sequence[int], network: Any) -> list[TileAxis]:
        """The tiles along each axis of an image."""
        tiling = _Sizes(network)
        seen = [axis for axis in range(len(sides)) if axis != self.spatial_dim]
        roi = [self.roi_size] * len(seen) if isinstance(self.roi_size, int) else list(self.roi_size)
        if not len(seen) == len(roi) == tiling.dims:
            raise InputError(
                f"the network takes {tiling.dims} spatial axes, the image has {len(seen)} for it, roi_size {len(roi)}"
            )
        axes = [TileAxis(side) for side in sides]  # slices are tiles of one voxel
        for number, axis in enumerate(seen):
            axes[axis] = tiling.lay(number, sides[axis], roi[number])
        return axes


@dataclass(frozen=True)
class TileAxis:
    """Tiles along one axis of an image.

    Attributes:
        side: voxels of the image.
        size: voxels that the network sees of a tile.
        step: voxels from one tile to the next, and for which a tile's scores are kept.
        before: voxels that a tile sees before the first for which scores are kept.
        trim: scores before that one.
    """

    side: int
    size: int = 1
    step: int = 1
    before: int = 0
    trim: int = 0

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return math.ceil(self.side / self.step)

    def kept(self, number: int) -> slice:
        """The voxels of the image for which the scores of a tile are kept."""
        return slice(number * self.step, min((number + 1) * self.step, self.side))

    def inside(self, kept: slice) -> slice:
        """Where those scores are in the tile's."""
        return slice(self.trim, self.trim + kept.stop - kept.start)

    def seen(self, number: int, device: torch.device) -> torch.Tensor:
        """The voxels of the image that a tile sees; mirrored beyond the first and the last, as often as it takes."""
        first = number * self.step - self.before
        places = torch.arange(first, first + self.size, device=device)
        period = max(2 * (self.side - 1), 1)
        places = places.remainder(period)
        return torch.minimum(places, period - places) if self.side > 1 else torch.zeros_like(places)


class _Sizes:
    """Which tiles a network takes, and what it makes of them.

    Raises:
        ConfigError: it is no `UNet`, or one that pads.
    """

    def __init__(self, network: Any) -> None:
        plain = getattr(network, "module", network)
        plain = getattr(plain, "_orig_mod", plain)
        if not isinstance(plain, UNet) or plain.padded:
            raise ConfigError(
                "overlap-tile is for unet_bundle.networks.UNet with padding 'valid': use SlabInferer or ScanInferer "
                "for other networks"
            )
        self.network = plain
        self.dims = plain.spatial_dims
        self.borders = _borders(plain)

    def scores(self, axis: int, size: int) -> int:
        """For how many voxels a tile of this size has scores, less those at its borders; 0 if there are none."""
        smallest = list(self.network.smallest_image)
        if size < smallest[axis]:
            return 0
        smallest[axis] = size
        return max(self.network.output_shape(smallest)[axis] - 2 * self.borders[axis], 0)

    def fits(self, axis: int, size: int) -> bool:
        """Whether pooling leaves no voxel over, and tiles of this size can be laid side by side."""
        kept = self.scores(axis, size)
        return kept >= self.network.total_stride[axis] and kept > self.scores(axis, size - 1)

    def lay(self, axis: int, side: int, size: int) -> TileAxis:
        """Tiles over an axis with `side` voxels; `size` is the largest, 0 or less for any.

        Raises:
            ConfigError: tiles of this size do not fit.
        """
        stride = self.network.total_stride[axis]
        if size <= 0:
            size = self._next(axis, side)
        if not self.fits(axis, size):
            below = next((smaller for smaller in range(size - 1, 0, -1) if self.fits(axis, smaller)), None)
            above = next(larger for larger in itertools.count(size + 1) if self.fits(axis, larger))
            nearest = above if below is None else f"{below} or {above}"
            raise ConfigError(
                f"roi_size {size} along axis {axis} does not fit the network, whose pooling would leave voxels over: "
                f"give {nearest}"
            )
        kept = self.scores(axis, size)
        spare = max(kept - side, 0) // stride * stride
        size, kept = size - spare, kept - spare
        step = kept if kept >= side else kept // stride * stride
        made = self.network.output_shape(
            [size if other == axis else least for other, least in enumerate(self.network.smallest_image)]
        )[axis]
        border = self.borders[axis]
        return TileAxis(side, size, step, before=(size - made) // 2 + border, trim=border)

    def _next(self, axis: int, side: int) -> int:
        """The smallest tile that fits and has scores for `side` voxels."""
        smallest = self.network.smallest_image[axis]
        return next(
            size
            for size in itertools.count(max(smallest, side))
            if self.fits(axis, size) and self.scores(axis, size) >= side
        )


def _borders(network: UNet) -> list[int]:
    """Per axis, how many scores at each end depend on where the tile ends.

    Interpolation at the end of a map has nothing to go on beyond it; from there it is as many voxels, at each stage.
    """
    borders = [0] * network.spatial_dims
    for module in network.modules():  # the expanding path, from the coarsest stage on
        if isinstance(module, Interpolation):
            borders = [factor * border + factor // 2 for factor, border in zip(module.factors, borders, strict=True)]
    return borders


def _seen(image: torch.Tensor, axes: Sequence[TileAxis], tile: Sequence[int]) -> torch.Tensor:
    """What the network sees of an image [channels, *spatial]."""
    for number, (axis, place) in enumerate(zip(axes, tile, strict=True), start=1):
        image = image.index_select(number, axis.seen(place, image.device))
    return image


def _batches(tiles: Iterator[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    while batch := list(itertools.islice(tiles, size)):
        yield batch
