"""`unet-bundle check`: what it prints, its exit codes, and that `plan` runs it first."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigParser

from unet_bundle.cli import main
from unet_bundle.phantom import phantom_card

CORD_CARD = {
    "name": "cord",
    "modality": ["MRI"],
    "labels": {"background": 0, "cord": 1},
    "image_files": "*/{case}.nii.gz",
    "label_files": "*/{case}_seg-manual.nii.gz",
    "folds": 2,
}


@pytest.fixture
def broken(phantom_data: Path, tmp_path: Path) -> Path:
    """The phantom with one scan cut short."""
    folder = tmp_path / "data"
    shutil.copytree(phantom_data, folder)
    scan = next(iter(sorted((folder / "imagesTr").iterdir())))
    scan.write_bytes(scan.read_bytes()[:3000])
    return folder


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "card.yaml"
    path.write_text(phantom_card(), encoding="utf-8")
    return path


def test_a_good_data_set_exits_0(phantom_data, card, capsys):
    assert main(["check", str(phantom_data), "--card", str(card), "--workers", "1"]) == 0
    printed = capsys.readouterr()
    assert "6 labelled cases, 1 channel (layout: Decathlon); nothing found that is wrong." in printed.out
    assert "checking: 100%" in printed.err


def test_an_error_exits_1_and_is_named_without_the_folder(broken, card, capsys):
    assert main(["check", str(broken), "--card", str(card)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["error", "imagesTr/phantom_001.nii.gz"]
    assert "is damaged or cut short" in lines[0]
    assert lines[-1].endswith("1 error.")
    assert not any(str(broken) in line for line in lines)


def test_json_is_one_document_and_the_same_each_time(broken, card, capsys):
    documents = []
    for _ in range(2):
        assert main(["check", str(broken), "--card", str(card), "--json"]) == 1
        documents.append(capsys.readouterr().out)
    report = json.loads(documents[0])
    assert documents[0] == documents[1]
    assert report["counts"] == {"error": 1, "warning": 0, "note": 0}
    assert report["findings"][0]["file"] == "imagesTr/phantom_001.nii.gz"
    assert report["cases"] == 6


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(["nowhere"], 2, "does not exist"), ([".", "--card", "nowhere.yaml"], 2, "cannot be read")],
)
def test_what_cannot_be_checked_is_said_in_one_line(arguments, code, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["check", *arguments]) == code
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_workers_are_at_least_one(phantom_data, capsys):
    with pytest.raises(SystemExit) as refused:
        main(["check", str(phantom_data), "--workers", "0"])
    assert refused.value.code == 2
    assert "must be 1 or more" in capsys.readouterr().err


def test_plan_checks_first_and_stops_at_an_error(broken, card, tmp_path, capsys):
    assert main(["plan", str(broken), "--card", str(card), "--output", str(tmp_path / "bundle")]) == 1
    printed = capsys.readouterr()
    assert "imagesTr/phantom_001.nii.gz" in printed.out
    assert printed.err.splitlines()[-1] == (
        "Error: 1 error in data would spoil training: mend what is listed above, then plan again"
    )
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_planned_by_patterns_finds_its_cases_by_them(shared_data, tmp_path, capsys):
    folder, bundle, card = shared_data("spinalcord_mr"), tmp_path / "bundle", tmp_path / "card.yaml"
    card.write_text(yaml.safe_dump(CORD_CARD), encoding="utf-8")
    assert main(["plan", str(folder), "--card", str(card), "--output", str(bundle)]) == 0
    assert "warning  dmri/dmri.nii.gz" in capsys.readouterr().out
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / name) for name in ("inference.json", "evaluate.json")])
    parser["dataset_dir"] = str(folder)
    (case,) = parser.get_parsed_content("dataset::data")
    assert Path(case["label"]).name == Path(case["image"]).name.replace(".nii", "_seg-manual.nii")
