import math
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.losses import DeepSupervisionLoss, DiceCELoss

from unet_bundle.errors import ConfigError
from unet_bundle.training import EvaluationStep, TrainStep
from unet_bundle.training.steps import DivergedError


def dtypes_inside(network: torch.nn.Module) -> set[torch.dtype]:
    """Filled, when the network runs, with the number formats its convolutions give."""
    seen: set[torch.dtype] = set()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_hook(lambda _module, _inputs, output: seen.add(output.dtype))
    return seen


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in network.parameters()])


@pytest.mark.parametrize(("precision", "inside"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_takes_effect_in_training_and_what_comes_out_is_float32(
    precision, inside, patches, make_network, make_trainer
):
    network = make_network()
    seen = dtypes_inside(network)
    before = weights(network)
    trainer = make_trainer(network, patches[:1], TrainStep(precision))

    trainer.run()

    assert seen == {inside}
    assert trainer.state.output["pred"].dtype == trainer.state.output["loss"].dtype == torch.float32
    assert {p.dtype for p in network.parameters()} == {p.grad.dtype for p in network.parameters()} == {torch.float32}
    assert not torch.equal(weights(network), before)


def test_a_compiled_step_trains_as_a_plain_one_and_leaves_evaluation_as_it_is(
    patches, make_network, make_trainer, make_evaluator
):
    calls = []
    trained = []
    for compiled in (False, True):
        torch._dynamo.reset()
        network = make_network()
        names = network.state_dict().keys()
        step = TrainStep("float32", compiled=compiled)
        make_trainer(network, patches[:2], step).run()
        frames = torch._dynamo.utils.counters["frames"]["ok"]
        make_evaluator(network, patches[:1], EvaluationStep()).run()
        assert torch._dynamo.utils.counters["frames"]["ok"] == frames
        assert network.state_dict().keys() == names
        calls.append(frames)
        trained.append(weights(network))
    assert calls[0] < calls[1]
    torch.testing.assert_close(*trained, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("precision", "inside"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_takes_effect_in_evaluation_and_what_comes_out_is_float32(
    precision, inside, patches, make_network, make_evaluator
):
    network = make_network()
    seen = dtypes_inside(network)
    evaluator = make_evaluator(network, patches[:1], EvaluationStep(precision))
    logits = []
    evaluator.add_event_handler(
        IterationEvents.FORWARD_COMPLETED, lambda engine: logits.append(engine.state.output["pred"])
    )

    evaluator.run()

    assert seen == {inside, torch.float32}, "the ends of the network stay float32"
    assert logits[0].dtype == torch.float32
    exact = network.eval()(patches[0]["image"][None])
    assert torch.equal(logits[0], exact) is (precision == "float32")
    assert (logits[0] - exact).abs().mean() < 0.05


def test_probabilities_of_an_inferer_stay_in_the_file_they_lie_in(patches, make_network, make_evaluator):
    evaluator = make_evaluator(make_network(), patches[:1], EvaluationStep())
    given, handed_on = [], []

    def inferer(inputs, network):
        given.append(network(inputs).half())
        return given[-1]

    evaluator.inferer = inferer
    evaluator.add_event_handler(
        IterationEvents.FORWARD_COMPLETED, lambda engine: handed_on.append(engine.state.output["pred"])
    )
    evaluator.run()

    assert handed_on[0] is given[0]


def test_auto_is_bfloat16_where_the_processor_has_it(patches, make_network, make_trainer):
    network = make_network()
    seen = dtypes_inside(network)
    make_trainer(network, patches[:1], TrainStep("auto")).run()

    assert seen == {torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32}


def test_a_float32_step_is_exactly_the_optimisers(patches, make_network, make_trainer):
    network, reference = make_network(), make_network()
    make_trainer(network, patches, TrainStep("float32", max_gradient_norm=None)).run()

    optimizer = torch.optim.SGD(reference.parameters(), 0.01)
    loss_function = DeepSupervisionLoss(DiceCELoss(to_onehot_y=True, softmax=True))
    for item in patches:
        optimizer.zero_grad()
        loss_function(reference.train()(item["image"][None]), item["label"][None]).backward()
        optimizer.step()
    assert torch.equal(weights(network), weights(reference))


@pytest.mark.parametrize("step", [TrainStep, EvaluationStep])
def test_an_unknown_precision_is_refused_before_anything_runs(step):
    with pytest.raises(ConfigError, match=r"^precision must be one of auto, .* not 'bf16'\.$"):
        step("bf16")


def test_float16_on_a_processor_is_refused(patches, make_network, make_trainer, make_evaluator):
    network = make_network()
    for engine in (
        make_trainer(network, patches, TrainStep("float16")),
        make_evaluator(network, patches, EvaluationStep("float16")),
    ):
        with pytest.raises(ConfigError, match=r"needs a CUDA device: choose 'bfloat16' or 'float32'\.$"):
            engine.run()


def test_long_gradients_are_scaled_down_to_the_limit(patches, make_network, make_trainer):
    def moved(limit: float | None) -> torch.Tensor:
        network = make_network()
        before = weights(network)
        make_trainer(network, patches[:1], TrainStep("float32", max_gradient_norm=limit), lr=1.0).run()
        return weights(network) - before

    free, limited = moved(None), moved(0.01)
    assert free.norm() > 0.1
    assert limited.norm() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(limited / limited.norm(), free / free.norm(), rtol=1e-3, atol=1e-4)
    assert torch.equal(moved(1e6), free)


def broken(item: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**item, "image": torch.full_like(item["image"], math.nan)}


def test_a_step_that_is_not_finite_changes_nothing_and_training_goes_on(patches, make_network, make_trainer, caplog):
    network, reference = make_network(), make_network()
    trainer = make_trainer(network, [patches[0], broken(patches[1]), patches[2]], TrainStep("float32"))
    trainer.run()
    make_trainer(reference, [patches[0], patches[2]], TrainStep("float32")).run()

    assert torch.equal(weights(network), weights(reference))
    assert "Iteration 2: loss or gradients are not finite, step skipped." in caplog.text


def test_too_many_steps_in_a_row_that_are_not_finite_end_training_in_one_line(patches, make_network, make_trainer):
    items = [broken(patches[0]), broken(patches[0]), patches[1], *[broken(patches[0])] * 4]
    trainer = make_trainer(make_network(), items, TrainStep("float32", max_bad_steps=2))

    with pytest.raises(DivergedError) as refusal:
        trainer.run()
    assert trainer.state.iteration == 6, "the good step between starts the count anew"
    assert "3 steps in a row up to iteration 6; lower --learning_rate" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_one_head_and_several_both_train(deep_supervision, patches, make_network, make_trainer):
    network = make_network(deep_supervision=deep_supervision)
    trainer = make_trainer(network, patches, TrainStep("float32"), max_epochs=4, lr=0.1)
    losses: list[float] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output["loss"])))
    trainer.run()

    assert trainer.state.output["pred"].shape == (1, 4, 32, 32, 16)
    assert sum(losses[-3:]) < sum(losses[:3])


def test_the_events_of_monais_own_step_are_fired_in_its_order(patches, make_network, make_trainer):
    fired: list[Any] = []
    expected = [
        IterationEvents.FORWARD_COMPLETED,
        IterationEvents.LOSS_COMPLETED,
        IterationEvents.BACKWARD_COMPLETED,
        IterationEvents.MODEL_COMPLETED,
    ]
    trainer = make_trainer(make_network(), patches[:1], TrainStep("float32"))
    for event in expected:
        trainer.add_event_handler(event, lambda _engine, event: fired.append(event), event)
    trainer.run()
    assert fired == expected


def test_dropout_draws_are_a_function_of_seed_and_iteration(patches, make_network, make_trainer):
    def trained(seed: int | None, before: int) -> torch.Tensor:
        torch.manual_seed(before)
        network = make_network(dropout=0.5)
        make_trainer(network, patches, TrainStep("float32", seed=seed)).run()
        return weights(network)

    assert torch.equal(trained(7, before=1), trained(7, before=2))
    assert not torch.equal(trained(7, before=1), trained(8, before=1))
    assert not torch.equal(trained(None, before=1), trained(None, before=2)), "dropout is at work in this test"


def test_a_step_goes_on_with_the_scale_and_the_count_it_had(patches, make_network, make_trainer):
    state = {"bad_steps": 3, "scaler": {"scale": 1024.0, "growth_factor": 2.0, "_growth_tracker": 7}}
    step = TrainStep("float32", max_bad_steps=3)
    step.load_state_dict(state)
    assert step.state_dict() == state

    trainer = make_trainer(make_network(), patches, step)
    trainer.loss_function = lambda pred, _label: pred[0].sum() * float("nan")
    with pytest.raises(DivergedError, match="in 4 steps in a row"):
        trainer.run()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_bad_steps": None}, "max_bad_steps must be a number of steps, 0 or more, not None"),
        ({"max_bad_steps": "3"}, "max_bad_steps must be a number of steps, 0 or more, not '3'"),
        ({"max_bad_steps": -1}, "max_bad_steps must be a number of steps, 0 or more, not -1"),
        ({"max_gradient_norm": "x"}, "max_gradient_norm must be positive, or null for no limit, not 'x'"),
        ({"max_gradient_norm": True}, "max_gradient_norm must be positive, or null for no limit, not True"),
        ({"max_gradient_norm": float("nan")}, "max_gradient_norm must be positive, or null for no limit, not nan"),
    ],
)
def test_limits_that_are_none_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        TrainStep("float32", **values)
