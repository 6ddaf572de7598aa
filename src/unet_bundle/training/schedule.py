"""The learning rate, and the length of training, as functions of where training stands."""

from __future__ import annotations

import logging
import math
import time

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch.optim import Optimizer

from unet_bundle.errors import ConfigError
from unet_bundle.training.distributed import from_main_process

logger = logging.getLogger(__name__)

WARM_UP_ITERATIONS = 3
"""Iterations that start the loader and the libraries and are not timed."""
MEASURED_ITERATIONS = 10
"""Iterations after which the length of training is decided."""
CLOSING_SHARE = 0.02
"""Share of a time budget kept for what follows the last epoch: scoring and publishing the model."""

SCHEDULES = ("cosine", "poly", "constant")
POLY_POWER = 0.9


class LearningRate:
    """Linear warm-up, then down to zero, by a half cosine or by the power 0.9 of what is left; or no way down.

    The cosine: Loshchilov and Hutter 2017, arXiv 1608.03983. The power ("poly"): Chen et al. 2017, arXiv 1606.00915,
    and nnU-Net, which has no warm-up. ``"constant"`` is for hosts that lengthen the training round by round, as
    federated ones do: at the end of each round the others would be at zero.

    Stateless: the rate is a function of the iteration and of the length of training, so it follows whoever sets
    ``max_epochs`` (a time budget, a MONAI Label server) and needs nothing stored to resume.

    Args:
        optimizer: every parameter group gets the rate.
        peak: the rate after the warm-up.
        warmup_iterations: iterations until the peak, at most a tenth of all.
        schedule: one of `SCHEDULES`.

    Raises:
        ConfigError: a value makes no sense.
    """

    def __init__(
        self, optimizer: Optimizer, peak: float, warmup_iterations: int = 50, schedule: str = "cosine"
    ) -> None:
        if not peak > 0:
            raise ConfigError(f"learning_rate must be positive, not {peak!r}.")
        if warmup_iterations < 0:
            raise ConfigError(f"warmup_iterations must be 0 or more, not {warmup_iterations!r}.")
        if schedule not in SCHEDULES:
            raise ConfigError(f"schedule must be one of {', '.join(SCHEDULES)}, not {schedule!r}.")
        self.schedule = schedule
        self.optimizer = optimizer
        self.peak = peak
        self.warmup_iterations = warmup_iterations

    def attach(self, engine: Engine) -> None:
        """Set the rate before each iteration of `engine`."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the rate for the iteration that starts."""
        rate = self.rate(engine.state.iteration - 1, _total_iterations(engine))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def rate(self, iteration: int, total: int) -> float:
        """The rate of `iteration` (from 0) of `total`."""
        warmup = min(self.warmup_iterations, total // 10)
        if iteration < warmup:
            return self.peak * (iteration + 1) / warmup
        if self.schedule == "constant":
            return self.peak
        progress = min((iteration - warmup) / max(total - warmup, 1), 1.0)
        if self.schedule == "poly":
            return self.peak * (1 - progress) ** POLY_POWER  # type: ignore[no-any-return]  # never complex: base >= 0
        return self.peak * 0.5 * (1 + math.cos(math.pi * progress))


class TimeBudget:
    """Turns minutes into a number of epochs, once: after a few iterations and a first validation, all timed.

    The first validation comes this early also without a budget: what would fail there fails now and not after hours.

    Args:
        minutes: how long training may take, reading the cases not counted; None leaves ``max_epochs`` as it is.
        evaluator: runs the validation once, to take its time; not the one that picks the best weights.
        val_interval: epochs between two validations.
    """

    def __init__(self, minutes: float | None, evaluator: Evaluator, val_interval: int) -> None:
        if minutes is not None and not minutes > 0:
            raise ConfigError(f"max_minutes must be positive, not {minutes!r}.")
        self.minutes = minutes
        self.evaluator = evaluator
        self.val_interval = val_interval
        self._iterations = 0
        self._started = 0.0
        self._warm = 0.0

    def attach(self, engine: Engine) -> None:
        """Measure during the first iterations of `engine`."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._measure)

    def _start(self, _engine: Engine) -> None:
        self._iterations = 0
        self._started = self._warm = time.monotonic()

    def _measure(self, engine: Engine) -> None:
        self._iterations += 1
        before = engine.state.iteration - self._iterations
        if before >= MEASURED_ITERATIONS:
            return  # the run that is resumed here has decided
        deciding = min(MEASURED_ITERATIONS, _total_iterations(engine) - before)
        if self._iterations == min(WARM_UP_ITERATIONS, deciding - 1):
            self._warm = time.monotonic()
        if self._iterations == deciding:
            self._decide(engine, deciding - min(WARM_UP_ITERATIONS, deciding - 1))

    def _decide(self, engine: Engine, timed_iterations: int) -> None:
        now = time.monotonic()
        step = (now - self._warm) / timed_iterations
        validation = self._seconds_of_validation()
        epoch = step * (engine.state.epoch_length or 1)
        if self.minutes is not None:
            # Two validations are not in the epochs: this first one, and that of the weights already in the bundle.
            start_up = now - self._started - self._iterations * step + 2 * validation
            budget = self.minutes * 60 * (1 - CLOSING_SHARE) - start_up
            fitting = epochs_that_fit(budget, epoch, validation, self.val_interval)
            # Each process has its own clock; they must stop together.
            engine.state.max_epochs = from_main_process(max(fitting, engine.state.epoch))
        epochs = engine.state.max_epochs or 0
        logger.info(
            "A step takes %.2f s, a validation %.1f s: %d epochs, about %.0f minutes.",
            step, validation, epochs, epochs * (epoch + validation / self.val_interval) / 60,
        )  # fmt: skip

    def _seconds_of_validation(self) -> float:
        started = time.monotonic()
        self.evaluator.run()
        return time.monotonic() - started


def _total_iterations(engine: Engine) -> int:
    return (engine.state.max_epochs or 1) * (engine.state.epoch_length or 1)


def epochs_that_fit(budget: float, epoch: float, validation: float, val_interval: int) -> int:
    """The number of epochs that fit into `budget`; at least 1.

    Args:
        budget: seconds; may be negative.
        epoch: seconds of an epoch.
        validation: seconds of a validation; one follows every `val_interval` epochs, and one the last epoch.
        val_interval: epochs between two validations.
    """
    interval = val_interval * epoch + validation
    whole = max(int(budget // interval), 0)
    rest = max(int((budget - whole * interval - validation) // epoch), 0)
    return max(whole * val_interval + rest, 1)
