"""A network from a file gives its own scores, and is refused where it is not the bundle's or cannot run."""

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unet_bundle.errors import ConfigError
from unet_bundle.export import DEFAULT_FILES, FORMATS, Source, write
from unet_bundle.inferers import ScanInferer
from unet_bundle.inferers.backends import unfit
from unet_bundle.inferers.exported import Exported, Notes, runtime_of, weights_hash
from unet_bundle.inferers.runtimes import Runtime
from unet_bundle.networks import UNet
from unet_bundle.networks.checkpoint import weights_version

HERE = [to for to in FORMATS if to != "tensorrt"]
NEEDED = {"onnx": "onnxruntime", "openvino": "openvino"}
WINDOW = (16, 8, 12)


@pytest.fixture(scope="module")
def network() -> UNet:
    torch.manual_seed(0)
    return UNet(3, 1, 4, channels=[4, 8, 8]).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def files(network: UNet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The network in every format that can be written here."""
    folder = tmp_path_factory.mktemp("exported")
    made = {}
    for to in HERE:
        if unfit(NEEDED.get(to, "torch"), torch.device("cpu"), torch.float32) is None:
            made[to] = folder / Path(DEFAULT_FILES[to]).name
            write(to, Source(network, 1, WINDOW), made[to])
    return made


@pytest.fixture(params=HERE)
def file(request: pytest.FixtureRequest, files: dict[str, Path]) -> Path:
    if request.param not in files:
        pytest.skip(f"{request.param}: its libraries are not installed")
    return files[request.param]


def test_scores_are_the_networks_for_any_number_of_windows(network: UNet, file: Path) -> None:
    run, turned = Exported(file), torch.randn(1, 1, *WINDOW[::-1]).permute(0, 1, 4, 3, 2)
    for windows in (torch.randn(1, 1, *WINDOW), torch.randn(3, 1, *WINDOW), turned):
        torch.testing.assert_close(run(network, windows, dtype=torch.float32), network(windows), atol=1e-4, rtol=1e-4)


def test_labels_of_a_scan_are_pytorchs_also_of_a_copy(network: UNet, file: Path) -> None:
    scan = torch.randn(1, 1, 30, 25, 20)
    expected = ScanInferer(WINDOW, 2, mirror_axes=[0])(scan, network)
    inferer = ScanInferer(WINDOW, 2, mirror_axes=[0], runtime=file.name, ensemble_folder=str(file.parent))
    for _ in range(2):
        assert (inferer(scan, network) != expected).sum() <= 3
        inferer.runtime = copy.deepcopy(inferer.runtime)


def test_threads_do_not_write_into_each_others_scores(network: UNet, file: Path) -> None:
    run = Exported(file)
    images = [torch.randn(1, 1, *WINDOW) for _ in range(3)]
    expected = [network(image) for image in images]
    right: dict[int, bool] = {}

    def segment(number: int) -> None:
        scores = [run(network, images[number], dtype=torch.float32) for _ in range(3)]
        right[number] = all(torch.allclose(each, expected[number], atol=1e-4) for each in scores)

    threads = [threading.Thread(target=segment, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == dict.fromkeys(range(3), True)


def test_bfloat16_takes_effect_or_is_refused(network: UNet, file: Path) -> None:
    windows = torch.randn(1, 1, *WINDOW)
    if file.suffix != ".xml":
        with pytest.raises(ConfigError, match=rf"model\{file.suffix} computes in float32 only"):
            Exported(file)(network, windows, dtype=torch.bfloat16)
        return
    with torch.autocast("cpu", torch.bfloat16):  # as the inferer calls it
        found = Exported(file)(network, windows, dtype=torch.bfloat16).float()
    difference = (found - network(windows)).abs().max() / network(windows).abs().max()
    assert 1e-4 < difference < 0.1


def test_other_weights_are_noticed_also_when_they_change_later(network: UNet, file: Path) -> None:
    run, other = Exported(file), copy.deepcopy(network)
    windows = torch.zeros(1, 1, *WINDOW)
    run(other, windows, dtype=torch.float32)
    with torch.no_grad():
        next(other.parameters()).mul_(1.001)
    with pytest.raises(ConfigError, match="was made of other weights than the bundle has now: export it again"):
        run(other, windows, dtype=torch.float32)
    with pytest.raises(ConfigError, match="needs a network that is called with windows alone"):
        run(lambda seen: seen, windows, dtype=torch.float32)


def test_other_windows_are_refused(network: UNet, file: Path) -> None:
    with pytest.raises(ConfigError, match="is for windows of 16 x 8 x 12, not 8 x 8 x 8: export it again"):
        Exported(file)(network, torch.zeros(1, 1, 8, 8, 8), dtype=torch.float32)


def test_damaged_files_are_refused(network: UNet, file: Path, tmp_path: Path) -> None:
    broken = tmp_path / file.name
    broken.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ConfigError, match="is no readable file of `unet-bundle export`"):
        Exported(broken)(network, torch.zeros(1, 1, *WINDOW), dtype=torch.float32)


def test_a_file_without_notes_is_refused(network: UNet, tmp_path: Path) -> None:
    torch.jit.script(network).save(tmp_path / "foreign.ts")
    with pytest.raises(ConfigError, match=r"foreign\.ts is no readable file of `unet-bundle export` \(ValueError\)"):
        Exported(tmp_path / "foreign.ts")(network, torch.zeros(1, 1, *WINDOW), dtype=torch.float32)


def test_missing_files_are_refused_where_the_inferer_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"models/model\.onnx is missing: make it by `unet-bundle export`"):
        ScanInferer(WINDOW, runtime="models/model.onnx", ensemble_folder=str(tmp_path))


def test_names_of_runtimes_stay_names(tmp_path: Path) -> None:
    assert isinstance(runtime_of("compiled", tmp_path), Runtime)


def test_a_file_of_engines_needs_a_gpu(network: UNet, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    notes = Notes(weights_hash(network), WINDOW, one_at_a_time=True, device="cuda", tensorrt=True)
    torch.jit.save(torch.jit.script(network), tmp_path / "model_trt.ts", {"unet_bundle.json": notes.text()})
    with pytest.raises(ConfigError, match="TensorRT needs a CUDA GPU, and there is none here"):
        Exported(tmp_path / "model_trt.ts")(network, torch.zeros(1, 1, *WINDOW), dtype=torch.float32)
    assert Notes.read(notes.text()) == notes


def test_a_file_of_another_kind_is_refused_with_the_kinds_that_are_taken(tmp_path: Path) -> None:
    (tmp_path / "model.pb").touch()
    with pytest.raises(
        ConfigError, match=r"torch, .*auto, or a file that .*\(\.ts, \.pt2, \.onnx, \.xml\), not 'model\.pb'"
    ):
        runtime_of("model.pb", tmp_path)


def test_weights_are_compared_once_a_scan(
    network: UNet, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from unet_bundle.inferers import exported, runtimes

    asked: list[nn.Module] = []

    def counted(module: nn.Module) -> Any:
        asked.append(module)
        return weights_version(module)

    for module in (exported, runtimes):
        monkeypatch.setattr(module, "weights_version", counted)
    scan = torch.randn(1, 1, 30, 25, 20)
    for runtime, times in (("torch", 0), ("torchscript", 1), (str(files["torchscript"]), 1)):
        asked.clear()
        ScanInferer(WINDOW, 1, runtime=runtime)(scan, network)
        assert len(asked) == times
