"""MONAI's checks and exports pass from the bundle's root, and fail on what is wrong; also for the shipped bundle."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, onnx_export, verify_metadata, verify_net_in_out

pytestmark = pytest.mark.integration

SHIPPED = Path(__file__).resolve().parents[2] / "bundle"
EXPORTS = {"ckpt_export": ckpt_export, "onnx_export": onnx_export}


@pytest.fixture(params=["tiny", "shipped"])
def root(request: pytest.FixtureRequest, trained: Path) -> Path:
    """The tiny trained bundle, and the one of this repository."""
    if request.param == "tiny":
        return trained
    if not (SHIPPED / "models" / "model.pt").is_file():
        pytest.skip("bundle/models/model.pt is not there")
    return SHIPPED


@pytest.fixture
def schema(shared_data: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the model zoo's schema of metadata.json."""
    return Path(shutil.copy(next(shared_data("bundle_schema").glob("meta_schema*.json")), tmp_path / "schema.json"))


def export_arguments(root: Path, output: Path) -> dict[str, str]:
    return {
        "net_id": "network_def",
        "filepath": str(output),
        "ckpt_file": str(root / "models" / "model.pt"),
        "meta_file": str(root / "configs" / "metadata.json"),
        "config_file": str(root / "configs" / "inference.json"),
    }


def flags(arguments: dict[str, str]) -> list[str]:
    return [word for key, value in arguments.items() for word in (f"--{key}", value)]


def change_json(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def network_of(root: Path) -> torch.nn.Module:
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    network: torch.nn.Module = parser.get_parsed_content("network_def")
    weights = torch.load(root / "models" / "model.pt", weights_only=True)
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return network.eval()


# --- what passes ------------------------------------------------------------------------------------------------


def test_metadata_and_network_are_verified(cli: Any, root: Path, schema: Path) -> None:
    here = type(cli)(root)
    before = here.files()
    metadata = ["--meta_file", "configs/metadata.json"]
    here.monai("verify_metadata", *metadata, "--filepath", schema).succeeded()
    here.monai("verify_net_in_out", "network_def", *metadata, "--config_file", "configs/inference.json").succeeded()
    assert here.files() == before


def test_exports_give_the_logits_of_the_network(cli: Any, root: Path, tmp_path: Path) -> None:
    here = type(cli)(root)
    here.monai("ckpt_export", *flags(export_arguments(root, tmp_path / "model.ts"))).succeeded()
    here.monai("onnx_export", *flags(export_arguments(root, tmp_path / "model.onnx"))).succeeded()

    network = network_of(root)
    inputs = json.loads((root / "configs" / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    torch.manual_seed(0)
    image = torch.randn(1, inputs["num_channels"], *inputs["spatial_shape"])
    with torch.no_grad():
        expected = network(image)
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), expected, rtol=1e-4, atol=1e-4)
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    (made,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    torch.testing.assert_close(torch.from_numpy(made), expected, rtol=1e-3, atol=1e-3)


# --- what fails -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["missing", "renamed", "misshaped"])
@pytest.mark.parametrize("verb", list(EXPORTS))
def test_weights_that_do_not_fit_are_not_exported(
    verb: str, how: str, bundle: Path, change_weights: Callable[[Path, str], None], tmp_path: Path
) -> None:
    change_weights(bundle / "models" / "model.pt", how)
    with pytest.raises(RuntimeError, match="fit"):
        EXPORTS[verb](**export_arguments(bundle, tmp_path / "exported"))
    assert not (tmp_path / "exported").exists()


def test_export_of_bad_weights_exits_with_an_error(
    cli: Any, bundle: Path, change_weights: Callable[[Path, str], None], tmp_path: Path
) -> None:
    change_weights(bundle / "models" / "model.pt", "missing")
    done = type(cli)(bundle).monai("ckpt_export", *flags(export_arguments(bundle, tmp_path / "model.ts")))
    assert done.status != 0
    assert not (tmp_path / "model.ts").exists()


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_other_channel_counts_are_noticed(side: str, bundle: Path) -> None:
    metadata = bundle / "configs" / "metadata.json"

    def check() -> None:
        verify_net_in_out(
            "network_def", meta_file=str(metadata), config_file=str(bundle / "configs" / "inference.json")
        )

    check()

    def add_channel(content: Any) -> None:
        (tensor,) = content["network_data_format"][side].values()
        tensor["num_channels"] += 1

    change_json(metadata, add_channel)
    with pytest.raises((RuntimeError, ValueError)):
        check()


@pytest.mark.parametrize("key", ["version", "task", "network_data_format"])
def test_missing_metadata_is_noticed(key: str, bundle: Path, schema: Path) -> None:
    metadata = bundle / "configs" / "metadata.json"
    verify_metadata(meta_file=str(metadata), filepath=str(schema))
    change_json(metadata, lambda content: content.pop(key))
    with pytest.raises(ValueError, match=key):
        verify_metadata(meta_file=str(metadata), filepath=str(schema))
