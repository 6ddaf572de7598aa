"""What stands in exported files beside the network, and what cannot be written."""

import errno
import json
from pathlib import Path

import pytest
import torch
from monai.data import load_net_with_metadata

from unet_bundle.errors import ConfigError
from unet_bundle.export import DEFAULT_FILES, Source, write
from unet_bundle.inferers.exported import Exported
from unet_bundle.networks import UNet

CONFIGS = {"metadata.json": {"version": "0.1.0", "network_data_format": {}}, "inference.json": {"device": "cpu"}}


@pytest.fixture
def network() -> UNet:
    torch.manual_seed(0)
    return UNet(2, 1, 2, channels=[4, 8]).eval()


def test_torchscript_carries_the_configs_where_monai_deploy_looks(network: UNet, tmp_path: Path) -> None:
    import zipfile

    write("torchscript", Source(network, 1, (16, 16), CONFIGS), tmp_path / "model.ts")
    names = ("inference.json", "metadata.json")
    with zipfile.ZipFile(tmp_path / "model.ts") as archive:
        assert {f"model/extra/{name}" for name in names} <= set(archive.namelist())
        assert json.loads(archive.read("model/extra/inference.json")) == CONFIGS["inference.json"]
    _, metadata, extra = load_net_with_metadata(str(tmp_path / "model.ts"), more_extra_files=("inference.json",))
    assert metadata == CONFIGS["metadata.json"]
    assert json.loads(extra["inference.json"]) == CONFIGS["inference.json"]


def test_the_network_itself_stays_as_it_is(network: UNet, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    write("torchscript", Source(network, 1, (16, 16)), tmp_path / "model.ts")
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_of_deep_supervision_only_the_full_resolution_is_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = UNet(2, 1, 2, channels=[4, 8, 8], deep_supervision=True).eval()
    write("torch-export", Source(network, 1, (16, 16)), tmp_path / "model.pt2")
    with torch.no_grad():
        windows = torch.randn(2, 1, 16, 16)
        found = Exported(tmp_path / "model.pt2")(network, windows, dtype=torch.float32)
        torch.testing.assert_close(found, network(windows))


@pytest.mark.parametrize(
    ("to", "name", "words"),
    [
        ("tensorflow", "model.ts", "the format must be one of torchscript, .*tensorrt, not 'tensorflow'"),
        ("onnx", "model.ts", r"model\.ts: a file for onnx must end in \.onnx"),
        ("tensorrt", "model.ts", "TensorRT needs a CUDA GPU, and there is none here"),
    ],
)
def test_what_cannot_be_written_is_refused(to: str, name: str, words: str, network: UNet, tmp_path: Path) -> None:
    if to == "tensorrt" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=words):
        write(to, Source(network, 1, (16, 16)), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ["torchscript", "torch-export", "openvino"])
def test_a_full_disk_is_refused_before_a_writer_ends_the_process(
    to: str, network: UNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / Path(DEFAULT_FILES[to]).name
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(ConfigError, match=rf"{path.name} cannot be written \(No space left on device\): it needs 8 MB"):
        write(to, Source(network, 1, (16, 16)), path)
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_named_with_its_extra(
    network: UNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"openvino needs openvino: pip install 'unet-bundle\[openvino\]'"):
        write("openvino", Source(network, 1, (16, 16)), tmp_path / "model.xml")
