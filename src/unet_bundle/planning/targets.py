"""What a plan can be made for: a workstation without a GPU, or a GPU of some size."""

from dataclasses import dataclass
from typing import Literal

MemoryTarget = Literal["cpu", "8GB", "24GB", "80GB"]

GIB = 1024**3

GPU_SHARE = 0.72
"""Share of a GPU's memory that is planned for; with it plans for 8 GB have the patches of nnU-Net's."""


@dataclass(frozen=True)
class Target:
    """What a memory target stands for.

    Attributes:
        budget: Bytes for a training step.
        precision: Number format in which feature maps are counted.
        encoder: The preset of the network: ``"plain"`` or ``"residual"``.
        fills_memory: Whether leftover memory goes to the batch.
        iterations_per_epoch: Steps per epoch.
        max_epochs: Epochs of a full training.
        val_interval: Epochs from one validation to the next.
        num_workers: Processes that prepare batches.
        why_encoder: Clause on the encoder.
        why_budget: Clause on the budget.
        why_schedule: Clause on the length of training.
        why_workers: Sentence on the number of processes.
    """

    budget: int
    precision: str
    encoder: str
    fills_memory: bool
    iterations_per_epoch: int
    max_epochs: int
    val_interval: int
    num_workers: int
    why_encoder: str
    why_budget: str
    why_schedule: str
    why_workers: str


GPU_WORKERS = {8: 8, 24: 8, 80: 12}
"""Processes that prepare batches, by GiB of the GPU; 12 are nnU-Net's default."""


def _gpu(gigabytes: int) -> Target:
    return Target(
        budget=int(GPU_SHARE * gigabytes * GIB),
        precision="bfloat16",
        encoder="residual",
        fills_memory=True,
        iterations_per_epoch=250,
        max_epochs=1000,
        val_interval=10,
        num_workers=GPU_WORKERS[gigabytes],
        why_encoder="residual blocks score as high or higher where a GPU can pay for them: nnU-Net's authors recommend "
        "them since 2024 (arXiv 2404.09556)",
        why_budget=f"{GPU_SHARE:.0%} of {gigabytes} GiB; the rest is for the CUDA context, cuDNN and fragmentation",
        why_schedule="nnU-Net's length of training, hours to a day on a GPU",
        why_workers="a GPU takes several steps a second: one process cannot turn and crop patches that fast, and a "
        "machine with such a GPU has about this many cores",
    )


TARGETS: dict[str, Target] = {
    "cpu": Target(
        budget=GIB,
        precision="float32",
        encoder="plain",
        fills_memory=False,
        iterations_per_epoch=50,
        max_epochs=200,
        val_interval=5,
        num_workers=1,
        why_encoder="stated for a CPU, where plain convolutions teach more per minute",
        why_budget="on a CPU time runs short before memory does, and a step of this size takes seconds",
        why_schedule="two to three hours on two cores for small patches, and a time budget can end it sooner",
        why_workers="one process keeps ahead of steps that take seconds; more would take cores from the network",
    ),
    "8GB": _gpu(8),
    "24GB": _gpu(24),
    "80GB": _gpu(80),
}


def in_gib(size: int) -> str:
    """A size in bytes as people read it."""
    return f"{size / GIB:.2f} GiB"
