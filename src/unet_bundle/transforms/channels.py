"""Channels that are not there: dropped at random in training, so that a network does without one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, Randomizable

from unet_bundle.errors import ConfigError

MISSING = "missing_channels"
"""Key under which a case, and then the metadata of its image, lists the channels that have no file."""


class RandDropChannelsd(Randomizable, MapTransform):
    """Set whole channels of an image to zero, what a missing channel is after normalisation; never all of them.

    Args:
        keys: keys of the images, shape [channels, *spatial].
        prob: share of channels that are dropped, each for itself.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.

    Raises:
        ConfigError: if `prob` is not from 0 to below 1.

    Example:
        >>> drop = RandDropChannelsd("image", prob=0.5).set_random_state(0)
        >>> drop({"image": torch.ones(4, 8, 8)})["image"].flatten(1).mean(1)
        tensor([1., 1., 1., 1.])
    """

    def __init__(self, keys: str | Sequence[str], prob: float, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if not 0 <= prob < 1:
            raise ConfigError(f"channel_dropout must be from 0 to below 1, not {prob!r}")
        self.prob = prob
        self.dropped: list[int] = []

    def randomize(self, channels: int) -> None:
        """Draw which of so many channels are dropped; kept in `dropped`."""
        is_dropped = self.R.uniform(size=channels) < self.prob
        kept = self.R.randint(channels)
        if is_dropped.all():
            is_dropped[kept] = False
        self.dropped = np.flatnonzero(is_dropped).tolist()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each image by one without the channels that are drawn, the same for all keys."""
        item = dict(data)
        images: dict[Hashable, torch.Tensor] = {key: item[key] for key in self.key_iterator(item)}
        if images:
            self.randomize(len(next(iter(images.values()))))
        for key, image in images.items():
            if self.dropped:
                item[key] = image.clone()
                item[key][self.dropped] = 0
        return item
