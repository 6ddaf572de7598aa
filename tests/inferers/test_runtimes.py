"""Every runtime gives the network's own scores, of the weights it has now; what cannot be is said in one line."""

import copy
import functools
import gc
import logging
import pickle
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest
import torch

from unet_bundle.errors import ConfigError
from unet_bundle.inferers import ScanInferer
from unet_bundle.inferers.backends import RUNTIMES, unfit
from unet_bundle.inferers.runtimes import MOST_SHAPES, Runtime
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
    with pytest.raises(ConfigError, match=r"'openvino' is not installed: pip install 'unet-bundle\[openvino\]'"):
        ScanInferer((8, 8, 8), runtime="openvino")


@pytest.mark.parametrize("name", ["openvino", "torchscript"])
def test_reduced_precision_of_a_network_that_can_be_trained(name: str) -> None:
    torch.manual_seed(0)
    network, windows = UNet(3, 1, 4, channels=[4, 8, 8]).eval(), torch.randn(1, 1, 16, 16, 16)
    run = Runtime(installed(name, torch.bfloat16))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = network(windows).float()  # its weights are in autocast's cache now
        for seen in (windows, windows):
            found = run(network, seen, dtype=torch.bfloat16).float()
            assert (found - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("name", [*MADE, "auto"])
def test_a_network_in_training_is_refused_and_left_as_it_is(network: UNet, name: str) -> None:
    windows = torch.zeros(1, 1, 8, 8, 8)
    for module in (network, next(network.children())):
        network.eval()
        module.train()
        before = [each.training for each in network.modules()]
        with pytest.raises(ConfigError, match=rf"{name}' is for networks in evaluation mode: call eval\(\)"):
            Runtime(installed(name))(network, windows, dtype=torch.float32)
        assert [each.training for each in network.modules()] == before


class Bessel(torch.nn.Module):
    """What other runtimes know nothing of."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(windows)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_network_that_a_runtime_cannot_take_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=f"runtime '{name}' cannot run this network here") as raised:
        Runtime(installed(name))(Bessel().eval(), torch.rand(1, 1, 8, 8), dtype=torch.float32)
    assert raised.value.__cause__ is not None
    assert "\n" not in str(raised.value)


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes for which TorchScript was handed a network."""
    from unet_bundle.inferers import backends

    shapes: list[tuple[int, ...]] = []

    def noting(network: Any, windows: torch.Tensor, dtype: torch.dtype) -> Any:
        shapes.append(tuple(windows.shape))
        return torchscript(network, windows, dtype)

    torchscript = backends._PREPARED["torchscript"]
    monkeypatch.setattr(backends, "_PREPARED", {**backends._PREPARED, "torchscript": noting})
    return shapes


def test_short_batches_are_filled_up(network: UNet, handed_over: list[tuple[int, ...]]) -> None:
    run = Runtime("torchscript")
    for count in (1, 4, 3, 2, 1, 4):
        windows = torch.randn(count, 1, 8, 8, 8)
        found = run(network, windows, dtype=torch.float32)
        torch.testing.assert_close(found, network(windows), atol=1e-4, rtol=1e-4)
    assert [shape[0] for shape in handed_over] == [1, 4]


def test_the_shapes_that_were_used_last_are_kept(handed_over: list[tuple[int, ...]]) -> None:
    network, run = torch.nn.Conv2d(1, 2, 3).eval(), Runtime("torchscript")

    def see(side: int) -> int:
        run(network, torch.zeros(1, 1, side, 8), dtype=torch.float32)
        return len(handed_over)

    for side in range(3, 3 + MOST_SHAPES):
        see(side)
    assert see(3) == MOST_SHAPES  # known
    assert see(3 + MOST_SHAPES) == MOST_SHAPES + 1
    assert see(3) == MOST_SHAPES + 1  # used since
    assert see(4) == MOST_SHAPES + 2  # the one unused for longest is forgotten


def test_a_large_ensemble_is_handed_over_once(handed_over: list[tuple[int, ...]]) -> None:
    members, run = [torch.nn.Conv2d(1, 2, 3).eval() for _ in range(20)], Runtime("torchscript")
    for _ in range(2):
        for member in members:
            run(member, torch.zeros(1, 1, 8, 8), dtype=torch.float32)
    assert len(handed_over) == 20


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that PyTorch compiles; run as they are, since a C++ compiler takes half a minute for each."""
    found: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        found.append(1)
        return graph.forward

    monkeypatch.setattr("torch.compile", functools.partial(torch.compile, backend=backend))
    return found


def test_every_network_and_shape_is_compiled(graphs: list[Any]) -> None:
    run = Runtime("compiled")
    for number in range(6):
        network = torch.nn.Conv2d(1, 2, 3).eval()
        for side in (8 + number, 20 + number):
            windows = torch.randn(1, 1, side, 8)
            for _ in range(2):
                with torch.no_grad():
                    found = run(network, windows, dtype=torch.float32)
                torch.testing.assert_close(found, network(windows))
    assert len(graphs) == 12


@pytest.mark.parametrize("name", MADE)
def test_a_network_that_is_gone_is_let_go(name: str, graphs: list[Any]) -> None:
    run, network = Runtime(installed(name)), torch.nn.Conv2d(1, 2, 3).eval()
    with torch.no_grad():
        run(network, torch.zeros(1, 1, 8, 8), dtype=torch.float32)
    assert len(graphs) == (name == "compiled")
    alive = weakref.ref(network)
    del network
    gc.collect()
    assert alive() is None


def test_torchscript_keeps_the_ends_of_a_network_precise() -> None:
    torch.manual_seed(0)
    network = UNet(2, 2, 5, channels=[8, 16, 32]).eval().requires_grad_(False)
    windows = 1.7 + 0.05 * torch.randn(1, 2, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        expected = network(windows)
        scores = Runtime("torchscript")(network, windows, dtype=torch.bfloat16)
    assert (scores - expected).abs().max() < 0.01 * expected.std()


def test_after_too_much_for_the_memory_fewer_windows_are_not_filled_up_again(
    network: UNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def short_of_memory(_name: str, _network: Any, _windows: torch.Tensor, _dtype: torch.dtype) -> Any:
        def run(windows: torch.Tensor) -> torch.Tensor:
            seen.append(len(windows))
            if len(windows) > 2:
                raise torch.OutOfMemoryError
            return windows

        return run

    monkeypatch.setattr("unet_bundle.inferers.runtimes.prepare", short_of_memory)
    run = Runtime("torchscript")
    with pytest.raises(torch.OutOfMemoryError):
        run(network, torch.zeros(4, 1, 8, 8, 8), dtype=torch.float32)
    for count in (2, 1):
        assert len(run(network, torch.zeros(count, 1, 8, 8, 8), dtype=torch.float32)) == count
    assert seen == [4, 2, 2]


def test_copies_begin_with_nothing_prepared(network: UNet) -> None:
    scan = torch.randn(1, 1, 16, 16, 16)
    inferer = ScanInferer((8, 8, 8), runtime="torchscript")
    expected = inferer(scan, network)
    other = copy.deepcopy(inferer)
    assert other.runtime is not inferer.runtime
    assert torch.equal(other(scan, network), expected)
    run = pickle.loads(pickle.dumps(inferer.runtime))  # noqa: S301  (written here)
    found = run(network, scan[..., :8], dtype=torch.float32)
    torch.testing.assert_close(found, network(scan[..., :8]), atol=1e-4, rtol=1e-4)


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


def test_exporters_say_nothing_on_the_console(network: UNet, caplog: pytest.LogCaptureFixture) -> None:
    installed("onnxruntime")
    with caplog.at_level(logging.INFO):
        Runtime("onnxruntime")(network, torch.zeros(1, 1, 8, 8, 8), dtype=torch.float32)
    assert [record.name for record in caplog.records if not record.name.startswith("unet_bundle")] == []
