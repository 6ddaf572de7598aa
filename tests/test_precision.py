"""float32 is computed in all its bits: in a host's autocast, and while other threads do the same."""

import threading
from collections.abc import Iterator

import pytest
import torch

from unet_bundle.precision import autocast

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_float32_within_a_hosts_autocast() -> None:
    matrix = torch.rand(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        with autocast(CPU, torch.float32):
            assert (matrix @ matrix).dtype == torch.float32
        assert (matrix @ matrix).dtype == torch.bfloat16
        with autocast(CPU, torch.bfloat16):
            assert (matrix @ matrix).dtype == torch.bfloat16


def test_float32_on_a_device_without_autocast() -> None:
    with autocast(torch.device("meta"), torch.float32):
        assert torch.ones(2, device="meta").dtype == torch.float32


def flags() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(params=[(True, False), (False, True)])
def before(request: pytest.FixtureRequest) -> Iterator[tuple[bool, bool]]:
    """What a host has set."""
    usual = flags()
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = usual


def test_tf32_stays_off_until_the_last_thread_is_done(before: tuple[bool, bool]) -> None:
    entered, first_is_done = threading.Event(), threading.Event()
    seen: list[tuple[bool, bool]] = []

    def second() -> None:
        with autocast(CUDA, torch.float32):
            entered.set()
            first_is_done.wait(10)
            seen.append(flags())

    thread = threading.Thread(target=second)
    with autocast(CUDA, torch.float32):
        thread.start()
        assert entered.wait(10)
        seen.append(flags())
    first_is_done.set()
    thread.join()
    assert seen == [(False, False)] * 2
    assert flags() == before


def test_tf32_is_set_back_after_an_error(before: tuple[bool, bool]) -> None:
    with pytest.raises(RuntimeError, match="no memory"), autocast(CUDA, torch.float32):
        raise RuntimeError("no memory")
    assert flags() == before
