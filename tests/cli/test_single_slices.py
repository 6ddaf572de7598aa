"""Volumes of one slice from the folder to a label map: planned as slices, and they come back as volumes."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from unet_bundle.cli import main

SHAPE = (40, 36, 1)
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2.0, 0, -20], [0, 0, 1.0, 5], [0, 0, 0, 1]])  # finer across than within


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    rng = np.random.default_rng(0)
    for number in range(4):
        label = np.zeros(SHAPE, np.uint8)
        label[5 + number : 20 + number, 8:25] = 1
        image = (80 * label + rng.normal(0, 5, SHAPE)).astype(np.float32)
        for kind, voxels in (("images", image), ("labels", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, AFFINE), folder / kind / f"slice_{number}.nii.gz")
    return folder


def test_a_slice_goes_in_as_a_volume_and_comes_out_as_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = {
        "name": "slices", "modality": ["MRI"], "labels": {"background": 0, "organ": 1}, "folds": 2,
        "overrides": {
            "patch_size": [16, 16], "iterations_per_epoch": 2, "max_epochs": 1, "val_interval": 1, "num_workers": 0,
        },
    }  # fmt: skip
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    bundle, output = str(tmp_path / "bundle"), tmp_path / "out"
    assert main(["plan", str(data), "--card", str(tmp_path / "card.yaml"), "--output", bundle]) == 0
    config = json.loads((tmp_path / "bundle" / "configs" / "inference.json").read_text())
    assert config["spacing"] == [2.0, 2.0, None]
    assert config["inferer"]["spatial_dim"] == 2
    assert main(["train", bundle, str(data)]) == 0
    assert main(["predict", bundle, str(data / "images"), str(output)]) == 0, capsys.readouterr().out
    made = nib.load(output / "slice_0_seg.nii.gz")
    assert made.shape == SHAPE
    assert np.array_equal(made.affine, AFFINE)
    with (output / "volumes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [f"slice_{number}" for number in range(4)]
    assert all(float(row["volume_ml"]) == pytest.approx(int(row["voxels"]) * 0.004) for row in rows)
    assert main(["evaluate", bundle, str(data)]) == 0
    assert "volume difference (ml)" in capsys.readouterr().out
    assert list((tmp_path / "bundle" / "eval").glob("worst_1_*.png"))
