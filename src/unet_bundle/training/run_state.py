"""The state of a run as a file: what it holds, and whether a run goes on from it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from unet_bundle.config_checks import TRUTH
from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.networks.checkpoint import load_checkpoint, short_name
from unet_bundle.runtime import EXIT_OK, under_monai_command_line
from unet_bundle.training.checkpoints import LAST
from unet_bundle.training.distributed import from_main_process, is_main_process, is_restarted, launch_id

logger = logging.getLogger(__name__)

STATE_KEYS = frozenset(
    {
        "network", "optimizer", "average", "step", "log", "epoch", "progress", "configured_epochs", "epoch_pending",
        "finished", "best_metric", "best_metric_epoch", "validated_epoch", "launch",
    }
)  # fmt: skip
"""What the state of a run holds: tensors and plain values. All randomness is a function of seed and iteration."""
LATER_KEYS = frozenset({"record", "origin"})
"""The same, but not in states that were written before there was such a thing."""


def read_state(path: Path) -> dict[str, Any]:
    """The state to resume.

    Raises:
        CheckpointError: the file is missing, cannot be read, or is something else.
    """
    name = short_name(path)
    if not path.is_file():
        raise CheckpointError(f"{name} is missing, there is no run to resume: start anew without --resume.")
    state = _state_in(path)
    if state is None:
        raise CheckpointError(f"{name} is not the state of a run to resume: start anew without --resume.")
    return state


def goes_on(folder: str, resume: bool | str = False, max_epochs: int | None = None) -> bool:
    """Whether a run goes on from the state in its folder, or starts anew.

    Where torchrun has started the processes again because one had died, it goes on from what this run has saved.

    Args:
        folder: of the run.
        resume: true, false (also as text), or ``"auto"``: if there is the state of a run that has epochs to do. Where
            it has none, ``"auto"`` ends a process of the MONAI CLI with success: a scheduler that starts a job again
            after its end must not train anew.
        max_epochs: as the config has it; None: that of the run.

    Raises:
        ConfigError: `resume` is something else.
        CheckpointError: the state cannot be read; or ``"auto"`` finds nothing to do elsewhere than in the MONAI CLI.
    """
    if isinstance(resume, str) and resume.lower() in TRUTH:
        resume = resume.lower() == "true"
    if resume not in (True, False, "auto"):
        raise ConfigError(f"resume must be true, false or auto, not {resume!r}.")
    if resume != "auto" and (resume or not is_restarted()):
        return bool(resume)
    last = Path(folder) / LAST
    if resume == "auto":
        if from_main_process(int(is_main_process() and is_finished(last.parent, max_epochs))):
            _end_as_done(last)
        return bool(from_main_process(int(is_main_process() and _state_in(last) is not None)))
    return bool(from_main_process(int(is_main_process() and _is_unfinished(last))))


def _end_as_done(last: Path) -> None:
    words = f"{short_name(last)} is of a run that is done: nothing is trained. Without --resume it is trained anew."
    if not under_monai_command_line():
        raise CheckpointError(words)
    logger.info(words)
    sys.exit(EXIT_OK)


def is_finished(folder: Path, max_epochs: int | None) -> bool:
    """Whether a run came to its end, and needs no more epochs.

    Args:
        folder: of the run.
        max_epochs: as the config has it; a run that was started with another number is to have this one. None: its own.

    Raises:
        CheckpointError: its state cannot be read.
    """
    state = _state_in(folder / LAST)
    if state is None:
        return False
    if max_epochs is None or state["configured_epochs"] == max_epochs:
        max_epochs = int(state["progress"]["max_epochs"])
    return bool(state["finished"] and state["epoch"] >= max_epochs)


def epochs_of_unfinished(folder: Path) -> tuple[int, int] | None:
    """Epochs that a run has done, and how many it is to do; None if it came to its end, or nothing is known of it.

    Args:
        folder: of the run.
    """
    try:
        state = _state_in(folder / LAST)
    except CheckpointError:
        return None
    if state is None or state["finished"]:
        return None
    return state["epoch"], state["progress"]["max_epochs"]


def _is_unfinished(path: Path) -> bool:
    """Whether there is the state of a run of this launch of torchrun that did not come to its end."""
    state = _state_in(path)
    return state is not None and not state["finished"] and state["launch"] == launch_id()


def _state_in(path: Path) -> dict[str, Any] | None:
    """What a file holds, if that is the state of a run."""
    state = load_checkpoint(path) if path.is_file() else None
    if not isinstance(state, dict) or not STATE_KEYS <= set(state) <= STATE_KEYS | LATER_KEYS:
        return None
    return state
