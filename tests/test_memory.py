"""How much memory is free: of the machine, its container, or the batch job."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from unet_bundle import memory

GIB = 2**30
MACHINE = 64 * GIB


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that puts limits on control groups, in files as Linux has them."""
    (tmp_path / "own").write_text("12:cpu,cpuacct:/\n4:memory:/docker/abc\n0::/slice/job\n")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)

    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=MACHINE))

    def write(folder: str, limit: int | str, used: int, files: int = 0) -> None:
        names = memory._FIRST if folder.startswith("memory") else memory._SECOND
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / names.limit).write_text(f"{limit}\n")
        (tmp_path / folder / names.use).write_text(f"{used}\n")
        (tmp_path / folder / "memory.stat").write_text(f"anon 1\n{names.files_held} {files}\n")

    return write


def test_without_a_limit_it_is_the_machines(group: Callable[..., None]) -> None:
    assert memory.free_memory_bytes() == MACHINE
    group("slice/job", "max", GIB)
    group("memory", 2**63 - 4096, GIB)
    assert memory.free_memory_bytes() == MACHINE


@pytest.mark.parametrize("folder", ["slice/job", "slice", ".", "memory", "memory/docker/abc"])
def test_the_limit_of_a_container_or_a_job_counts_wherever_it_stands(group: Callable[..., None], folder: str) -> None:
    group(folder, 8 * GIB, 3 * GIB)
    assert memory.free_memory_bytes() == 5 * GIB


def test_files_that_were_read_take_no_memory_from_anybody(group: Callable[..., None]) -> None:
    group("slice/job", 8 * GIB, 8 * GIB - 1, files=6 * GIB)
    assert memory.free_memory_bytes() == 6 * GIB + 1


def test_a_container_that_is_full_has_none(group: Callable[..., None]) -> None:
    group("slice/job", 8 * GIB, 9 * GIB)
    assert memory.free_memory_bytes() == 0
