"""Programs that bring the bundle to life themselves: MONAI Label, federated learning, torchrun, a notebook."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from unet_bundle.errors import InputError
from unet_bundle.io import find_cases
from unet_bundle.runtime import our_error

pytestmark = pytest.mark.integration


# --- in process -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "kind", "engine"), [("train.json", "train", "train::trainer"), ("inference.json", "infer", "evaluator")]
)
def test_errors_stay_exceptions_of_the_host(file: str, kind: str, engine: str, bundle: Path) -> None:
    hook = sys.excepthook
    workflow = ConfigWorkflow(str(bundle / "configs" / file), workflow_type=kind, bundle_root=str(bundle))
    workflow.initialize()
    with pytest.raises(RuntimeError) as caught:
        workflow.parser.get_parsed_content(engine)
    assert isinstance(our_error(caught.value), InputError)
    assert "dataset_dir is not set" in str(our_error(caught.value))
    assert sys.excepthook is hook


@pytest.mark.parametrize(("file", "kind"), [("train.json", "train"), ("inference.json", "infer")])
def test_every_property_that_hosts_ask_for_is_there(file: str, kind: str, bundle: Path, phantom_data: Path) -> None:
    places = {"bundle_root": str(bundle), "dataset_dir": str(phantom_data)}
    workflow = ConfigWorkflow(str(bundle / "configs" / file), workflow_type=kind, **places)
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_load_gives_the_trained_network(kind: str, bundle: Path) -> None:
    from monai.bundle import load

    network = load("bundle", bundle_dir=str(bundle.parent), workflow_type=kind, source="ngc")
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, weights[name].float())


@pytest.mark.parametrize("validation", ["some", "none"])
def test_training_by_a_label_server(validation: str, bundle: Path, phantom_data: Path) -> None:
    """What MONAI Label's `monaibundle` app does: its own cases, length and checkpoint, and tracking settings."""
    from monai.bundle import run

    cases = find_cases(phantom_data)
    config = bundle / "configs" / "train.json"
    parser = ConfigParser()
    parser.read_config(str(config))
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(bundle / "models" / "model.pt"),
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    # The server's own checkpoints are {"model": weights}.
    torch.save({"model": torch.load(bundle / "models" / "model.pt", weights_only=True)}, bundle / "models" / "model.pt")
    run(
        config_file=str(config),
        **{
            "bundle_root": str(bundle),
            "device": "cpu",
            "train#trainer#max_epochs": 2,
            "train#dataset#data": cases[:4],
            "validate#dataset#data": cases[4:] if validation == "some" else [],
            "train#handlers": [loader, *parser["train#handlers"]],
            "tracking_uri": f"sqlite:///{bundle}/runs.db",
            "experiment_name": "labelling",
            "run_name": "first",
            "num_workers": 0,
        },
    )
    assert (bundle / "models" / "model.pt").is_file()
    rows = (bundle / "runs" / "fold_0" / "curves.csv").read_text().splitlines()
    assert len(rows) == 3


def test_federated_round(trained: Path, bundle: Path, phantom_data: Path) -> None:
    from monai.fl.client import MonaiAlgo
    from monai.fl.utils.constants import ExtraItems
    from monai.fl.utils.exchange_object import ExchangeObject

    arguments = {"dataset_dir": str(phantom_data), "num_workers": 0}
    client = MonaiAlgo(
        bundle_root=str(bundle),
        local_epochs=1,
        send_weight_diff=False,
        train_kwargs=dict(arguments),
        eval_kwargs={"dataset_dir": str(phantom_data)},
    )
    client.initialize(extra={ExtraItems.CLIENT_NAME: "hospital"})
    start = torch.load(trained / "models" / "model.pt", weights_only=True)
    start = {name: tensor.float() for name, tensor in start.items()}
    client.train(ExchangeObject(weights=start), extra={})
    weights = client.get_weights().weights
    assert set(weights) == set(start)
    assert any(not torch.equal(torch.as_tensor(weights[name]), start[name]) for name in start)
    metrics = client.evaluate(ExchangeObject(weights=weights), extra={}).metrics
    assert 0 <= metrics["val_mean_dice"] <= 1


# --- several processes ------------------------------------------------------------------------------------------


def torchrun(cli: Any, bundle: Path, files: list[str], *arguments: str | Path) -> Any:
    paths = str([str(bundle / "configs" / file) for file in files])
    return cli.run(
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "monai.bundle",
        "run", "--config_file", paths, "--bundle_root", bundle, *arguments,
    )  # fmt: skip


def test_two_processes_train(cli: Any, bundle: Path, phantom_data: Path, tmp_path: Path) -> None:
    arguments = ["--dataset_dir", phantom_data, "--max_epochs", "2", "--num_workers", "0"]
    more = ["--output_dir", tmp_path / "run", "--checkpoint", tmp_path / "model.pt"]
    torchrun(cli, bundle, ["train.json", "multi_gpu_train.json"], *arguments, *more).succeeded()
    shipped = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert torch.load(tmp_path / "model.pt", weights_only=True).keys() == shipped.keys()
    rows = (tmp_path / "run" / "curves.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2"]


def test_two_processes_score_like_one(cli: Any, bundle: Path, phantom_data: Path, tmp_path: Path) -> None:
    (bundle / "models" / "model.json").unlink()  # else cleaning may not be chosen on the training cases
    files = ["inference.json", "evaluate.json"]
    arguments = ["--dataset_dir", phantom_data, "--part", "all", "--choose_cleaning", "True", "--output_dir"]
    cli.monai_run(bundle, files, *arguments, tmp_path / "one").succeeded()
    torchrun(cli, bundle, [*files, "multi_gpu_evaluate.json"], *arguments, tmp_path / "two").succeeded()
    for file in ("scores.json", "cleaning.json"):
        reports = [json.loads((tmp_path / name / file).read_text()) for name in ("one", "two")]
        assert reports[0] == reports[1]
    assert cli.files(tmp_path / "one") == cli.files(tmp_path / "two")


def test_fewer_cases_than_processes_are_scored_once_each(
    cli: Any, trained: Path, phantom_data: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for folder in ("imagesTr", "labelsTr"):
        (data / folder).mkdir(parents=True)
        shutil.copy(phantom_data / folder / "phantom_003.nii.gz", data / folder)
    files = ["inference.json", "evaluate.json"]
    arguments = ["--dataset_dir", data, "--part", "all", "--output_dir"]
    cli.monai_run(trained, files, *arguments, tmp_path / "one").succeeded()
    torchrun(cli, trained, [*files, "multi_gpu_evaluate.json"], *arguments, tmp_path / "two").succeeded()
    assert cli.files(tmp_path / "one") == cli.files(tmp_path / "two")
    for name in ("scores.json", "volumes.csv"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()


def test_multi_gpu_config_without_torchrun_is_refused(cli: Any, trained: Path, phantom_data: Path) -> None:
    done = cli.monai_run(trained, ["train.json", "multi_gpu_train.json"], "--dataset_dir", phantom_data)
    done.refused("torchrun")


# --- interruption -----------------------------------------------------------------------------------------------


def wait_for(path: Path, process: "subprocess.Popen[str]", seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < end, f"{path.name} did not appear"
        time.sleep(0.1)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_ctrl_c_ends_in_one_line_and_the_run_goes_on(cli: Any, bundle: Path, phantom_data: Path, workers: str) -> None:
    shutil.rmtree(bundle / "runs")
    line = [sys.executable, "-m", "unet_bundle.cli", "train", bundle, phantom_data, "--num_workers", workers]
    with cli.start(*line, "--max-epochs", "500", "--val_interval", "1") as process:
        wait_for(bundle / "runs" / "fold_0" / "last.pt", process)
        time.sleep(1)
        # As a terminal does, to the whole group.
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    # A shell says 130 of both: Python ends by the signal itself if it came inside of an `eval`, as configs use it.
    assert process.returncode in {130, -signal.SIGINT}, (out + err)[-3000:]
    assert err.rstrip().splitlines()[-1] == "Interrupted."
    assert "Traceback" not in out + err
    assert not [name for name in cli.files(bundle) if name.endswith(".tmp")]

    before = len((bundle / "runs" / "fold_0" / "curves.csv").read_text().splitlines()) - 1
    cli.unet_bundle(
        "train", bundle, phantom_data, "--max-epochs", str(before + 2), "--num_workers", "0", "--resume"
    ).succeeded()
    rows = (bundle / "runs" / "fold_0" / "curves.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, before + 3))
