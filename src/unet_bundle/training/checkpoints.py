"""Weights in files: what a run keeps to go on from, what a bundle ships, and loading either with one clear line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import monai.handlers
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import nn
from torch.optim import Optimizer

from unet_bundle.errors import CheckpointError
from unet_bundle.io.files import replacing
from unet_bundle.networks.checkpoint import bare, load_checkpoint, load_weights, short_name, weights_version
from unet_bundle.training.distributed import is_main_process

logger = logging.getLogger(__name__)

LAST = "last.pt"
BEST = "best.pt"
EARLIER = "earlier_"
"""What the files of the run before are called by, when a new one starts in its folder."""


def save_atomically(content: Any, path: Path) -> None:
    """Write `content` with ``torch.save`` so that `path` is either the old file or the complete new one."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)  # given a path, it writes the temporary name into the file


class CheckpointLoader(monai.handlers.CheckpointLoader):
    """MONAI's loader, with one line for a checkpoint that is missing, damaged or does not fit.

    Args:
        load_path: the checkpoint: a state dict, or one under ``"model"`` or ``"network"``.
        load_dict: one entry, the network.
    """

    def __init__(self, load_path: str, load_dict: dict[str, nn.Module]) -> None:
        super().__init__(load_path=load_path, load_dict=load_dict)
        self._loaded: Any = None

    def __call__(self, _engine: Engine) -> None:
        """Load the weights, unless the network still has those of this very file, as from one scan to the next.

        Raises:
            CheckpointError: the checkpoint is missing, damaged or does not fit.
        """
        path = Path(self.load_path)
        if self._loaded is not None and self._loaded == self._current(path):
            return
        state = load_checkpoint(path)
        for network in self.load_dict.values():
            load_weights(network, state, short_name(path))
        self._loaded = self._current(path)

    def _current(self, path: Path) -> Any:
        """What changes with the file, and with the weights in the network."""
        file = path.stat()
        return file.st_mtime_ns, file.st_size, [weights_version(network) for network in self.load_dict.values()]


def is_finished(folder: Path, max_epochs: int) -> bool:
    """Whether a run has all its epochs.

    Args:
        folder: of the run.
        max_epochs: as the config has it; a run that was started with another number is to have this one.

    Raises:
        CheckpointError: its state cannot be read.
    """
    if not (folder / LAST).is_file():
        return False
    state = load_checkpoint(folder / LAST)
    try:
        as_configured = state["configured_epochs"] == max_epochs
        return bool(state["epoch"] >= (state["progress"]["max_epochs"] if as_configured else max_epochs))
    except (KeyError, TypeError):
        return False  # resuming says what is wrong with it


STATE_KEYS = frozenset(
    {"network", "optimizer", "epoch", "progress", "configured_epochs", "best_metric", "best_metric_epoch"}
)
"""What the state of a run holds."""


class RunCheckpoints:
    """Keeps two files in the run's folder: the complete state to resume from, and the best weights so far.

    Args:
        network: what is trained.
        optimizer: its state is kept too.
        evaluator: its key metric says which weights are best.
        folder: of the run.
        interval: epochs between two savings; use the validation interval.
        resume: go on from the folder's last state instead of starting anew.

    Raises:
        CheckpointError: when training starts, if there is no state to resume or it does not fit.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        evaluator: Evaluator,
        folder: str,
        interval: int,
        resume: bool = False,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.evaluator = evaluator
        self.folder = Path(folder)
        self.interval = interval
        self.resume = resume
        self._configured_epochs = 0

    def attach(self, engine: Engine) -> None:
        """Load when `engine` starts, save after its epochs; stands after the validation in the list of handlers."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)

    def _start(self, engine: Engine) -> None:
        self._configured_epochs = engine.state.max_epochs or 0
        if self.resume:
            self._load(engine)
            self.resume = False  # a host may run the engine again, from where it is then
        elif is_main_process() and engine.state.epoch == 0:
            # What an earlier run left must not be taken for this one's; weights are dear, so it is not removed.
            for name in (LAST, BEST):
                if (self.folder / name).is_file():
                    (self.folder / name).replace(self.folder / f"{EARLIER}{name}")

    def _load(self, engine: Engine) -> None:
        path = self.folder / LAST
        name = short_name(path)
        if not path.is_file():
            raise CheckpointError(f"{name} is missing, there is no run to resume: start anew without --resume.")
        state = load_checkpoint(path)
        if not isinstance(state, dict) or set(state) != STATE_KEYS:
            raise CheckpointError(f"{name} is not the state of a run to resume: start anew without --resume.")
        progress = dict(state["progress"])
        if progress["epoch_length"] != engine.state.epoch_length:
            raise CheckpointError(
                f"{name} has {progress['epoch_length']} iterations an epoch, not {engine.state.epoch_length}: resume"
                " with the settings it was started with."
            )
        if state["configured_epochs"] != self._configured_epochs:  # the person asks for another length now
            progress["max_epochs"] = self._configured_epochs
        if state["epoch"] >= progress["max_epochs"]:
            raise CheckpointError(f"{name} has {state['epoch']} epochs already: ask for more by --max_epochs.")
        if state["best_metric_epoch"] >= 0 and not (self.folder / BEST).is_file():
            raise CheckpointError(f"{short_name(self.folder / BEST)} is missing: start anew without --resume.")
        load_weights(self.network, state["network"], name)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{name} was made with another optimizer: start anew without --resume.") from error
        engine.load_state_dict(progress)
        self.evaluator.state.best_metric = state["best_metric"]
        self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        logger.info("Resumed after epoch %d of %s.", engine.state.epoch, engine.state.max_epochs)

    def _epoch_completed(self, engine: Engine) -> None:
        if not is_main_process():
            return
        epoch = engine.state.epoch
        evaluated = self.evaluator.state
        if evaluated.best_metric_epoch == epoch:
            save_atomically(bare(self.network).state_dict(), self.folder / BEST)
        if epoch % self.interval == 0 or epoch == engine.state.max_epochs:
            state = {
                "network": bare(self.network).state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "epoch": epoch,
                "progress": dict(engine.state_dict()),
                "configured_epochs": self._configured_epochs,
                "best_metric": float(evaluated.best_metric),
                "best_metric_epoch": int(evaluated.best_metric_epoch),
            }
            save_atomically(state, self.folder / LAST)
