"""Sparse labels and overlapping regions, from the card to the scores, by the real configs."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from unet_bundle.cli import main
from unet_bundle.phantom import phantom_card

pytestmark = pytest.mark.integration

UNLABELLED = 200
REGIONS = {"organs": [1, 2, 3], "bean and vessel": [2, 3], "vessel": [3]}
TINY = {
    "spacing": [5.0, 5.0, 6.0],
    "patch_size": [32, 32, 16],
    "batch_size": 2,
    "network": {"channels": [8, 8, 16, 16]},
    "iterations_per_epoch": 3,
    "max_epochs": 1,
    "val_interval": 1,
    "num_workers": 0,
}


@pytest.fixture
def sparse_data(phantom_data: Path, tmp_path: Path) -> Path:
    """The phantom with every second slice labelled."""
    folder = Path(shutil.copytree(phantom_data, tmp_path / "sparse"))
    for path in (folder / "labelsTr").iterdir():
        image = nib.load(path)
        voxels = np.asarray(image.dataobj).astype(np.uint8)
        voxels[..., ::2] = UNLABELLED
        nib.save(nib.Nifti1Image(voxels, None, image.header), path)
    return folder


def test_sparse_regions_from_the_card_to_the_scores(
    sparse_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = {**yaml.safe_load(phantom_card()), "folds": 3, "ignore": UNLABELLED, "regions": REGIONS, "overrides": TINY}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    bundle, data, scans = tmp_path / "bundle", sparse_data, sparse_data / "imagesTs"
    # All in one process: starting Python and MONAI four times would take longer than the work.
    assert main(["plan", str(data), "--card", str(tmp_path / "card.yaml"), "--output", str(bundle)]) == 0
    assert main(["train", str(bundle), str(data)]) == 0
    assert main(["evaluate", str(bundle), str(data)]) == 0
    assert "bean and vessel" in capsys.readouterr().out

    report = json.loads((bundle / "eval" / "scores.json").read_text())
    assert list(report["classes"]) == list(REGIONS)
    for case, scores in report["cases"].items():
        label = np.asarray(nib.load(data / "labelsTr" / f"{case}.nii.gz").dataobj)
        made = np.asarray(nib.load(bundle / "eval" / f"{case}_seg.nii.gz").dataobj)
        assert set(np.unique(made)) <= {0, 1, 2, 3}
        labelled = label != UNLABELLED
        for name, values in REGIONS.items():
            found, true = np.isin(made, values)[labelled], np.isin(label, values)[labelled]
            assert scores[name] == pytest.approx(2 * (found & true).sum() / (found.sum() + true.sum()), abs=1e-6)

    output = tmp_path / "out"
    assert main(["predict", str(bundle), str(scans), str(output), "--region_channels", "True"]) == 0
    made = nib.load(output / "phantom_007_seg.nii.gz")
    assert made.shape == (*nib.load(scans / "phantom_007.nii.gz").shape, 3)
    assert set(np.unique(made.dataobj)) <= {0, 1}
    rows = [line.split(",") for line in (output / "volumes.csv").read_text().splitlines()[1:]]
    assert [row[1] for row in rows] == list(REGIONS)
    assert [int(row[3]) for row in rows] == [int(np.asarray(made.dataobj)[..., number].sum()) for number in range(3)]
