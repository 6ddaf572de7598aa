"""Real command lines as a person types them, on one tiny trained bundle a module."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unet_bundle.planning.bundle import write_bundle

TIMEOUT = 240

SYNTHETIC = Path(__file__).resolve().parents[1] / "io" / "dicom" / "synthetic.py"


@dataclass
class Result:
    """What a command left: its exit status and its output."""

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def last_line(self) -> str:
        lines = self.err.rstrip().splitlines()
        return lines[-1].strip() if lines else ""

    def succeeded(self) -> "Result":
        assert self.status == 0, self.text[-4000:]
        return self

    def refused(self, words: str, status: int | None = None) -> None:
        """It failed, and our line with `words` is the last one, without a traceback anywhere."""
        assert self.status != 0
        assert status is None or self.status == status
        assert self.last_line.startswith("Error: "), self.text[-4000:]
        assert words in self.last_line
        assert self.err.count("Error: ") == 1, self.text[-4000:]
        assert "Traceback" not in self.text, self.text[-4000:]


@dataclass
class CommandLine:
    """Runs commands as a person would in a folder, a thread each."""

    folder: Path

    def run(self, *command: str | Path) -> Result:
        """A command, to its end."""
        with self.start(*command) as process:
            try:
                out, err = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Result(process.returncode, out, err)

    def start(self, *command: str | Path) -> "subprocess.Popen[str]":
        """A command that goes on running, in a process group of its own."""
        settings = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        return subprocess.Popen(
            [str(word) for word in command], cwd=self.folder, env={**os.environ, **settings}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            # Where the tests run in the background of a shell, they and what they start would ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )  # fmt: skip

    def monai(self, *arguments: str | Path) -> Result:
        """``python -m monai.bundle ...``."""
        return self.run(sys.executable, "-m", "monai.bundle", *arguments)

    def monai_run(self, bundle: Path, files: Sequence[str], *overrides: str | Path) -> Result:
        """``python -m monai.bundle run`` of configs of `bundle`."""
        return self.monai("run", *config_arguments(bundle, files), *overrides)

    def unet_bundle(self, *arguments: str | Path) -> Result:
        """``unet-bundle ...``."""
        return self.run(sys.executable, "-m", "unet_bundle.cli", *arguments)

    def files(self, folder: Path | None = None) -> list[str]:
        """Every file below `folder` (default: the folder commands run in), hidden ones too."""
        folder = folder or self.folder
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def config_arguments(bundle: Path, files: Sequence[str]) -> list[str]:
    paths = [str(bundle / "configs" / file) for file in files]
    return ["--config_file", paths[0] if len(paths) == 1 else str(paths), "--bundle_root", str(bundle)]


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """Commands, run in the test's own folder."""
    return CommandLine(tmp_path)


@pytest.fixture(scope="session")
def commands_in() -> type[CommandLine]:
    """Commands, run in a folder that a module's fixture names."""
    return CommandLine


@pytest.fixture(scope="module")
def trained(tiny_files: dict[str, str], phantom_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle, trained for two epochs by the MONAI CLI; not to be changed: `bundle` is a copy that may be."""
    folder = tmp_path_factory.mktemp("trained")
    write_bundle(tiny_files, folder / "bundle")
    arguments = ["--dataset_dir", phantom_data, "--max_epochs", "2", "--num_workers", "0"]
    CommandLine(folder).monai_run(folder / "bundle", ["train.json"], *arguments).succeeded()
    return folder / "bundle"


@pytest.fixture
def bundle(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained bundle that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "bundle"))


@pytest.fixture
def broken_data(phantom_data: Path, tmp_path: Path) -> Path:
    """The data set with one scan cut short."""
    folder = Path(shutil.copytree(phantom_data, tmp_path / "broken_data"))
    scan = folder / "imagesTr" / "phantom_004.nii.gz"
    scan.write_bytes(scan.read_bytes()[:20_000])
    return folder


@pytest.fixture
def change_weights() -> Callable[[Path, str], None]:
    """A function that spoils a checkpoint: a tensor "missing", "renamed" or "misshaped"."""
    import torch

    def change(path: Path, how: str) -> None:
        weights: dict[str, Any] = torch.load(path, weights_only=True)
        key = next(iter(weights))
        if how == "missing":
            del weights[key]
        elif how == "renamed":
            weights[f"{key}_"] = weights.pop(key)
        else:
            weights[key] = weights[key][:1]
        torch.save(weights, path)

    return change


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The maker of DICOM series of the unit tests."""
    return loaded("synthetic_dicom", SYNTHETIC)


@pytest.fixture(scope="session")
def servers() -> ModuleType:
    """What starts Orthanc and MONAI Label."""
    pytest.importorskip("requests")
    return loaded("servers", Path(__file__).with_name("servers.py"))


@pytest.fixture(scope="session")
def browsers() -> ModuleType:
    """What starts a browser."""
    pytest.importorskip("requests")
    return loaded("browser", Path(__file__).with_name("browser.py"))


def loaded(name: str, path: Path) -> ModuleType:
    """A module that no package has."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
