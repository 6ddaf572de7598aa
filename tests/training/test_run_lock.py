"""One run a folder at a time, told from the outside: locks are of processes."""

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from unet_bundle.errors import FolderInUseError
from unet_bundle.training import RunCheckpoints, TrainStep, run_lock
from unet_bundle.training.run_lock import RunLock

HOLD = """
import multiprocessing, os, pathlib, sys, time
from unet_bundle.training.run_lock import RunLock
lock = RunLock(pathlib.Path(sys.argv[1]))
lock.acquire()
worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
worker.start()
print(worker.pid, flush=True)
time.sleep(float(sys.argv[2]))
os._exit(0)  # with all of torch, an orderly end takes seconds on a busy machine
"""


@contextmanager
def another_run(folder: Path, seconds: float = 60) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder, and has a worker as a loader has."""
    with subprocess.Popen([sys.executable, "-c", HOLD, folder, str(seconds)], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        worker = int(run.stdout.readline())
        yield run
        run.kill()
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


@pytest.fixture
def start(
    make_network: Any, make_trainer: Any, make_evaluator: Any, patches: Any, tmp_path: Path
) -> Callable[[], None]:
    """A function that trains an epoch in the folder of the test."""

    def run() -> None:
        network = make_network()
        trainer = make_trainer(network, patches[:1], TrainStep("float32"))
        evaluator = make_evaluator(network, patches[:1])
        RunCheckpoints(network, trainer.optimizer, evaluator, str(tmp_path), 1).attach(trainer)
        trainer.run()

    return run


def test_a_second_run_in_the_folder_is_refused_and_changes_nothing(
    start: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "last.pt").write_bytes(b"of the other")
    monkeypatch.setattr(run_lock, "PATIENCE_S", 0.3)
    with another_run(tmp_path), pytest.raises(FolderInUseError) as raised:
        start()
    assert str(raised.value).startswith(f"Another run is training in {tmp_path}: ")
    assert (tmp_path / "last.pt").read_bytes() == b"of the other"
    assert not (tmp_path / "earlier_last.pt").exists()


def test_a_run_that_was_killed_leaves_the_folder_free_though_its_workers_live_on(
    start: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "PATIENCE_S", 1.0)
    with another_run(tmp_path) as other:
        other.kill()
        other.wait()
        start()
    assert (tmp_path / "last.pt").is_file()


def test_a_run_that_is_just_ending_is_waited_for(tmp_path: Path) -> None:
    with another_run(tmp_path, seconds=1):
        lock = RunLock(tmp_path)
        lock.acquire()
        lock.release()


def test_a_run_frees_its_folder_at_its_end(start: Callable[[], None], tmp_path: Path) -> None:
    start()
    with another_run(tmp_path) as other:
        assert other.poll() is None


def test_where_there_are_no_locks_a_line_says_so(
    start: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(_file: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    caplog.set_level(logging.INFO, logger="unet_bundle")
    monkeypatch.setattr(run_lock, "_lock", unknown)
    start()
    assert caplog.text.count("/.lock cannot be locked here") == 1
    assert (tmp_path / "last.pt").is_file()
