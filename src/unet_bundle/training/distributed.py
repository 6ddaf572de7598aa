"""Several processes started by torchrun: which device is mine, and joining the others."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import torch
from monai.data import DistributedSampler

from unet_bundle.errors import ConfigError

T = TypeVar("T")


def local_device() -> torch.device:
    """The GPU of this process, by torchrun's ``LOCAL_RANK``; the CPU where there is none."""
    return torch.device(f"cuda:{_local_rank()}") if torch.cuda.is_available() else torch.device("cpu")


def start_processes() -> None:
    """Join the processes torchrun started, by nccl between GPUs and gloo between CPUs.

    Raises:
        ConfigError: the process was not started by torchrun.
    """
    _local_rank()
    if torch.distributed.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_device())
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def case_shares(dataset: Any) -> DistributedSampler:
    """Each process gets its own cases to score, none twice to make the shares even.

    Where there are fewer cases than processes they are repeated all the same: a process without a case would leave the
    others waiting. Scores are kept by case, so that none counts twice in a report.

    Args:
        dataset: the cases; at least one.
    """
    enough = len(dataset) >= torch.distributed.get_world_size()
    return DistributedSampler(dataset, even_divisible=not enough, shuffle=False)


def is_main_process() -> bool:
    """Whether this process is the one that writes files."""
    return not is_distributed() or torch.distributed.get_rank() == 0


def wait_for_others() -> None:
    """Return when every process has come here; at once where there is one only."""
    if is_distributed():
        torch.distributed.barrier()


def from_main_process(value: int) -> int:
    """The main process's `value`, in every process."""
    if not is_distributed():
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def from_all_processes(value: T) -> list[T]:
    """What each process gives, in every process; of anything that can be pickled."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def is_distributed() -> bool:
    """Whether several processes work together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _local_rank() -> int:
    try:
        return int(os.environ["LOCAL_RANK"])
    except KeyError:
        raise ConfigError(
            "The multi_gpu configs need several processes: start them by `torchrun -m monai.bundle run ...`."
        ) from None
