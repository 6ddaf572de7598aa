"""A network as the sliding window calls it: in a precision, mirrored, over slices, once for windows of air."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from unet_bundle.precision import autocast

Network = Callable[..., Any]


class NetworkCall:
    """Scores of windows.

    Args:
        networks: each takes [windows, channels, *spatial]; of several outputs the first counts. Scores are the mean of
            theirs.
        device: where they run; windows are moved there.
        dtype: what they compute in; None leaves the autocast in force as it is. Scores are float32 in any case.
        slice_axis: spatial axis whose slices a 2D network sees, windows being one slice thick; None for all axes.
        mirror_axes: scores are the mean over all mirrorings along these spatial axes.
        channels_last: hand windows over with channels last in memory.
        remember_constant: windows that hold one value per channel, as air does, are run once for each such value.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        device: torch.device,
        *,
        dtype: torch.dtype | None = None,
        slice_axis: int | None = None,
        mirror_axes: Sequence[int] = (),
        channels_last: bool = False,
        remember_constant: bool = True,
    ) -> None:
        self.networks, self.device, self.dtype = tuple(networks), device, dtype
        self.slice_axis = slice_axis
        self.channels_last = channels_last
        sets = (itertools.combinations(sorted(mirror_axes), count) for count in range(len(mirror_axes) + 1))
        self.mirrorings = [tuple(axis + 2 for axis in axes) for axes in itertools.chain.from_iterable(sets)]
        self.constants: dict[tuple[float, ...], torch.Tensor] | None = {} if remember_constant else None

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """Scores [windows, classes, *spatial], float32, of windows [windows, channels, *spatial]."""
        if self.constants is None:
            return self._run(windows)
        values = [_constant(window) for window in windows]
        if all(value is None for value in values):
            return self._run(windows)
        known = dict(self.constants)
        for value, window in zip(values, windows, strict=True):
            if value is not None and value not in known:
                known[value] = self._run(window[None])[0].clone()  # as in `_run`
        last = next(value for value in reversed(values) if value is not None)
        self.constants = {last: known[last]}  # one value, as a rule: air
        kept = [number for number, value in enumerate(values) if value is None]
        run = iter(self._run(windows[kept]) if kept else ())
        return torch.stack([next(run) if value is None else known[value] for value in values])

    def _run(self, windows: torch.Tensor) -> torch.Tensor:
        windows = windows.to(self.device)
        first, *others = itertools.product(self.networks, self.mirrorings)
        total = self._scores(first[0], windows)  # the first mirroring is none
        if not others:
            return total
        total = total.clone()  # the network may write into its memory again
        for network, axes in others:
            total += self._scores(network, windows.flip(axes)).flip(axes)
        return total / (1 + len(others))

    def _scores(self, network: Network, windows: torch.Tensor) -> torch.Tensor:
        if self.slice_axis is not None:
            windows = windows.squeeze(self.slice_axis + 2)
        if self.channels_last:
            last = torch.channels_last if windows.ndim == 4 else torch.channels_last_3d
            windows = windows.contiguous(memory_format=last)
        with nullcontext() if self.dtype is None else autocast(self.device, self.dtype):
            scores = first_output(network(windows)).float()
        return scores if self.slice_axis is None else scores.unsqueeze(self.slice_axis + 2)


def first_output(output: Any) -> torch.Tensor:
    """The scores, of a network that gives several (deep supervision)."""
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
    return output


class FirstOutput(nn.Module):
    """A network with one output, as runtimes want it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """The scores."""
        return first_output(self.network(windows))


def _constant(window: torch.Tensor) -> tuple[float, ...] | None:
    """The value of each channel of a window that holds one value in each, else None."""
    flat = window.flatten(1)
    first = flat[:, :1]
    return tuple(first[:, 0].tolist()) if bool((flat == first).all()) else None
