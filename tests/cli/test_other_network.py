"""A bundle whose network_def is MONAI's, as the model zoo's bundles have it: it begins with their weights."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from unet_bundle.cli import main

NETWORK = {
    "spatial_dims": 3, "in_channels": 1, "channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 2, "norm": "batch",
}  # fmt: skip


@pytest.fixture
def zoo_bundle(tmp_path: Path) -> Path:
    """Weights for two classes, beside a metadata.json in the zoo's way."""
    folder = tmp_path / "zoo_bundle"
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    torch.save(UNet(**NETWORK, out_channels=2).state_dict(), folder / "models" / "model.pt")
    formats = {
        "inputs": {"image": {"modality": "CT", "channel_def": {"0": "image"}}},
        "outputs": {"pred": {"channel_def": {"0": "background", "1": "spleen"}}},
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": formats}))
    return folder


def test_a_network_of_monai_is_fine_tuned_scored_and_used(
    tiny_bundle: Path, zoo_bundle: Path, phantom_data: Path, scans: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name in ("train", "evaluate", "inference"):
        path = tiny_bundle / "configs" / f"{name}.json"
        config = json.loads(path.read_text())
        if "network_def" in config:
            classes = config["network_def"]["out_channels"]
            config["network_def"] = {"_target_": "UNet", **NETWORK, "out_channels": classes}
            path.write_text(json.dumps(config))
    words = ["--pretrained", str(zoo_bundle), "--max_epochs", "1"]
    assert main(["train", str(tiny_bundle), str(phantom_data), *words]) == 0
    said = "".join(capsys.readouterr())
    assert "what a step of UNet takes is not known" in said
    assert re.search(r"Pretrained models/model.pt: .* 9\d\.\d % of the values taken or adapted", said)
    assert "New: model.2" in said, "its last layers: of other classes"
    assert main(["evaluate", str(tiny_bundle), str(phantom_data)]) == 0
    assert main(["predict", str(tiny_bundle), str(scans), str(tmp_path / "out")]) == 0
    for scan in scans.glob("*.nii.gz"):
        result = nib.load(tmp_path / "out" / scan.name.replace(".nii.gz", "_seg.nii.gz"))
        given = nib.load(scan)
        assert result.shape == given.shape
        np.testing.assert_array_equal(result.affine, given.affine)
