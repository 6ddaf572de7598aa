"""`unet-bundle predict`: a file, a folder, what is there already, and a broken scan among good ones."""

import csv
import gzip
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from unet_bundle.cli import main
from unet_bundle.cli.study import find_work


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "volumes.csv") if folder.exists() else []


def volumes(folder: Path) -> dict[str, list[list[str]]]:
    """Rows of volumes.csv but the case's name, by case."""
    with (folder / "volumes.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["case", "label", "volume_ml", "voxels"]
    return {case: [row[1:] for row in rows if row[0] == case] for case, *_ in rows}


def test_folder_then_skip_then_overwrite(
    bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    line = ["predict", str(bundle), str(scans), str(output)]
    assert main(line) == 0
    assert "2 of 2 scans segmented" in capsys.readouterr().out
    before = volumes(output)
    assert list(before) == [name.removesuffix(".nii.gz") for name in names(scans)]
    assert names(output) == [f"{name.removesuffix('.nii.gz')}_seg.nii.gz" for name in names(scans)]

    first = output / names(output)[0]
    first.write_bytes(b"mine")
    shutil.copy(scans / names(scans)[0], scans / "third.nii.gz")
    assert main(line) == 0
    text = capsys.readouterr().out
    assert "2 of 3 are already there and skipped" in text
    assert "1 of 1 scans segmented" in text
    assert first.read_bytes() == b"mine"
    assert volumes(output) == {**before, "third": next(iter(before.values()))}, "rows of earlier scans stay"

    table = (output / "volumes.csv").read_text()
    assert "has no volumes" not in text
    kept = [line for line in table.splitlines(keepends=True) if not line.startswith("third,")]
    (output / "volumes.csv").write_text("".join(kept))  # as where a run ended between the two files
    assert main(line) == 0
    assert "volumes.csv has no volumes of 1 that were there already" in capsys.readouterr().out
    (output / "volumes.csv").write_text(table.replace(",lobe,", ",old,"))
    assert main([*line, "--overwrite"]) == 0
    assert "3 of 3 scans segmented" in capsys.readouterr().out
    assert (output / "volumes.csv").read_text() == table
    assert nib.load(first).get_data_dtype() == np.uint8


def test_one_file_with_overrides(bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = scans / names(scans)[0]
    assert main(["predict", "--overlap", "0.25", str(bundle), str(scan), str(tmp_path / "out")]) == 0
    assert "--overlap 0.25" in capsys.readouterr().out
    made = nib.load(tmp_path / "out" / names(tmp_path / "out")[0])
    assert names(tmp_path / "out") == [scan.name.replace(".nii.gz", "_seg.nii.gz")]
    assert made.shape == nib.load(scan).shape
    assert np.array_equal(made.affine, nib.load(scan).affine)
    ((_, rows),) = volumes(tmp_path / "out").items()
    voxel_ml = abs(np.linalg.det(made.affine[:3, :3])) / 1000
    for value, (_, ml, voxels) in enumerate(rows, start=1):
        assert int(voxels) == np.count_nonzero(np.asarray(made.dataobj) == value)
        assert float(ml) == pytest.approx(int(voxels) * voxel_ml, abs=1e-5)
    assert [label for label, _, _ in rows] == ["lobe", "bean", "vessel"]


def test_broken_scan_among_good_ones(
    bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = names(scans)
    whole = (scans / good[0]).read_bytes()
    (scans / "broken.nii.gz").write_bytes(whole[: len(whole) // 2])
    (scans / "other.nii").write_bytes(b"no scan at all")
    assert main(["predict", str(bundle), str(scans), str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    last = captured.out.rstrip().splitlines()[-3:]
    assert last[0].startswith("2 of 4 scans segmented")
    assert last[1].startswith("  refused: broken: broken.nii.gz ")
    assert last[2].startswith("  refused: other: other.nii ")
    assert "Traceback" not in captured.err
    assert names(tmp_path / "out") == [name.replace(".nii.gz", "_seg.nii.gz") for name in good]


def test_dry_run_does_nothing(bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(bundle), str(scans), str(tmp_path / "out"), "--dry-run"]) == 0
    assert "2 scans would be segmented" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main(["predict", str(bundle), str(scans), str(tmp_path / "out"), "--dry-run", "--overlapp", "0.1"]) == 2


@pytest.mark.parametrize("change", ["missing", "renamed", "misshaped", "damaged", "none"])
def test_weights_that_do_not_fit_end_the_run_at_once(
    change: str, bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    path = bundle / "models" / "model.pt"
    weights = torch.load(path, weights_only=True)
    key = next(iter(weights))
    if change == "missing":
        del weights[key]
    elif change == "renamed":
        weights[f"{key}_"] = weights.pop(key)
    elif change == "misshaped":
        weights[key] = weights[key][:1]
    torch.save(weights, path)
    if change == "damaged":
        path.write_bytes(path.read_bytes()[:1000])
    elif change == "none":
        path.unlink()
    assert main(["predict", str(bundle), str(scans), str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.err.rstrip().splitlines()[-1].startswith("Error: models/model.pt ")
    assert "Traceback" not in captured.err
    assert "refused" not in captured.out
    assert names(tmp_path / "out") == []


def test_a_foreign_table_is_not_replaced(
    bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "volumes.csv").write_text("mine\n1\n")
    assert main(["predict", str(bundle), str(scans), str(tmp_path / "out")]) == 2
    assert "volumes.csv in the output folder is not one that was written here" in capsys.readouterr().err
    assert (tmp_path / "out" / "volumes.csv").read_text() == "mine\n1\n"


@pytest.mark.parametrize("precision", ["foo", "float16"])
def test_a_precision_that_cannot_be_is_refused_before_scans_are_read(
    precision: str, bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for scan in scans.iterdir():
        scan.write_bytes(b"no scan")
    line = ["predict", str(bundle), str(scans), str(tmp_path / "out"), "--precision", precision, "--device", "cpu"]
    assert main(line) == 2
    assert "precision" in capsys.readouterr().err.rstrip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_input_that_is_not_there(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(bundle), str(tmp_path / "none.nii.gz"), str(tmp_path / "out")]) == 2
    assert "none.nii.gz does not exist" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(bundle), str(tmp_path / "empty"), str(tmp_path / "out")]) == 1
    assert "the folder empty holds no " in capsys.readouterr().err


def test_output_that_is_a_file(bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("x")
    assert main(["predict", str(bundle), str(scans), str(tmp_path / "out")]) == 2
    assert "out is a file" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["predict", "evaluate", "train", "export"])
@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_in_one_line(
    verb: str, device: str, bundle: Path, phantom_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = {
        "predict": [str(phantom_data), str(tmp_path / "out")],
        "evaluate": [str(phantom_data), "--output-dir", str(tmp_path / "out")],
        "train": [str(phantom_data)],
        "export": ["--to", "torchscript", "--output", str(tmp_path / "out" / "model.ts")],
    }
    assert main([verb, str(bundle), *rest[verb], "--device", device]) == 2
    captured = capsys.readouterr()
    assert captured.err.rstrip().splitlines()[-1].startswith(f"Error: device is '{device}'")
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()


def test_what_a_folder_holds_beside_scans_is_counted(
    bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scans / "DOE^JOHN").mkdir()
    for name in ("doe.png", "doe.jpg", "doe.txt", ".hidden"):
        (scans / name).touch()
    (scans / "doe.nii.gz").symlink_to(scans / "nowhere")
    line = ["predict", str(bundle), str(scans), str(tmp_path / "out"), "--dry-run"]
    assert main(line) == 0
    captured = capsys.readouterr()
    assert "  left out: 1 broken link, 1 other file, 2 pictures, 1 subfolder\n" in captured.out
    assert "doe" not in (captured.out + captured.err).lower()


def test_two_scans_of_one_name_do_not_keep_the_others_from_being_segmented(
    bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = names(scans)
    (scans / "twice.nii").write_bytes(gzip.decompress((scans / good[0]).read_bytes()))
    shutil.copy(scans / good[0], scans / "twice.nii.gz")
    line = ["predict", str(bundle), str(scans), str(tmp_path / "out")]
    for more in (["--dry-run"], []):
        assert main([*line, *more]) == 1
        text = capsys.readouterr().out
        reason = "twice.nii and twice.nii.gz are both the case twice, one result would replace the other: rename one"
        first, *_, last = text.splitlines()
        assert first == f"refused: {reason}", "before anything is run"
        assert last == f"  refused: {reason}"
    assert "2 of 2 scans segmented" in text
    assert names(tmp_path / "out") == [name.replace(".nii.gz", "_seg.nii.gz") for name in good]


def test_weights_that_are_given_and_missing_are_named(
    bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["predict", str(bundle), str(scans), str(tmp_path / "out"), "--checkpoint", str(tmp_path / "mine" / "a.pt")]
    assert main(line) == 1
    assert capsys.readouterr().err.rstrip().splitlines()[-1] == (
        "Error: mine/a.pt is missing: correct the path that is given."
    )


@pytest.mark.parametrize("ensemble", [False, True])
def test_weights_are_read_once_a_run(
    ensemble: bool, bundle: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    read: list[str] = []
    original = torch.load

    def counted(file: Any, *args: Any, **options: Any) -> Any:
        read.append(str(file))
        return original(file, *args, **options)

    monkeypatch.setattr(torch, "load", counted)
    more = ["--ensemble", "[models/model.pt]"] if ensemble else []
    assert main(["predict", str(bundle), str(scans), str(tmp_path / "out"), *more]) == 0
    assert read == [str(bundle / "models" / "model.pt")]


@pytest.mark.parametrize("of_config", [True, False])
def test_missing_channels_of_a_folder_are_as_the_bundle_or_the_command_line_says(
    of_config: bool, tmp_path: Path
) -> None:
    for name in ("a_0000.nii", "a_0001.nii", "b_0000.nii"):
        (tmp_path / name).touch()
    zero = {"missing_channels": "zero"}
    config = {"dataset": {"data": {"channels": 2}}, **(zero if of_config else {"missing_channels": "refuse"})}
    assert len(find_work(tmp_path, config, {} if of_config else zero).items) == 2
    assert len(find_work(tmp_path, config, {"missing_channels": "refuse"}).items) == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--keep_largest", "[7]"],
            "keep_largest names the class 7, but the bundle's are 1 (lobe), 2 (bean), 3 (vessel)",
        ),
        (["--patch_size", "[32, 32]"], "Configuration key 'patch_size' must have 3 values, not 2: [32, 32]."),
        (["--spacing", "[1, 1, 1, 1]"], "Configuration key 'spacing' must have 3 values, not 4"),
        (["--smallest_object_ml", "{'0': 1}"], "smallest_object_ml names the class '0', but the bundle's are"),
        (["--format", "rtstruct", "--overwrite"], "output_format 'rtstruct' is for DICOM series only"),
    ],
)
def test_what_no_scan_can_be_given_is_refused_before_one_is_read(
    more: list[str], said: str, bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(bundle), str(scans), str(tmp_path / "out"), *more]) == 2
    assert capsys.readouterr().err.rstrip().splitlines()[-1].startswith(f"Error: {said}")
    assert not (tmp_path / "out").exists()
