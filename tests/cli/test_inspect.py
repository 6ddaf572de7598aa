"""`unet-bundle inspect`: the table, the JSON and the exit codes."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from unet_bundle.cli import main


def test_a_table_of_real_series(shared_data, capsys):
    assert main(["inspect", str(shared_data("dicom_series"))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["size", "spacing", "in", "mm", "plane", "files"]
    tilted = next(i for i, line in enumerate(lines) if line.startswith("CT series 2"))
    assert lines[tilted].split()[-1] == "refused"
    assert "512 x 512 x 28" in lines[tilted]
    assert "has slice distances from 1.08 to 7 mm" in lines[tilted + 1]
    assert "has a gantry tilt of 18.5 degrees" in lines[tilted + 2]
    assert sum(line.startswith("MR series 201") for line in lines) == 3
    assert sum(line.endswith("to choose") for line in lines) == 9
    assert sum("one of 3 volumes in its series" in line for line in lines) == 3
    assert lines[-1] == "0 of 12 can be read. 9 can be if chosen."


def test_json_says_the_same(synthetic: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthetic.write_series(tmp_path / "a", modality="MR", series=1, orientation="coronal")
    synthetic.write_series(tmp_path / "b", series=2, skip=(2,))
    assert main(["inspect", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["error"] is None
    good, bad = found["volumes"]
    assert (good["modality"], good["plane"], good["size"], good["refusal"]) == ("MR", "coronal", [12, 10, 8], None)
    assert "lacks 1 slice" in bad["refusal"]
    assert "PLANTED" not in json.dumps(found)


def test_a_pet_in_counts_is_shown_as_such(
    synthetic: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic.write_series(tmp_path / "a", modality="PT", edit=lambda _, dataset: setattr(dataset, "Units", "CNTS"))
    assert main(["inspect", str(tmp_path)]) == 0
    assert "    units: CNTS" in capsys.readouterr().out.splitlines()


def test_descriptions_only_when_asked_for(
    synthetic: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic.write_series(tmp_path / "a")
    assert main(["inspect", str(tmp_path)]) == 0
    assert "PLANTED" not in capsys.readouterr().out
    assert main(["inspect", str(tmp_path), "--show-descriptions"]) == 0
    assert "    description: series of PLANTED^NAME" in capsys.readouterr().out


def test_other_volumes_and_dicom_together(
    synthetic: ModuleType, scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = next(scans.iterdir())
    (scans / "short.nii.gz").write_bytes(whole.read_bytes()[:300])
    synthetic.write_series(scans / "series")
    assert main(["inspect", str(scans)]) == 1
    text = capsys.readouterr().out
    assert "    is damaged or cut short" in text
    assert "CT series 0" in text
    assert "3 of 4 can be read.\nOf a folder with DICOM series and several other scans predict takes neither" in text
    assert main(["inspect", str(whole)]) == 0
    assert "1 of 1 can be read." in capsys.readouterr().out


def test_nothing_to_read(synthetic: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["inspect", str(tmp_path / "empty")]) == 1
    assert "no DICOM file was found" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "empty"), "--json"]) == 1
    assert "no DICOM file was found" in json.loads(capsys.readouterr().out)["error"]
    synthetic.write_series(tmp_path / "gap", skip=(2,))
    assert main(["inspect", str(tmp_path / "gap")]) == 1
    assert "0 of 1 can be read." in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "none")]) == 2


def test_a_damaged_file_is_found_by_its_path_when_asked_for(
    synthetic: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = synthetic.write_series(tmp_path / "PLANTED^NAME")
    path = sorted(series.files)[4]
    path.write_bytes(path.read_bytes()[:300])
    assert main(["inspect", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "PLANTED" not in text
    assert "damaged: DICOM file 5 of 8 (in order of path) is damaged or cut short" in text
    assert text.endswith("until those are whole or gone; --show-paths says where they are.\n")
    assert main(["inspect", str(tmp_path), "--show-paths"]) == 1
    assert f"\nDICOM file 5: PLANTED^NAME/{path.name}\n" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (len(found["damaged"]), len(found["volumes"]), found["paths"]) == (1, 1, None)


def test_what_a_damaged_file_holds_up_is_not_said_to_be_read(
    synthetic: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic.write_series(tmp_path / "a")
    (tmp_path / "a" / "damaged.dcm").write_bytes(b"")
    assert main(["inspect", str(tmp_path)]) == 1
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].endswith("held up")
    assert any(row.startswith("0 of 1 can be read.") for row in rows)
