"""From scores on the network's grid to probabilities, or their entropy, on the scan's, a slab at a time.

Scores of a few rows of a plane of the scan are interpolated, turned into what is wanted, and written to a file: neither
scores nor probabilities of all classes at all voxels are ever in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from unet_bundle.inferers.reduction import completed, outer
from unet_bundle.inferers.scan_grid import AxisMap, ScanGrid
from unet_bundle.inferers.scratch import ScratchTensor
from unet_bundle.inferers.slabs import Slab

CHUNK = 2**22
"""Scores that are interpolated at once: 16 MiB, and a few times that beside."""

SHARE_TYPES: Mapping[str, torch.dtype] = {"float16": torch.float16, "uint8": torch.uint8}
"""How shares from 0 to 1 are kept; whole numbers are shares of 255."""

ACTIVATIONS = ("softmax", "sigmoid")
"""Of classes that exclude each other, or of regions that may overlap."""

Shares = Callable[[torch.Tensor], torch.Tensor]
"""Shares from 0 to 1, shape [channels, ...], for scores [classes, ...]."""


def probabilities(scores: torch.Tensor) -> torch.Tensor:
    """The probability of each class; they add up to one."""
    return scores.softmax(0)


def entropy(scores: torch.Tensor) -> torch.Tensor:
    """How undecided the network is, shape [1, ...]: 0 where it is sure, 1 where all classes have the same probability.

    That is -sum p log p over the classes, divided by its largest value, the logarithm of their number.
    """
    largest = math.log(max(len(scores), 2))
    found: torch.Tensor = torch.special.entr(scores.softmax(0)).sum(0, keepdim=True) / largest
    return found


def region_probabilities(scores: torch.Tensor) -> torch.Tensor:
    """The probability of each region."""
    return scores.sigmoid()


def region_entropy(scores: torch.Tensor) -> torch.Tensor:
    """The mean over regions of the entropy of in or out, in bits, shape [1, ...]: from 0 to 1."""
    each = torch.special.entr(scores.sigmoid()) + torch.special.entr((-scores).sigmoid())
    found: torch.Tensor = each.mean(0, keepdim=True) / math.log(2)
    return found


SHARES: Mapping[tuple[str, str], Shares] = {
    ("probabilities", "softmax"): probabilities,
    ("probabilities", "sigmoid"): region_probabilities,
    ("entropy", "softmax"): entropy,
    ("entropy", "sigmoid"): region_entropy,
}
"""By output and activation."""


class Interpolation:
    """Probabilities or entropy for a scan, filled in as scores are finished, in a file.

    Args:
        shape: of the scan.
        output: ``"probabilities"`` or ``"entropy"``.
        activation: one of `ACTIVATIONS`.
        kind: one of `SHARE_TYPES`.
        folder: of the file; None for the system's folder of temporary files.
    """

    def __init__(
        self, shape: Sequence[int], output: str, activation: str, kind: str, folder: str | None = None
    ) -> None:
        self.shape = tuple(shape)
        self.shares = SHARES[output, activation]
        self.background = 1.0 if (output, activation) == ("probabilities", "softmax") else 0.0
        self.dtype, self.folder = SHARE_TYPES[kind], folder
        self.scratch: ScratchTensor | None = None
        self.answer: torch.Tensor | None = None

    def add(self, slab: Slab, grid: ScanGrid) -> None:
        """Fill in the planes of the scan that a slab completes; as `Reduction.add`.

        Raises:
            ConfigError: if there is no room on the disk.
        """
        if self.scratch is None:
            self._make(self.shares(slab.scores[:, :1].flatten(1)[:, :1]).shape[0], grid.axes)
        assert self.scratch is not None  # noqa: S101  (made above)
        maps = completed(slab, grid)
        if not all(map(len, maps)):
            return
        along, *across = [each.to(slab.scores.device) for each in maps]
        for plane in range(len(along)):
            self._fill(along.part(plane, plane + 1), across, slab.scores)
        self.scratch.release()

    def result(self) -> torch.Tensor:
        """Shape [classes or regions, *scan], or [1, *scan] for entropy; in a file, so do not copy it whole."""
        assert self.answer is not None  # noqa: S101  (a walk has slabs)
        return self.answer

    def _make(self, channels: int, axes: Sequence[int]) -> None:
        """Lay out the file in the order it is written in: the walk's planes first, in each the channels."""
        first, *rest = (self.shape[axis] for axis in axes)
        self.scratch = ScratchTensor((first, channels, *rest), self.dtype, self.folder)
        places = {axis: number + (number > 0) for number, axis in enumerate(axes)}
        self.answer = self.scratch.tensor.permute(1, *(places[axis] for axis in range(len(axes))))

    def _fill(self, along: AxisMap, across: Sequence[AxisMap], scores: torch.Tensor) -> None:
        """Fill in one plane of the scan, a few rows at a time."""
        assert self.scratch is not None  # noqa: S101  (see `add`)
        target = self.scratch.tensor[along.first]
        plane = _resampled(scores, 1, along)[:, 0]
        rows, *columns = across
        for axis, each in enumerate(columns, start=2):
            plane = _resampled(plane, axis, each)
        number = max(CHUNK // (len(scores) * math.prod(map(len, columns))), 1)
        for start in range(0, len(rows), number):
            part = [rows.part(start, start + number), *columns]
            shares = self.shares(_resampled(plane, 1, part[0]))
            inside = outer([each.inside for each in part]) & along.inside[0]
            if not inside.all():
                shares.mul_(inside)[0].add_(~inside, alpha=self.background)
            if self.dtype == torch.uint8:
                shares = shares.mul_(255).round_()
            window = (slice(None), *(slice(each.first, each.first + len(each)) for each in part))
            target[window] = shares.to(self.dtype).to(target.device)


def _resampled(values: torch.Tensor, axis: int, each: AxisMap) -> torch.Tensor:
    """Linear interpolation along one axis."""
    lower = _taken(values, axis, each.lower)
    if each.same:
        return lower
    share = each.share.reshape(-1, *[1] * (values.ndim - axis - 1))
    return lower.lerp_(_taken(values, axis, each.upper), share)


def _taken(values: torch.Tensor, axis: int, places: torch.Tensor) -> torch.Tensor:
    index: tuple[slice | torch.Tensor, ...] = (*[slice(None)] * axis, places)
    return values[index]  # along the last axis three times as fast as index_select
