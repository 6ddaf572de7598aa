"""What a person sees while a network trains: one line an epoch with the time left, a progress bar, curves."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from tqdm import tqdm

from unet_bundle import stages
from unet_bundle.io.files import replacing
from unet_bundle.training.distributed import is_main_process

logger = logging.getLogger(__name__)


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
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._close_and_raise)

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

    def _close_and_raise(self, engine: Engine, error: Exception) -> None:
        self._close(engine)
        raise error


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

    def _start(self, _engine: Engine) -> None:
        stages.begin()
        self._started = time.perf_counter()

    def _prepared(self, _engine: Engine) -> None:
        stages.add("preprocess", time.perf_counter() - self._started - stages.seconds("read"))

    def _log(self, _engine: Engine) -> None:
        stages.log()


class TrainingLog:
    """One log line and one row of ``curves.csv`` an epoch: mean loss, learning rate, validation score, time left.

    Args:
        evaluator: its key metric is written in the epochs that were validated.
        folder: of the run, where ``curves.csv`` goes.
    """

    COLUMNS = ("epoch", "iteration", "seconds", "loss", "learning_rate", "validation_dice")

    def __init__(self, evaluator: Evaluator, folder: str) -> None:
        self.evaluator = evaluator
        self.path = Path(folder) / "curves.csv"
        self._losses: list[torch.Tensor] = []
        self._rows: list[Sequence[Any]] | None = None
        self._started = 0.0
        self._epochs = 0

    def attach(self, engine: Engine) -> None:
        """Follow `engine`; stands after the validation in the list of handlers."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self, _engine: Engine) -> None:
        self._started = time.monotonic()
        self._epochs = 0
        self._rows = None

    def _collect(self, engine: Engine) -> None:
        output: Any = engine.state.output
        self._losses.append((output[0] if isinstance(output, list) else output)["loss"])

    def _write(self, engine: Engine) -> None:
        loss = float(torch.stack([torch.as_tensor(value) for value in self._losses]).mean())
        self._losses.clear()
        self._epochs += 1  # of this run: a resumed one starts in the middle
        if not is_main_process():
            return
        epoch, epochs = engine.state.epoch, engine.state.max_epochs or 0
        seconds = time.monotonic() - self._started
        left = seconds / self._epochs * (epochs - epoch)
        rate = engine.optimizer.param_groups[0]["lr"]  # type: ignore[attr-defined]  # MONAI's trainers have one
        score: float | str = ""
        evaluated = self.evaluator.state
        if evaluated.epoch == epoch and evaluated.key_metric_name in evaluated.metrics:
            score = float(evaluated.metrics[evaluated.key_metric_name])
        logger.info(
            "Epoch %d/%d: loss %.4f%s, learning rate %.1e, %.0f min left.",
            epoch, epochs, loss, f", validation Dice {score:.4f}" if score != "" else "", rate, left / 60,
        )  # fmt: skip
        self._append((epoch, engine.state.iteration, f"{seconds:.1f}", f"{loss:.5f}", f"{rate:.3e}", score))

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
