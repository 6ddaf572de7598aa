"""A run checks its keys when it starts, and errors end in one line, on the real configs of a planned bundle."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import DataLoader, Dataset
from monai.transforms import Compose

from unet_bundle.errors import CheckpointError, ConfigError, InputError
from unet_bundle.io import LoadImaged
from unet_bundle.networks import UNet
from unet_bundle.runtime import (
    end_errors_in_one_line,
    error_message,
    our_error,
    quiet_logs,
    under_monai_command_line,
)


@pytest.fixture
def initialise(tiny_bundle: Path) -> Callable[..., ConfigWorkflow]:
    """A function that initialises the workflow of a config as `monai.bundle` does."""

    def run(files: list[Path | str] | str = "train.json", **arguments: Any) -> ConfigWorkflow:
        workflow = ConfigWorkflow(
            config_file=[
                str(tiny_bundle / "configs" / file) for file in ([files] if isinstance(files, str) else files)
            ],
            logging_file=False,
            **{"bundle_root": str(tiny_bundle), "workflow_type": "train", **arguments},
        )
        workflow.initialize()
        return workflow

    return run


@contextmanager
def refused(text: str) -> Iterator[None]:
    """What the block raises comes from an error of ours that has `text` in it; MONAI wraps it in its own."""
    with pytest.raises((RuntimeError, ConfigError)) as caught:
        yield
    assert text in str(our_error(caught.value))


# --- in a workflow ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [["train.json"], ["inference.json"], ["inference.json", "evaluate.json"]])
def test_initialises_with_defaults(initialise: Callable[..., ConfigWorkflow], files: list[str]) -> None:
    hook = sys.excepthook
    workflow = initialise(files)
    assert workflow.parser["dataset_dir"] is None
    assert sys.excepthook is hook


def test_overlay_file_is_checked(initialise: Callable[..., ConfigWorkflow], tmp_path: Path) -> None:
    overlay = tmp_path / "mine.json"
    overlay.write_text('{"batch_size": 1, "train::trainer::max_epochs": 1}')
    initialise(["train.json", overlay])
    overlay.write_text('{"batchsize": 1}')
    with refused("'batchsize' has no effect: did you mean 'batch_size'"):
        initialise(["train.json", overlay])


def test_copy_of_a_config_elsewhere_is_checked_against_the_bundle(
    initialise: Callable[..., ConfigWorkflow], tiny_bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "executed.json"
    copy.write_text((tiny_bundle / "configs" / "train.json").read_text())
    (tmp_path / "metadata.json").write_text((tiny_bundle / "configs" / "metadata.json").read_text())
    initialise([copy])
    with refused("'batchsize'"):
        initialise([copy], batchsize=1)


def test_args_file_is_checked(tiny_bundle: Path, tmp_path: Path) -> None:
    from monai.bundle import create_workflow

    args = tmp_path / "args.yaml"
    train = tiny_bundle / "configs" / "train.json"
    args.write_text(f"config_file: {train}\nbundle_root: {tiny_bundle}\nlogging_file: false\nbatchsize: 1\n")
    with refused("'batchsize'"):
        create_workflow(args_file=str(args))


def test_overlay_without_its_base_is_named(initialise: Callable[..., ConfigWorkflow]) -> None:
    with refused("evaluate.json is laid over another config: name that first"):
        initialise("evaluate.json")


def test_tracking_settings_of_monai_pass(initialise: Callable[..., ConfigWorkflow], tiny_bundle: Path) -> None:
    workflow = initialise(
        tracking="mlflow",
        tracking_uri=f"sqlite:///{tiny_bundle}/runs.db",
        experiment_name="first",
        run_name="second",
        output_dir=str(tiny_bundle / "runs"),
    )
    assert workflow.parser["experiment_name"] == "first"


# --- errors in one line -----------------------------------------------------------------------------------------


def raised_from(effect: Exception, cause: Exception) -> Exception:
    effect.__cause__ = cause
    return effect


def test_message_is_found_behind_the_errors_raised_from_it() -> None:
    cause = InputError("scan.nii.gz has no affine: give one.")
    error = raised_from(RuntimeError("run"), raised_from(RuntimeError("applying transform Spacing"), cause))
    assert our_error(error) is cause
    assert error_message(error) == "scan.nii.gz has no affine: give one."


def test_error_that_arises_while_ours_is_handled_is_no_effect_of_it() -> None:
    bug = KeyError("a bug")
    bug.__context__ = CheckpointError("model.pt is missing.")
    assert error_message(bug) is None


@pytest.mark.parametrize(
    ("component", "reason"),
    [
        ({"_target_": "torch.nn.Dropout", "p": 2}, "dropout probability has to be between 0 and 1, but got 2"),
        ({"_target_": "DataLoader", "dataset": [1], "num_workers": -1}, "num_workers option should be non-negative"),
    ],
)
def test_a_value_that_a_component_does_not_take_is_one_line(component: dict[str, Any], reason: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        ConfigParser({"part": component, "all": "$[@part]"}).get_parsed_content("all")
    ours = our_error(caught.value)
    assert isinstance(ours, ConfigError)
    assert reason in str(ours)
    assert "\n" not in str(ours)


def test_other_errors_have_no_message() -> None:
    assert error_message(ValueError("unet_bundle is mentioned")) is None
    assert error_message(None) is None


def test_errors_of_networks_are_ours() -> None:
    import torch

    network = UNet(3, 1, 2, channels=[4, 8], kernel_sizes=[[3] * 3] * 2, strides=[[1] * 3, [2] * 3]).eval()
    with pytest.raises(ValueError, match="single voxel") as caught, torch.no_grad():
        network(torch.zeros(1, 1, 2, 2, 2))
    assert error_message(caught.value) == str(caught.value)
    weights = {k: v for k, v in network.state_dict().items() if "0" not in k}
    with pytest.raises(RuntimeError) as caught:
        network.load_state_dict(weights, strict=False)
    assert error_message(caught.value) == str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_message_of_a_refused_scan_comes_through_monai_and_loader_workers(tmp_path: Path, workers: int) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"no scan")
    data = Dataset([{"image": str(tmp_path / "broken.nii.gz")}], Compose([LoadImaged("image")]))
    with pytest.raises(RuntimeError) as caught:
        list(DataLoader(data, num_workers=workers))
    message = error_message(caught.value)
    assert message is not None
    assert message.startswith("broken.nii.gz ")
    assert "\n" not in message


def test_a_test_run_is_not_the_command_line_of_monai() -> None:
    assert not under_monai_command_line()


def test_hook_prints_ours_in_one_line_and_leaves_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    others: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *arguments: others.append(arguments))
    end_errors_in_one_line()
    hook = sys.excepthook
    end_errors_in_one_line()
    assert sys.excepthook is hook  # a second run in one process adds nothing

    hook(InputError, InputError("scan.nii.gz is empty: leave it out."), None)
    hook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "Error: scan.nii.gz is empty: leave it out.\nInterrupted.\n"
    assert not others
    hook(KeyError, KeyError("a bug"), None)
    assert len(others) == 1


def test_logs_lose_tracebacks_of_our_errors_only(caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()
    root.addHandler(caplog.handler)
    quiet_logs()
    try:
        for error in (InputError("scan.nii.gz is empty."), KeyError("a bug")):
            root.error("failed", exc_info=error)
        ours, bug = [record for record in caplog.records if record.getMessage() == "failed"][:2]
    finally:
        caplog.handler.filters.clear()
        root.removeHandler(caplog.handler)
    assert ours.exc_info is None
    assert bug.exc_info is not None
