"""`unet-bundle plan` with splits of one's own: the bundle takes them along, wrong ones are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from unet_bundle.cli import main
from unet_bundle.phantom import phantom_card


@pytest.fixture
def line(phantom_data: Path, tmp_path: Path) -> list[str]:
    """A command line; the splits it names are not there yet."""
    card = {**yaml.safe_load(phantom_card()), "splits_file": str(tmp_path / "mine.json")}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    return ["plan", str(phantom_data), "--card", str(tmp_path / "card.yaml"), "--output", str(tmp_path / "bundle")]


def cases(*numbers: int) -> list[str]:
    return [f"phantom_{number:03d}" for number in numbers]


def test_the_bundle_holds_the_splits_and_no_path_of_this_machine(
    line: list[str], phantom_data: Path, tmp_path: Path
) -> None:
    from monai.bundle import ConfigParser

    (tmp_path / "mine.json").write_text(json.dumps([{"train": cases(1, 2, 3, 4), "val": cases(5, 6)}]))
    assert main(line) == 0
    moved = Path(shutil.move(tmp_path / "bundle", tmp_path / "elsewhere"))
    (tmp_path / "mine.json").unlink()
    assert not [path.name for path in moved.rglob("*") if path.is_file() and str(tmp_path) in path.read_text()]
    parser = ConfigParser()
    parser.read_config(str(moved / "configs" / "train.json"))
    parser.update({"bundle_root": str(moved), "dataset_dir": str(phantom_data)})
    assert [Path(case["image"]).name[:11] for case in parser.get_parsed_content("validate::dataset::data")] == cases(
        5, 6
    )


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([{"train": cases(1, 2), "val": cases(9)}], "mine.json names phantom_009, which is not in the data set"),
        ([{"train": cases(1), "val": cases(2)}, {"train": cases(1, 2), "val": cases(2)}], "validation of fold 1"),
        ({}, "mine.json must be a list of"),
        (None, "mine.json cannot be read"),
    ],
)
def test_splits_that_would_mislead_are_refused_when_the_bundle_is_planned(
    splits: Any, message: str, line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if splits is not None:
        (tmp_path / "mine.json").write_text(json.dumps(splits))
    assert main(line) == 1
    captured = capsys.readouterr()
    assert message in captured.out + captured.err
    assert not (tmp_path / "bundle").exists()
