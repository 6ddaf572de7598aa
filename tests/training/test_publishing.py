import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unet_bundle.errors import ConfigError
from unet_bundle.networks import UNet
from unet_bundle.training import Origin, PublishModel, RunCheckpoints, TrainStep, weights_to_score
from unet_bundle.training.checkpoints import load_checkpoint, save_atomically
from unet_bundle.training.trained_cases import read_trained_cases, write_trained_cases

INPUTS = {"orientation": "RAS", "spacing": (1.0, 1.0, 2.5), "normalization": [{"scheme": "zscore"}]}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def seeing_only(network: UNet, label: int) -> dict[str, torch.Tensor]:
    """Weights with which the network finds `label` in every voxel."""
    state = {key: torch.zeros_like(value) for key, value in network.state_dict().items()}
    for key, value in state.items():
        if key.startswith("heads.") and key.endswith("bias"):
            value[label] = 1.0
    return state


Split = tuple[tuple[str, ...], tuple[str, ...]]
"""Names of the training and of the validation cases."""

FOLDS: list[Split] = [(("b", "c"), ("a",)), (("a", "c"), ("b",))]


def cases(*names: str) -> list[dict[str, str]]:
    return [{"image": f"somewhere/{name}.nii.gz", "label": f"else/{name}.nii.gz"} for name in names]


BLIND, LOBE = 0, 1  # all background: Dice 0; all lobe: Dice above 0


@pytest.fixture
def publish(
    patches: Any, make_network: Any, make_trainer: Any, make_evaluator: Any, tmp_path: Path
) -> Callable[..., Any]:
    """A function that ends a training with the given weights; returns the network after it, and the bundle's path."""

    def end(
        label: int,
        items: Any = None,
        epoch: int = 1,
        fold: int = 0,
        split: Split = ((), ()),
        start: int | None = None,
        source: Path | None = None,
    ) -> tuple[UNet, Path]:
        network, origin = make_network(), Origin()
        if source is not None:
            origin.add(read_trained_cases(source))
        trainer = make_trainer(network, patches, TrainStep("float32"))
        evaluator = make_evaluator(network, patches if items is None else items)
        folder, path = tmp_path / "runs" / f"fold_{fold}", tmp_path / "models" / "model.pt"
        checkpoints = RunCheckpoints(network, trainer.optimizer, evaluator, str(folder), interval=1)
        publisher = PublishModel(
            network,
            evaluator,
            make_evaluator(network, patches if items is None else items),
            str(folder),
            str(path),
            fold,
            INPUTS,
            str(tmp_path / "configs" / "inference.json"),
            cases(*split[0]),
            cases(*split[1]),
            origin=origin,
        )
        if start is not None:
            network.load_state_dict(seeing_only(network, start))
        publisher._note_start(trainer)
        network.load_state_dict(seeing_only(network, label))
        trainer.state.epoch = epoch
        evaluator.run(epoch)
        checkpoints._epoch_completed(trainer)
        publisher._note_best(trainer)
        publisher(trainer)
        return network, path

    return end


def published(path: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(path)
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert [p.name for p in path.parent.glob("*.pt")] == ["model.pt"], "a server offers every *.pt it finds there"
    return {key: value.float() for key, value in state.items()}


def test_only_better_weights_replace_those_of_the_bundle_and_those_are_kept(publish, make_network, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="unet_bundle")
    blind, lobe = seeing_only(make_network(), BLIND), seeing_only(make_network(), LOBE)
    replaced = tmp_path / "runs" / "fold_0" / "replaced.pt"
    left, others = (tmp_path / "models" / f".{'0f' * 16}-{name}.pt" for name in ("model", "other"))
    left.parent.mkdir()
    for path in (left, others):
        path.write_bytes(b"half-written")
    os.utime(left, (0, 0))

    _, path = publish(BLIND)
    assert [each for each in (left, others) if each.exists()] == [others], "another run is writing it now"
    others.unlink()
    assert same(published(path), blind)
    assert not replaced.exists()

    network, _ = publish(LOBE)
    assert same(published(path), lobe)
    assert same({k: v.float() for k, v in load_checkpoint(replaced).items()}, blind)
    assert read_trained_cases(replaced) is not None, "its note goes along"
    assert "before 0.0000" in caplog.text
    assert same(network.state_dict(), lobe)

    network, _ = publish(BLIND)
    assert same(published(path), lobe)
    assert "model.pt stays: it scores" in caplog.text
    assert same(network.state_dict(), blind), "the network that was trained stays as it is"

    written = path.stat().st_mtime_ns
    publish(LOBE)
    assert path.stat().st_mtime_ns == written, "equal is not better"


@pytest.mark.parametrize("content", [b"damaged", None], ids=["damaged", "another network"])
def test_weights_that_do_not_fit_are_replaced_with_a_warning_and_kept(content, publish, make_network, tmp_path, caplog):
    path = tmp_path / "models" / "model.pt"
    save_atomically(make_network(channels=[2, 4, 4]).state_dict(), path)
    if content is not None:
        path.write_bytes(content)
    before = path.read_bytes()

    publish(BLIND)
    assert same(published(path), seeing_only(make_network(), BLIND))
    assert (tmp_path / "runs" / "fold_0" / "replaced.pt").read_bytes() == before
    warning = next(record for record in caplog.records if record.levelno == logging.WARNING)
    assert warning.getMessage().startswith("models/model.pt ")
    assert warning.getMessage().endswith(" It is replaced.")


@pytest.mark.filterwarnings("ignore:`dataloader` is empty")
def test_without_validation_cases_the_last_weights_are_published(publish, make_network, caplog):
    for label in (LOBE, BLIND):
        caplog.clear()
        _, path = publish(label, items=[])
        assert same(published(path), seeing_only(make_network(), label))
        assert "No case is kept back: the last weights become model.pt, whatever they are worth." in caplog.text


def test_old_and_new_weights_are_compared_as_inference_has_them(publish, monkeypatch):
    scored = []

    def score(_self: PublishModel, weights: Any) -> float:
        scored.append({value.dtype for value in weights.values() if value.is_floating_point()})
        return 0.5

    monkeypatch.setattr(PublishModel, "_score_of", score)
    _, path = publish(BLIND)
    written = path.stat().st_mtime_ns
    publish(LOBE)
    assert scored == [{torch.float16}, {torch.float16}]
    assert path.stat().st_mtime_ns == written, "no better, so they stay"


@pytest.mark.parametrize("fold", [0, 1], ids=["folds drawn otherwise", "another fold"])
def test_weights_that_have_seen_the_validation_cases_stay(fold, publish, make_network, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="unet_bundle")
    _, path = publish(BLIND, fold=0, split=FOLDS[0])
    publish(LOBE, fold=fold, split=FOLDS[1])
    assert same(published(path), seeing_only(make_network(), BLIND))
    assert "model.pt stays: it belongs to fold 0 and was trained on 1 of the 1 validation cases; " in caplog.text
    assert f"those of this run are fold_{fold}/best.pt." in caplog.text
    assert (tmp_path / "runs" / f"fold_{fold}" / "best.pt").is_file()


def test_a_run_that_started_from_the_weights_may_replace_them_and_inherits_their_cases(
    publish, make_network, tmp_path, caplog
):
    """A label server trains on and on, and from one time to the next other cases are kept back."""
    publish(BLIND, split=FOLDS[0])
    _, path = publish(LOBE, split=FOLDS[1], start=BLIND)
    assert same(published(path), seeing_only(make_network(), LOBE))
    assert "1 of the 1 validation cases are among those that model.pt, and what this run started from" in caplog.text
    for weights in (path, tmp_path / "runs" / "fold_0" / "best.pt"):
        assert read_trained_cases(weights).among(cases("a", "b", "c", "d")) == 3

    publish(BLIND, split=FOLDS[0], start=LOBE)
    assert same(published(path), seeing_only(make_network(), LOBE)), "no better, so they stay"


def test_weights_that_have_seen_none_of_them_may_be_replaced_whatever_their_fold(publish, make_network):
    publish(BLIND, fold=0, split=FOLDS[0])
    _, path = publish(LOBE, fold=1, split=(("e",), ("f",)))
    assert same(published(path), seeing_only(make_network(), LOBE))


def test_weights_are_not_scored_on_cases_they_were_trained_on(publish):
    _, path = publish(BLIND, fold=2, split=FOLDS[0])
    trained, validated = (cases(*names) for names in FOLDS[0])
    assert weights_to_score(str(path), 2, "validation", validated) == [path]
    assert weights_to_score(str(path), 0, "all", trained + validated) == [path]
    with pytest.raises(
        ConfigError, match=r"trained on 1 of the 2 validation .* fold 0: evaluate --fold 2, or give --checkpoint runs/f"
    ):
        weights_to_score(str(path), 0, "validation", cases("a", "b"))
    with pytest.raises(ConfigError, match=r"of the 1 validation cases of fold 2: give --checkpoint runs/fold_2/best"):
        weights_to_score(str(path), 2, "validation", cases("b"))  # the same fold, drawn with another seed


def test_of_an_ensemble_its_members_are_what_is_scored(publish, tmp_path):
    _, path = publish(BLIND, fold=2, split=FOLDS[0])
    trained, _ = (cases(*names) for names in FOLDS[0])
    other = tmp_path / "other.pt"
    other.write_bytes(b"other weights")
    write_trained_cases(other, 0, cases("elsewhere"))
    run = {"fold": 0, "part": "validation", "cases": trained, "ensemble_folder": str(tmp_path)}
    assert weights_to_score(str(path), ensemble=["other.pt"], **run) == [other], "its own weights are not run"
    with pytest.raises(ConfigError, match=rf"{path.name} was trained on {len(trained)} of the {len(trained)} valid"):
        weights_to_score(str(other), ensemble=["other.pt", str(path)], **run)
    assert weights_to_score(str(other), ensemble=[str(path)], **{**run, "part": "all"}) == [path]


def test_weights_that_started_from_unknown_ones_are_scored_with_a_warning(tmp_path, caplog):
    path, origin = tmp_path / "model.pt", Origin()
    path.write_bytes(b"weights")
    origin.add(None)
    write_trained_cases(path, 0, cases("a"), origin)
    assert weights_to_score(str(path), 0, "validation", cases("b")) == [path]
    assert "model.pt started from weights of which nothing is known" in caplog.text
    with pytest.raises(ConfigError, match="was trained on 1 of the 1 validation"):
        weights_to_score(str(path), 0, "validation", cases("a"))
    origin.add(read_trained_cases(path))
    assert not origin.complete
    known = Origin()
    known.load_state_dict(origin.state_dict())
    assert (known.hashes, known.complete) == (origin.hashes, False)


def test_a_run_that_saw_its_validation_cases_does_not_replace_weights_that_did_not(
    publish, make_network, caplog, tmp_path
):
    """Fine-tuned from another bundle's weights, which were trained on them."""
    caplog.set_level(logging.INFO, logger="unet_bundle")
    _, path = publish(BLIND, split=(("b",), ("a",)))
    other = tmp_path / "other.pt"
    other.write_bytes(b"weights of another bundle")
    write_trained_cases(other, 0, cases("a"))
    publish(LOBE, split=(("b",), ("a",)), source=other)
    assert same(published(path), seeing_only(make_network(), BLIND))
    assert "model.pt stays: what this run started from was trained on 1 of the 1 validation cases" in caplog.text


def test_a_shipped_bundle_takes_along_what_its_weights_have_seen_but_no_names(publish, tmp_path):
    _, path = publish(BLIND, fold=0, split=(("MEIER_HANS", "c"), ("a",)))
    shipped = tmp_path / "elsewhere" / "models"
    shutil.copytree(path.parent, shipped)
    with pytest.raises(ConfigError, match="was trained on 1 of the 1 validation"):
        weights_to_score(str(shipped / "model.pt"), 1, "validation", cases("MEIER_HANS"))
    assert "MEIER" not in (shipped / "model.json").read_text()


def test_weights_of_which_nothing_is_known_can_be_scored_with_a_warning(tmp_path, caplog):
    path = tmp_path / "models" / "model.pt"
    assert weights_to_score(str(path), 3, "validation", cases("a")) == [path]
    assert not caplog.records, "there are none at all: that is said elsewhere"
    path.parent.mkdir()
    path.write_bytes(b"one")
    write_trained_cases(path, 0, cases("a"))
    path.write_bytes(b"others, put in their place by hand")
    assert weights_to_score(str(path), 3, "validation", cases("a")) == [path]
    assert "Nothing is known of the cases models/model.pt was trained on" in caplog.text


@pytest.fixture
def start(make_network: Any, make_evaluator: Any, patches: Any, tmp_path: Path) -> Callable[[], None]:
    """A function that does what the start of a training does to what it will publish."""
    network = make_network()
    evaluator = make_evaluator(network, patches)
    publisher = PublishModel(
        network, evaluator, evaluator, "", str(tmp_path / "models" / "model.pt"), 0, INPUTS,
        str(tmp_path / "configs" / "inference.json"),
    )  # fmt: skip
    return lambda: publisher._check_inputs(None)


def test_training_at_another_spacing_than_inference_is_refused_at_its_start(start, tmp_path):
    start()  # no inference.json: a host's own
    config = tmp_path / "configs" / "inference.json"
    config.parent.mkdir()
    config.write_text(json.dumps(INPUTS))
    start()
    config.write_text(json.dumps({**INPUTS, "spacing": [2.0, 2.0, 2.0]}))
    with pytest.raises(ConfigError, match=r"^spacing is .*2\.5.* but \[2\.0, 2\.0, 2\.0\] in inference\.json"):
        start()
