"""Every runtime gives the network's own scores, of the weights it has now; what cannot be is said in one line."""

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from unet_bundle.errors import ConfigError
from unet_bundle.inferers import ScanInferer
from unet_bundle.inferers.runtime_choice import CHOICES, cache_folder
from unet_bundle.inferers.runtimes import RUNTIMES, Runtime, unfit
from unet_bundle.networks import UNet

CPU = torch.device("cpu")
MADE = [name for name in RUNTIMES if name not in ("torch", "auto")]
QUICK = [name for name in MADE if name != "compiled"]


@pytest.fixture
def network() -> UNet:
    torch.manual_seed(0)
    return UNet(3, 1, 4, channels=[4, 8, 8]).eval().requires_grad_(False)


def installed(name: str, dtype: torch.dtype = torch.float32) -> str:
    """The name, or a skip with the reason."""
    reason = unfit(name, CPU, dtype)
    if reason:
        pytest.skip(f"{name} {reason}")
    return name


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("shape", [(1, 1, 16, 12, 20), (2, 1, 9, 12, 11)])
def test_scores_are_the_networks(network: UNet, name: str, shape: tuple[int, ...]) -> None:
    run, windows = Runtime(installed(name)), torch.randn(shape)
    for seen in (windows, windows.flip(2), windows.permute(0, 1, 4, 3, 2)):
        torch.testing.assert_close(run(network, seen, dtype=torch.float32), network(seen), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["openvino", "torchscript", "compiled"])
def test_bfloat16_takes_effect(network: UNet, name: str) -> None:
    windows = torch.randn(1, 1, 16, 16, 16)
    run = Runtime(installed(name, torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):  # as the inferer calls it
        found = run(network, windows, dtype=torch.bfloat16).float()
    difference = (found - network(windows)).abs().max() / network(windows).abs().max()
    assert 1e-4 < difference < 0.1


@pytest.mark.parametrize("name", QUICK)
def test_new_weights_are_handed_over(network: UNet, name: str) -> None:
    run, windows = Runtime(installed(name)), torch.randn(1, 1, 8, 8, 8)
    run(network, windows, dtype=torch.float32)
    network.load_state_dict({key: value * 1.5 for key, value in network.state_dict().items()})
    torch.testing.assert_close(run(network, windows, dtype=torch.float32), network(windows), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", QUICK)
def test_threads_do_not_write_into_each_others_scores(network: UNet, name: str) -> None:
    run = Runtime(installed(name))
    images = [torch.randn(1, 1, 16, 16, 16) for _ in range(4)]
    found: dict[int, bool] = {}

    def segment(number: int) -> None:
        for _ in range(5):
            scores = run(network, images[number], dtype=torch.float32)
            found[number] = found.get(number, True) and torch.allclose(scores, expected[number], atol=1e-4)

    expected = [network(image) for image in images]
    threads = [threading.Thread(target=segment, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), True)


@pytest.mark.parametrize("name", QUICK)
def test_labels_of_a_scan_are_pytorchs(network: UNet, name: str) -> None:
    scan = torch.randn(1, 1, 30, 25, 20)
    options: dict[str, Any] = {"roi_size": (16, 16, 16), "sw_batch_size": 4, "mirror_axes": [0]}
    expected = ScanInferer(**options)(scan, network)
    assert (ScanInferer(**options, runtime=installed(name))(scan, network) != expected).sum() <= 3


@pytest.mark.parametrize("name", QUICK)
def test_what_the_network_refuses_is_refused(name: str) -> None:
    network = UNet(3, 1, 2, channels=[4, 8, 8]).eval()
    with pytest.raises(ValueError, match="shrinks to a single voxel") as raised:
        network(torch.zeros(1, 1, 4, 4, 4))
    with pytest.raises(ValueError, match="shrinks to a single voxel") as again:
        Runtime(installed(name))(network, torch.zeros(1, 1, 4, 4, 4), dtype=torch.float32)
    assert str(again.value) == str(raised.value)


def test_unknown_runtimes_and_impossible_ones_are_refused(network: UNet, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = torch.zeros(1, 1, 8, 8, 8)
    with pytest.raises(ConfigError, match=r"runtime must be one of torch, compiled, .*auto, not 'tensorflow'"):
        ScanInferer((8, 8, 8), runtime="tensorflow")
    with pytest.raises(ConfigError, match="runtime 'onnxruntime' computes in float32 only: set precision to that"):
        Runtime("onnxruntime")(network, windows, dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match="runtime 'openvino' needs a network that is called with windows alone"):
        Runtime("openvino")(lambda seen: seen, windows, dtype=torch.float32)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"is not installed: pip install 'unet-bundle\[openvino\]'"):
        Runtime("openvino")(network, windows, dtype=torch.float32)


def test_auto_measures_once_says_what_and_keeps_it(
    network: UNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
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
    network: UNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    wrong = dict.fromkeys(MADE, lambda network, *_: lambda seen: network(seen) * 1.01)
    monkeypatch.setattr("unet_bundle.inferers.runtimes._PREPARED", wrong)
    with caplog.at_level(logging.INFO):
        windows = torch.randn(1, 1, 8, 8, 8)
        assert torch.equal(Runtime("auto")(network, windows, dtype=torch.float32), network(windows))
    assert "runtime compiled is left out: scores differ by 0.01 of the largest" in caplog.text


SIGNALLED = """
import os, signal, torch
from unet_bundle.inferers.runtimes import Runtime
from unet_bundle.networks import UNet

network = UNet(3, 1, 2, channels=[4, 8]).eval()
first, second = Runtime("openvino"), Runtime("openvino")
for run in (first, second):
    run(network, torch.zeros(1, 1, 8, 8, 8), dtype=torch.float32)
del run, first
del second
signal.signal(signal.SIGTERM, lambda *_: print("noticed"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_process_that_has_used_openvino_lives_through_a_signal() -> None:
    installed("openvino")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SIGNALLED], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "noticed\n"), done.stderr[-2000:]
