"""An image as the sliding window walks over it: padded to a window at least, its longest axis first."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.utils import BlendMode, PytorchPadMode, ensure_tuple_rep, fall_back_tuple, look_up_option
from torch.nn import functional

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.inferers.slabs import Predict
from unet_bundle.inferers.tiling import NNUNET, WINDOW_SPACINGS, Tiling, make_tiling

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WindowSettings:
    """Which windows; names and meaning are those of MONAI's ``SlidingWindowInferer``.

    Attributes:
        roi_size: voxels of a window per axis; 0 or less for the whole axis.
        overlap: share of a window that it has in common with the next; one, or one per axis.
        mode: ``"gaussian"``, ``"constant"`` or ``"nnunet"``.
        sigma_scale: of the Gaussian, in windows.
        padding_mode: of images smaller than a window.
        cval: their padding, where that is constant.
        slice_axis: windows are one voxel thick along this axis, and `roi_size` leaves it out.
        spacing: ``"even"`` or ``"fixed"``, see `WINDOW_SPACINGS`.
    """

    roi_size: Sequence[int] | int
    overlap: Sequence[float] | float = 0.25
    mode: str = "constant"
    sigma_scale: Sequence[float] | float = 0.125
    padding_mode: str = "constant"
    cval: float = 0.0
    slice_axis: int | None = None
    spacing: str = "fixed"

    def __post_init__(self) -> None:
        """Refuse what cannot be walked."""
        if self.mode != NNUNET:
            look_up_option(self.mode, BlendMode)
        look_up_option(self.padding_mode, PytorchPadMode)
        shares = np.ravel(self.overlap)
        if shares.dtype.kind not in "iuf" or not all(0 <= share < 1 for share in shares):
            raise ConfigError(f"overlap must be at least 0 and below 1, not {self.overlap!r}")
        if self.spacing not in WINDOW_SPACINGS:
            raise ConfigError(f"window_spacing must be one of {', '.join(WINDOW_SPACINGS)}, not {self.spacing!r}")
        if self.slice_axis not in (None, 0, 1, 2):
            raise ConfigError(f"spatial_dim must be 0, 1 or 2, not {self.slice_axis!r}")

    def over(self, image: torch.Tensor) -> PaddedImage:
        """Lay windows over an image [channels, *spatial].

        Raises:
            InputError: if the image has another number of axes than the windows.
        """
        sides = list(image.shape[1:])
        slices = self.slice_axis is not None
        roi = [self.roi_size] * (len(sides) - slices) if isinstance(self.roi_size, int) else list(self.roi_size)
        if self.slice_axis is not None:
            roi.insert(self.slice_axis, 1)
        if len(roi) != len(sides) or (slices and len(sides) < 3):
            raise InputError(f"the image has {len(sides)} spatial axes, the windows have {len(roi)}: give another")
        window = fall_back_tuple(roi, sides)
        margins = [max(edge - side, 0) for edge, side in zip(window, sides, strict=True)]
        before = tuple(margin // 2 for margin in margins)
        if any(margins):
            pairs = [(first, margin - first) for first, margin in zip(before, margins, strict=True)]
            image = functional.pad(
                image[None],
                [edge for pair in reversed(pairs) for edge in pair],
                mode=self.padding_mode,
                value=self.cval,
            )[0]
        overlap = ensure_tuple_rep(self.overlap, len(sides))
        tiling = make_tiling(image.shape[1:], window, overlap, self.mode, self.sigma_scale, self.spacing)
        first = tiling.longest_axis()
        axes = (first, *(axis for axis in range(len(sides)) if axis != first))
        return PaddedImage(image.permute(0, *(axis + 1 for axis in axes)), tiling.ordered(axes), axes, before)


@dataclass(frozen=True)
class PaddedImage:
    """An image that windows fit into, its axes in the order of the walk.

    Attributes:
        image: shape [channels, *spatial].
        tiling: the windows.
        axes: for each axis, which one of the image as it was given.
        before: voxels that were padded before the first one, for each axis of the image as it was given.
    """

    image: torch.Tensor
    tiling: Tiling
    axes: tuple[int, ...]
    before: tuple[int, ...]

    def predict(self, call: Predict) -> Predict:
        """`call`, which knows the axes as they were given, for windows in the order of the walk."""
        there = [0, 1, *(axis + 2 for axis in self.axes)]
        back = [there.index(axis) for axis in range(len(there))]
        return lambda windows: call(windows.permute(back)).permute(there)

    def restored(self, values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """A view of values [..., *spatial] in the order of the walk, as the image was given: without padding."""
        lead = values.ndim - len(self.axes)
        order = [*range(lead), *(lead + self.axes.index(axis) for axis in range(len(self.axes)))]
        inner = [slice(first, first + side) for first, side in zip(self.before, shape, strict=True)]
        return values.permute(order)[tuple([slice(None)] * lead + inner)]


def one_window_each(images: Sequence[PaddedImage], call: Predict, batch_size: int) -> list[Predict]:
    """What gives the scores of each image's windows; images of one window, all of one size, are run together.

    Args:
        images: to be walked over one after another, in this order.
        call: the network.
        batch_size: windows that are run at once.
    """
    alike = len({(each.image.shape, each.axes) for each in images}) == 1
    if len(images) < 2 or batch_size < 2 or not alike or images[0].tiling.count > 1:
        return [image.predict(call) for image in images]
    ahead = _Ahead([image.image for image in images], images[0].predict(call), batch_size)
    return [functools.partial(ahead, number) for number in range(len(images))]


class _Ahead:
    """Scores of images, several at once: asked for those of one, the images behind it are run with it."""

    def __init__(self, images: Sequence[torch.Tensor], predict: Predict, batch_size: int) -> None:
        self.images, self.predict, self.batch_size = images, predict, batch_size
        self.known: dict[int, torch.Tensor] = {}

    def __call__(self, number: int, windows: torch.Tensor) -> torch.Tensor:
        """Scores [1, classes, *spatial] of the image of that number, which is `windows`."""
        while number not in self.known and self.batch_size > 1:
            try:
                scores = self.predict(torch.stack(list(self.images[number : number + self.batch_size])))
                self.known = dict(enumerate(scores, start=number))
            except torch.OutOfMemoryError:  # noqa: PERF203  (what failed is let go before the next try)
                self.batch_size //= 2
                logger.warning("the GPU's memory does not suffice: %d images at a time now", self.batch_size)
        return self.known.pop(number)[None] if number in self.known else self.predict(windows)


def device_of(given: Any, fallback: torch.device) -> torch.device:
    """A device by name, or the fallback."""
    return fallback if given is None else torch.device(given)
