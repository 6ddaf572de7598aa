import csv
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from unet_bundle import stages
from unet_bundle.errors import ConfigError
from unet_bundle.training import EarlyStop, Progress, StageTimes, TrainingLog, schedule
from unet_bundle.training.handlers import on_failure


@pytest.fixture
def evaluator(make_evaluator: Any, make_network: Any, patches: Any) -> SupervisedEvaluator:
    """A validation of one patch."""
    result: SupervisedEvaluator = make_evaluator(make_network(), patches[:1])
    return result


def step(iteration: int) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(float(iteration)), "gradient_norm": torch.tensor(2.0 * iteration)}


def trained(evaluator: SupervisedEvaluator, folder: Path, max_epochs: int, start: int = 0) -> list[list[str]]:
    """Train two iterations an epoch, validate every second epoch; returns curves.csv."""
    engine = Engine(lambda engine, _batch: step(engine.state.iteration))
    engine.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.5)
    engine.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda engine: evaluator.run(engine.state.epoch))
    TrainingLog(evaluator, str(folder)).attach(engine)
    Progress("Training").attach(engine)

    @engine.on(Events.STARTED)
    def _resume(engine: Engine) -> None:
        engine.load_state_dict({"iteration": 2 * start, "epoch_length": 2, "max_epochs": max_epochs})

    engine.run(range(2), max_epochs=max_epochs)
    with (folder / "curves.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_the_curves_hold_an_epochs_mean_loss_its_rate_and_the_score_where_there_is_one(evaluator, tmp_path):
    header, *rows = trained(evaluator, tmp_path / "run", max_epochs=3)

    assert header == ["epoch", "iteration", "seconds", "loss", "learning_rate", "validation_dice", "gradient_norm"]
    assert [row[:2] for row in rows] == [["1", "2"], ["2", "4"], ["3", "6"]]
    assert [float(row[3]) for row in rows] == [1.5, 3.5, 5.5]
    assert {float(row[4]) for row in rows} == {0.5}
    assert [float(row[6]) for row in rows] == [3.0, 7.0, 11.0]
    assert [row[5] for row in rows] == ["", str(evaluator.state.metrics["val_mean_dice"]), ""]


def test_a_resumed_run_goes_on_below_and_replaces_what_it_trains_again(evaluator, tmp_path):
    before = trained(evaluator, tmp_path, max_epochs=3)
    after = trained(evaluator, tmp_path, max_epochs=4, start=2)

    assert [row[0] for row in after[1:]] == ["1", "2", "3", "4"]
    assert after[:3] == before[:3]
    assert [row[0] for row in trained(evaluator, tmp_path, max_epochs=1)[1:]] == ["1"], "a new run starts anew"


def test_the_time_left_is_that_of_the_epochs_this_run_trained(evaluator, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="unet_bundle")
    ticks = iter(range(0, 100000, 600))  # each look at the clock is ten minutes later
    monkeypatch.setattr(schedule.time, "monotonic", lambda: float(next(ticks)))
    trained(evaluator, tmp_path, max_epochs=12, start=9)
    (line,) = [record.getMessage() for record in caplog.records if "Epoch 10/12" in record.getMessage()]
    assert line.startswith("Epoch 10/12: loss 19.5000, validation Dice ")
    assert line.endswith(", learning rate 5.0e-01, 20 min left.")


def test_an_error_comes_through_the_progress_bar():
    def fail(_engine: Engine, _batch: Any) -> None:
        raise ValueError("broken")

    engine = Engine(fail)
    Progress("Training").attach(engine)
    with pytest.raises(ValueError, match=r"^broken$"):
        engine.run(range(2))


def test_a_scan_that_fails_in_an_engine_is_no_longer_followed(caplog):
    def fail(_engine: Engine, _batch: int) -> None:
        raise ValueError("no scan")

    engine = Engine(fail)
    StageTimes().attach(engine)
    with caplog.at_level(logging.INFO, logger="unet_bundle"):
        with pytest.raises(ValueError, match="no scan"):
            engine.run([1])
        assert "seconds a stage" not in caplog.text
        stages.log_if_alone()
    assert "seconds a stage: {}" in caplog.text


def test_an_error_goes_on_when_all_who_listen_have_been_called():
    def fail(_engine: Engine, _batch: Any) -> None:
        raise ValueError("broken")

    engine, called = Engine(fail), []
    for name in ("first", "second"):
        on_failure(engine, lambda _engine, name=name: called.append(name))
    with pytest.raises(ValueError, match=r"^broken$"):
        engine.run(range(2))
    assert set(called) == {"first", "second"}


@pytest.mark.parametrize(
    ("scores", "last"), [([1, 2, 3, 4, 5, 6], 6), ([1, 2, 2, 1, 3, 4], 4), ([1, 2, 1, 3, 3, 3], 6)]
)
def test_training_ends_when_the_score_has_not_risen_for_two_epochs(scores: list[float], last: int, evaluator):
    trainer = Engine(lambda _engine, _batch: None)
    EarlyStop(evaluator, 2).attach(trainer)

    @trainer.on(Events.EPOCH_COMPLETED)
    def _validate(engine: Engine) -> None:
        best = max(scores[: engine.state.epoch])
        evaluator.state.best_metric_epoch = scores.index(best) + 1
        evaluator.fire_event(Events.COMPLETED)

    completed = []
    trainer.add_event_handler(Events.COMPLETED, lambda engine: completed.append(engine.state.epoch))
    trainer.run(range(1), max_epochs=6)
    assert completed == [last]


def test_early_stopping_wants_an_epoch_at_least(evaluator):
    with pytest.raises(ConfigError, match=r"^early_stop_epochs must be at least 1"):
        EarlyStop(evaluator, 0)
