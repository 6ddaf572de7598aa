"""From scores on the network's grid to what is wanted on the scan's, a slab at a time.

Scores are interpolated linearly. Where the answer at all corners of a cell is one, it is the answer everywhere in it:
interpolation weights are positive and add up to one, so the winner at every corner wins in between. So scores are
interpolated for the few voxels at borders only, and the answer is that of interpolating everything.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import torch

from unet_bundle.errors import ConfigError
from unet_bundle.inferers.scan_grid import AxisMap, ScanGrid
from unet_bundle.inferers.slabs import Slab
from unet_bundle.transforms import paint_regions

Decide = Callable[[torch.Tensor], torch.Tensor]
"""The answer, a whole number, for scores [classes, ...]."""


def winner(scores: torch.Tensor) -> torch.Tensor:
    """The class with the highest score, of classes that exclude each other."""
    return scores.max(dim=0).indices  # three times as fast as argmax on a CPU


def regions(scores: torch.Tensor) -> torch.Tensor:
    """Which regions, that may overlap, have a score above 0 (probability above a half); a bit for each."""
    bits = 2 ** torch.arange(len(scores), device=scores.device).reshape(-1, *[1] * (scores.ndim - 1))
    return ((scores > 0) * bits).sum(dim=0)


def painted(scores: torch.Tensor, values: Sequence[int]) -> torch.Tensor:
    """The label map of the regions that have a score above 0, painted in their order with `values`."""
    return paint_regions(scores > 0, values)


def completed(slab: Slab, grid: ScanGrid) -> tuple[AxisMap, ...]:
    """Where the voxels of the scan that a slab completes lie in its scores."""
    begin = slab.stop - slab.scores.shape[1]
    return (grid.maps[0].between(slab.start, slab.stop, begin), *grid.maps[1:])


def outer(flags: Sequence[torch.Tensor]) -> torch.Tensor:
    """Whether all flags of a place are set, one along each axis."""
    together = torch.ones((), dtype=torch.bool, device=flags[0].device)
    for flag in flags:
        together = together[..., None] & flag
    return together


class Reduction:
    """The answer for a scan, filled in as scores are finished.

    Args:
        shape: of the scan.
        output: ``"labels"`` or ``"regions"``.
        values: with which regions are painted, where the labels are those of regions; see
            `unet_bundle.transforms.painted_values`.

    Attributes:
        answer: of that shape, 0 where nothing was filled in; None before the first scores.
        classes: of the network.
    """

    def __init__(self, shape: Sequence[int], output: str, values: Sequence[int] = ()) -> None:
        self.shape = tuple(shape)
        self.decide: Decide = {"labels": winner, "regions": regions}[output]
        self.values = values
        if output == "labels" and values:
            self.decide = functools.partial(painted, values=values)
        self.output = output
        self.answer: torch.Tensor | None = None
        self.classes = 0

    def add(self, slab: Slab, grid: ScanGrid) -> None:
        """Decide the planes of the scan that a slab completes.

        Args:
            slab: scores [classes, *spatial] of the network's grid, along its first axis.
            grid: where the scan, or a part of it, lies in that.

        Raises:
            ConfigError: for more regions than there are bits.
        """
        if self.answer is None:
            self.classes = len(slab.scores)
            self.answer = torch.zeros(self.shape, dtype=self._smallest_type())
        maps = completed(slab, grid)
        if all(map(len, maps)):
            _fill(self.answer.permute(grid.axes), maps, slab.scores, self.decide)

    def result(self) -> torch.Tensor:
        """Shape [1, *scan], the class of each voxel; or [regions, *scan], 0 or 1."""
        assert self.answer is not None  # noqa: S101  (a walk has slabs)
        if self.output == "labels":
            return self.answer[None]
        return torch.stack([(self.answer >> number & 1).to(torch.uint8) for number in range(self.classes)])

    def _smallest_type(self) -> torch.dtype:
        largest = max(self.values, default=self.classes - 1) if self.output == "labels" else 2**self.classes - 1
        for kind in (torch.uint8, torch.int16, torch.int32, torch.int64):
            if largest <= torch.iinfo(kind).max:
                return kind
        raise ConfigError(f"the network has {self.classes} regions: 63 at most can be told apart")


def _fill(aligned: torch.Tensor, maps: Sequence[AxisMap], scores: torch.Tensor, decide: Decide) -> None:
    """Decide some planes of the scan, whose axes are in the network's order, one after another."""
    along, *across = [each.to(scores.device) for each in maps]
    if all(each.same for each in maps):
        answers = _taken(decide(scores), [each.lower for each in (along, *across)])
        window = tuple(slice(each.first, each.first + len(each)) for each in maps)
        aligned[window] = (answers * outer([each.inside for each in (along, *across)])).to(aligned.dtype)
        return
    nodes = torch.stack([decide(row).to(aligned.dtype) for row in scores.unbind(1)])
    settled = _settled(nodes, [along, *across])
    columns = [each.lower for each in across]
    window = tuple(slice(each.first, each.first + len(each)) for each in across)
    inside = outer([each.inside for each in across])
    for plane, (lower, upper) in enumerate(zip(along.lower.tolist(), along.upper.tolist(), strict=True)):
        found = _taken(nodes[lower], columns)
        disputed = torch.nonzero(~_taken(settled[lower], columns), as_tuple=True)
        if len(disputed[0]):
            row = scores[:, lower]
            if upper != lower:
                row = torch.lerp(row, scores[:, upper], along.share[plane])
            found[disputed] = decide(_interpolated(row, across, disputed)).to(found.dtype)
        aligned[along.first + plane][window] = (found * inside * along.inside[plane]).to(aligned.device)


def _settled(nodes: torch.Tensor, maps: Sequence[AxisMap]) -> torch.Tensor:
    """For every voxel: is the answer the same at it and, along axes where the scan has others, at all next to it?"""
    least = most = nodes
    for axis, each in enumerate(maps):
        side = nodes.shape[axis]
        if side > 1 and not each.same:
            after = torch.arange(1, side + 1, device=nodes.device).clamp(max=side - 1)
            least = torch.minimum(least, least.index_select(axis, after))
            most = torch.maximum(most, most.index_select(axis, after))
    return least == most


def _taken(values: torch.Tensor, indices: list[torch.Tensor]) -> torch.Tensor:
    for axis, index in enumerate(indices):
        values = values.index_select(axis, index)
    return values


def _interpolated(scores: torch.Tensor, maps: Sequence[AxisMap], indices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Scores [classes, voxels] at voxels of a plane of the scan, from a plane's [classes, *spatial]."""
    flat = scores.reshape(len(scores), -1)
    total = flat.new_zeros((len(flat), len(indices[0])))
    for sides in itertools.product(*((0,) if each.same else (0, 1) for each in maps)):
        weight = flat.new_ones(len(indices[0]))
        place = torch.zeros_like(indices[0])
        for each, index, upper, side in zip(maps, indices, sides, scores.shape[1:], strict=True):
            place = place * side + (each.upper if upper else each.lower)[index]
            if not each.same:
                weight = weight * (each.share[index] if upper else 1 - each.share[index])
        total += flat.index_select(1, place).mul_(weight)
    return total
