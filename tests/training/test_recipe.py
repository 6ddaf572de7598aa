import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from unet_bundle.errors import ConfigError
from unet_bundle.networks import UNet
from unet_bundle.training import (
    CaseSampler,
    check_mlflow,
    check_seed,
    compiles,
    make_optimizer,
    mlflow_handler,
    prepare_network,
)
from unet_bundle.training.recipe import LARGEST_SEED


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(2))]


def test_the_optimisers_are_torchs():
    adam, sgd = make_optimizer(parameters(), weight_decay=0.1), make_optimizer(parameters(), "SGD", 0.01, 3e-5)
    assert type(adam) is torch.optim.AdamW
    assert (adam.defaults["lr"], adam.defaults["weight_decay"]) == (1e-3, 0.1)
    assert type(sgd) is torch.optim.SGD
    assert [sgd.defaults[key] for key in ("lr", "momentum", "nesterov", "weight_decay")] == [0.01, 0.99, True, 3e-5]
    groups = [{"params": parameters(), "lr": 0.5}, {"params": parameters()}]
    assert [group["lr"] for group in make_optimizer(groups, lr=0.1).param_groups] == [0.5, 0.1]


@pytest.mark.parametrize(("change", "words"), [({"name": "adam"}, "one of AdamW, SGD"), ({"weight_decay": -1}, "0 or")])
def test_another_optimiser_is_refused(change: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        make_optimizer(parameters(), **change)


@pytest.mark.parametrize("seed", [-1, LARGEST_SEED + 1, 1.5, 1.0, True, None, "1"])
def test_a_seed_that_is_none_is_refused(seed: Any):
    with pytest.raises(ConfigError, match=r"^seed must be a whole number from 0 to 4294967295, not "):
        check_seed(seed)


@pytest.mark.parametrize("seed", [0, LARGEST_SEED])
def test_a_seed_is_one_for_all_sources_of_random_numbers(seed: int):
    check_seed(seed)
    assert len(list(CaseSampler(range(3), 4, seed=seed))) == 4
    assert torch.Generator().manual_seed(seed).initial_seed() == seed


@pytest.mark.parametrize("axes", [2, 3])
def test_channels_last_is_a_matter_of_memory_only(axes):
    strides = [[1] * axes, *[[2] * axes] * 2]
    plain = UNet(axes, 1, 3, channels=[4, 8, 8], kernel_sizes=[[3] * axes] * 3, strides=strides)
    last = copy.deepcopy(plain)
    assert prepare_network(last, channels_last=True) is last
    layout = torch.channels_last if axes == 2 else torch.channels_last_3d
    assert all(weight.is_contiguous(memory_format=layout) for weight in last.parameters() if weight.dim() == axes + 2)
    image = torch.rand(1, 1, *[16] * axes)
    torch.testing.assert_close(last.eval()(image), plain.eval()(image))
    assert last.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    ("choice", "device", "iterations", "minutes", "wanted"),
    [
        (True, "cpu", 1, 0.1, True),
        (False, "cpu", 10**6, None, False),
        ("auto", "cpu", 500, None, True),
        ("auto", "cpu", 500, 5, True),
        ("auto", "cpu", 499, None, False),
        ("auto", "cpu", 500, 4.9, False),
        ("auto", "cuda", 10**6, None, False),
    ],
)
def test_a_long_training_on_a_cpu_is_compiled_unasked(
    choice: Any, device: str, iterations: int, minutes: float | None, wanted: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert compiles(choice, device, iterations, minutes) is wanted


def test_without_a_compiler_a_training_is_not_compiled_unasked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def missing(_function: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", missing)
    caplog.set_level("INFO", "unet_bundle")
    assert not compiles("auto", "cpu", 10**6)
    assert "The network is not compiled, since that fails here (RuntimeError)." in caplog.text
    assert compiles(True, "cpu", 10**6)  # asked for: the training says what is missing


# --- MLflow -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["runs.db", "file:///runs", "/folder"])
def test_mlflow_wants_a_database_or_a_server(uri: str):
    with pytest.raises(ConfigError, match=r"^mlflow_uri must be like sqlite:////.* or https://server, not"):
        check_mlflow(uri)


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="MLflow is installed")
def test_without_mlflow_it_is_said_what_to_install():
    check_mlflow(None)
    with pytest.raises(ConfigError, match=r"MLflow is not installed: pip install 'unet-bundle\[mlflow\]'\.$"):
        check_mlflow("sqlite:////runs.db")


def test_a_run_and_its_validation_log_to_one_run_of_mlflow(tmp_path: Path):
    mlflow = pytest.importorskip("mlflow")
    from ignite.engine import Engine

    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    for name, done in (("val_mean_dice", False), ("mean_loss", True)):
        engine = Engine(lambda _engine, _batch: None)
        engine.state.metrics[name] = 0.5
        mlflow_handler(uri, str(tmp_path / "bundle/runs/fold_0"), done).attach(engine)
        engine.run(range(1))
    (experiment,) = [e for e in mlflow.MlflowClient(uri).search_experiments() if e.name == "unet-bundle"]
    (run,) = mlflow.MlflowClient(uri).search_runs([experiment.experiment_id])
    assert run.info.run_name == "bundle/runs/fold_0"
    assert run.data.metrics == {"val_mean_dice": 0.5, "mean_loss": 0.5}
