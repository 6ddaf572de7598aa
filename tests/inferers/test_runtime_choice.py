"""The fastest runtime is found by measuring, kept, and compared with PyTorch whenever it is used anew."""

import gc
import json
import logging
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unet_bundle.inferers import backends
from unet_bundle.inferers.backends import RUNTIMES
from unet_bundle.inferers.runtime_choice import CHOICES, cache_folder
from unet_bundle.inferers.runtimes import Runtime
from unet_bundle.networks import UNet

MADE = [name for name in RUNTIMES if name not in ("torch", "auto")]
FASTEST = "the fastest here for a scan of 100 windows"
Fake = Callable[[torch.nn.Module, torch.Tensor, torch.dtype], Any]


@pytest.fixture
def network() -> UNet:
    torch.manual_seed(0)
    return UNet(3, 1, 4, channels=[4, 8, 8]).eval().requires_grad_(False)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    caplog.set_level(logging.INFO, "unet_bundle.inferers.runtime_choice")


def test_auto_measures_once_says_what_and_keeps_it(
    network: UNet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch.compile", _broken)  # takes half a minute
    windows = torch.randn(1, 1, 16, 16, 16)
    with caplog.at_level(logging.INFO):
        found = Runtime("auto")(network, windows, dtype=torch.float32).clone()
        torch.testing.assert_close(found, network(windows), atol=1e-3, rtol=1e-3)
        assert "the fastest here for a scan of 100 windows" in caplog.text
        assert "runtime compiled is left out: it fails here (RuntimeError)" in caplog.text
        (name,) = json.loads((cache_folder() / CHOICES).read_text()).values()
        caplog.clear()
        Runtime("auto")(network, windows, dtype=torch.float32)
        assert caplog.messages == [f"runtime: {name}, as measured here before"]
        (cache_folder() / CHOICES).write_text("damaged")
        Runtime("auto")(network, windows, dtype=torch.float32)
    assert "the fastest here" in caplog.text


def _broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no compiler")


def test_auto_leaves_out_what_differs(
    network: UNet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = dict.fromkeys(MADE, lambda network, *_: lambda seen: network(seen) * 1.01)
    monkeypatch.setattr("unet_bundle.inferers.backends._PREPARED", wrong)
    with caplog.at_level(logging.INFO):
        windows = torch.randn(1, 1, 8, 8, 8)
        assert torch.equal(Runtime("auto")(network, windows, dtype=torch.float32), network(windows))
    assert "runtime compiled is left out: scores differ by 0.01 of the largest" in caplog.text


def measured_fakes(monkeypatch: pytest.MonkeyPatch, fakes: dict[str, Fake]) -> None:
    """Runtimes that stand for the real ones, which are never faster or wrong to order; the rest fails."""
    monkeypatch.setattr(backends, "_PREPARED", {**dict.fromkeys(MADE, _broken), **fakes})


class Slow(torch.nn.Module):
    """A network that PyTorch takes long for."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return self.network(windows)  # type: ignore[no-any-return]


def faster(network: Any, *_: Any) -> Any:
    """The same without the wait."""
    return network.network.network


def test_scores_that_are_no_numbers_leave_pytorch(network: UNet, caplog: pytest.LogCaptureFixture) -> None:
    network.load_state_dict({key: value * torch.nan for key, value in network.state_dict().items()})
    assert Runtime("auto")(network, torch.randn(1, 1, 8, 8, 8), dtype=torch.float32).isnan().any()
    assert "runtime: torch: its own scores are not finite" in caplog.text
    assert not (cache_folder() / CHOICES).exists()


@pytest.mark.parametrize("kept", [True, False])
def test_other_numbers_of_windows_are_not_measured(
    network: UNet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, kept: bool
) -> None:
    measured_fakes(monkeypatch, {"torchscript": faster})
    if not kept:
        cache_folder().write_text("no folder")
    run, slow = Runtime("auto"), Slow(network).eval()
    for count in (1, 4, 3):
        windows = torch.randn(count, 1, 8, 8, 8)
        assert torch.equal(run(slow, windows, dtype=torch.float32), network(windows))
    assert caplog.text.count(FASTEST) == 1
    assert ("cache folder cannot be written" in caplog.text) is not kept


def _wrong(network: torch.nn.Module, *_: Any) -> Any:
    return lambda seen: network(seen) * 1.01


def _fails_when_run(*_: Any) -> Any:
    return _broken


@pytest.mark.parametrize(("fake", "reason"), [(_wrong, "differ by 0.01"), (_fails_when_run, "it fails here")])
def test_what_was_chosen_is_compared_again(
    network: UNet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fake: Fake, reason: str
) -> None:
    windows, slow = torch.randn(1, 1, 8, 8, 8), Slow(network).eval()
    measured_fakes(monkeypatch, {"torchscript": faster})
    Runtime("auto")(slow, windows, dtype=torch.float32)
    assert list(json.loads((cache_folder() / CHOICES).read_text()).values()) == ["torchscript"]
    caplog.clear()
    measured_fakes(monkeypatch, {"torchscript": fake})
    found = Runtime("auto")(slow, windows, dtype=torch.float32)
    assert bool((found == network(windows)).all())
    assert f"runtime torchscript is left out: {'scores ' if 'differ' in reason else ''}{reason}" in caplog.text
    assert FASTEST in caplog.text
    assert list(json.loads((cache_folder() / CHOICES).read_text()).values()) == ["torch"]


def _wrong_but_for_air(network: torch.nn.Module, *_: Any) -> Any:
    return lambda seen: network(seen) * (1.0 if (seen == seen.flatten()[0]).all() else 1.5)


def test_a_window_of_air_does_not_hide_wrong_scores(
    network: UNet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    measured_fakes(monkeypatch, {"torchscript": _wrong_but_for_air})
    run, windows = Runtime("auto"), torch.randn(1, 1, 8, 8, 8)
    run(network, torch.zeros(1, 1, 8, 8, 8), dtype=torch.float32)
    assert "runtime torchscript is left out: scores differ by 0.5 of the largest" in caplog.text
    assert torch.equal(run(network, windows, dtype=torch.float32), network(windows))


def test_one_runtime_is_held_beside_the_fastest(network: UNet, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Any]] = []
    alive: list[int] = []

    class Held:
        def __call__(self, windows: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = network(windows)
            return scores

    def make(*_: Any) -> Held:
        gc.collect()
        alive.append(sum(each() is not None for each in made))
        run = Held()
        made.append(weakref.ref(run))
        return run

    measured_fakes(monkeypatch, dict.fromkeys(MADE, make))
    Runtime("auto")(network, torch.zeros(1, 1, 8, 8, 8), dtype=torch.float32)
    assert len(alive) >= 3
    assert max(alive) <= 1
