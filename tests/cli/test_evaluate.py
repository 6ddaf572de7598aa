"""`unet-bundle evaluate`: a broken case among good ones, and what is refused before anything is read."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from unet_bundle.cli import main


@pytest.fixture
def data(phantom_data: Path, tmp_path: Path) -> Path:
    """A data set that a test may change."""
    return Path(shutil.copytree(phantom_data, tmp_path / "data"))


def test_a_broken_case_is_named_at_the_end_and_the_others_are_scored(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = data / "imagesTr" / "phantom_004.nii.gz"
    broken.write_bytes(broken.read_bytes()[:20_000])
    output = tmp_path / "eval"
    assert main(["evaluate", str(bundle), str(data), "--part", "all", "--output-dir", str(output)]) == 1
    captured = capsys.readouterr()
    last = captured.out.rstrip().splitlines()
    assert last[-2] == "1 of 6 cases could not be scored and are in none of the figures:"
    assert last[-1].startswith("  refused: phantom_004: ")
    assert "phantom_004.nii.gz" in last[-1]
    assert "Means of 5 cases" in captured.out
    assert "Traceback" not in captured.err

    assert not (output / "cleaning.json").exists(), "nobody asked for it"
    report = json.loads((output / "scores.json").read_text())
    assert sorted(report["cases"]) == [f"phantom_{number:03d}" for number in (1, 2, 3, 5, 6)]
    assert list(report["missing"]) == ["phantom_004"]
    assert last[-1].endswith(report["missing"]["phantom_004"])
    with (output / "scores.csv").open(newline="") as file:
        rows = {row.pop("case"): row for row in csv.DictReader(file)}
    assert set(rows["phantom_004"].values()) == {""}
    assert len(rows) == 7

    shutil.copy(data / "imagesTr" / "phantom_005.nii.gz", broken)
    main(["evaluate", str(bundle), str(data), "--part", "all", "--output-dir", str(output)])
    report = json.loads((output / "scores.json").read_text())
    assert (len(report["cases"]) == 6) == (not report["missing"]), "nothing of the run before stays"


def test_cases_that_are_run_together_are_scored_once_though_one_of_them_is_refused(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("imagesTr", "labelsTr"):
        first, *others = sorted((data / part).iterdir())
        for other in others:
            shutil.copy(first, other)
    wrong = sorted((data / "labelsTr").iterdir())[2]
    image = nib.load(wrong)
    voxels = np.asarray(image.dataobj).copy()
    voxels[0, 0, 0] = 99
    nib.save(nib.Nifti1Image(voxels, image.affine, image.header), wrong)
    output = tmp_path / "eval"
    words = ["evaluate", str(bundle), str(data), "--part", "all", "--output-dir", str(output), "--worst_cases", "2"]
    assert main([*words, "--sw_batch_size", "6", "--patch_size", "[96,96,96]"]) == 1
    assert "  refused: phantom_003: " in capsys.readouterr().out
    report = json.loads((output / "scores.json").read_text())
    assert list(report["missing"]) == ["phantom_003"]
    assert sorted(report["cases"]) == [f"phantom_{number:03d}" for number in (1, 2, 4, 5, 6)]


def test_no_case_that_can_be_scored_leaves_no_report(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for scan in (data / "imagesTr").iterdir():
        scan.write_bytes(b"no scan")
    assert main(["evaluate", str(bundle), str(data), "--output-dir", str(tmp_path / "eval")]) == 1
    assert "2 of 2 cases could not be scored" in capsys.readouterr().out
    assert not (tmp_path / "eval" / "scores.json").exists()


def test_a_missing_model_is_refused_before_scans_are_read(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "models" / "model.pt").unlink()
    for scan in (data / "imagesTr").iterdir():
        scan.write_bytes(b"no scan")
    assert main(["evaluate", str(bundle), str(data), "--output-dir", str(tmp_path / "eval")]) == 1
    assert "models/model.pt is missing: train the bundle first" in capsys.readouterr().err
    assert not (tmp_path / "eval").exists()


def test_cleaning_is_chosen_and_written_into_the_bundle_only_where_asked_for(
    bundle: Path,
    phantom_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = bundle / "configs" / "inference.json"
    text = config.read_text()
    arguments = ["evaluate", str(bundle), str(phantom_data), "--output-dir", str(tmp_path / "eval")]

    assert main([*arguments, "--write"]) == 2
    assert "give both" in capsys.readouterr().err

    assert main([*arguments, "--choose-cleaning"]) == 0
    report = json.loads((tmp_path / "eval" / "cleaning.json").read_text())
    assert len(report["cases"]) == 2
    assert config.read_text() == text

    # A rise of any size counts here: an untrained network's labels are full of specks and holes.
    monkeypatch.setattr("unet_bundle.evaluation.cleaning.MARGIN", 0.0)
    assert main([*arguments, "--choose-cleaning", "--write"]) == 0
    report = json.loads((tmp_path / "eval" / "cleaning.json").read_text())
    written = json.loads(config.read_text())
    assert {key: written[key] for key in report["chosen"]} == report["chosen"]
    assert report["chosen"] != {"keep_largest": [], "smallest_object_ml": 0.0, "fill_holes": []}
    assert f"Written to {config}: keep_largest" in capsys.readouterr().out
    restored = {**written, "keep_largest": [], "smallest_object_ml": 0.0, "fill_holes": []}
    assert restored == json.loads(text), "nothing else changes"

    main([*arguments, "--choose-cleaning", "--write"])
    assert json.loads((tmp_path / "eval" / "cleaning.json").read_text()) == report, "cleaning changes no decision"
    assert "says so already" in capsys.readouterr().out
    scores = json.loads((tmp_path / "eval" / "scores.json").read_text())
    assert scores["classes"] == pytest.approx(report["dice_with_chosen"]), "the promise is kept"
