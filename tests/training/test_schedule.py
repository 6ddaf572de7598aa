import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from unet_bundle.errors import ConfigError
from unet_bundle.training import LearningRate, TimeBudget, schedule
from unet_bundle.training.schedule import CLOSING_SHARE, epochs_that_fit


def optimizer(rate: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))], rate)


# --- learning rate ----------------------------------------------------------------------------------------------


def test_the_rate_rises_in_a_line_then_falls_by_half_a_cosine():
    rate = LearningRate(optimizer(), peak=0.1, warmup_iterations=50).rate

    assert [rate(i, 1000) for i in (0, 24, 49)] == pytest.approx([0.002, 0.05, 0.1])
    assert rate(50, 1000) == pytest.approx(0.1)
    assert rate(50 + 475, 1000) == pytest.approx(0.05)
    assert rate(50 + 950 // 4, 1000) == pytest.approx(0.1 * (1 + 2**-0.5) / 2, rel=1e-2)
    assert rate(999, 1000) == pytest.approx(0, abs=1e-6)
    assert rate(1500, 1000) == pytest.approx(0, abs=1e-9), "a run that was shortened ends at zero"


def test_the_poly_rate_is_nnunets():
    rate = LearningRate(optimizer(), peak=0.01, warmup_iterations=0, schedule="poly").rate
    # The formula of nnU-Net's PolyLRScheduler.
    assert [rate(i, 1000) for i in range(1000)] == pytest.approx([0.01 * (1 - i / 1000) ** 0.9 for i in range(1000)])
    assert rate(1500, 1000) == 0, "a run that was shortened ends at zero"


def test_the_constant_rate_stays_however_often_the_training_is_lengthened():
    rate = LearningRate(optimizer(), peak=0.01, warmup_iterations=4, schedule="constant").rate
    assert [rate(i, 40) for i in range(4)] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert {rate(i, total) for total in (40, 80, 400) for i in range(4, total)} == {0.01}


@pytest.mark.parametrize("total", [1, 5, 9, 10, 40, 500, 1003])
def test_the_rate_is_positive_never_above_the_peak_and_warms_up_for_a_tenth_at_most(total: int):
    rate = LearningRate(optimizer(), peak=0.1).rate
    rates = [rate(i, total) for i in range(total)]
    warmup = min(50, total // 10)

    assert all(0 < value <= 0.1 for value in rates)
    assert rates[max(warmup - 1, 0)] == 0.1
    assert all(a >= b for a, b in itertools.pairwise(rates[max(warmup - 1, 0) :]))


def test_every_group_follows_the_length_that_the_engine_has_now():
    optim = optimizer(5.0)
    optim.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    handler = LearningRate(optim, peak=0.1)
    seen: list[list[float]] = []
    engine = Engine(lambda _engine, _batch: seen.append([group["lr"] for group in optim.param_groups]))
    handler.attach(engine)

    @engine.on(Events.ITERATION_COMPLETED(once=10))
    def _shorten(engine: Engine) -> None:
        engine.state.max_epochs = 2

    engine.run(range(10), max_epochs=100)
    assert [a for a, _ in seen] == [handler.rate(i, 1000 if i < 10 else 20) for i in range(20)]
    assert all(a == b for a, b in seen)


@pytest.mark.parametrize("peak", [0, -1.0, float("nan")])
def test_a_peak_that_is_not_positive_is_refused(peak: float):
    with pytest.raises(ConfigError, match=r"^learning_rate must be positive, not "):
        LearningRate(optimizer(), peak)


def test_a_schedule_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match=r"^schedule must be one of cosine, poly, constant, not 'step'\.$"):
        LearningRate(optimizer(), 0.1, schedule="step")
    with pytest.raises(ConfigError, match=r"^warmup_iterations must be 0 or more, not -1\.$"):
        LearningRate(optimizer(), 0.1, warmup_iterations=-1)


# --- length -----------------------------------------------------------------------------------------------------


def duration(epochs: int, epoch: float, validation: float, val_interval: int) -> float:
    """Seconds, one validation after each interval and one after the last epoch."""
    return epochs * epoch + -(-epochs // val_interval) * validation


@pytest.mark.parametrize("budget", [-5.0, 0.0, 1.0, 9.9, 59.0, 61.0, 600.0, 3601.0])
@pytest.mark.parametrize(("epoch", "validation", "val_interval"), [(1, 0, 1), (2, 10, 5), (7, 1, 3), (0.5, 30, 2)])
def test_as_many_epochs_as_fit_and_not_more(budget: float, epoch: float, validation: float, val_interval: int):
    fitting = epochs_that_fit(budget, epoch, validation, val_interval)

    assert fitting >= 1
    if fitting > 1:
        assert duration(fitting, epoch, validation, val_interval) <= budget
    assert duration(fitting + 1, epoch, validation, val_interval) > budget


class Clock:
    """A clock that only the steps of the test move on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(schedule.time, "monotonic", lambda: self.now)


STEP, FIRST_STEPS, VALIDATION = 2.0, 5.0, 11.0  # seconds; the first steps are slow


@pytest.fixture
def timed(
    monkeypatch: pytest.MonkeyPatch, patches: Any, make_network: Any, make_evaluator: Any
) -> Callable[..., tuple[Engine, SupervisedEvaluator]]:
    """A function that trains on a clock of the test; returns the engine at its end, and what validated."""

    def train(
        minutes: float | None, *, max_epochs: int = 1000, epoch_length: int = 5, val_interval: int = 2, start: int = 0
    ) -> tuple[Engine, SupervisedEvaluator]:
        clock = Clock(monkeypatch)
        evaluator = make_evaluator(make_network(), patches[:1])

        @evaluator.on(Events.COMPLETED)
        def _validated(_engine: Engine) -> None:
            clock.now += VALIDATION

        def step(engine: Engine, _batch: Any) -> None:
            clock.now += FIRST_STEPS if engine.state.iteration - start <= 3 else STEP
            decided.append(engine.state.max_epochs or 0)

        decided: list[int] = []
        engine = Engine(step)
        TimeBudget(minutes, evaluator, val_interval).attach(engine)

        @engine.on(Events.STARTED)  # after the budget's, as the state of a run is loaded
        def _resume(engine: Engine) -> None:
            if start:
                engine.load_state_dict({"iteration": start, "epoch_length": epoch_length, "max_epochs": max_epochs})

        engine.run(range(epoch_length), max_epochs=max_epochs)
        engine.state.decided = decided
        return engine, evaluator

    return train


def test_minutes_become_epochs_once_after_a_first_validation(timed):
    engine, evaluator = timed(minutes=10)

    start_up = 3 * FIRST_STEPS + 7 * STEP - 10 * STEP + 2 * VALIDATION
    budget = 600 * (1 - CLOSING_SHARE) - start_up
    expected = max(e for e in range(1, 100) if duration(e, 5 * STEP, VALIDATION, 2) <= budget)
    assert engine.state.max_epochs == engine.state.epoch == expected == 35
    assert engine.state.decided == [1000] * 10 + [expected] * (5 * expected - 10)
    assert evaluator.state.metrics, "it did run"


def test_without_minutes_the_length_stays_and_the_validation_still_runs_early(timed):
    engine, evaluator = timed(minutes=None, max_epochs=4)
    assert engine.state.epoch == 4
    assert evaluator.state.metrics


def test_a_resumed_run_keeps_what_was_decided(timed):
    engine, evaluator = timed(minutes=0.5, max_epochs=9, start=20)
    assert engine.state.epoch == 9
    assert not evaluator.state.metrics


def test_a_run_that_is_resumed_before_it_decided_decides_by_its_own_steps(timed):
    engine, _ = timed(minutes=10, start=5)
    assert engine.state.max_epochs == 35


@pytest.mark.parametrize("epoch_length", [1, 2, 4])
def test_a_short_schedule_is_stretched_over_the_minutes(timed, epoch_length: int):
    engine, _ = timed(minutes=10, max_epochs=2, epoch_length=epoch_length)
    assert engine.state.max_epochs > 2
    assert engine.state.epoch == engine.state.max_epochs


def test_minutes_that_are_over_already_still_end_with_an_epoch_that_is_the_last(timed):
    engine, _ = timed(minutes=0.1, epoch_length=3)
    assert engine.state.epoch == engine.state.max_epochs == 4


@pytest.mark.parametrize("minutes", [0, -2.0])
def test_minutes_that_are_not_positive_are_refused(minutes: float, patches, make_network, make_evaluator):
    with pytest.raises(ConfigError, match=r"^max_minutes must be positive, not "):
        TimeBudget(minutes, make_evaluator(make_network(), patches[:1]), 2)
