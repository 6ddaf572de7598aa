"""The cases of a data set for an evaluator: one at a time, or several at once where they are small and alike."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from monai.data import Dataset, MetaTensor, list_data_collate
from monai.transforms import apply_transform

from unet_bundle import stages
from unet_bundle.inferers import ScanInferer
from unet_bundle.io import case_name

logger = logging.getLogger(__name__)


class CaseBatches:
    """An iterator over batches of prepared cases, each to be run by itself.

    Cases whose image is a single window of the inferer are handed on together, as many as it runs windows at once, and
    while they run the next ones are read: many small pictures then take the time of a few large ones. Of large scans
    no second one is held.

    Args:
        dataset: items of files, and the transform that reads and prepares them.
        inferer: that of the evaluator.

    Attributes:
        names: of the cases of the batch that came last, or of the one that could not be prepared.
    """

    def __init__(self, dataset: Dataset, inferer: Any) -> None:
        self.names: list[str] = []
        self._transform, self._inferer = dataset.transform, inferer
        self._left = deque(dataset.data)
        self._count = len(self._left)
        self._batch = _Batch()
        self._ahead: Future[_Batch] | None = None
        self._reader = ThreadPoolExecutor(max_workers=1)
        self._read: tuple[Any, Any] | None = None  # the item that was read, but did not fit the batch, and its case
        self._singly = 0  # how many of the next cases are run one by one

    def __bool__(self) -> bool:
        """Whether cases are left."""
        return bool(self._left)

    def __len__(self) -> int:
        """One batch a run."""
        return 1

    def __iter__(self) -> CaseBatches:
        """Itself: each run of the evaluator takes the next batch."""
        return self

    def __next__(self) -> Any:
        """The next batch, collated.

        Raises:
            Exception: what reading or preparing its first case raised; the case is `names`, and left behind.
        """
        batch = self._next_batch() if self._ahead is None else self._ahead.result()
        self._batch, self._ahead, self.names = batch, None, []
        for item in batch.items:
            self._left.popleft()
            self.names.append(str(item.get("series") or case_name(item["image"])))  # files of DICOM may bear a name
            logger.info("%d of %d: %s", self._count - len(self._left), self._count, self.names[-1])
        for stage, seconds in batch.seconds.items():
            stages.add(stage, seconds)
        self._singly = max(self._singly - 1, 0)
        if batch.error is not None:
            raise batch.error
        if len(batch.cases) > 1 and self._left:
            self._ahead = self._reader.submit(self._read_ahead)
        return list_data_collate(batch.cases)

    def again_singly(self) -> None:
        """Put the cases of the batch back, to be run one by one: one of them is broken."""
        if self._ahead is not None:
            self._ahead.result()
            self._ahead = None
        self._left.extendleft(reversed(self._batch.items))
        self._singly = len(self._batch.items)

    def _read_ahead(self) -> _Batch:
        """The next batch and, since this thread's clock is not that of the one that runs it, what it took."""
        start = time.perf_counter()
        stages.begin()
        batch = self._next_batch()
        read = stages.seconds("read")
        batch.seconds = {"read": read, "preprocess": time.perf_counter() - start - read}
        return batch

    def _next_batch(self) -> _Batch:
        """What comes next of the cases that are left, read and prepared."""
        batch = _Batch()
        most = 1
        for item in self._left:
            try:
                case = self._prepared(item)
            except Exception as error:  # noqa: BLE001  (raised when its turn has come)
                return batch if batch.items else _Batch([item], error=error)
            if batch.cases and not _alike(case, batch.cases[0]):
                self._read = item, case
                break
            batch.items.append(item)
            batch.cases.append(case)
            most = most if len(batch.cases) > 1 else self._most(case)
            if len(batch.cases) == most:
                break
        return batch

    def _prepared(self, item: Any) -> Any:
        read, self._read = self._read, None
        if read is not None and read[0] is item:
            return read[1]
        return item if self._transform is None else apply_transform(self._transform, item)

    def _most(self, case: Any) -> int:
        """How many cases may be run together with this one."""
        if self._singly or not isinstance(self._inferer, ScanInferer) or self._inferer.sw_batch_size < 2:
            return 1
        return self._inferer.sw_batch_size if self._inferer.is_one_window(case["image"]) else 1


@dataclass
class _Batch:
    """Items of the data set and what they were prepared to; or the first that is left, and why it could not be.

    Attributes:
        seconds: by stage, of a batch that was read while another one ran.
    """

    items: list[Any] = field(default_factory=list)
    cases: list[Any] = field(default_factory=list)
    error: Exception | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def _alike(case: Any, other: Any) -> bool:
    """Whether all voxels of two cases can be stacked, and their metadata say the same kinds of things."""
    return bool(_kinds(case) == _kinds(other))


def _kinds(case: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _kind(value) if isinstance(value, torch.Tensor) else None for key, value in case.items()}


def _kind(value: torch.Tensor) -> tuple[Any, ...]:
    """The shapes of an image and of its scan, and what its metadata hold: collating drops what not all have."""
    meta = value.meta if isinstance(value, MetaTensor) else {}
    scan = tuple(int(side) for side in np.ravel(meta.get("spatial_shape", ())))
    return tuple(value.shape), scan, {str(key) for key in meta}
