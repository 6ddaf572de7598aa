"""Whether an exported network gives the labels of PyTorch's, on a scan."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from unet_bundle.inferers.exported import Exported
from unet_bundle.inferers.network_call import first_output

ENOUGH = 0.9999
"""Share of voxels whose labels have to be PyTorch's."""
SLICES = 4
"""Of the image that is made for a network of slices."""


@dataclass(frozen=True)
class Parity:
    """How far an exported network is from PyTorch.

    Attributes:
        difference: the largest between two logits.
        largest: the largest logit.
        equal: share of voxels of the scan that have the same label.
        voxels: of the scan.
    """

    difference: float
    largest: float
    equal: float
    voxels: int

    @property
    def passed(self) -> bool:
        """Whether the labels are the same in enough voxels."""
        return self.equal >= ENOUGH

    def __str__(self) -> str:
        return (
            f"largest logit difference {self.difference:.2g} (largest logit {self.largest:.3g}),"
            f" labels equal in {100 * self.equal:.4f} % of {self.voxels:,} voxels"
        )


def compare(
    inferer: Callable[[torch.Tensor, Any], torch.Tensor], image: torch.Tensor, network: nn.Module, exported: Exported
) -> Parity:
    """Segment a scan by PyTorch and by an exported file.

    Args:
        inferer: the bundle's `ScanInferer`, whose runtime is ``"torch"`` and whose precision is float32.
        image: shape [1, channels, *spatial], as the network sees it, on the network's device; a ``MetaTensor`` knows
            its scan's grid.
        network: in evaluation mode.
        exported: the file that was made of it.
    """
    both = _Both(network, exported)
    expected = inferer(image, network)
    found = inferer(image, both)
    equal = float((found == expected).float().mean(dtype=torch.float64))
    return Parity(both.difference, both.largest, equal, expected[0, 0].numel())


class _Both:
    """Gives the scores of the exported network, and keeps how far they were from PyTorch's."""

    def __init__(self, network: nn.Module, exported: Exported) -> None:
        self.network, self.exported = network, exported
        self.difference = self.largest = 0.0

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        expected = first_output(self.network(windows))
        found = self.exported(self.network, windows, dtype=torch.float32)
        difference = float((found - expected).abs().max())
        # Not a number is no small difference, and max() would pass over it.
        self.difference = difference if math.isnan(difference) else max(self.difference, difference)
        self.largest = max(self.largest, float(expected.abs().max()))
        return found


def made_image(channels: int, window: tuple[int, ...], slice_axis: int | None) -> torch.Tensor:
    """An image for a check without a scan: smooth shapes and noise of a normalised scan, a little over a window large.

    Args:
        channels: of the image.
        window: voxels per axis of the network's windows.
        slice_axis: spatial axis whose slices a 2D network sees; None if it sees all axes.

    Returns:
        Shape [1, channels, *spatial].
    """
    generator = torch.Generator().manual_seed(0)
    size = [side + side // 2 for side in window]
    coarse = torch.randn(1, channels, *[max(side // 8, 2) for side in size], generator=generator)
    mode = "trilinear" if len(window) == 3 else "bilinear"
    image = 2 * F.interpolate(coarse, size=size, mode=mode) + 0.3 * torch.randn(1, channels, *size, generator=generator)
    if slice_axis is None:
        return image
    return torch.stack([image.roll(number, 2) for number in range(SLICES)], dim=slice_axis + 2)
