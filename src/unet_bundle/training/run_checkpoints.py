"""The complete state of a run, saved so that the run goes on from it as if nothing had happened."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import nn
from torch.optim import Optimizer

from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.io.files import remove_unfinished
from unet_bundle.networks.checkpoint import load_weights, short_name
from unet_bundle.training.averaging import WeightAverage
from unet_bundle.training.checkpoints import BEST, LAST, save_atomically
from unet_bundle.training.data import CaseSampler
from unet_bundle.training.distributed import in_any_process, is_distributed, is_main_process, launch_id, wait_for_others
from unet_bundle.training.handlers import TrainingLog, on_failure
from unet_bundle.training.run_lock import RunLock
from unet_bundle.training.run_record import RunRecord
from unet_bundle.training.run_state import read_state
from unet_bundle.training.steps import TrainStep
from unet_bundle.training.stopping import StopSignals
from unet_bundle.training.trained_cases import Origin

logger = logging.getLogger(__name__)

EARLIER = "earlier_"
"""What the files of the run before are called by, when a new one starts in its folder."""
KEPT = "epoch_{:05d}.pt"
"""The state after an epoch that is kept for good."""


class RunCheckpoints:
    """Keeps two files in the run's folder: the complete state to resume from, and the best weights so far.

    The state is saved after validations, every few minutes, and when the run is stopped by Ctrl-C or SIGTERM: after the
    step under way, or at once during a validation. A resumed run makes the same weights, bit for bit on a CPU, as one
    that was never stopped.

    Args:
        network: what is trained.
        optimizer: its state is kept too.
        evaluator: its key metric says which weights are best.
        folder: of the run.
        interval: epochs between two savings; use the validation interval.
        resume: go on from the folder's last state instead of starting anew.
        average: the average of the weights that is scored in their place.
        step: whose state is kept too.
        log: the same.
        save_minutes: also save when this many minutes have passed, in the middle of an epoch; None does not.
        keep_every: epochs between two states that are kept for good, as ``epoch_00010.pt``; None keeps none.
        record: what a run that goes on must have in common with the one whose state it is; None checks nothing.
        origin: what is known of the weights the run started from, kept too.

    Raises:
        ConfigError: `save_minutes` or `keep_every` is not positive.
        CheckpointError: when training starts, if there is no state to resume, it does not fit or is of another run.
        FolderInUseError: the same, if another run is training in the folder.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        evaluator: Evaluator,
        folder: str,
        interval: int,
        resume: bool = False,
        average: WeightAverage | None = None,
        step: TrainStep | None = None,
        log: TrainingLog | None = None,
        save_minutes: float | None = None,
        keep_every: int | None = None,
        record: RunRecord | None = None,
        origin: Origin | None = None,
    ) -> None:
        for name, value in (("save_minutes", save_minutes), ("keep_every", keep_every)):
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be positive, or null for never, not {value!r}.")
        self.network = network
        self.optimizer = optimizer
        self.evaluator = evaluator
        self.folder = Path(folder)
        self.interval = interval
        self.resume = resume
        self.average = average or WeightAverage(network, evaluator)
        self.parts: dict[str, Any] = {"average": self.average, "step": step or TrainStep()}
        self.log = log or TrainingLog(evaluator, folder)
        self.parts["log"] = self.log
        self.parts["origin"] = origin or Origin()
        self.record = record
        self.save_minutes = save_minutes
        self.keep_every = keep_every
        self._configured_epochs = 0
        self._saved_at = 0.0
        self._epoch_pending = False  # its last step is done, its validation is not
        self._stopped = False
        self._signals = StopSignals()
        self._lock = RunLock(self.folder)

    def attach(self, engine: Engine) -> None:
        """Load when `engine` starts, save while it runs; stands after the validation in the list of handlers."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._case_validated, engine)
        engine.add_event_handler(Events.COMPLETED, self._completed)
        on_failure(engine, self._failed)

    # --- start --------------------------------------------------------------------------------------------------

    def _start(self, engine: Engine) -> None:
        self._configured_epochs = engine.state.max_epochs or 0
        self._saved_at = time.monotonic()
        self._epoch_pending = self._stopped = False
        if not engine.has_event_handler(self._finish, Events.COMPLETED):
            engine.add_event_handler(Events.COMPLETED, self._finish)  # behind what publishes the weights
        self._lock.acquire()
        self._signals.watch()
        if is_main_process():
            remove_unfinished(self.folder)
        if self.resume:
            self.resume = False  # a host may run the engine again, from where it is then
            self._load(engine)
            if self._epoch_pending and not engine.has_event_handler(self._complete_epoch, Events.STARTED):
                engine.add_event_handler(Events.STARTED, self._complete_epoch)  # when all others have started
        elif is_main_process() and engine.state.epoch == 0:
            # What an earlier run left must not be taken for this one's; weights are dear, so it is not removed.
            for path in (self.folder / LAST, self.folder / BEST, *self.folder.glob("epoch_?????.pt")):
                if path.is_file():
                    path.replace(path.with_name(EARLIER + path.name))

    def _load(self, engine: Engine) -> None:
        path = self.folder / LAST
        name = short_name(path)
        state = read_state(path)
        self._check_record(state.get("record"), name)
        progress = dict(state["progress"])
        if progress["epoch_length"] != engine.state.epoch_length:
            raise CheckpointError(
                f"{name} has {progress['epoch_length']} iterations an epoch, not {engine.state.epoch_length}: resume"
                " with the settings it was started with."
            )
        if state["configured_epochs"] != self._configured_epochs:  # the person asks for another length now
            progress["max_epochs"] = self._configured_epochs
        missing = progress["max_epochs"] * progress["epoch_length"] - progress["iteration"]
        if missing < 0 or (missing == 0 and state["finished"]):
            raise CheckpointError(f"{name} has {state['epoch']} epochs already: ask for more by --max_epochs.")
        at_best = not state["epoch_pending"] and (
            state["best_metric_epoch"] * progress["epoch_length"] == progress["iteration"]
        )
        if state["best_metric_epoch"] >= 0 and not at_best and not (self.folder / BEST).is_file():
            raise CheckpointError(f"{short_name(self.folder / BEST)} is missing: start anew without --resume.")
        load_weights(self.network, state["network"], name)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            for key, part in self.parts.items():
                if key in state:
                    part.load_state_dict(state[key])
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{name} was made with another optimizer or ema_decay: resume with the settings it was started with."
            ) from error
        if "origin" not in state:  # written before there was such a thing: nothing is known of it
            self.parts["origin"].add(None)
        engine.load_state_dict(progress)
        self.evaluator.state.best_metric = state["best_metric"]
        self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        self.evaluator.state.epoch = state["validated_epoch"]
        self._epoch_pending = state["epoch_pending"]
        self._skip_what_was_seen(engine)
        if at_best and is_main_process():  # a run may die between its state and these
            save_atomically(self.average.weights(), self.folder / BEST)
        logger.info("Resumed after iteration %d, epoch %d of %s.", *_place(engine), engine.state.max_epochs)

    def _check_record(self, state: Any, name: str) -> None:
        if self.record is None:
            return
        if not state:
            logger.info("%s does not say with which settings and cases it was made: they are not checked.", name)
            return
        differing = self.record.differences(state)
        if differing:
            raise CheckpointError(
                f"{name} was made with {', '.join(differing)}: resume with what it was started with, or start anew"
                " without --resume."
            )

    def _skip_what_was_seen(self, engine: Engine) -> None:
        within_epoch = engine.state.iteration % (engine.state.epoch_length or 1)
        if within_epoch:
            loader = engine.data_loader  # type: ignore[attr-defined]  # MONAI's trainers have one
            loader.sampler.start_at(within_epoch * loader.batch_size)

    def _complete_epoch(self, engine: Engine) -> None:
        """Do all that the run did not come to after the last step of an epoch."""
        if self._epoch_pending:
            engine.fire_event(Events.EPOCH_COMPLETED)
            state: Any = engine.state
            # The score of the training patches, which this process has not seen: no number, and nothing to beat.
            if math.isnan(getattr(state, "best_metric", 0.0)):
                state.best_metric = state.best_metric_epoch = -1

    # --- while it runs ------------------------------------------------------------------------------------------

    def _iteration_completed(self, engine: Engine) -> None:
        self._epoch_pending = engine.state.iteration % (engine.state.epoch_length or 1) == 0
        overdue = self.save_minutes is not None and time.monotonic() - self._saved_at >= self.save_minutes * 60
        self._stop_if_asked(engine)
        if overdue and _can_skip(engine) and is_main_process():
            self._save(engine)

    def _stop_if_asked(self, engine: Engine) -> None:
        if in_any_process(self._signals.received is not None, engine.state.device):  # type: ignore[attr-defined]
            self._save_and_tell(engine)
            wait_for_others()  # torchrun ends all when one ends: not while the state is being written
            self._signals.stop()

    def _completed(self, engine: Engine) -> None:
        self._stop_if_asked(engine)  # to validate and to publish may take longer than a scheduler waits
        self._signals.unwatch()  # all is saved: from here on a signal may end the process at once
        # A cross-validation scores a run's best weights, published or not: the last epochs count among them.
        if self.evaluator.state.epoch_length and self.evaluator.state.epoch != engine.state.epoch:
            self.evaluator.run(engine.state.epoch)
            if is_main_process() and self.evaluator.state.best_metric_epoch == engine.state.epoch:
                self._save_best(engine)

    def _case_validated(self, _evaluator: Engine, engine: Engine) -> None:
        if self._signals.received is not None and self._epoch_pending:
            self._save_and_tell(engine)
            self._signals.stop()

    def _save_and_tell(self, engine: Engine) -> None:
        already, self._stopped = self._stopped, True
        if not already and is_main_process() and (self._epoch_pending or _can_skip(engine)):
            self._save(engine)
            logger.info(
                "Stopped after iteration %d, epoch %d of %s: the same command with --resume goes on from there.",
                *_place(engine), engine.state.max_epochs,
            )  # fmt: skip

    def _failed(self, engine: Engine) -> None:
        # A process that stopped during a validation leaves the others with an error while they wait for its scores.
        if is_distributed() and self._signals.received is not None and self._epoch_pending:
            self._save_and_tell(engine)
        self._signals.unwatch()
        self._lock.release()

    def _epoch_completed(self, engine: Engine) -> None:
        self._epoch_pending = False
        if not is_main_process():
            return
        epoch = engine.state.epoch
        if self.evaluator.state.best_metric_epoch == epoch:
            self._save_best(engine)
        elif epoch % self.interval == 0 or epoch == engine.state.max_epochs:
            self._save(engine)
        if self.keep_every is not None and epoch % self.keep_every == 0:
            save_atomically(self._state(engine), self.folder / KEPT.format(epoch))

    def _finish(self, engine: Engine) -> None:
        if is_main_process():
            self._save(engine, finished=True)
        self._lock.release()

    def _save_best(self, engine: Engine) -> None:
        # The state first: it knows that its weights are the best, and a resumed run makes the other file of it again.
        self._save(engine)
        save_atomically(self.average.weights(), self.folder / BEST)

    def _save(self, engine: Engine, finished: bool = False) -> None:
        save_atomically({**self._state(engine), "finished": finished}, self.folder / LAST)
        self._saved_at = time.monotonic()

    def _state(self, engine: Engine) -> dict[str, Any]:
        evaluated = self.evaluator.state
        return {
            "network": self.average.trained(),
            "optimizer": self.optimizer.state_dict(),
            **{key: part.state_dict() for key, part in self.parts.items()},
            "epoch": _place(engine)[1],
            "progress": dict(engine.state_dict()),
            "configured_epochs": self._configured_epochs,
            "epoch_pending": self._epoch_pending,
            "finished": False,
            "best_metric": float(evaluated.best_metric),
            "best_metric_epoch": int(evaluated.best_metric_epoch),
            "validated_epoch": int(evaluated.epoch),
            "launch": launch_id(),
            "record": {} if self.record is None else self.record.state_dict(),
        }


def _place(engine: Engine) -> tuple[int, int]:
    """Iterations and whole epochs that `engine` has done."""
    return engine.state.iteration, engine.state.iteration // (engine.state.epoch_length or 1)


def _can_skip(engine: Engine) -> bool:
    """Whether the data can go on in the middle of an epoch."""
    return isinstance(getattr(engine.data_loader, "sampler", None), CaseSampler)  # type: ignore[attr-defined]
