"""What `make demo` runs, with less training: everything it promises is there, and its scores are those it prints."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

pytestmark = pytest.mark.integration


def test_the_demo_leaves_what_the_readme_promises(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    command = [sys.executable, "-m", "unet_bundle.cli", "demo", "--output", str(root), "--max-minutes", "0.3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

    scores = json.loads((root / "bundle" / "eval" / "scores.json").read_text())["classes"]
    printed = re.search(r"([\d.]+) on the cases kept back", done.stdout)
    assert printed is not None
    assert float(printed[1]) == pytest.approx((scores["lobe"] + scores["bean"]) / 2, abs=5e-4)

    scan = nib.load(next((root / "dataset" / "imagesTs").glob("*.nii.gz")))
    result = nib.load(next((root / "result").glob("*_seg.nii.gz")))
    assert result.shape == scan.shape
    assert np.array_equal(result.affine, scan.affine)
    for name in ("result.png", "curves.png"):
        assert imread(root / name).std() > 0.05, f"{name} shows something"
    assert "Try next" in done.stdout
