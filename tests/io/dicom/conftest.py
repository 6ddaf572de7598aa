from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("pydicom", minversion="3.0")


@pytest.fixture
def write(synthetic: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    """A function that writes a series below the test's folder."""
    return lambda name="series", **options: synthetic.write_series(tmp_path / name, **options)
