"""The app by MONAI Deploy's own engine, on the CPU; in an environment that has the SDK (see docs/deploy.md)."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

pytest.importorskip("monai.deploy.core", reason="needs the extra 'deploy'")
pytestmark = pytest.mark.integration

SIZE: dict[str, Any] = {"shape": (40, 36, 10), "spacing": (5.0, 5.0, 6.0)}


def test_study_in_dicom_seg_out(tiny_bundle: Path, synthetic: ModuleType, tmp_path: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(tiny_bundle / "configs" / "inference.json"))
    torch.save(parser.get_parsed_content("network_def").state_dict(), tiny_bundle / "models" / "model.pt")
    synthetic.write_series(tmp_path / "study", modality="MR", series=2, **SIZE)
    places = ["-i", tmp_path / "study", "-o", tmp_path / "out", "-m", tiny_bundle]
    line = [sys.executable, "-m", "unet_bundle.deploy.app", *map(str, places)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert [path.name.endswith("_seg.dcm") for path in (tmp_path / "out").iterdir()] == [True]

    synthetic.write_series(tmp_path / "other", modality="CT", series=3, **SIZE)
    line[line.index("-i") + 1] = str(tmp_path / "other")
    refused = subprocess.run(line, capture_output=True, text=True, timeout=240, check=False)
    assert refused.returncode != 0
    assert "is CT, the model needs MR" in refused.stdout + refused.stderr
