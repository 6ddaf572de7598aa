"""What every test shares: the development data set, if it is there, and quiet, repeatable libraries."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# Two test processes with two threads each would fight for the cores of a small machine.
torch.set_num_threads(1)
warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*", category=DeprecationWarning)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """A function from the name of a development data set to its folder; skips the test where it is missing."""

    def folder(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.is_dir():
            pytest.skip(f"needs the development data set {name!r} in {SHARED_DATA.name}/ beside the checkout's parent")
        return path

    return folder
