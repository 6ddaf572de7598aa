"""Sliding windows over a volume, whose scores are handed on, slab by slab, as soon as no later window touches them.

The order of windows and their weights are those of MONAI's ``sliding_window_inference``; what differs is that scores of
the whole volume never exist. Memory is that of one row of windows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from unet_bundle.errors import ConfigError
from unet_bundle.inferers.tiling import Tiling

SLAB_ROWS = 16
"""Rows of a slab: what is reduced at a time, in memory row after row."""

SLAB_VOXELS = 2**15
"""Of a slab, where `SLAB_ROWS` have fewer, as in pictures: so many rows at a time."""

BYTES_BESIDE = 32
"""Bytes of a voxel of a slab that do not depend on the number of classes: weights, answers, indices."""

Predict = Callable[[torch.Tensor], torch.Tensor]
"""Scores [windows, classes, *window] of windows [windows, channels, *window]."""


@dataclass(frozen=True)
class Slab:
    """Finished scores.

    Attributes:
        start: first row, along the first axis.
        stop: row after the last one.
        scores: shape [classes, *spatial]; along the first axis the row before `start`, where there is one, and
            those from `start` to before `stop`. Overwritten when the walk goes on.
    """

    start: int
    stop: int
    scores: torch.Tensor


def walk(
    image: torch.Tensor,
    predict: Predict,
    tiling: Tiling,
    *,
    batch_size: int = 1,
    device: torch.device | None = None,
    limit: float = math.inf,
) -> Iterator[Slab]:
    """Run all windows, row by row along the first axis, and yield scores that are final.

    Args:
        image: shape [channels, *spatial], of the tiling's size.
        predict: the network.
        tiling: the windows.
        batch_size: windows that are run at once.
        device: where scores are summed up; None for the image's.
        limit: bytes that the sums may take.

    Yields:
        Slabs in order; together they are the volume.

    Raises:
        ConfigError: if scores have another size than their windows.
        SlabTooLargeError: if they would take more, known after the first batch.
    """
    device = device or image.device
    weights = tiling.weights.to(device)
    rows = _groups(tiling, batch_size)
    length = max(group[-1] - group[0] for group in rows) + tiling.window[0]
    sums: _Sums | None = None
    for number, starts in enumerate(rows):
        for batch in _batches(tiling, starts, batch_size):
            windows = torch.stack([image[_window(corner, tiling.window)] for corner in batch])
            scores = predict(windows).float().to(device)
            if scores.shape[2:] != windows.shape[2:]:  # adding would stretch a single voxel over the window
                raise ConfigError(
                    "the network's scores have another size than the windows it sees: choose one that pads, or "
                    "OverlapTileInferer for a UNet with padding 'valid'"
                )
            if sums is None:
                if slab_bytes(tiling, scores.shape[1], batch_size) > limit:
                    raise SlabTooLargeError(scores.shape[1])
                sums = _Sums(scores[0], (length, *tiling.size[1:]))
            for corner, window in zip(batch, scores, strict=True):
                sums.add(corner, window, weights)
        assert sums is not None  # noqa: S101  (a tiling has windows)
        yield from sums.finished(rows[number + 1][0] if number + 1 < len(rows) else tiling.size[0])


class SlabTooLargeError(Exception):
    """A row of windows needs more memory than there is.

    Args:
        classes: of the network.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.classes = classes


def slab_bytes(tiling: Tiling, classes: int, batch_size: int = 1) -> int:
    """Memory that a walk needs for its sums, and a reduction for what it holds of a slab."""
    windows = max(group[-1] - group[0] for group in _groups(tiling, batch_size)) + tiling.window[0]
    length = windows + slab_rows(tiling.size) + 1
    return length * math.prod(tiling.size[1:]) * (4 * classes + BYTES_BESIDE)


def slab_rows(size: Sequence[int]) -> int:
    """Rows of a slab of a volume of that size."""
    return max(SLAB_ROWS, SLAB_VOXELS // math.prod(size[1:]))


def fitting_strips(tiling: Tiling, classes: int, limit: float, batch_size: int = 1) -> int:
    """Into how many strips across the second axis a volume must be split so that none needs more than `limit` bytes.

    As many as there are windows along that axis, if no number is enough.
    """
    most = len(tiling.starts[1]) if len(tiling.size) > 1 else 1
    return next(
        (
            number
            for number in range(1, most)
            if all(slab_bytes(strip.tiling, classes, batch_size) <= limit for strip in strips(tiling, number))
        ),
        most,
    )


@dataclass(frozen=True)
class Strip:
    """A part of a volume, cut across its second axis.

    Attributes:
        start: its first row along that axis.
        stop: the row after its last one.
        begin: the row at which the part of the volume begins whose windows it needs.
        tiling: those windows. They give final scores for the strip and for the row before it.
    """

    start: int
    stop: int
    begin: int
    tiling: Tiling


def strips(tiling: Tiling, number: int) -> list[Strip]:
    """Split a volume across its second axis; windows that lie across a border are run for both sides.

    Args:
        tiling: windows over the volume, of two axes at least.
        number: of strips.
    """
    side, window = tiling.size[1], tiling.window[1]
    borders = [round(side * index / number) for index in range(number + 1)]
    parts = []
    for start, stop in itertools.pairwise(borders):
        needed = [each for each in tiling.starts[1] if each < stop and each + window > max(start - 1, 0)]
        begin, end = needed[0], needed[-1] + window
        size = (tiling.size[0], end - begin, *tiling.size[2:])
        starts = (tiling.starts[0], tuple(each - begin for each in needed), *tiling.starts[2:])
        parts.append(Strip(start, stop, begin, Tiling(size, tiling.window, starts, tiling.weights)))
    return parts


def _groups(tiling: Tiling, batch_size: int) -> list[tuple[int, ...]]:
    """Starts along the first axis, as many together as fill a batch."""
    starts = tiling.starts[0]
    together = max(round(batch_size * len(starts) / tiling.count), 1)
    return [starts[first : first + together] for first in range(0, len(starts), together)]


def _batches(tiling: Tiling, rows: Sequence[int], batch_size: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """First voxels of the windows of some rows, a batch at a time."""
    corners = list(itertools.product(rows, *tiling.starts[1:]))
    for first in range(0, len(corners), batch_size):
        yield tuple(corners[first : first + batch_size])


def _window(corner: Sequence[int], window: Sequence[int]) -> tuple[slice, ...]:
    return (slice(None), *(slice(start, start + edge) for start, edge in zip(corner, window, strict=True)))


class _Sums:
    """Weighted sums of scores, and of weights, of the rows that windows still touch.

    Args:
        scores: of a window [classes, *window]; sums lie in memory as they do, which makes adding fast.
        size: rows that are held, and the other edges of the volume.
    """

    def __init__(self, scores: torch.Tensor, size: Sequence[int]) -> None:
        classes = len(scores)
        self.first = 0  # the row that is held first
        self.scores = _zeros_laid_out_like(scores, (classes, *size))
        self.weights = _zeros_laid_out_like(scores[0], size)
        self.rows = min(slab_rows(size), size[0])
        self.slab = torch.empty((classes, self.rows + 1, *size[1:]), device=scores.device)

    def add(self, corner: Sequence[int], scores: torch.Tensor, weights: torch.Tensor) -> None:
        """Add the scores [classes, *window] of the window that begins at `corner`."""
        window = _window([corner[0] - self.first, *corner[1:]], weights.shape)
        self.scores[window].addcmul_(scores, weights)
        self.weights[window[1:]] += weights

    def finished(self, stop: int) -> Iterator[Slab]:
        """The rows before `stop`, which are forgotten afterwards."""
        for start in range(self.first, stop, self.rows):
            rows, before = min(self.rows, stop - start), min(start, 1)
            held = slice(start - self.first, start - self.first + rows)
            torch.div(self.scores[:, held], self.weights[held], out=self.slab[:, before : before + rows])
            yield Slab(start, start + rows, self.slab[:, : before + rows])
            self.slab[:, 0] = self.slab[:, before + rows - 1].clone()
        done, self.first = stop - self.first, stop
        for sums in (*self.scores, self.weights):  # one class after another: little memory
            sums[:-done] = sums[done:].clone()
            sums[-done:] = 0


def _zeros_laid_out_like(values: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Zeros of a size whose axes follow each other in memory as those of `values` do."""
    order = sorted(range(values.ndim), key=values.stride, reverse=True)
    zeros = torch.zeros([size[axis] for axis in order], device=values.device)
    return zeros.permute([order.index(axis) for axis in range(values.ndim)])
