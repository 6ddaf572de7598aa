"""What a run was started with, kept in its state: a run goes on with the same, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from unet_bundle.io import case_name
from unet_bundle.training.distributed import number_of_processes

CASES = ("training_cases", "validation_cases")
"""What the record holds as a digest: names of cases may be private."""


class RunRecord:
    """What decides, beside the state itself, how a run goes on.

    Args:
        fold: that the run validates on.
        seed: of order and draws.
        batch_size: of one process.
        optimizer: whose kind and weight decay count; as it is made, before a state is loaded into it.
        training: the training cases in their order, with an ``"image"`` path each, of which only the name counts.
        validation: the validation cases, alike.
    """

    def __init__(
        self,
        fold: int,
        seed: int,
        batch_size: int,
        optimizer: Optimizer,
        training: Sequence[Mapping[str, Any]],
        validation: Sequence[Mapping[str, Any]],
    ) -> None:
        self._values = {
            "fold": fold,
            "seed": seed,
            "batch_size": batch_size,
            "optimizer": type(optimizer).__name__,
            "weight_decay": float(optimizer.param_groups[0].get("weight_decay", 0.0)),
            "training_cases": _digest(training),
            "validation_cases": _digest(validation),
        }

    def state_dict(self) -> dict[str, Any]:
        """The record as plain values; of the processes that there are now."""
        return {**self._values, "processes": number_of_processes()}

    def differences(self, state: Mapping[str, Any]) -> list[str]:
        """What another record has otherwise, in words; what only one of them knows is not compared."""
        return [
            f"other {key.replace('_', ' ')}" if key in CASES else f"{key} {state[key]} (here {value})"
            for key, value in self.state_dict().items()
            if key in state and state[key] != value
        ]


def _digest(cases: Iterable[Mapping[str, Any]]) -> str:
    names = "\0".join(case_name(case["image"]) for case in cases)
    return hashlib.sha256(names.encode()).hexdigest()
