import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser


@pytest.fixture(scope="session")
def tiny_weights(tiny_files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that fit the network of `tiny_files`, as they are at the start of a training."""
    import json

    network = json.loads(tiny_files["configs/inference.json"])["network_def"]
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(ConfigParser({"network": network}).get_parsed_content("network").state_dict(), path)
    return path


@pytest.fixture
def bundle(tiny_bundle: Path, tiny_weights: Path) -> Path:
    """A fresh bundle with weights."""
    shutil.copy(tiny_weights, tiny_bundle / "models" / "model.pt")
    return tiny_bundle


@pytest.fixture
def scans(phantom_data: Path, tmp_path: Path) -> Path:
    """A folder of two scans."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for scan in sorted((phantom_data / "imagesTr").glob("*.nii.gz"))[:2]:
        shutil.copy(scan, folder)
    return folder
