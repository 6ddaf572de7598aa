"""MONAI's sliding window with the memory of a slab where it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.utils import convert_to_dst_type

from unet_bundle.errors import ConfigError
from unet_bundle.inferers.slabs import Predict, walk
from unet_bundle.inferers.windows import WindowSettings, device_of


class SlabInferer(SlidingWindowInferer):
    """`SlidingWindowInferer`, same arguments and scores, which holds the sums of one row of windows instead of all.

    On a GPU (``sw_device``) with the result on the CPU (``device``) its memory follows the window instead of the scan,
    and every voxel is copied once. Use it in any bundle in place of MONAI's. Networks with several outputs or
    scores of another size than their windows, ``condition`` and ``with_coord`` are MONAI's own work, done by it.

    Args:
        spatial_dim: of a volume whose slices, across this axis, a 2D network sees; `roi_size` leaves it out. None for
            windows of as many axes as the image.
        args: see MONAI's ``SlidingWindowInferer``, as for all that is not here.
        kwargs: the same.

    Example:
        >>> inferer = SlabInferer(roi_size=(32, 32, 32), overlap=0.5, mode="gaussian")
        >>> inferer(torch.rand(1, 1, 80, 40, 40), lambda window: torch.cat([window, -window], 1)).shape
        torch.Size([1, 2, 80, 40, 40])
    """

    def __init__(self, *args: Any, spatial_dim: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.spatial_dim = spatial_dim
        self.settings = WindowSettings(
            self.roi_size,
            self.overlap,
            str(self.mode),
            self.sigma_scale,
            str(self.padding_mode),
            self.cval,
            spatial_dim,
        )

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """Scores [batch, classes, *spatial] of images [batch, channels, *spatial]."""
        chosen = kwargs.pop("device", self.device)
        if chosen is None and self.cpu_thresh is not None and inputs.shape[2:].numel() > self.cpu_thresh:
            chosen = "cpu"
        device = device_of(chosen, inputs.device)
        # Slabs are what MONAI's buffers are for, so that they matter to MONAI's own work alone.
        buffers = {name: kwargs.pop(name) for name in ("buffer_steps", "buffer_dim") if name in kwargs}
        if not self.with_coord and "condition" not in kwargs:
            try:
                scores = self._scores(inputs.as_subclass(torch.Tensor), self._call(network, args, kwargs), device)
            except _OtherScoresError:
                pass
            else:
                is_meta = isinstance(inputs, MetaTensor)
                return convert_to_dst_type(scores, inputs, device=device)[0] if is_meta else scores
        if self.spatial_dim is not None:
            raise ConfigError(
                "spatial_dim is for networks with one output as large as its windows, called with windows alone: use "
                "MONAI's SliceInferer"
            )
        return super().__call__(inputs, network, *args, device=device, **buffers, **kwargs)

    def _call(self, network: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Predict:
        slices = None if self.spatial_dim is None else self.spatial_dim + 2

        def call(windows: torch.Tensor) -> torch.Tensor:
            scores = network(windows if slices is None else windows.squeeze(slices), *args, **kwargs)
            if not isinstance(scores, torch.Tensor):
                raise _OtherScoresError
            scores = scores if slices is None else scores.unsqueeze(slices)
            if scores.shape[2:] != windows.shape[2:]:
                raise _OtherScoresError
            return scores

        return call

    def _scores(self, inputs: torch.Tensor, call: Predict, device: torch.device) -> torch.Tensor:
        computing = device_of(self.sw_device, inputs.device)
        kind = inputs.dtype if inputs.is_floating_point() else torch.float32
        done = []
        for image in inputs:
            padded = self.settings.over(image)
            scores: torch.Tensor | None = None
            predict = padded.predict(lambda windows: call(windows.to(computing)))
            for slab in walk(padded.image, predict, padded.tiling, batch_size=self.sw_batch_size, device=computing):
                if scores is None:
                    scores = torch.empty((len(slab.scores), *padded.tiling.size), dtype=kind, device=device)
                scores[:, slab.start : slab.stop] = slab.scores[:, slab.start - slab.stop :]
            assert scores is not None  # noqa: S101  (a tiling has windows)
            done.append(padded.restored(scores, image.shape[1:]))
        return done[0][None] if len(done) == 1 else torch.stack(done)


class _OtherScoresError(Exception):
    """The network gives more than one tensor, or one of another size than its windows."""
