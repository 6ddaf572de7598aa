"""The cases of a data set for an evaluator: one at a time, or several at once where they are small and alike."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.data import Dataset, MetaTensor, list_data_collate
from monai.transforms import apply_transform

from unet_bundle.inferers import ScanInferer
from unet_bundle.io import case_name

logger = logging.getLogger(__name__)


class CaseBatches:
    """An iterator over batches of prepared cases, each to be run by itself.

    Cases whose image is a single window of the inferer are handed on together, as many as it runs windows at once:
    many small pictures then take the time of a few large ones.

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
        self._batch: list[Any] = []
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
        self._batch, self.names = [], []
        self._take()
        cases = [self._prepared(self._batch[0])]
        most = self._most(cases[0])
        while self._left and len(cases) < most:
            try:
                case = self._prepared(self._left[0])
            except Exception:  # noqa: BLE001  (raised again when its turn has come)
                break
            if not _alike(case, cases[0]):
                self._read = self._left[0], case
                break
            self._take()
            cases.append(case)
        self._singly = max(self._singly - 1, 0)
        return list_data_collate(cases)

    def again_singly(self) -> None:
        """Put the cases of the batch back, to be run one by one: one of them is broken."""
        self._left.extendleft(reversed(self._batch))
        self._singly = len(self._batch)

    def _take(self) -> None:
        """The next item is in the batch."""
        item = self._left.popleft()
        self._batch.append(item)
        self.names.append(str(item.get("series") or case_name(item["image"])))  # files of DICOM may bear a name
        logger.info("%d of %d: %s", self._count - len(self._left), self._count, self.names[-1])

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
