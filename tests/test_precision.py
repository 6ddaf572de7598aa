"""float32 is computed in all its bits: in a host's autocast, and while other threads do the same."""

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

from unet_bundle.errors import ConfigError
from unet_bundle.precision import autocast, check_device, resolve_precision

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


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "cuda:-3", None])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(device: Any) -> None:
    for refused in (check_device, partial(resolve_precision, "float32")):
        with pytest.raises(
            ConfigError, match=r"^device is \S+, which (is not here|PyTorch does not know): set it to 'cpu'"
        ):
            refused(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_is_refused_where_there_is_none() -> None:
    with pytest.raises(ConfigError, match=r"^device is 'cuda', .* 'cpu', there is no GPU that PyTorch can use"):
        check_device("cuda")


def test_a_device_that_is_there_is_taken() -> None:
    assert check_device("cpu") == check_device(CPU) == CPU
    for index in range(torch.cuda.device_count()):
        assert check_device(f"cuda:{index}") == torch.device("cuda", index)
