from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unet_bundle.training import ConfusionPicture, EventWriter, ValidationSlices
from unet_bundle.training.events import slice_picture


def written(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))


def run(folder: Path, value: float, *, resume: bool = False) -> None:
    writer = EventWriter(str(folder), resume)
    for step in (1, 2):
        writer.add_scalar("loss", value, step)
    writer.flush()
    writer.close()


def test_a_new_run_sets_the_events_of_the_one_before_aside_and_keeps_no_more(tmp_path: Path):
    for value in (1.0, 2.0, 3.0):
        run(tmp_path, value)
    assert len(event_files(tmp_path)) == len(event_files(tmp_path / "earlier_events")) == 1
    assert [point.value for point in written(tmp_path).Scalars("loss")] == [3.0, 3.0]
    assert [point.value for point in written(tmp_path / "earlier_events").Scalars("loss")] == [2.0, 2.0]


def test_a_run_that_writes_nothing_moves_nothing(tmp_path: Path):
    run(tmp_path, 1.0)
    before = event_files(tmp_path)
    EventWriter(str(tmp_path)).flush()
    assert event_files(tmp_path) == before


def test_a_resumed_run_goes_on_beside_its_own_events(tmp_path: Path):
    run(tmp_path, 1.0)
    run(tmp_path, 2.0, resume=True)
    assert not (tmp_path / "earlier_events").exists()
    assert len(event_files(tmp_path)) == 2


def test_a_validation_shows_one_slice_and_not_the_volume(
    tmp_path: Path, make_evaluator: Any, make_network: Any, patches: Any
):
    writer = EventWriter(str(tmp_path))
    evaluator = make_evaluator(make_network(), patches[:2])
    ValidationSlices(writer, 4).attach(evaluator)
    evaluator.run(3)
    events = written(tmp_path)
    (tag,) = events.Tags()["images"]
    (picture,) = events.Images(tag)
    right, anterior = patches[0]["image"].shape[1:3]
    assert (picture.width, picture.height, picture.step) == (3 * right, anterior, 3)


def test_the_slice_is_the_one_with_most_foreground_and_its_three_parts_are_one_place():
    label = np.zeros((6, 4, 5), np.float32)
    label[1, 0, 1] = 1
    label[4:, 3, 3] = 2
    picture = slice_picture(label * 10, label, np.zeros_like(label), 3)
    assert picture.shape == (4, 18)
    for part in (picture[:, :6], picture[:, 6:12]):
        assert (part[0, 4:] == 255).all(), "the front is up"
        assert np.count_nonzero(part) == 2
    assert not picture[:, 12:].any()


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5)])
def test_a_case_without_foreground_is_shown_all_the_same(shape: tuple[int, ...]):
    empty = np.zeros(shape, np.float32)
    assert slice_picture(empty, empty, empty, 2).shape == (4, 18)


def test_the_confusion_of_a_validation_is_counted_over_all_its_cases(
    tmp_path: Path, make_evaluator: Any, make_network: Any, patches: Any
):
    writer = EventWriter(str(tmp_path))
    evaluator = make_evaluator(make_network(), patches[:2])
    picture = ConfusionPicture(writer, 4)
    picture.attach(evaluator)
    expected = np.zeros((4, 4), int)

    @evaluator.on(Events.ITERATION_COMPLETED)
    def _count(engine: Any) -> None:
        for case in engine.state.output:
            pairs = (case[key].numpy().ravel().astype(int) for key in ("label", "pred"))
            np.add.at(expected, tuple(pairs), 1)

    evaluator.run(3)
    assert np.array_equal(picture.counts.numpy(), expected)
    writer.flush()
    (tag,) = (tag for tag in written(tmp_path).Tags()["images"] if "confusion" in tag)
    (event,) = written(tmp_path).Images(tag)
    assert (event.step, event.width, event.height) == (3, 256, 256)
    expected[:] = 0
    evaluator.run(4)
    assert np.array_equal(picture.counts.numpy(), expected), "each validation is counted alone"


def test_voxels_whose_truth_is_no_class_are_left_out(tmp_path: Path):
    picture = ConfusionPicture(EventWriter(str(tmp_path)), 2)
    engine = Engine(lambda _engine, batch: [batch])
    picture.attach(engine)
    engine.run([{"label": torch.tensor([0, 1, 1, 255]), "pred": torch.tensor([0, 1, 0, 1])}])
    assert picture.counts.tolist() == [[1, 0], [1, 1]]
