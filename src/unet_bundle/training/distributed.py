"""Several processes started by torchrun: which device is mine, and joining the others."""

from __future__ import annotations

import logging
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
    store, rank, world_size = next(iter(torch.distributed.rendezvous("env://")))
    # After a restart torchrun may hand on the store of the processes that died: with their addresses in it, gloo waits
    # for them, or is refused (seen with torch 2.13).
    attempt = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{world_size}"
    torch.distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=torch.distributed.PrefixStore(attempt, store),
        rank=rank,
        world_size=world_size,
    )
    if not is_main_process():
        logging.getLogger().setLevel(logging.WARNING)  # once is enough for what all have to say


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


def in_any_process(value: bool, device: torch.device) -> bool:
    """Whether `value` holds in any of the processes, which all have to ask; `device` is that of this process."""
    if not is_distributed():
        return value
    flag = torch.tensor(float(value), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)


def sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The sum of the processes' `values`, in all of them; the tensor itself where there is one process only."""
    if is_distributed():
        values = values.clone()
        torch.distributed.all_reduce(values)
    return values


def mean_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The mean of the processes' `values`, in all of them; the tensor itself where there is one process only."""
    return sum_over_processes(values) / torch.distributed.get_world_size() if is_distributed() else values


def is_distributed() -> bool:
    """Whether several processes work together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def number_of_processes() -> int:
    """Number of processes that work together, on all machines."""
    return torch.distributed.get_world_size() if is_distributed() else 1


def processes_here() -> int:
    """Number of processes that share this machine, by torchrun's ``LOCAL_WORLD_SIZE``."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_distributed() else 1


def is_restarted() -> bool:
    """Whether torchrun started this process again after one of its processes had died (``--max-restarts``)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def launch_id() -> str:
    """What torchrun calls all starts and restarts of one call of it; empty without torchrun."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "")


def _local_rank() -> int:
    try:
        return int(os.environ["LOCAL_RANK"])
    except KeyError:
        raise ConfigError(
            "The multi_gpu configs need several processes: start them by `torchrun -m monai.bundle run ...`."
        ) from None
