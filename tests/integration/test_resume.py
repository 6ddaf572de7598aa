"""Runs that are killed, stopped or lose a process, and end with the same weights as those that were left alone."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from unet_bundle.planning.bundle import write_bundle

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "kill_and_resume.py"
FILES = ["train.json", "multi_gpu_train.json"]
PATIENCE_S = 300
"""How long to wait for what takes seconds: the machine may have much else to do."""
LONG = ["--max_epochs", "40", "--val_interval", "5", "--num_workers", "0"]


@pytest.fixture
def fresh(tiny_files: dict[str, str], tmp_path: Path) -> Callable[[str], Path]:
    """A function from a name to a new tiny bundle."""

    def make(name: str) -> Path:
        write_bundle(tiny_files, tmp_path / name)
        return tmp_path / name

    return make


def wait_for_epoch(process: "subprocess.Popen[str]", bundle: Path, epoch: int) -> None:
    """Until curves.csv has the row of `epoch`."""
    curves, end = bundle / "runs" / "fold_0" / "curves.csv", time.monotonic() + PATIENCE_S
    while not curves.is_file() or len(curves.read_text().splitlines()) <= epoch:
        assert process.poll() is None, process.communicate()[1][-3000:]
        if time.monotonic() > end:
            os.killpg(process.pid, signal.SIGKILL)  # else leaving the block waits for it
            pytest.fail(f"epoch {epoch} was not reached")
        time.sleep(0.02)


def text_of_end(process: "subprocess.Popen[str]", seconds: float = PATIENCE_S) -> str:
    """What a process has said when it has come to its end, which it does by itself."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return out + err


def torchrun(bundle: Path, data: Path, *more: str) -> list[str]:
    restarts = ["--max-restarts", "1"] if "--max-restarts" in more else []
    paths = str([str(bundle / "configs" / file) for file in FILES])
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *restarts,
        "-m", "monai.bundle", "run", "--config_file", paths, "--bundle_root", str(bundle),
        "--dataset_dir", str(data), *(word for word in more if word != "--max-restarts"),
    ]  # fmt: skip


def worker(process: psutil.Process) -> bool:
    """Whether torchrun started this process to train."""
    return "RANK" in process.environ()


def model(bundle: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(bundle / "models" / "model.pt", weights_only=True)
    return weights


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_killed_at_random_moments_a_run_ends_with_the_same_weights(
    fresh: Callable[[str], Path], phantom_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    spec = importlib.util.spec_from_file_location("kill_and_resume", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    settings = ["--max_epochs", "40", "--num_workers", "1", "--save_minutes", "0.005", "--ema_decay", "0.9"]
    assert script.compare(fresh("bundle"), phantom_data, 3, 1.0, time.time_ns(), settings) == (3, 0)


@pytest.mark.parametrize("line", ["unet-bundle", "monai"])
def test_sigterm_to_all_of_a_job_saves_the_state_and_says_how_to_go_on(
    line: str, cli: Any, fresh: Callable[[str], Path], phantom_data: Path
) -> None:
    bundle = fresh("bundle")
    monai = ["monai.bundle", "run", "--config_file", bundle / "configs/train.json", "--bundle_root", bundle]
    start = {"unet-bundle": ["unet_bundle.cli", "train", bundle, phantom_data], "monai": monai}[line]
    data = [] if line == "unet-bundle" else ["--dataset_dir", phantom_data]
    more = ["--max_epochs", "500", "--num_workers", "1"]
    with cli.start(sys.executable, "-m", *start, *data, *more) as process:
        wait_for_epoch(process, bundle, 1)
        os.killpg(process.pid, signal.SIGTERM)
        text = text_of_end(process)
    assert process.returncode == 143, text[-3000:]
    assert "Traceback" not in text
    assert "the same command with --resume goes on from there" in text.rstrip().splitlines()[-1]
    state = torch.load(bundle / "runs/fold_0/last.pt", weights_only=True)
    epochs = str(state["epoch"] + 1)
    resume = [sys.executable, "-m", *start, *data, "--max_epochs", epochs, "--num_workers", "0", "--resume"]
    done = cli.run(*resume).succeeded()
    assert f"Resumed after iteration {state['progress']['iteration']}, epoch" in done.text


@pytest.mark.parametrize("rank", [0, 1], ids=["that writes", "that does not write"])
def test_a_process_that_dies_is_started_again_and_the_run_ends_as_if_it_had_not(
    rank: int, cli: Any, fresh: Callable[[str], Path], phantom_data: Path
) -> None:
    alone, disturbed = fresh("alone"), fresh("disturbed")
    cli.run(*torchrun(alone, phantom_data, *LONG)).succeeded()
    with cli.start(*torchrun(disturbed, phantom_data, *LONG, "--max-restarts")) as process:
        wait_for_epoch(process, disturbed, 7)
        workers = {each.environ()["RANK"]: each for each in psutil.Process(process.pid).children() if worker(each)}
        assert sorted(workers) == ["0", "1"]
        workers[str(rank)].send_signal(signal.SIGKILL)
        text = text_of_end(process)
    assert process.returncode == 0, text[-3000:]
    assert text.count("Resumed after iteration") == 1
    assert same(model(disturbed), model(alone))
    for name in ("models/model.json", "runs/fold_0/best.json"):
        assert (disturbed / name).read_bytes() == (alone / name).read_bytes()
    rows = (disturbed / "runs/fold_0/curves.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(epoch) for epoch in range(1, 41)]


def test_torchrun_hands_sigterm_on_and_the_run_goes_on(
    cli: Any, fresh: Callable[[str], Path], phantom_data: Path
) -> None:
    bundle = fresh("bundle")
    with cli.start(*torchrun(bundle, phantom_data, "--max_epochs", "500", "--num_workers", "0")) as process:
        wait_for_epoch(process, bundle, 1)
        process.send_signal(signal.SIGTERM)
        text = text_of_end(process)
    assert process.returncode != 0
    assert text.count("the same command with --resume goes on from there") == 1
    state = torch.load(bundle / "runs/fold_0/last.pt", weights_only=True)
    more = ["--max_epochs", str(state["epoch"] + 1), "--num_workers", "0", "--resume", "auto"]
    done = cli.run(*torchrun(bundle, phantom_data, *more)).succeeded()
    assert done.text.count(f"Resumed after iteration {state['progress']['iteration']}, epoch") == 1


def test_two_processes_take_the_steps_of_one_with_twice_the_batch(
    cli: Any, fresh: Callable[[str], Path], phantom_data: Path
) -> None:
    # An epoch is as many samples, whoever takes them: of one step here, so that each row of the curves is a step.
    recipe = ["--max_epochs", "20", "--val_interval", "20", "--precision", "float32", "--num_workers", "0"]
    # Dice of each sample; and SGD: where gradients are near zero, AdamW makes steps of their rounding.
    recipe += ["--loss::loss::batch", "False", "--optimizer_name", "SGD", "--learning_rate", "0.003"]
    one, two = fresh("one"), fresh("two")
    sizes = ["--batch_size", "4", "--iterations_per_epoch", "1"]
    cli.monai_run(one, ["train.json"], "--dataset_dir", phantom_data, *recipe, *sizes).succeeded()
    sizes = ["--batch_size", "2", "--iterations_per_epoch", "2"]
    cli.run(*torchrun(two, phantom_data, *recipe, *sizes)).succeeded()

    def losses(bundle: Path) -> list[float]:
        rows = (bundle / "runs/fold_0/curves.csv").read_text().splitlines()
        return [float(row.split(",")[rows[0].split(",").index("loss")]) for row in rows[1:]]

    assert len(losses(one)) == 20
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert losses(one)[-1] < losses(one)[0]


def test_two_processes_train_alike_with_a_compiled_step(
    cli: Any, fresh: Callable[[str], Path], phantom_data: Path
) -> None:
    settings = ["--max_epochs", "2", "--num_workers", "0", "--precision", "float32", "--channels_last", "True"]
    curves = []
    for compiled in ("False", "True"):
        bundle = fresh(f"compiled {compiled}")
        with cli.start(*torchrun(bundle, phantom_data, *settings, "--compile", compiled)) as process:
            text = text_of_end(process, 4 * PATIENCE_S)  # the compiler wants processors
        assert process.returncode == 0, text[-3000:]
        assert ("The network is compiled first" in text) is (compiled == "True")
        rows = (bundle / "runs/fold_0/curves.csv").read_text().splitlines()
        places = [rows[0].split(",").index(name) for name in ("loss", "gradient_norm")]
        curves.append([float(row.split(",")[place]) for row in rows[1:] for place in places])
    assert curves[1] == pytest.approx(curves[0], rel=1e-2)
