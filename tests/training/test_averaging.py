from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Events

from unet_bundle.errors import ConfigError
from unet_bundle.networks import UNet
from unet_bundle.training import TrainStep, WeightAverage

Weights = dict[str, torch.Tensor]


def weights(network: torch.nn.Module) -> Weights:
    return {key: value.clone() for key, value in network.state_dict().items()}


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def averaged(
    make_network: Callable[..., UNet], make_trainer: Any, make_evaluator: Any, patches: Any
) -> Callable[[float], Any]:
    """A function from a decay to (network, evaluator, average, weights after each step), after three steps."""

    def make(decay: float) -> Any:
        network = make_network()
        evaluator = make_evaluator(network, patches[:1])
        average = WeightAverage(network, evaluator, decay)
        trainer = make_trainer(network, patches, TrainStep("float32"))
        average.attach(trainer)
        steps: list[Weights] = []
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _engine: steps.append(weights(network)))
        trainer.run()
        return network, evaluator, average, steps

    return make


@pytest.mark.parametrize("decay", [0.1, 0.999])
def test_the_average_is_that_of_its_formula(decay, averaged):
    network, _, average, steps = averaged(decay)
    expected = steps[0]
    for number, step in enumerate(steps[1:], start=2):
        share = min(decay, (1 + number) / (10 + number))
        expected = {key: share * expected[key] + (1 - share) * step[key] for key in step}
    for key, value in average.weights().items():
        torch.testing.assert_close(value, expected[key])
    assert same(average.trained(), steps[-1])
    assert same(weights(network), steps[-1])


def test_the_average_is_what_is_evaluated_and_training_gets_its_weights_back(averaged):
    network, evaluator, average, steps = averaged(0.9)
    expected = {key: value.clone() for key, value in average.weights().items()}
    seen = []

    def look(_engine: Any) -> None:
        state = average.state_dict()
        seen.append(same(weights(network), expected) and same(average.weights(), expected))
        seen.append(same(average.trained(), steps[-1]) and same({**expected, **state}, expected))

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, look)
    evaluator.run()
    assert seen == [True, True]
    assert same(weights(network), steps[-1])
    assert same(average.weights(), expected)


def test_an_evaluation_that_fails_leaves_the_trained_weights(averaged):
    network, evaluator, _, steps = averaged(0.9)

    def fail(_engine: Any) -> None:
        raise KeyboardInterrupt

    evaluator.add_event_handler(Events.ITERATION_STARTED, fail)
    with pytest.raises(KeyboardInterrupt):
        evaluator.run()
    assert same(weights(network), steps[-1])


def test_off_there_is_no_average(averaged):
    _, _, average, steps = averaged(0.0)
    assert average.state_dict() == {}
    assert same(average.weights(), steps[-1])


def test_an_average_of_other_weights_is_refused(averaged):
    *_, average, _ = averaged(0.9)
    for state in ({}, {"other": torch.zeros(1)}):
        with pytest.raises(ValueError, match="no average"):
            average.load_state_dict(state)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_that_is_none_is_refused(decay, make_network, make_evaluator, patches):
    network = make_network()
    with pytest.raises(ConfigError, match=r"^ema_decay must be 0 \(off\) or between 0 and 1"):
        WeightAverage(network, make_evaluator(network, patches[:1]), decay)
