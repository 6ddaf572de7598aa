"""What a person sees while a network trains: one line an epoch with the time left, a progress bar, curves."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from tqdm import tqdm

from unet_bundle import stages
from unet_bundle.errors import ConfigError
from unet_bundle.io.files import replacing
from unet_bundle.training.distributed import is_main_process, mean_over_processes

logger = logging.getLogger(__name__)


def on_failure(engine: Engine, handler: Callable[[Engine], None]) -> None:
    """Call `handler` when `engine` fails or is interrupted.

    Ignite takes an error for handled as soon as anybody listens: here it goes on when all have been called.
    """
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, _error: handler(engine))
    if engine.has_event_handler(_raise, Events.EXCEPTION_RAISED):
        engine.remove_event_handler(_raise, Events.EXCEPTION_RAISED)
    engine.add_event_handler(Events.EXCEPTION_RAISED, _raise)


def _raise(_engine: Engine, error: BaseException) -> None:
    raise error


def shared_handler(handler: Any) -> Any:
    """`handler` itself: one that others know too, in a list of handlers, which hosts expect to be components."""
    return handler


class Progress:
    """A progress bar over the iterations of an engine, with the time left; silent where no terminal is attached.

    Args:
        description: what stands before the bar.
    """

    def __init__(self, description: str) -> None:
        self.description = description
        self._bar: Any = None

    def attach(self, engine: Engine) -> None:
        """Follow `engine`."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)
        on_failure(engine, self._close)

    def _advance(self, engine: Engine) -> None:
        total = (engine.state.max_epochs or 1) * (engine.state.epoch_length or 1)
        if self._bar is None:
            self._bar = tqdm(
                desc=self.description,
                total=total,
                initial=engine.state.iteration - 1,
                disable=None if is_main_process() else True,
                leave=False,
            )
        self._bar.total = total
        self._bar.update()

    def _close(self, _engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class StageTimes:
    """One log line a scan: how long reading, preparing, the network, resampling and writing took (`stages`).

    With loader processes reading is part of what is called preprocessing: the time that was waited for both.
    """

    def __init__(self) -> None:
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        """Follow `engine`, an evaluator; stands after what writes."""
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._prepared)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._log)
        on_failure(engine, self._fail)

    def _start(self, _engine: Engine) -> None:
        stages.begin()
        self._started = time.perf_counter()

    def _prepared(self, _engine: Engine) -> None:
        stages.add("preprocess", time.perf_counter() - self._started - stages.seconds("read"))

    def _log(self, engine: Engine) -> None:
        output: Any = engine.state.output
        stages.log(len(output) if isinstance(output, list) else 1)

    def _fail(self, _engine: Engine) -> None:
        stages.end()


class TrainingLog:
    """One log line and one row of ``curves.csv`` an epoch: mean loss, learning rate, validation score, time left.

    Loss, learning rate and the length of the gradients also become metrics of the engine, for whoever shows those.

    Args:
        evaluator: its key metric is written in the epochs that were validated.
        folder: of the run, where ``curves.csv`` goes.
    """

    COLUMNS = ("epoch", "iteration", "seconds", "loss", "learning_rate", "validation_dice", "gradient_norm")

    def __init__(self, evaluator: Evaluator, folder: str) -> None:
        self.evaluator = evaluator
        self.path = Path(folder) / "curves.csv"
        self._steps: list[torch.Tensor] = []
        self._rows: list[Sequence[Any]] | None = None
        self._started = 0.0
        self._epochs = 0

    def attach(self, engine: Engine) -> None:
        """Follow `engine`; stands after the validation in the list of handlers."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def state_dict(self) -> dict[str, Any]:
        """What is collected of the epoch under way: [iterations, 2], losses and lengths of gradients."""
        return {"steps": torch.stack(self._steps).cpu() if self._steps else torch.zeros(0, 2)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the epoch that was under way."""
        self._steps = list(state["steps"])

    def _start(self, _engine: Engine) -> None:
        self._started = time.monotonic()
        self._epochs = 0
        self._rows = None
        self._steps.clear()

    def _collect(self, engine: Engine) -> None:
        output: Any = engine.state.output
        output = output[0] if isinstance(output, list) else output
        values = [torch.as_tensor(output.get(key, float("nan"))).detach() for key in ("loss", "gradient_norm")]
        # They stay on the device: reading them would wait for it in every step.
        self._steps.append(torch.stack([value.to(values[0].device, torch.float32) for value in values]))

    def write(self, engine: Engine) -> None:
        """Log the epoch that `engine` has completed."""
        device = getattr(engine.state, "device", None)
        steps = torch.stack([values.to(device) for values in self._steps])
        loss, norm = mean_over_processes(steps.nanmean(0)).tolist()
        self._steps.clear()
        self._epochs += 1  # of this run: a resumed one starts in the middle
        rate = engine.optimizer.param_groups[0]["lr"]  # type: ignore[attr-defined]  # MONAI's trainers have one
        engine.state.metrics.update(mean_loss=loss, gradient_norm=norm, learning_rate=rate)
        if not is_main_process():
            return
        epoch, epochs = engine.state.epoch, engine.state.max_epochs or 0
        seconds = time.monotonic() - self._started
        left = seconds / self._epochs * (epochs - epoch)
        score: float | str = ""
        evaluated = self.evaluator.state
        if evaluated.epoch == epoch and evaluated.key_metric_name in evaluated.metrics:
            score = float(evaluated.metrics[evaluated.key_metric_name])
        logger.info(
            "Epoch %d/%d: loss %.4f%s, learning rate %.1e, %.0f min left.",
            epoch, epochs, loss, f", validation Dice {score:.4f}" if score != "" else "", rate, left / 60,
        )  # fmt: skip
        numbers = (f"{seconds:.1f}", f"{loss:.6f}", f"{rate:.3e}", score, f"{norm:.4g}")
        self._append((epoch, engine.state.iteration, *numbers))

    def _append(self, row: tuple[Any, ...]) -> None:
        if self._rows is None:
            self._rows = self._rows_before(row[0])
        self._rows.append(row)
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.COLUMNS, *self._rows])

    def _rows_before(self, epoch: int) -> list[Sequence[Any]]:
        """The rows that stand: a resumed run keeps those before it, not those of epochs that are trained again."""
        if epoch == 1 or not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [row for row in list(csv.reader(file))[1:] if row and int(row[0]) < epoch]


class EarlyStop:
    """Ends training when the validation score has not risen for a while; the best weights are published as ever.

    What it needs to know is in the evaluator's state, which a resumed run has.

    Args:
        evaluator: knows the best score and its epoch.
        epochs: without a better score after which training ends; None never ends it.

    Raises:
        ConfigError: `epochs` is below 1.
    """

    def __init__(self, evaluator: Evaluator, epochs: int | None = None) -> None:
        if epochs is not None and epochs < 1:
            raise ConfigError(f"early_stop_epochs must be at least 1, or null to never stop early, not {epochs!r}.")
        self.evaluator = evaluator
        self.epochs = epochs

    def attach(self, engine: Engine) -> None:
        """Look after each validation whether `engine` goes on."""
        if self.epochs is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._look, engine)

    def _look(self, evaluator: Evaluator, engine: Engine) -> None:
        assert self.epochs is not None  # noqa: S101  (for the type checker)
        best, epoch = evaluator.state.best_metric_epoch, engine.state.epoch
        if epoch - best >= self.epochs and epoch < (engine.state.max_epochs or 0):
            logger.info("No better validation score since epoch %d: training ends after epoch %d.", best, epoch)
            engine.state.max_epochs = epoch
