"""Cleaning is chosen where it helps, never where it does harm, and its figures are those of the cleaning itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents

from unet_bundle.errors import ConfigError
from unet_bundle.evaluation import ChooseCleaning
from unet_bundle.evaluation.cleaning import Cleaning, dice_without_filling, measure_objects
from unet_bundle.evaluation.metrics import dice_scores
from unet_bundle.evaluation.report import mean_of
from unet_bundle.io import LoadImaged, find_cases
from unet_bundle.training.trained_cases import write_trained_cases
from unet_bundle.transforms import CleanLabelsd

LABELS = {"background": 0, "lobe": 1, "bean": 2, "vessel": 3}
NOTHING = {"keep_largest": [], "smallest_object_ml": 0.0, "fill_holes": []}


@pytest.fixture(scope="module")
def truths(phantom_data: Path) -> list[MetaTensor]:
    """Label files of four cases."""
    return [LoadImaged("label", channels=1)(case)["label"] for case in find_cases(phantom_data)[:4]]


def predicted(truth: MetaTensor) -> torch.Tensor:
    """A good prediction: the truth moved by a voxel, as labels come from the inferer."""
    return torch.roll(truth.as_tensor(), 1, dims=1).to(torch.uint8)


def chosen(truths: list[MetaTensor], predictions: list[torch.Tensor], folder: Path, **engine: Any) -> dict[str, Any]:
    """Run an evaluation that cleans as `engine` says, and read cleaning.json."""

    def step(engine: Engine, item: tuple[MetaTensor, torch.Tensor]) -> Any:
        truth, labels = item
        engine.state.output = {"pred": labels[None], "label": truth[None]}
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        prediction = MetaTensor(labels, meta=dict(truth.meta))
        return [CleanLabelsd("pred", **cleaning)({"pred": prediction, "label": truth})]

    cleaning = engine.pop("cleaning", {})
    running = Engine(step)
    running.register_events(*IterationEvents)
    handler = ChooseCleaning(LABELS, str(folder), **engine)
    handler.attach(running)
    running.run(list(zip(truths, predictions, strict=True)))
    assert handler.chosen is not None
    report: dict[str, Any] = json.loads((folder / "cleaning.json").read_text())
    assert report["chosen"] == json.loads(json.dumps(handler.chosen.as_config()))
    return report


def means(truths: list[MetaTensor], predictions: list[torch.Tensor], **cleaning: Any) -> list[Any]:
    """Mean Dice of each class after the real cleaning."""
    clean = CleanLabelsd("pred", **cleaning)
    tables = []
    for truth, labels in zip(truths, predictions, strict=True):
        cleaned = clean({"pred": MetaTensor(labels, affine=truth.affine)})["pred"]
        tables.append(dice_scores(np.asarray(cleaned[0]).astype(np.uint8), truth[0].numpy().astype(np.uint8), 4))
    return [mean_of([row[c] for row in tables]) for c in range(3)]


def with_blobs(truth: MetaTensor, value: int = 2) -> torch.Tensor:
    """A prediction with two blobs of a class in far corners."""
    labels = predicted(truth)
    labels[0, :5, :5, :3] = value
    labels[0, -4:, -4:, -2:] = value
    return labels


def test_blobs_far_away_are_dropped_and_the_figures_are_those_of_cleaning(truths, tmp_path):
    predictions = [with_blobs(truth) for truth in truths]
    report = chosen(truths, predictions, tmp_path)
    assert report["chosen"]["keep_largest"] == [2]
    assert report["chosen"]["fill_holes"] == []
    before, after = means(truths, predictions), means(truths, predictions, **report["chosen"])
    assert after[1] > before[1] + 0.02
    assert [report["classes"][name]["dice"] for name in report["classes"]] == pytest.approx(before)
    assert list(report["dice_with_chosen"].values()) == pytest.approx(after)
    kept = means(truths, predictions, keep_largest=[1, 2, 3])
    assert [figure["keep_largest"] for figure in report["classes"].values()] == pytest.approx(kept)
    for tried in report["classes"]["bean"]["smallest_object_ml"]:
        expected = means(truths, predictions, smallest_object_ml=tried["ml"])[1]
        assert tried["dice"] == pytest.approx(expected)


def test_cleaning_that_is_set_already_changes_no_decision(truths, tmp_path):
    predictions = [with_blobs(truth) for truth in truths]
    plain = chosen(truths, predictions, tmp_path / "plain")
    cleaned = chosen(truths, predictions, tmp_path / "cleaned", cleaning={"keep_largest": [1, 2, 3]})
    assert plain == cleaned


@pytest.fixture(scope="module")
def pairs(truths: list[MetaTensor]) -> list[MetaTensor]:
    """Label maps in which the bean is two objects, a large and a small one, as a left and a right kidney are."""
    made = []
    for truth in truths:
        two = torch.zeros_like(truth)
        two[0, 5:15, 5:15, 2:10] = 2
        two[0, 25:32, 25:32, 2:10] = 2
        made.append(two)
    return made


def test_of_two_true_objects_none_is_dropped(pairs, tmp_path):
    report = chosen(pairs, [predicted(truth) for truth in pairs], tmp_path)
    assert report["chosen"] == NOTHING
    assert report["classes"]["bean"]["keep_largest"] < report["classes"]["bean"]["dice"] - 0.1
    assert report["classes"]["lobe"] == {
        "cases": 0, "dice": None, "keep_largest": None, "smallest_object_ml": [], "fill_holes": None,
    }  # fmt: skip


def test_beside_two_true_objects_small_ones_go_by_their_volume(pairs, tmp_path):
    predictions = [with_blobs(truth) for truth in pairs]
    report = chosen(pairs, predictions, tmp_path)
    assert report["chosen"]["keep_largest"] == []
    assert list(report["chosen"]["smallest_object_ml"]) == ["2"]
    without = means(pairs, [predicted(truth) for truth in pairs])
    assert report["dice_with_chosen"]["bean"] == pytest.approx(without[1]), "the blobs go, the rest stays"


def test_holes_are_filled_where_the_truth_has_none_and_stay_where_it_has(pairs, tmp_path):
    def hollow(truth: MetaTensor) -> torch.Tensor:
        labels = truth.as_tensor().to(torch.uint8)
        labels[0, 7:12, 7:12, 4:8] = 0
        return labels

    report = chosen(pairs, [hollow(truth) for truth in pairs], tmp_path / "filled")
    assert report["chosen"] == {**NOTHING, "fill_holes": [2]}
    assert report["dice_with_chosen"]["bean"] == 1.0

    rings = [MetaTensor(hollow(truth).float(), meta=dict(truth.meta)) for truth in pairs]
    assert chosen(rings, [predicted(truth) for truth in rings], tmp_path / "kept")["chosen"] == NOTHING


def test_steps_that_only_harm_together_are_not_taken_together(pairs, tmp_path):
    """A wrong lobe in the bean's true cavity: dropped, it leaves background that filling the bean would take."""
    truths, predictions = [], []
    for truth in pairs:
        true, labels = truth.clone(), truth.as_tensor().to(torch.uint8)
        true[0, 7:12, 7:12, 4:8] = 0  # the bean is hollow
        true[0, 40:46, 2:8, 2:8] = 1
        labels[0, 40:46, 2:8, 2:8] = 1
        labels[0, 7:12, 7:12, 4:8] = 1
        labels[0, 27:30, 27:30, 4:8] = 0  # a hole that is none
        truths.append(true)
        predictions.append(labels)
    report = chosen(truths, predictions, tmp_path)
    bean = report["classes"]["bean"]
    assert bean["fill_holes"] > bean["dice"] + 0.001, "by itself, filling would help"
    assert report["chosen"] == {**NOTHING, "keep_largest": [1]}
    assert means(truths, predictions, keep_largest=[1], fill_holes=[2])[1] < bean["dice"]


def test_a_good_prediction_stays_as_it_is(truths, tmp_path, caplog):
    caplog.set_level("INFO")
    assert chosen(truths, [predicted(truth) for truth in truths], tmp_path)["chosen"] == NOTHING
    assert "No cleaning raises the mean Dice of a class by more than 0.001 on 4 cases" in caplog.text


@pytest.mark.parametrize("seed", range(4))
def test_dice_from_the_objects_is_dice_after_cleaning(seed):
    rng = np.random.default_rng(seed)
    shape = (12, 11, 10) if seed % 2 else (40, 30)
    label = rng.integers(0, 4, shape).astype(np.uint8)
    labels = np.where(rng.random(shape) < 0.85, 0, rng.integers(0, 4, shape)).astype(np.uint8)
    case, _ = measure_objects(labels, label, 4, 0.003)
    prediction = MetaTensor(torch.from_numpy(labels)[None], affine=torch.diag(torch.tensor([1.0, 1.5, 2.0, 1.0])))
    if len(shape) == 2:
        prediction.affine = torch.diag(torch.tensor([1.5, 2.0, 1.0]))
    for cleaning in (Cleaning(), Cleaning([1, 3]), Cleaning([2], {"1": 0.0061, "3": 0.013}), Cleaning([3], {"3": 9.0})):
        cleaned = CleanLabelsd("pred", **cleaning.as_config())({"pred": prediction})["pred"]
        assert dice_without_filling(case, cleaning) == dice_scores(cleaned[0].numpy(), label, 4)


def test_a_case_that_another_handler_refuses_is_not_measured(truths, tmp_path):
    handler = ChooseCleaning(LABELS, str(tmp_path))
    with handler.one_by_one():
        for truth in truths[:2]:
            engine = Engine(lambda engine, item: refused_or_scored(engine, item, truths[0]))
            engine.register_events(*IterationEvents)
            handler.attach(engine)
            if truth is truths[0]:
                with pytest.raises(ValueError, match="refused"):
                    engine.run([truth])
            else:
                engine.run([truth])
    assert json.loads((tmp_path / "cleaning.json").read_text())["cases"] == ["phantom_002"]


def refused_or_scored(engine: Engine, truth: MetaTensor, refused: MetaTensor) -> Any:
    engine.state.output = {"pred": predicted(truth)[None]}
    engine.fire_event(IterationEvents.FORWARD_COMPLETED)
    if truth is refused:
        raise ValueError("refused")
    return [{"pred": MetaTensor(predicted(truth), meta=dict(truth.meta)), "label": truth}]


def test_cases_the_weights_were_trained_on_choose_nothing(phantom_data, tmp_path):
    cases = find_cases(phantom_data)
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    write_trained_cases(weights, 0, cases[:2])
    other = tmp_path / "other.pt"  # nothing is known of these
    other.write_bytes(b"others")
    ChooseCleaning(LABELS, str(tmp_path), [other, weights], cases[2:])
    with pytest.raises(ConfigError, match=r"model.pt was trained on 2 of the 6 cases, .* evaluate the validation"):
        ChooseCleaning(LABELS, str(tmp_path), [other, weights], cases)
