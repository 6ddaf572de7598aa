"""Whole trainings of a few seconds through the real train.json."""

import csv
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.io import find_cases
from unet_bundle.planning.bundle import write_bundle
from unet_bundle.runtime import error_message
from unet_bundle.training import weights_to_score
from unet_bundle.training.checkpoints import save_atomically
from unet_bundle.training.steps import DivergedError
from unet_bundle.training.trained_cases import read_trained_cases

Weights = dict[str, torch.Tensor]
# Dropout too must be repeatable; the first test of each property runs with it.
SETTINGS: dict[str, Any] = {"network_def::dropout": 0.2}


@dataclass
class Run:
    """What a training left behind."""

    bundle: Path
    by_epoch: dict[int, Weights]
    best_epoch: int

    @property
    def folder(self) -> Path:
        return self.bundle / "runs" / "fold_0"

    def load(self, name: str) -> Any:
        return torch.load(self.bundle / name, weights_only=True)

    def rows(self) -> list[dict[str, str]]:
        with (self.folder / "curves.csv").open(newline="") as file:
            return list(csv.DictReader(file))


def train(
    bundle: Path,
    data: Path,
    kill_in_iteration: int | None = None,
    stop_in: int | str | None = None,
    by: signal.Signals = signal.SIGTERM,
    **overrides: Any,
) -> Run:
    """What ``python -m monai.bundle run --config_file train.json`` does.

    It may die in the middle of an iteration, or get the signal `by` in an iteration, "validation" or after "epoch 2".
    """
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "train.json"),
        workflow_type="train",
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(data),
        **{**SETTINGS, "num_workers": 0, **overrides},
    )
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train::trainer")
    network = workflow.parser.get_parsed_content("network")
    evaluator = workflow.parser.get_parsed_content("validate::evaluator")
    by_epoch: dict[int, Weights] = {}

    @trainer.on(Events.EPOCH_COMPLETED)
    def _keep(engine: Engine) -> None:
        by_epoch[engine.state.epoch] = {k: v.clone() for k, v in network.state_dict().items()}

    if kill_in_iteration is not None:
        trainer.add_event_handler(Events.ITERATION_STARTED(once=kill_in_iteration), _die)
    if stop_in is not None:
        engine, event = moment(stop_in, trainer, evaluator)
        engine.add_event_handler(event, lambda _engine: os.kill(os.getpid(), by))
    trainer.run()  # what `run` of the config says, without MONAI's wrapping of an error
    workflow.finalize()
    return Run(bundle, by_epoch, evaluator.state.best_metric_epoch)


def moment(stop_in: int | str, trainer: Engine, evaluator: Engine) -> tuple[Engine, Any]:
    """The engine and its event in which a run is to get a signal."""
    if isinstance(stop_in, int):
        return trainer, Events.ITERATION_STARTED(once=stop_in)
    if stop_in == "validation":
        return evaluator, Events.ITERATION_STARTED(once=1)
    return trainer, Events.EPOCH_COMPLETED(once=int(stop_in.removeprefix("epoch ")))


class KilledError(Exception):
    """As if the machine went down."""


def _die(_engine: Engine) -> None:
    raise KilledError


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def halved(state: Weights) -> Weights:
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


@pytest.fixture(scope="module")
def finished(tiny_files: dict[str, str], phantom_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training that was never disturbed."""
    bundle = tmp_path_factory.mktemp("finished") / "bundle"
    write_bundle(tiny_files, bundle)
    return train(bundle, phantom_data)


@pytest.fixture
def run_again(finished: Run, tmp_path: Path, phantom_data: Path) -> Callable[..., Run]:
    """A function that calls `train` on a copy of the finished training, with other settings."""
    shutil.copytree(finished.bundle, tmp_path / "copy")
    return lambda **overrides: train(tmp_path / "copy", phantom_data, **overrides)


def test_the_same_seed_gives_the_same_weights(finished: Run, tiny_bundle: Path, phantom_data: Path):
    again = train(tiny_bundle, phantom_data, num_workers=1)

    assert len(finished.by_epoch) == 4
    assert not same(finished.by_epoch[1], finished.by_epoch[4])
    assert all(same(again.by_epoch[epoch], state) for epoch, state in finished.by_epoch.items())
    assert (again.bundle / "models/model.pt").read_bytes() == (finished.bundle / "models/model.pt").read_bytes()
    assert same(again.load("runs/fold_0/best.pt"), finished.load("runs/fold_0/best.pt"))


def test_killed_and_resumed_gives_the_same_weights_as_never_stopped(
    finished: Run, tiny_bundle: Path, phantom_data: Path
):
    with pytest.raises(KilledError):
        train(tiny_bundle, phantom_data, kill_in_iteration=11)
    assert not (tiny_bundle / "models" / "model.pt").exists()
    resumed = train(tiny_bundle, phantom_data, resume=True)

    assert sorted(resumed.by_epoch) == [3, 4], "it goes on after the last validation"
    assert same(resumed.by_epoch[4], finished.by_epoch[4])
    assert resumed.best_epoch == finished.best_epoch
    assert (tiny_bundle / "models/model.pt").read_bytes() == (finished.bundle / "models/model.pt").read_bytes()
    columns = ("epoch", "iteration", "loss", "learning_rate", "validation_dice")
    assert [[row[c] for c in columns] for row in resumed.rows()] == [[r[c] for c in columns] for r in finished.rows()]


def same_curves(a: Run, b: Run) -> bool:
    return [{**row, "seconds": ""} for row in a.rows()] == [{**row, "seconds": ""} for row in b.rows()]


@pytest.mark.parametrize("stop_in", [2, 3, 7, 12, "validation"])
def test_stopped_by_a_scheduler_it_goes_on_from_the_very_step(
    stop_in: int | str, finished: Run, tiny_bundle: Path, phantom_data: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, logger="unet_bundle")
    usual = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        train(tiny_bundle, phantom_data, stop_in=stop_in)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is usual
    iteration = 6 if stop_in == "validation" else stop_in
    assert f"Stopped after iteration {iteration}, epoch {iteration // 3} of 4: the same command with --resume" in (
        caplog.text
    )
    state = torch.load(tiny_bundle / "runs/fold_0/last.pt", weights_only=True)
    assert state["progress"]["iteration"] == iteration

    resumed = train(tiny_bundle, phantom_data, resume=True, num_workers=1 if stop_in == 2 else 0)
    # The epoch whose last step was done is completed, by all who listen for it.
    assert sorted(resumed.by_epoch) == list(range(-(-iteration // 3), 5))
    assert all(same(weights, finished.by_epoch[epoch]) for epoch, weights in resumed.by_epoch.items())
    assert resumed.best_epoch == finished.best_epoch
    assert (tiny_bundle / "models/model.pt").read_bytes() == (finished.bundle / "models/model.pt").read_bytes()
    assert same_curves(resumed, finished)


@pytest.mark.parametrize(("epoch", "iteration"), [(2, 7), (4, 12)])
def test_a_signal_while_an_epoch_is_put_away_ends_the_run_before_more_is_begun(
    epoch: int, iteration: int, finished: Run, tiny_bundle: Path, phantom_data: Path
):
    with pytest.raises(SystemExit):
        train(tiny_bundle, phantom_data, stop_in=f"epoch {epoch}")
    assert not (tiny_bundle / "models/model.pt").exists(), "it may take long to publish"
    state = torch.load(tiny_bundle / "runs/fold_0/last.pt", weights_only=True)
    assert (state["progress"]["iteration"], state["finished"]) == (iteration, False)

    resumed = train(tiny_bundle, phantom_data, resume="auto")
    assert sorted(resumed.by_epoch) == list(range(epoch + 1, 5))
    assert (tiny_bundle / "models/model.pt").read_bytes() == (finished.bundle / "models/model.pt").read_bytes()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as a terminal's programs know it: those in the background of a shell ignore it."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_an_average_is_validated_keeps_what_is_trained(
    finished: Run, tmp_path: Path, tiny_files: dict[str, str], phantom_data: Path
):
    bundles = [tmp_path / name for name in ("never", "stopped")]
    for bundle in bundles:
        write_bundle(tiny_files, bundle)
    never = train(bundles[0], phantom_data, ema_decay=0.9)
    with pytest.raises(KeyboardInterrupt):
        train(bundles[1], phantom_data, ema_decay=0.9, stop_in="validation", by=signal.SIGINT)
    resumed = train(bundles[1], phantom_data, ema_decay=0.9, resume="auto")

    assert same(never.by_epoch[4], finished.by_epoch[4]), "the average changes nothing of the training"
    assert same(resumed.by_epoch[4], never.by_epoch[4])
    assert same_curves(resumed, never)
    averaged, shipped = (run.load("models/model.pt") for run in (resumed, never))
    assert same(averaged, shipped)
    assert not same(averaged, halved(never.by_epoch[resumed.best_epoch]))
    last = resumed.load("runs/fold_0/last.pt")
    assert same(last["network"], resumed.by_epoch[4])
    if resumed.best_epoch == 4:
        assert same(resumed.load("runs/fold_0/best.pt"), {**last["network"], **last["average"]})


def test_saved_every_moment_a_run_that_is_killed_loses_the_step_under_way(
    finished: Run, tiny_bundle: Path, phantom_data: Path
):
    with pytest.raises(KilledError):
        train(tiny_bundle, phantom_data, kill_in_iteration=9, save_minutes=1e-9, keep_every=1)
    kept = sorted(path.name for path in (tiny_bundle / "runs/fold_0").glob("epoch_*.pt"))
    assert kept == ["epoch_00001.pt", "epoch_00002.pt"]
    first = torch.load(tiny_bundle / "runs/fold_0/epoch_00001.pt", weights_only=True)
    assert same(first["network"], finished.by_epoch[1])
    last = torch.load(tiny_bundle / "runs/fold_0/last.pt", weights_only=True)
    assert last["progress"]["iteration"] == 8

    resumed = train(tiny_bundle, phantom_data, resume=True)
    assert same(resumed.by_epoch[4], finished.by_epoch[4])
    assert same_curves(resumed, finished)


def test_a_run_that_ended_before_its_weights_were_published_publishes_them(
    finished: Run, tiny_bundle: Path, phantom_data: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_arguments: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("unet_bundle.training.publishing.PublishModel._publish", fail)
        with pytest.raises(KilledError):
            train(tiny_bundle, phantom_data)
    assert not (tiny_bundle / "models/model.pt").exists()
    resumed = train(tiny_bundle, phantom_data, resume=True)
    assert resumed.by_epoch == {}
    assert (tiny_bundle / "models/model.pt").read_bytes() == (finished.bundle / "models/model.pt").read_bytes()


def test_training_ends_early_where_scores_no_longer_rise(tiny_bundle: Path, phantom_data: Path):
    run = train(
        tiny_bundle,
        phantom_data,
        max_epochs=40,
        val_interval=1,
        early_stop_epochs=2,
        learning_rate=1e-30,
        weight_decay=0.0,
    )

    assert sorted(run.by_epoch) == [1, 2, 3]
    assert run.load("runs/fold_0/last.pt")["finished"]
    with pytest.raises(CheckpointError, match="has 3 epochs already"):
        train(tiny_bundle, phantom_data, max_epochs=40, resume=True, weight_decay=0.0)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"optimizer_name": "SGD", "schedule": "poly", "warmup_iterations": 0}, "SGD"),
        ({"channels_last": True}, "AdamW"),
    ],
)
def test_other_recipes_train_and_resume(
    settings: dict[str, Any], kind: str, tmp_path: Path, tiny_files: dict[str, str], phantom_data: Path
):
    bundles = [tmp_path / name for name in ("never", "stopped")]
    for bundle in bundles:
        write_bundle(tiny_files, bundle)
    never = train(bundles[0], phantom_data, max_epochs=2, **settings)
    with pytest.raises(SystemExit):
        train(bundles[1], phantom_data, max_epochs=2, stop_in=4, **settings)
    resumed = train(bundles[1], phantom_data, max_epochs=2, resume=True, **settings)
    assert same(resumed.by_epoch[2], never.by_epoch[2])
    assert ("momentum_buffer" in next(iter(never.load("runs/fold_0/last.pt")["optimizer"]["state"].values()))) is (
        kind == "SGD"
    )
    if kind == "SGD":
        with pytest.raises(CheckpointError, match="was made with another optimizer or ema_decay: resume with the"):
            train(bundles[1], phantom_data, max_epochs=3, resume=True, ema_decay=0.5, **settings)


def test_the_files_of_a_run_hold_what_they_say(finished: Run):
    best, last = finished.load("runs/fold_0/best.pt"), finished.load("runs/fold_0/last.pt")

    assert finished.best_epoch in {2, 4}
    assert last["finished"]
    assert same(best, finished.by_epoch[finished.best_epoch])
    assert same(last["network"], finished.by_epoch[4])
    assert same(finished.load("models/model.pt"), halved(best))
    assert {v.dtype for v in finished.load("models/model.pt").values() if v.is_floating_point()} == {torch.float16}
    assert sorted(path.name for path in (finished.bundle / "models").iterdir()) == ["model.json", "model.pt"]
    assert not list(finished.bundle.rglob("*.tmp"))


def test_the_curves_have_a_row_an_epoch_and_the_score_of_the_validated_ones(finished: Run):
    rows = finished.rows()
    scores = {int(row["epoch"]): float(row["validation_dice"]) for row in rows if row["validation_dice"]}

    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [int(row["iteration"]) for row in rows] == [3, 6, 9, 12]
    assert set(scores) == {2, 4}, "the first, timed validation is in no curve"
    assert max(scores, key=lambda epoch: scores[epoch]) == finished.best_epoch


def test_a_longer_run_resumes_one_that_is_done(run_again: Callable[..., Run]):
    for epochs in (3, 4):
        with pytest.raises(
            CheckpointError, match=r"^fold_0/last\.pt has 4 epochs already: ask for more by --max_epochs"
        ):
            run_again(resume=True, max_epochs=epochs)
    longer = run_again(resume=True, max_epochs=6)
    assert sorted(longer.by_epoch) == [5, 6]
    assert [int(row["epoch"]) for row in longer.rows()] == [1, 2, 3, 4, 5, 6]


def test_there_must_be_a_run_to_resume(run_again: Callable[..., Run], tmp_path: Path):
    last = tmp_path / "copy" / "runs" / "fold_0" / "last.pt"

    def refusal(**overrides: Any) -> str:
        with pytest.raises(CheckpointError) as raised:
            run_again(resume=True, max_epochs=6, **overrides)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "has 3 iterations an epoch, not 5: resume with the settings" in refusal(iterations_per_epoch=5)
    assert "does not fit the network" in refusal(**{"network_def::channels": [8, 8, 16, 32]})
    (last.parent / "best.pt").rename(tmp_path / "best.pt")
    whole = last.read_bytes()
    torch.save({**torch.load(last, weights_only=True), "best_metric_epoch": 2}, last)
    assert refusal() == "fold_0/best.pt is missing: start anew without --resume."
    last.write_bytes(whole)
    (tmp_path / "best.pt").rename(last.parent / "best.pt")
    shutil.copyfile(last.parent / "best.pt", last)
    assert refusal() == "fold_0/last.pt is not the state of a run to resume: start anew without --resume."
    torch.save([1, 2], last)
    assert refusal() == "fold_0/last.pt is not the state of a run to resume: start anew without --resume."
    last.write_bytes(b"no checkpoint")
    assert refusal().startswith("fold_0/last.pt is no readable checkpoint")
    last.unlink()
    assert refusal() == "fold_0/last.pt is missing, there is no run to resume: start anew without --resume."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed 0 (here 1)"),
        ({"batch_size": 3}, "batch_size 2 (here 3)"),
        ({"optimizer_name": "SGD"}, "optimizer AdamW (here SGD)"),
        ({"weight_decay": 0.5}, "weight_decay 0.01 (here 0.5)"),
        ({"split_seed": 3}, "other training cases, other validation cases"),
        (
            {"fold": 1, "output_dir": "$@bundle_root + '/runs/fold_0'"},
            "fold 0 (here 1), other training cases",
        ),
    ],
)
def test_a_run_goes_on_only_with_what_it_was_started_with(
    change: dict[str, Any], words: str, run_again: Callable[..., Run], tmp_path: Path
):
    before = (tmp_path / "copy/runs/fold_0/last.pt").read_bytes()
    with pytest.raises(CheckpointError) as raised:
        run_again(resume=True, max_epochs=5, **change)
    assert str(raised.value).startswith(f"fold_0/last.pt was made with {words}")
    assert str(raised.value).endswith(": resume with what it was started with, or start anew without --resume.")
    assert "phantom" not in str(raised.value)
    assert (tmp_path / "copy/runs/fold_0/last.pt").read_bytes() == before


def test_the_state_of_an_earlier_version_goes_on_unchecked(
    run_again: Callable[..., Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, logger="unet_bundle")
    last = tmp_path / "copy/runs/fold_0/last.pt"
    state = torch.load(last, weights_only=True)
    torch.save({key: value for key, value in state.items() if key not in {"record", "origin"}}, last)
    assert sorted(run_again(resume=True, max_epochs=5, weight_decay=0.5).by_epoch) == [5]
    assert caplog.text.count("last.pt does not say with which settings and cases it was made") == 1
    assert torch.load(last, weights_only=True)["origin"]["complete"] is False, "nobody knows what it started from"


@pytest.mark.parametrize("not_written", ["last.pt", "best.pt", "best.json"])
def test_killed_while_an_epoch_is_put_away_a_run_keeps_its_best_weights_and_their_note(
    not_written: str, finished: Run, tiny_bundle: Path, phantom_data: Path, monkeypatch: pytest.MonkeyPatch
):
    """No epoch after the second is better here: what was not written by then would never be."""
    flat = {"learning_rate": 1e-30, "weight_decay": 0.0}

    def save(content: Any, path: Path) -> None:
        if path.name == not_written:
            raise KilledError
        save_atomically(content, path)

    def note(*_arguments: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("unet_bundle.training.run_checkpoints.save_atomically", save)
        if not_written == "best.json":
            patched.setattr("unet_bundle.training.publishing.write_trained_cases", note)
        with pytest.raises(KilledError):
            train(tiny_bundle, phantom_data, **flat)
    assert not (tiny_bundle / "runs/fold_0" / not_written).exists()
    run = train(tiny_bundle, phantom_data, resume="auto", **flat)
    assert run.best_epoch == 2
    assert sorted(run.by_epoch) == ([1, 2, 3, 4] if not_written == "last.pt" else [3, 4])
    assert run.load("runs/fold_0/last.pt")["best_metric_epoch"] == 2
    noted, published = (read_trained_cases(run.bundle / name) for name in ("runs/fold_0/best.pt", "models/model.pt"))
    assert noted == published == read_trained_cases(finished.folder / "best.pt")
    assert noted is not None
    assert same(run.load("models/model.pt"), halved(run.load("runs/fold_0/best.pt")))


def test_best_weights_that_were_lost_with_the_machine_are_in_the_state(run_again: Callable[..., Run], tmp_path: Path):
    folder = tmp_path / "copy/runs/fold_0"
    state = torch.load(folder / "last.pt", weights_only=True)
    torch.save({**state, "best_metric_epoch": 4, "best_metric": 2.0}, folder / "last.pt")
    (folder / "best.pt").write_bytes(b"weights of another epoch")
    run = run_again(resume=True, max_epochs=6)
    assert run.best_epoch == 4
    assert same(run.load("runs/fold_0/best.pt"), state["network"])


def test_the_state_knows_of_the_last_epoch_before_its_weights_are_the_best(
    tiny_bundle: Path, phantom_data: Path, monkeypatch: pytest.MonkeyPatch
):
    """The last epoch is validated though the interval leaves it out, and the run dies when that is put away."""

    def save(content: Any, path: Path) -> None:
        if path.name == "best.pt":
            raise KilledError
        save_atomically(content, path)

    with monkeypatch.context() as patched:
        patched.setattr("unet_bundle.training.run_checkpoints.save_atomically", save)
        with pytest.raises(KilledError):
            train(tiny_bundle, phantom_data, max_epochs=3, val_interval=5)
    state = torch.load(tiny_bundle / "runs/fold_0/last.pt", weights_only=True)
    assert (state["best_metric_epoch"], state["finished"]) == (3, False)
    run = train(tiny_bundle, phantom_data, max_epochs=3, val_interval=5, resume=True)
    assert (run.by_epoch, run.best_epoch) == ({}, 3)
    assert same(run.load("runs/fold_0/best.pt"), state["network"])
    assert read_trained_cases(run.folder / "best.pt") is not None
    assert same(run.load("models/model.pt"), halved(state["network"]))


def test_killed_between_the_weights_and_their_note_the_note_is_made_up_for(
    run_again: Callable[..., Run], finished: Run, tmp_path: Path
):
    copy = tmp_path / "copy"
    torch.save({**torch.load(copy / "runs/fold_0/last.pt", weights_only=True), "finished": False},
               copy / "runs/fold_0/last.pt")  # fmt: skip
    (copy / "models/model.json").unlink()
    run = run_again(resume=True)
    assert run.by_epoch == {}
    assert (copy / "models/model.json").read_bytes() == (finished.bundle / "models/model.json").read_bytes()
    assert not (run.folder / "replaced.pt").exists()


def test_what_the_source_of_a_fine_tuning_has_seen_counts_as_seen_also_after_a_resume(
    finished: Run, tiny_bundle: Path, phantom_data: Path, caplog: pytest.LogCaptureFixture
):
    """Fold 1 of another bundle, started from weights that were trained on its validation cases."""
    tuned = {"pretrained": str(finished.bundle), "fold": 1, "max_epochs": 2}
    with pytest.raises(SystemExit):
        train(tiny_bundle, phantom_data, stop_in=4, **tuned)
    assert "`evaluate` will refuse to score these weights" in caplog.text
    run = train(tiny_bundle, phantom_data, resume=True, **tuned)
    source = read_trained_cases(finished.bundle / "models/model.pt")
    assert source is not None
    for weights in (tiny_bundle / "models/model.pt", tiny_bundle / "runs/fold_1/best.pt"):
        trained = read_trained_cases(weights)
        assert trained is not None
        assert trained.complete
        assert trained.hashes > source.hashes
    cases = [{"image": case["image"]} for case in find_cases(phantom_data)]
    with pytest.raises(ConfigError, match=r"was trained on 6 of the 6 validation cases of fold 1"):
        weights_to_score(str(run.bundle / "models/model.pt"), 1, "validation", cases)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, not -1"),
        ({"seed": 2**32}, "seed must be a whole number from 0 to 4294967295, not 4294967296"),
        ({"max_gradient_norm": 0}, "max_gradient_norm must be positive, or null for no limit, not 0"),
        ({"max_bad_steps": -1}, "max_bad_steps must be a number of steps, 0 or more, not -1"),
    ],
)
def test_values_that_make_no_sense_are_refused_in_one_line(
    settings: dict[str, Any], words: str, tiny_bundle: Path, phantom_data: Path
):
    with pytest.raises(Exception) as raised:  # noqa: PT011  (MONAI wraps it)
        train(tiny_bundle, phantom_data, **settings)
    message = error_message(raised.value)
    assert message is not None
    assert words in message
    assert "\n" not in message


def test_the_guards_of_a_step_are_keys_of_the_config_that_take_effect(
    finished: Run, tiny_bundle: Path, phantom_data: Path, caplog: pytest.LogCaptureFixture
):
    short = train(tiny_bundle, phantom_data, max_epochs=1, max_gradient_norm=1e-3, optimizer_name="SGD")
    free = train(tiny_bundle, phantom_data, max_epochs=1, max_gradient_norm=None, optimizer_name="SGD")
    assert not same(short.by_epoch[1], free.by_epoch[1])
    broken = {"loss": "$lambda heads, label: heads[0].sum() * float('nan')"}
    with pytest.raises(DivergedError, match="in 3 steps in a row up to iteration 3"):
        train(tiny_bundle, phantom_data, max_bad_steps=2, **broken)
    assert caplog.text.count("not finite, step skipped") == 2
    other = train(tiny_bundle, phantom_data, max_epochs=1, seed=1)
    assert not same(other.by_epoch[1], finished.by_epoch[1])


@pytest.mark.filterwarnings("ignore:`dataloader` is empty")
def test_without_validation_cases_the_last_weights_are_published(tiny_bundle: Path, phantom_data: Path):
    run = train(tiny_bundle, phantom_data, max_epochs=1, **{"validate::dataset::data": []})

    assert same(run.load("models/model.pt"), halved(run.by_epoch[1]))


@pytest.mark.parametrize("interval", [2, 5])
def test_the_last_epoch_is_scored_though_the_validation_interval_leaves_it_out(
    interval: int, run_again: Callable[..., Run], finished: Run, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, logger="unet_bundle")
    before = (finished.bundle / "models/model.pt").read_bytes()
    run = run_again(max_epochs=3, val_interval=interval, learning_rate=1e-9)

    assert run.best_epoch in {2, 3} if interval == 2 else run.best_epoch == 3
    assert same(run.load("runs/fold_0/best.pt"), run.by_epoch[run.best_epoch])
    stays, replaced = "model.pt stays: it scores" in caplog.text, "New model.pt: mean Dice" in caplog.text
    assert stays is not replaced, "the weights that were there were scored too"
    assert ((run.bundle / "models/model.pt").read_bytes() == before) is stays
