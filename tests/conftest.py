"""What every test shares: the development data set, if it is there, and quiet, repeatable libraries."""

import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# Two test processes with two threads each would fight for the cores of a small machine.
torch.set_num_threads(1)
warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*", category=DeprecationWarning)
# MONAI's set-up of logging closes all handlers, and absl's (TensorBoard brings it) then closes pytest's capture, which
# it took for a file. The process's own error stream it leaves alone.
if importlib.util.find_spec("absl") is not None:
    from absl import logging as absl_logging

    absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """A function from the name of a development data set to its folder; skips the test where it is missing."""

    def folder(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.is_dir():
            pytest.skip(f"needs the development data set {name!r} in {SHARED_DATA.name}/ beside the checkout's parent")
        return path

    return folder


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The module that makes DICOM series to order, which lies beside the reader's tests; skips without pydicom."""
    pytest.importorskip("pydicom", minversion="3.0")
    path = Path(__file__).parent / "io" / "dicom" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic_dicom", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["synthetic_dicom"] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def dicomweb_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A small DICOMweb server on loopback, see `dicomweb_server.DicomWebServer`."""
    pytest.importorskip("dicomweb_client")
    path = Path(__file__).parent / "dicomweb_server.py"
    spec = importlib.util.spec_from_file_location("dicomweb_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = module.DicomWebServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six small labelled scans and an unlabelled one, in the layout of the Decathlon."""
    from unet_bundle.phantom import make_phantom

    return make_phantom(tmp_path_factory.mktemp("phantom") / "data", cases=6)


@pytest.fixture(scope="session")
def tiny_files(phantom_data: Path) -> dict[str, str]:
    """The text files of a bundle planned for `phantom_data`: a network and a schedule for a few seconds of training."""
    import yaml

    from unet_bundle.io import find_cases, read_dataset_json
    from unet_bundle.phantom import phantom_card
    from unet_bundle.planning.bundle import bundle_files
    from unet_bundle.planning.card import load_card
    from unet_bundle.planning.fingerprint import measure_fingerprint
    from unet_bundle.planning.plan import make_plan

    path = phantom_data.parent / "card.yaml"
    overrides = {
        "spacing": [5.0, 5.0, 6.0],
        "patch_size": [32, 32, 16],
        "batch_size": 2,
        "network": {"channels": [8, 8, 16, 16]},
        "iterations_per_epoch": 3,
        "max_epochs": 4,
        "val_interval": 2,
    }
    path.write_text(yaml.safe_dump({**yaml.safe_load(phantom_card()), "folds": 3, "overrides": overrides}))
    card = load_card(path, read_dataset_json(phantom_data))
    fingerprint = measure_fingerprint(find_cases(phantom_data), card, progress=False)
    return bundle_files(make_plan(fingerprint, card), fingerprint, card)


@pytest.fixture
def tiny_bundle(tiny_files: dict[str, str], tmp_path: Path) -> Path:
    """A fresh folder with the bundle of `tiny_files`; it has no weights yet."""
    from unet_bundle.planning.bundle import write_bundle

    write_bundle(tiny_files, tmp_path / "bundle")
    return tmp_path / "bundle"
