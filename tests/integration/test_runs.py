"""Train, evaluate and infer by the MONAI CLI from another folder, and what comes out."""

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from unet_bundle.io import find_images

pytestmark = pytest.mark.integration


def test_training_leaves_its_run_and_the_model(cli: Any, trained: Path) -> None:
    made = cli.files(trained / "runs" / "fold_0")
    assert {"best.pt", "last.pt", "curves.csv"} <= set(made)
    assert any("tfevents" in name for name in made)
    assert cli.files(trained / "models") == ["model.json", "model.pt"], "a server offers every *.pt"
    assert not [name for name in cli.files(trained) if name.endswith(".tmp")]
    with (trained / "runs" / "fold_0" / "curves.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


def test_inference_writes_one_label_map_a_scan_on_its_own_grid(
    cli: Any, trained: Path, phantom_data: Path, tmp_path: Path
) -> None:
    scans = phantom_data / "imagesTr"
    output = tmp_path / "out"
    arguments = ["--dataset_dir", scans, "--output_dir", output, "--overlap", "0.25", "--num_workers", "1"]
    cli.monai_run(trained, ["inference.json"], *arguments).succeeded()
    names = [Path(case["image"]).name.removesuffix(".nii.gz") for case in find_images(scans)]
    assert cli.files(output) == [*(f"{name}_seg.nii.gz" for name in names), "volumes.csv"]
    with (output / "volumes.csv").open() as file:
        assert [row["case"] for row in csv.DictReader(file)] == [name for name in names for _ in range(3)]
    for name in names:
        scan, made = nib.load(scans / f"{name}.nii.gz"), nib.load(output / f"{name}_seg.nii.gz")
        assert made.shape == scan.shape
        assert np.array_equal(made.affine, scan.affine)
        for key in ("qform_code", "sform_code", "xyzt_units"):
            assert made.header[key] == scan.header[key]
        assert np.array_equal(made.get_qform(), scan.get_qform())
        assert made.get_data_dtype() == np.uint8
        assert set(np.unique(made.dataobj)) <= {0, 1, 2, 3}


def test_both_command_lines_give_the_same_label_map(
    cli: Any, trained: Path, phantom_data: Path, tmp_path: Path
) -> None:
    arguments = ["--dataset_dir", phantom_data, "--output_dir", tmp_path / "monai"]
    cli.monai_run(trained, ["inference.json"], *arguments).succeeded()
    cli.unet_bundle("predict", trained, phantom_data, tmp_path / "ours").succeeded()
    assert cli.files(tmp_path / "monai") == cli.files(tmp_path / "ours")
    assert cli.files(tmp_path / "ours") == ["phantom_007_seg.nii.gz", "volumes.csv"]
    tables = [(tmp_path / who / "volumes.csv").read_text() for who in ("monai", "ours")]
    assert tables[0] == tables[1]
    first, second = (nib.load(tmp_path / who / "phantom_007_seg.nii.gz").get_fdata() for who in ("monai", "ours"))
    assert np.array_equal(first, second)


def test_evaluation_scores_each_case_of_the_fold(cli: Any, trained: Path, phantom_data: Path, tmp_path: Path) -> None:
    arguments = ["--dataset_dir", phantom_data, "--output_dir", tmp_path / "eval"]
    cli.monai_run(trained, ["inference.json", "evaluate.json"], *arguments).succeeded()
    report = json.loads((tmp_path / "eval" / "scores.json").read_text())
    assert len(report["cases"]) == 2
    assert set(report["classes"]) == {"lobe", "bean", "vessel"}
    with (tmp_path / "eval" / "scores.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert set(rows) == {*report["cases"], "mean"}
    for case, scores in report["cases"].items():
        made = nib.load(tmp_path / "eval" / f"{case}_seg.nii.gz")
        label = nib.load(phantom_data / "labelsTr" / f"{case}.nii.gz")
        found, true = np.asarray(made.dataobj) == 1, np.asarray(label.dataobj) == 1
        dice = 2 * (found & true).sum() / (found.sum() + true.sum())
        assert scores["lobe"] == pytest.approx(dice, abs=1e-6)
        assert float(rows[case]["lobe"]) == pytest.approx(dice, abs=1e-5)
    assert len(cli.files(tmp_path / "eval")) == 7, "label maps, three tables, pictures of the two cases"


def test_all_verbs_of_our_command_line(cli: Any, bundle: Path, phantom_data: Path) -> None:
    arguments = ["--fold", "1", "--max-epochs", "1", "--num_workers", "0", "--val_interval", "1"]
    done = cli.unet_bundle("train", bundle, phantom_data, *arguments).succeeded()
    assert "Trained; curves and checkpoints" in done.out
    assert (bundle / "runs" / "fold_1" / "best.pt").is_file()

    # The bundle's weights are those of fold 0, which have seen the cases of fold 1.
    unfair = cli.unet_bundle("evaluate", bundle, phantom_data, "--fold", "1")
    assert unfair.status == 2
    assert "was trained on 2 of the 2 validation cases of fold 1: evaluate --fold 0" in unfair.err
    best = bundle / "runs" / "fold_1" / "best.pt"
    done = cli.unet_bundle("evaluate", bundle, phantom_data, "--fold", "1", "--checkpoint", best).succeeded()
    mean = json.loads((bundle / "eval" / "scores.json").read_text())["mean"]
    assert f"{mean:.4f}" in done.out
