"""Cases kept ready in memory, and the order and the random draws they are trained in.

Randomness is a function of (seed, position in the whole training): not of what ran before, of the number of workers, or
of whether training was interrupted. The sampler hands out (case, seed of the draw); the data set seeds its transforms
with it.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset
from monai.transforms import Compose
from torch.utils.data import DistributedSampler
from tqdm import tqdm

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.memory import free_memory_bytes
from unet_bundle.training.distributed import is_main_process, processes_here

logger = logging.getLogger(__name__)

CACHE_SHARE_OF_FREE_MEMORY = 0.5
"""The share of the memory that is free when training starts which preprocessed cases may fill."""


class CaseDataset(CacheDataset):
    """Cases whose deterministic transforms ran once; as many are kept as memory allows, the others are read again.

    Args:
        data: one dictionary a case, e.g. ``{"image": path, "label": path}``.
        transform: deterministic transforms first, random ones after.
        cache_bytes: memory the kept cases may take; None: half of what is free, shared with the other processes of
            this machine if there are any.
        num_workers: threads that fill the cache.
        progress: show a progress bar while it fills.

    Raises:
        ConfigError: `cache_bytes` is negative.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Compose,
        cache_bytes: int | None = None,
        num_workers: int = 2,
        progress: bool = True,
    ) -> None:
        if cache_bytes is not None and cache_bytes < 0:
            raise ConfigError(f"cache_bytes must be 0 or more, not {cache_bytes!r}.")
        # Random transforms crop first and work on new tensors, so the cache needs no copy.
        super().__init__(data=[], transform=transform, num_workers=num_workers, progress=progress, copy_cache=False)
        self.set_num = self._cases_that_fit(data, cache_bytes)
        self.set_data(data)

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Any]:
        """Prepare the cases in threads; when one fails, return only after the others have stopped.

        MONAI's pool leaves its threads behind then, and a thread still inside torch at exit aborts the process.
        """
        indices = range(self.cache_num) if indices is None else indices
        with ThreadPoolExecutor(self.num_workers) as pool:
            prepared = [pool.submit(self._load_cache_item, index) for index in indices]
            shown = self.progress and is_main_process()
            bar = tqdm(prepared, desc="Reading cases", disable=None if shown else True, leave=False)
            try:
                return [case.result() for case in bar]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _cases_that_fit(self, data: Sequence[dict[str, Any]], cache_bytes: int | None) -> int:
        if not data:
            return 0
        free = free_memory_bytes() * CACHE_SHARE_OF_FREE_MEMORY / processes_here()
        budget = int(free) if cache_bytes is None else cache_bytes
        self.data = data
        # Sizes differ from case to case: look at up to three, spread over the list, and take the largest.
        looked_at = sorted({0, len(data) // 2, len(data) - 1})
        largest = max(_tensor_bytes(self._load_cache_item(index)) for index in looked_at)
        fitting = budget // max(largest, 1)
        if fitting < len(data):
            logger.info(
                "%d of %d cases stay in memory (%.1f GB of %.1f GB); the others are read again each time.",
                fitting, len(data), fitting * largest / 1e9, len(data) * largest / 1e9,
            )  # fmt: skip
        return min(fitting, sys.maxsize)

    def __getitem__(self, index: Any) -> Any:
        """The case at `index`; with ``(index, seed)`` its random transforms are seeded with `seed` first."""
        if isinstance(index, tuple):
            index, seed = index
            self.transform.set_random_state(seed=seed)
        return super().__getitem__(index)


def _tensor_bytes(item: Any) -> int:
    values = item.values() if isinstance(item, dict) else item if isinstance(item, list | tuple) else ()
    own = item.element_size() * item.nelement() if isinstance(item, torch.Tensor) else getattr(item, "nbytes", 0)
    return int(own) + sum(_tensor_bytes(value) for value in values)


class CaseSampler(DistributedSampler):  # type: ignore[type-arg]
    """An epoch is a fixed number of samples; over the epochs every case comes up equally often.

    A subclass of ``DistributedSampler`` so that MONAI's engines tell it the epoch, and so that with several processes
    each takes its own share of one common sequence.

    Args:
        dataset: what is sampled from; only its length is used.
        samples_per_epoch: number of samples in an epoch, over all processes.
        seed: of the order and of every draw.

    Raises:
        InputError: the data set is empty.
        ConfigError: an epoch would be empty.
    """

    def __init__(self, dataset: Sized, samples_per_epoch: int, seed: int = 0) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        super().__init__(
            dataset,  # type: ignore[arg-type]  # torch asks for a Dataset but uses its length only
            num_replicas=torch.distributed.get_world_size() if distributed else 1,
            rank=torch.distributed.get_rank() if distributed else 0,
            seed=seed,
        )
        if len(dataset) == 0:
            raise InputError("There is no training case: look at dataset_dir, the fold and the splits.")
        if samples_per_epoch < 1:
            raise ConfigError(f"An epoch of {samples_per_epoch} samples trains nothing: raise iterations_per_epoch.")
        self.cases = len(dataset)
        self.num_samples = -(-samples_per_epoch // self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas
        self.epoch = 1  # engines count from 1 and call set_epoch before the first batch
        self._first = 0

    def start_at(self, sample: int) -> None:
        """Leave out this process's samples before number `sample` in the next epoch that is drawn, and in no other."""
        self._first = sample

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (case, seed of the draw)."""
        first = (self.epoch - 1) * self.total_size
        positions = range(first + self.rank, first + self.total_size, self.num_replicas)[self._first :]
        self._first = 0
        for turn, group in itertools.groupby(positions, key=lambda position: position // self.cases):
            order = np.random.RandomState([self.seed, turn]).permutation(self.cases)
            for position in group:
                draw = np.random.SeedSequence([self.seed, position]).generate_state(1)[0]
                yield int(order[position % self.cases]), int(draw)
