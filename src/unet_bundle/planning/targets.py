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
        fills_memory: Whether leftover memory goes to the batch.
        iterations_per_epoch: Steps per epoch.
        max_epochs: Epochs of a full training.
        val_interval: Epochs from one validation to the next.
        why_budget: Clause on the budget.
        why_schedule: Clause on the length of training.
    """

    budget: int
    precision: str
    fills_memory: bool
    iterations_per_epoch: int
    max_epochs: int
    val_interval: int
    why_budget: str
    why_schedule: str


def _gpu(gigabytes: int) -> Target:
    return Target(
        budget=int(GPU_SHARE * gigabytes * GIB),
        precision="bfloat16",
        fills_memory=True,
        iterations_per_epoch=250,
        max_epochs=1000,
        val_interval=10,
        why_budget=f"{GPU_SHARE:.0%} of {gigabytes} GiB; the rest is for the CUDA context, cuDNN and fragmentation",
        why_schedule="nnU-Net's length of training, hours to a day on a GPU",
    )


TARGETS: dict[str, Target] = {
    "cpu": Target(
        budget=GIB,
        precision="float32",
        fills_memory=False,
        iterations_per_epoch=50,
        max_epochs=200,
        val_interval=5,
        why_budget="on a CPU time runs short before memory does, and a step of this size takes seconds",
        why_schedule="two to three hours on two cores for small patches, and a time budget can end it sooner",
    ),
    "8GB": _gpu(8),
    "24GB": _gpu(24),
    "80GB": _gpu(80),
}


def in_gib(size: int) -> str:
    """A size in bytes as people read it."""
    return f"{size / GIB:.2f} GiB"
