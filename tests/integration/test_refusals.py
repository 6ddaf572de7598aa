"""Bad runs end with our line as the last, no traceback, a status that is not zero, and nothing half-written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (["--batch_sizes", "3"], "did you mean 'batch_size'"),
        (["--train::trainer::max_epoch", "3"], "did you mean 'train::trainer::max_epochs'"),
        (["--train#foo", "3"], "'train::foo' has no effect"),
    ],
)
def test_unknown_override(
    cli: Any, trained: Path, phantom_data: Path, override: list[str], words: str, tmp_path: Path
) -> None:
    arguments = ["--dataset_dir", phantom_data, "--output_dir", tmp_path / "run", *override]
    cli.monai_run(trained, ["train.json"], *arguments).refused(words)
    assert cli.files() == []


def test_unknown_key_in_an_overlay_or_args_file(cli: Any, trained: Path, phantom_data: Path, tmp_path: Path) -> None:
    overlay, args = tmp_path / "overlay.json", tmp_path / "args.json"
    overlay.write_text('{"batchsize": 1}')
    config_file = str([str(trained / "configs" / "train.json"), str(overlay)])
    arguments = ["--bundle_root", trained, "--dataset_dir", phantom_data]
    cli.monai("run", "--config_file", config_file, *arguments).refused("'batchsize'")
    args.write_text(f'{{"config_file": "{trained}/configs/train.json", "bundle_root": "{trained}", "batchsize": 1}}')
    cli.monai("run", "--args_file", args, "--dataset_dir", phantom_data).refused("'batchsize'")


@pytest.mark.parametrize(
    "files", [["train.json"], ["inference.json"], ["inference.json", "evaluate.json"]], ids="+".join
)
def test_no_scans(cli: Any, trained: Path, files: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    output = ["--output_dir", tmp_path / "out"]
    cli.monai_run(trained, files, *output).refused("dataset_dir is not set")
    cli.monai_run(trained, files, *output, "--dataset_dir", tmp_path / "empty").refused("empty")
    assert cli.files() == []


def test_data_set_without_cases(cli: Any, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text('{"training": []}')
    arguments = ["--dataset_dir", tmp_path / "data"]
    cli.monai_run(trained, ["train.json"], *arguments).refused("lists no labelled case")
    cli.unet_bundle("train", trained, tmp_path / "data").refused("lists no labelled case", status=1)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_case_in_the_middle_of_inference(
    cli: Any, trained: Path, broken_data: Path, workers: int, tmp_path: Path
) -> None:
    scans = broken_data / "imagesTr"
    arguments = ["--dataset_dir", scans, "--output_dir", tmp_path / "out", "--num_workers", str(workers)]
    cli.monai_run(trained, ["inference.json"], *arguments).refused("phantom_004.nii.gz")
    done = [*[f"phantom_{number:03d}_seg.nii.gz" for number in (1, 2, 3)], "volumes.csv"]
    made = cli.files(tmp_path / "out")
    assert made == done[: len(made)]  # whole ones only; a worker reads ahead of what was segmented


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_case_in_the_middle_of_training(
    cli: Any, trained: Path, broken_data: Path, workers: int, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ["--dataset_dir", broken_data, "--output_dir", run, "--checkpoint", tmp_path / "model.pt"]
    # No cache: the case is read when its turn comes, by the worker if there is one.
    more = ["--num_workers", str(workers), "--cache_bytes", "0"]
    cli.monai_run(trained, ["train.json"], *arguments, *more).refused("phantom_004.nii.gz")
    cli.monai_run(trained, ["train.json"], *arguments).refused("phantom_004.nii.gz")
    assert not (tmp_path / "model.pt").exists()
    assert not [name for name in cli.files() if name.endswith(".tmp")]


def test_broken_case_by_our_command_line(cli: Any, trained: Path, broken_data: Path, tmp_path: Path) -> None:
    arguments = ["--output_dir", tmp_path / "run", "--checkpoint", tmp_path / "model.pt"]
    done = cli.unet_bundle("train", trained, broken_data, *arguments)
    done.refused("phantom_004.nii.gz", status=1)
    done = cli.unet_bundle("predict", trained, broken_data / "imagesTr", tmp_path / "out")
    assert done.status == 1
    assert "5 of 6 scans segmented" in done.out
    assert done.out.rstrip().splitlines()[-1].startswith("  refused: phantom_004: phantom_004.nii.gz ")
    done = [f"phantom_{number:03d}_seg.nii.gz" for number in (1, 2, 3, 5, 6)]
    assert cli.files(tmp_path / "out") == [*done, "volumes.csv"]


def test_broken_label_in_evaluation(cli: Any, trained: Path, phantom_data: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(phantom_data, tmp_path / "data"))
    for label in (data / "labelsTr").iterdir():
        label.write_bytes(label.read_bytes()[:200])
    arguments = ["--dataset_dir", data, "--output_dir", tmp_path / "eval"]
    cli.monai_run(trained, ["inference.json", "evaluate.json"], *arguments).refused(".nii.gz")
    assert not (tmp_path / "eval" / "scores.json").exists()


@pytest.mark.parametrize("how", ["missing", "renamed", "misshaped"])
def test_weights_that_do_not_fit(
    cli: Any, bundle: Path, phantom_data: Path, how: str, change_weights: Callable[[Path, str], None], tmp_path: Path
) -> None:
    change_weights(bundle / "models" / "model.pt", how)
    arguments = ["--dataset_dir", phantom_data, "--output_dir", tmp_path / "out"]
    cli.monai_run(bundle, ["inference.json"], *arguments).refused("does not fit the network")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_there(cli: Any, bundle: Path, phantom_data: Path, tmp_path: Path) -> None:
    (bundle / "models" / "model.pt").unlink()
    arguments = ["--dataset_dir", phantom_data, "--output_dir", tmp_path / "out"]
    cli.monai_run(bundle, ["inference.json"], *arguments).refused("models/model.pt is missing")
    cli.unet_bundle("evaluate", bundle, phantom_data).refused("models/model.pt is missing", status=1)
