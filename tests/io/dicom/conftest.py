import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("pydicom", minversion="3.0")


def _load() -> ModuleType:
    """The maker of series, which lies beside the tests: folders of tests are no packages."""
    spec = importlib.util.spec_from_file_location("synthetic_dicom", Path(__file__).parent / "synthetic.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The module that makes series to order."""
    return _load()


@pytest.fixture
def write(synthetic: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    """A function that writes a series below the test's folder."""
    return lambda name="series", **options: synthetic.write_series(tmp_path / name, **options)
